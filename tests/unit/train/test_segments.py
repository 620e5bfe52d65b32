"""What a run sets before torch is loaded."""

import os

import pytest

from lorafit.train.start import expand_segments

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@pytest.mark.parametrize("chosen", [None, *NAMES])
def test_segments_expand_unless_the_user_chose_otherwise(chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv(chosen, "max_split_size_mb:128")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    expand_segments()
    found = {name: os.environ[name] for name in NAMES if name in os.environ}
    assert found == (
        {chosen: "max_split_size_mb:128"} if chosen else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    )
