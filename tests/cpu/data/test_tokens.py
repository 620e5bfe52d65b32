"""Plain text in tokens: the prompt as inference tokenises it, then the completion, then the end of the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_made import SPECIAL, byte_level, sentence_piece, space_merging
from transformers import PreTrainedTokenizerFast

from lorafit.data.tokens import Encoded, Encoder
from lorafit.errors import ModelError
from lorafit.recipe.formats import PlainText, RowFault

KINDS = {"bytes": byte_level(), "sentencepiece": sentence_piece(), "spaces in tokens": space_merging()}


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str, completion: str) -> Encoded | RowFault:
    return Encoder(tokenizer).encode([PlainText(prompt, completion)])[0]


def test_joint_tokenisation_would_move_the_border() -> None:
    """The trap: tokens that run across a space, so that the prompt alone ends otherwise than in the whole."""
    tokenizer = KINDS["spaces in tokens"]
    prompt, completion = "The cat was on the mat :", " yes."
    alone = tokenizer(prompt)["input_ids"]
    assert tokenizer(prompt + completion)["input_ids"][: len(alone)] != alone
    row = encode(tokenizer, prompt, completion)
    assert isinstance(row, Encoded)
    assert row.apart
    assert row.tokens[: len(alone)].tolist() == alone
    assert row.trained.tolist() == [False] * len(alone) + [True] * (len(row.tokens) - len(alone))
    assert tokenizer.decode(row.tokens[row.trained]) == " yes.</s>"


WORDS = st.lists(st.sampled_from(["cat", "the", " ", "\n", "mat :", ".", "a", "yes"]), min_size=1, max_size=6)
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), min_size=1, max_size=12)
PROMPT = (WORDS.map("".join) | ANY).filter(lambda text: text.strip() == text != "")


@pytest.mark.parametrize("kind", KINDS)
@given(prompt=PROMPT, completion=PROMPT, space=st.sampled_from(["", " ", "\n"]))
@settings(max_examples=60, deadline=None)
def test_prompt_then_completion_then_end(kind: str, prompt: str, completion: str, space: str) -> None:
    tokenizer = KINDS[kind]
    row = encode(tokenizer, prompt, space + completion)
    if isinstance(row, RowFault):
        assert row.code == "E3-ROW-TOKENS"
        assert kind == "spaces in tokens"
        assert tokenizer.decode(tokenizer(prompt + space + completion)["input_ids"]) != prompt + space + completion
        return
    alone = tokenizer(prompt)["input_ids"]
    assert row.tokens[: len(alone)].tolist() == alone
    assert np.flatnonzero(row.trained).tolist() == list(range(len(alone), len(row.tokens)))
    if any(token in prompt + completion for token in SPECIAL):
        return  # sentencepiece tokenizers write a space after such a token
    assert row.tokens[-1] == tokenizer.eos_token_id
    # read back after the prompt, since some tokenizers swallow a space at the start of a text
    assert tokenizer.decode(row.tokens[:-1]) == prompt + space + completion


def test_running_text_is_trained_whole() -> None:
    row = encode(KINDS["bytes"], "", "a cat")
    assert isinstance(row, Encoded)
    assert row.trained.all()
    assert KINDS["bytes"].decode(row.tokens) == "a cat</s>"


def test_a_text_that_brings_its_own_end_gets_no_second() -> None:
    row = encode(KINDS["bytes"], "a", " cat</s>")
    assert isinstance(row, Encoded)
    assert row.tokens.tolist().count(KINDS["bytes"].eos_token_id) == 1
    assert row.trained[-1]


def test_what_the_tokenizer_puts_first_comes_first_once() -> None:
    tokenizer = byte_level()
    tokenizer.add_bos_token = True
    row = encode(tokenizer, "a", " cat")
    assert isinstance(row, Encoded)
    assert row.tokens.tolist().count(tokenizer.bos_token_id) == tokenizer("a")["input_ids"].count(
        tokenizer.bos_token_id
    )
    assert row.tokens[: len(tokenizer("a")["input_ids"])].tolist() == tokenizer("a")["input_ids"]


@pytest.mark.parametrize("text", ["café", "a&b", "日本"])
def test_characters_without_a_token_are_found(text: str) -> None:
    row = encode(KINDS["spaces in tokens"], "a", text)
    assert isinstance(row, RowFault)
    assert row.code == "E3-ROW-TOKENS"
    assert "<unk>" in row.found


def test_no_end_of_text_token_and_no_fast_form() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        encode(tokenizer, "a", "b")

    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="no fast form"):
        Encoder(Slow())  # type: ignore[arg-type]
