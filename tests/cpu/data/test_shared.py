"""Templates, tokenizers and data of real models, where they lie beside the checkout; skipped elsewhere."""

import json
import os
import unicodedata
from functools import lru_cache, partial
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lorafit.data.chat import generation_prompt_ids
from lorafit.data.prepare import prepare
from lorafit.data.tokens import Encoder
from lorafit.errors import DataError
from lorafit.recipe.formats import Conversation, RowFault, parse
from lorafit.recipe.schema import Recipe

SHARED = Path(os.environ.get("LORAFIT_SHARED", Path(__file__).parents[3].with_name("shared")))
TEMPLATES = sorted((SHARED / "data/chat_templates").glob("*/*.jinja"))
DATA = sorted(path for path in SHARED.glob("data/*/*") if path.suffix in (".json", ".jsonl", ".csv", ".txt"))
TOKENIZERS = ["qwen3", "mistral-v3", "minueza-chatml", "gpt2"]

pytestmark = pytest.mark.skipif(
    not TEMPLATES, reason=f"no real templates at {SHARED.name}/: set LORAFIT_SHARED to their folder"
)


NFC = partial(unicodedata.normalize, "NFC")


@lru_cache
def tokenizer(name: str) -> PreTrainedTokenizerBase:
    loaded = AutoTokenizer.from_pretrained(SHARED / "models/tokenizers" / name)
    assert isinstance(loaded, PreTrainedTokenizerBase)
    loaded.bos_token = loaded.bos_token or loaded.pad_token  # llama's templates write one
    return loaded


def test_a_prompt_is_mistrals_own_tokens() -> None:
    sample = SHARED / "data/chat_templates/mistral_common/samples/no_tools"
    messages = json.loads((sample / "sample.json").read_text())["messages"]
    expected = json.loads((sample / "tokens_v3.json").read_text())["tokens"]
    assert generation_prompt_ids(tokenizer("mistral-v3"), messages) == expected


def test_a_tokenizer_that_drops_characters_is_found_out() -> None:
    row = parse("prompt_completion", {"prompt": "a caf", "completion": "é"})
    assert not isinstance(row, Conversation)
    result = Encoder(tokenizer("tinystories-656k-upstream")).encode([row])[0]
    assert isinstance(result, RowFault)
    assert result.code == "E3-ROW-TOKENS"


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.name)
def test_every_row_of_real_data_is_trained_or_named(path: Path) -> None:
    data = {"train": {"path": str(path), "limit": 100}, "max_length": 4096, "on_bad_row": "skip", "on_overlong": "drop"}
    data["classification"] = "words"  # the first rows of some files are all of one class
    recipe = Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": data})
    try:
        counts = prepare(recipe, tokenizer("qwen3")).report.counts
    except DataError as error:
        assert {fault.code for fault in error.faults} <= {"E3-FORMAT", "E3-NO-ROWS", "E3-PREFERENCE"}  # noqa: PT017
        return
    assert counts.read == counts.kept + counts.dropped + counts.bad
    assert counts.kept > 0
