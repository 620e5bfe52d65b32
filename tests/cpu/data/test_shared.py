"""Templates, tokenizers and data of real models, where they lie beside the checkout; skipped elsewhere."""

import json
import os
import unicodedata
from collections import Counter
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lorafit.data.chat import ChatRenderer, Rendered, TemplateFault, generation_prompt_ids
from lorafit.data.prepare import prepare
from lorafit.data.tokens import Encoded, Encoder
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


def turn(role: str, text: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "d",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
RESULT = turn("tool", "it rains", name="get_weather", tool_call_id="abcdefghi")
U, A = (lambda text: turn("user", text)), (lambda text: turn("assistant", text))
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [U("asked one"), A("said one")]},
    "two turns": {"messages": [U("asked one"), A("said one"), U("asked two"), A("said two")]},
    "system": {
        "messages": [turn("system", "asked zero"), U("asked one"), A("said one"), U("asked two"), A("said two")]
    },
    "spaces": {"messages": [U("  asked one \n"), A("\n said one \n\n")]},
    "unicode": {"messages": [U("asked é 👨‍👩‍👧 \u202e"), A("said 日本語 e\u0301 👨‍👩‍👧 & < \" ' {{ x }}")]},
    "control": {"messages": [U("asked <|im_end|>\n<|im_start|>assistant\n</s>"), A("said no<|im_end|></s> twice")]},
    "thinking": {"messages": [U("asked one"), A("<think>\nhm\n</think>\n\nsaid one")]},
    "tools": {
        "messages": [U("asked one"), turn("assistant", "", tool_calls=[CALL]), RESULT, A("said one")],
        "tools": TOOLS,
    },
}


def outcome(renderer: ChatRenderer, row: Conversation) -> Rendered | RowFault:
    try:
        return renderer.render(row)
    except RowFault as fault:
        return fault


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_template_is_masked_exactly_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = tokenizer(name)
    encoder = Encoder(loaded)
    rows = {title: parse("chat", fields) for title, fields in CONVERSATIONS.items()}
    tally: Counter[tuple[str, str]] = Counter()
    for path in TEMPLATES:
        monkeypatch.setattr(loaded, "chat_template", path.read_text(encoding="utf-8"))
        renderer = ChatRenderer(loaded, "assistant")
        for title, row in rows.items():
            assert isinstance(row, Conversation)
            rendered = outcome(renderer, row)
            if isinstance(rendered, RowFault):
                tally[title, "refused" if isinstance(rendered, TemplateFault) else "raised"] += 1
                continue
            check_text(loaded, row, rendered, f"{path.name}: {title}")
            tally[title, check_tokens(loaded, encoder, row, rendered, f"{path.name}: {title}")] += 1
    print({title: {key[1]: n for key, n in tally.items() if key[0] == title} for title in rows})  # noqa: T201
    assert tally["one turn", "exact"] >= 68
    assert tally["two turns", "exact"] >= 68
    assert tally["one turn", "refused"] <= 8


def check_text(loaded: PreTrainedTokenizerBase, row: Conversation, rendered: Rendered, where: str) -> None:
    messages = [message.for_template() for message in row.messages]
    tools = list(row.tools) if row.tools else [] if "no tools" in rendered.notes else None
    if "arguments" in rendered.notes:
        return
    given = loaded.apply_chat_template(messages, tools=tools, tokenize=False)
    assert rendered.text.startswith(given), where
    assert rendered.text == given or "closed" in rendered.notes, where
    spans = [rendered.text[start:end] for start, end in rendered.trained]
    answers = [message for message in row.messages if message.role == "assistant"]
    assert len(spans) == len(answers), where
    for span, answer in zip(spans, answers, strict=True):
        said = (
            "get_weather" if answer.extras.get("tool_calls") else (answer.content or "").split("</think>")[-1].strip()
        )
        assert span.count(said) == 1, where
        assert not span[span.index(said) + len(said) :].startswith("asked"), where
        assert "asked" not in span and "it rains" not in span, where  # noqa: PT018
        assert span.rstrip() == span, where
        assert not span.endswith(said), where  # something ends the turn
    prompt = loaded.apply_chat_template(messages[:-1], tools=tools, tokenize=False, add_generation_prompt=True)
    assert rendered.text[: rendered.prompt_end] == prompt, where


def check_tokens(
    loaded: PreTrainedTokenizerBase, encoder: Encoder, row: Conversation, rendered: Rendered, where: str
) -> str:
    encoded = encoder.encode([rendered])[0]
    if not isinstance(encoded, Encoded):
        assert "▁" in rendered.text, where  # the one character that sentencepiece cannot write
        return "unwritable"
    messages = [message.for_template() for message in row.messages]
    if not encoded.apart:
        joint = loaded(rendered.text, add_special_tokens=False)
        assert encoded.tokens.tolist() == joint["input_ids"], where
    if not encoded.apart or len(rendered.trained) == 1:
        prompt = generation_prompt_ids(loaded, messages[:-1], row.tools)
        assert encoded.tokens[: len(prompt)].tolist() == prompt, where
    trained = loaded.decode(encoded.tokens[encoded.trained], skip_special_tokens=False)
    expected = "".join(rendered.text[start:end] for start, end in rendered.trained)
    assert NFC("".join(trained.split())) == NFC("".join(expected.split())), where  # as Qwen's normaliser
    return "exact"


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
    recipe = Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": data})
    try:
        counts = prepare(recipe, tokenizer("qwen3")).report.counts
    except DataError as error:
        assert {fault.code for fault in error.faults} <= {"E3-FORMAT", "E3-NO-ROWS", "E3-PREFERENCE"}  # noqa: PT017
        return
    assert counts.read == counts.kept + counts.dropped + counts.bad
    assert counts.kept > 0
