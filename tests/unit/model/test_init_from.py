"""An adapter to begin with is judged by its files, all of its faults at once."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from lorafit.model.init_from import CONFIG, WEIGHTS, start_faults
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora
from lorafit.recipe.schema import DataSpec, ModelSpec, Recipe, Source

SETTINGS: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False, "use_dora": False}


def adapter_folder(folder: Path, leaves: tuple[str, ...] = ("q_proj", "v_proj"), **changes: object) -> Path:
    """Write an adapter of one layer, with empty tensors: nothing here reads them."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(SETTINGS | changes))
    names = [f"base_model.model.model.layers.0.x.{leaf}.lora_{part}.weight" for leaf in leaves for part in "AB"]
    empty = {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in names}
    header = json.dumps(empty).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def faults(start: Path | None, adapter: Adapter | None = None, model: str = "llama-3-8b") -> list[str]:
    chosen = adapter or Lora(rank=4, alpha=8, target_modules=["q_proj", "v_proj"])
    begun = chosen if start is None else chosen.model_copy(update={"init_from": str(start)})
    recipe = Recipe(
        version=1, model=ModelSpec(path=model), adapter=begun, data=DataSpec(train=[Source(path="rows.jsonl")])
    )
    found = start_faults(recipe)
    assert all(fault.where == "adapter.init_from" and fault.fix for fault in found)
    return [f"{fault.what} [{fault.code}]" for fault in found]


def test_what_agrees_has_no_fault(tmp_path: Path) -> None:
    assert faults(adapter_folder(tmp_path)) == faults(None) == faults(None, Full()) == []


def test_every_difference_is_told(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path, ("q_proj", "up_proj"))
    told = faults(folder, Dora(rank=8, alpha=16, rslora=True, target_modules=["v_proj"]))
    assert [said.split(" has ")[-1].split(",")[0] for said in told[:4]] == [
        "r 4", "lora_alpha 8", "use_rslora False", "use_dora False",
    ]  # fmt: skip
    assert "is on q_proj, up_proj, the recipe's on v_proj [E4-INIT-FROM]" in told[4]
    assert len(told) == 5


def test_the_layers_of_an_unknown_base_are_left_to_its_loading(tmp_path: Path) -> None:
    assert faults(adapter_folder(tmp_path, ("wq",)), model="org/unseen") == []


def test_the_settings_that_peft_leaves_out_are_its_own(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path)
    (folder / CONFIG).write_text('{"peft_type": "LORA"}')
    assert faults(folder, Lora(rank=8, alpha=8, target_modules=["q_proj", "v_proj"])) == []


@pytest.mark.parametrize(
    ("name", "text"), [(CONFIG, None), (CONFIG, "["), (CONFIG, "[]"), (WEIGHTS, None), (WEIGHTS, "x")]
)
def test_a_damaged_folder_is_no_adapter(tmp_path: Path, name: str, text: str | None) -> None:
    folder = adapter_folder(tmp_path / "adapter")
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    (said,) = faults(folder)
    assert said.endswith("[E4-ADAPTER]")
    assert faults(tmp_path / "none") == [f"no adapter at {str(tmp_path / 'none')!r} [E4-ADAPTER]"]
