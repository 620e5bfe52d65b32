"""Rows of a data set on the Hugging Face hub: streamed where it can be reached, else from the local cache."""

from collections.abc import Iterable, Iterator
from typing import Any

from lorafit.errors import DataError, MachineError, first_line


def hub_rows(name: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the rows of a hub data set's split, numbered from 1; no more of them at a time than a window.

    Raises DataError when it cannot be reached or has no such split.
    """
    try:
        import datasets
    except ImportError:
        raise MachineError(
            "hub data sets need the package datasets", fix="pip install datasets", code="E5-NO-DATASETS"
        ) from None
    try:
        # offline only the cache is left, which is memory-mapped: neither is held whole
        rows: Iterable[Any] = datasets.load_dataset(name, split=split, streaming=not _offline(datasets))
        yield from enumerate(rows, 1)
    except GeneratorExit:
        raise
    except Exception as error:  # noqa: BLE001  # the hub's client, the network and each builder fail in their own way
        raise DataError(
            f"no local file has this name, and the hub data set cannot be loaded: {first_line(error)}",
            where=name,
            fix="mend the path; or go online once, so that the data set is cached; or download its files",
            code="E3-HUB",
        ) from None


def _offline(datasets: Any) -> bool:
    return bool(datasets.config.HF_HUB_OFFLINE)
