"""The door to pyarrow, which reads parquet, arrow and zstd, and is not loaded for anything else."""

from typing import Any

from lorafit.errors import MachineError


def pyarrow() -> Any:
    """Import pyarrow; MachineError says how to get it."""
    try:
        import pyarrow as module  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise MachineError(
            "reading parquet, arrow and zstd files needs the package pyarrow",
            fix="pip install pyarrow, or convert the file to jsonl",
            code="E5-NO-PYARROW",
        ) from None
    return module
