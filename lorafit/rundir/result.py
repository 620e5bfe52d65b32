"""The documents of a run folder as they are read again: its final state, in result.json, and others like it."""

import json
from pathlib import Path
from typing import Any

from lorafit.errors import StorageError
from lorafit.rundir.layout import RunFolder


def read_result(folder: RunFolder) -> dict[str, Any]:
    """Read the final state of a finished run. StorageError when it is not what lorafit wrote."""
    return read_object(folder.result)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object of a run folder. StorageError when it is none."""
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        fix = "bring it back from a copy, or begin anew with --fresh"
        raise StorageError(f"is damaged: {error}", where=str(path), fix=fix, code="E7-DAMAGED") from error
    return document
