"""Rows can be looked at with a tokenizer alone: no weights are needed, and none are fetched."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from conftest import byte_tokenizer, write_recipe

from lorafit.errors import ModelError, SafetyRefusal
from lorafit.model.find import find_model
from lorafit.model.tokenizer import read_data, read_rows


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_a_tokenizer_is_enough_to_see_rows_and_not_to_train(tmp_path: Path, tokenizer_folder: Path) -> None:
    recipe = write_recipe(tmp_path, tokenizer_folder).recipe
    _, data = read_rows(recipe)
    assert len(data.train) == 24
    with pytest.raises(ModelError):
        read_data(recipe, None)


def test_code_is_refused_even_to_look(tmp_path: Path, tokenizer_folder: Path) -> None:
    (tokenizer_folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    with pytest.raises(SafetyRefusal):
        read_rows(write_recipe(tmp_path, tokenizer_folder).recipe)


@pytest.mark.parametrize("weights", [True, False])
def test_only_training_fetches_weights(weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fake(repo_id: str, **options: Any) -> str:
        asked.update(options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    assert find_model("someone/model", weights=weights) == tmp_path
    names = ["model.safetensors", "model.safetensors.index.json", "tokenizer.json", "chat_template.jinja"]
    fetched = list(
        huggingface_hub.utils.filter_repo_objects(
            names, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
        )
    )
    assert fetched == (names if weights else names[2:])
