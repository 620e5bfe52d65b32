"""Rows of a data set on the Hugging Face hub, or of its copy in the local cache."""

from collections.abc import Iterator
from typing import Any

from lorafit.errors import DataError, MachineError


def hub_rows(name: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the rows of a hub data set's split, numbered from 1.

    Raises DataError when it cannot be reached or has no such split.
    """
    try:
        import datasets
    except ImportError:
        raise MachineError(
            "hub data sets need the package datasets", fix="pip install datasets", code="E5-NO-DATASETS"
        ) from None
    try:
        rows = datasets.load_dataset(name, split=split, streaming=False)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"no local file has this name, and the hub data set cannot be loaded: {str(error).splitlines()[0]}",
            where=name,
            fix="mend the path; or go online once, so that the data set is cached; or download its files",
            code="E3-HUB",
        ) from None
    yield from enumerate(rows, 1)
