"""The two logs of a run, one JSON object a line: what happened, and the numbers of every step."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorafit.rundir.layout import RunFolder

if TYPE_CHECKING:
    from lorafit.rundir.state import Run


def now() -> str:
    """Give the time as every file of a run spells it: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_event(run: "Run", kind: str, facts: Mapping[str, object] | None = None) -> None:
    """Add to events.jsonl: a start, a save, a signal, a batch made smaller."""
    who = {"time": now(), "event": kind, "host": socket.gethostname(), "pid": os.getpid()}
    run.store.append_line(run.folder.events, who | dict(facts or {}))


def record_metrics(run: "Run", metrics: Mapping[str, object]) -> None:
    """Add the numbers of one step to metrics.jsonl; they hold a `step` and no NaN."""
    assert isinstance(metrics.get("step"), int), "a line of metrics belongs to a step"
    run.store.append_line(run.folder.metrics, dict(metrics))


def read_events(folder: RunFolder) -> list[dict[str, Any]]:
    """Read the events up to the first torn line."""
    return [entry for _, entry in _whole_lines(folder.events)]


def read_metrics(folder: RunFolder) -> list[dict[str, Any]]:
    """Read the metrics up to the first torn line."""
    return [entry for _, entry in _whole_lines(folder.metrics)]


def mend_events(run: "Run") -> None:
    """Drop the line that a kill or a power cut tore, so that the next one starts on a line of its own."""
    _keep(run, run.folder.events, [line for line, _ in _whole_lines(run.folder.events)])


def truncate_metrics(run: "Run", step: int) -> None:
    """Drop what was written after `step`: those steps are taken again."""
    kept = [line for line, entry in _whole_lines(run.folder.metrics) if 0 <= entry.get("step", -1) <= step]
    _keep(run, run.folder.metrics, kept)


def _keep(run: "Run", path: Path, lines: list[bytes]) -> None:
    data = b"".join(lines)
    if path.exists() and path.stat().st_size != len(data):
        run.store.write_bytes(path, data)


def _whole_lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if not line.endswith(b"\n") or not isinstance(entry, dict):
            return
        yield line, entry
