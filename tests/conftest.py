"""What every test stands on: no network, one thread a process, a reason for each test that cannot run."""

import os

# before any test imports torch or a tokenizer
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["LORAFIT_CACHE"] = "off"  # a test that is about the cache gives it a folder

import pytest
from hypothesis import settings

# A deadline by the clock asks how busy the machine is; pytest's own timeout ends a test that hangs.
settings.register_profile("lorafit", deadline=None)
settings.load_profile("lorafit")

NEEDED_CARDS = {"gpu": 1, "multi_gpu": 2}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need more CUDA devices than there are; torch is imported only if one is there."""
    for marker, needed in NEEDED_CARDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        found = _cuda_devices() if marked else 0
        if found < needed:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"needs {needed} CUDA device(s), found {found}"))


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()
