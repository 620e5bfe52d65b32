"""The final state of a run, in result.json."""

import json
from typing import Any

from lorafit.errors import StorageError
from lorafit.rundir.layout import RunFolder


def read_result(folder: RunFolder) -> dict[str, Any]:
    """Read the final state of a finished run. StorageError when it is not what lorafit wrote."""
    try:
        result = json.loads(folder.result.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(
            f"is damaged: {error}",
            where=str(folder.result),
            fix="bring it back from a copy, or begin anew with --fresh",
            code="E7-DAMAGED",
        ) from error
    assert isinstance(result, dict)
    return result
