"""The logs lose nothing but what a power cut tore."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.rundir import journal
from lorafit.rundir.state import Run
from rundir.runs import begin


def write_steps(run: Run, count: int) -> None:
    for step in range(1, count + 1):
        journal.record_metrics(run, {"step": step, "loss": 1.5e-5 * step, "text": "Zoë\u2028\n"})


def steps(run: Run) -> list[int]:
    return [line["step"] for line in journal.read_metrics(run.folder)]


def test_a_step_is_a_line(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        assert journal.read_metrics(run.folder) == []
        write_steps(run, 3)
        assert run.folder.metrics.read_bytes().count(b"\n") == 3
        assert journal.read_metrics(run.folder)[1] == {"step": 2, "loss": 3e-5, "text": "Zoë\u2028\n"}


@pytest.mark.parametrize("line", [{}, {"step": "1"}, {"loss": 1.0}])
def test_a_line_without_a_step_is_our_bug(tmp_path: Path, line: dict[str, object]) -> None:
    with begin(tmp_path / "run") as run, pytest.raises(AssertionError):
        journal.record_metrics(run, line)


def test_nan_is_never_written(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run, pytest.raises(ValueError, match="not JSON compliant"):
        journal.record_metrics(run, {"step": 1, "loss": float("nan")})
    assert not run.folder.metrics.exists()


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 8), torn=st.integers(0, 60), to=st.integers(0, 9))
def test_truncation_keeps_the_whole_lines_up_to_the_step(
    tmp_path_factory: pytest.TempPathFactory, count: int, torn: int, to: int
) -> None:
    with begin(tmp_path_factory.mktemp("run") / "run") as run:
        write_steps(run, count)
        whole = run.folder.metrics.read_bytes() if count else b""
        run.folder.metrics.write_bytes(whole[: max(len(whole) - torn, 0)])
        left = run.folder.metrics.read_bytes().count(b"\n")
        journal.truncate_metrics(run, to)
        assert steps(run) == list(range(1, min(left, to) + 1))
        assert whole.startswith(run.folder.metrics.read_bytes())
        assert run.folder.metrics.read_bytes()[-1:] in (b"", b"\n")


@pytest.mark.parametrize("torn", [b'{"step": 4', b'{"step": 4}', b"\0\0\0\n", b"[4]\n", b'{"loss": 1}\n', b"\xff\n"])
def test_what_follows_a_torn_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    with begin(tmp_path / "run") as run:
        write_steps(run, 3)
        with run.folder.metrics.open("ab") as file:
            file.write(torn)
        journal.truncate_metrics(run, 5)
        write_steps(run, 1)
        assert steps(run) == [1, 2, 3, 1]


def test_metrics_that_need_no_cut_are_left_alone(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        write_steps(run, 3)
        before = run.folder.metrics.stat()
        journal.truncate_metrics(run, 3)
        assert run.folder.metrics.stat() == before
        journal.truncate_metrics(run, 2)
        assert steps(run) == [1, 2]


def test_an_event_says_when_and_where(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        journal.record_event(run, "signal", {"name": "SIGTERM"})
    event = journal.read_events(run.folder)[-1]
    assert event.keys() == {"time", "event", "host", "pid", "name"}
    assert (event["event"], event["name"]) == ("signal", "SIGTERM")


def test_a_torn_event_does_not_spoil_the_next(tmp_path: Path) -> None:
    with begin(tmp_path / "run") as run:
        write_steps(run, 1)
    with run.folder.events.open("a") as file:
        file.write('{"event": "sav')
    with begin(tmp_path / "run", "resume") as run:
        assert [event["event"] for event in journal.read_events(run.folder)] == ["created", "resumed"]
        assert all(json.loads(line) for line in run.folder.events.read_text().splitlines())
