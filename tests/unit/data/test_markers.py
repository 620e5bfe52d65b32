"""What ends a turn, told from what opens the next."""

import pytest

from lorafit.data.markers import Markers

CHATML = Markers(["<|endoftext|>", "<|im_end|>"], "<|endoftext|>")


@pytest.mark.parametrize(
    ("closing", "following", "expected"),
    [
        ("<|im_end|>\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>"),
        (" </s>", " </s><s>[INST] ", " </s>"),
        ("\n<|EOT|>\n### Response:\n", "\n<|EOT|>\n### Instruction:\n", "\n<|EOT|>"),
        ("<|end|>\n<|endoftext|>", "<|end|>\n<|user|>\n", "<|end|>"),
        ("<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>"),
        ("</answer><|endoftext|><s>", "</answer><|endoftext|><t>", "</answer><|endoftext|>"),
        ("</think><end>", None, "</think><end>"),
        ("", "<|im_end|>\n", ""),
        ("\n\n", "\n\nUser: ", ""),
        ("", None, ""),
    ],
)
def test_the_last_turn(closing: str, following: str | None, expected: str) -> None:
    assert CHATML.ending(closing, closing, following, "") == expected


def test_an_earlier_turn_may_end_otherwise_but_not_with_what_opens_a_turn() -> None:
    gap = "<|end|><|start|>user<|message|>"
    assert CHATML.ending(gap, "<|return|>", gap, "<|start|>") == "<|end|>"
    assert CHATML.ending("<|start|>user", "<|return|>", "<|start|>user", "<|start|>") == ""


def test_a_shared_beginning_is_cut_between_markers() -> None:
    text = "<|assistant|></think>yes"
    assert CHATML.whole("<|assistant|><", text) == "<|assistant|>"
    assert CHATML.whole("<|assi", text) == ""
    assert CHATML.whole(text, text) == text
    assert CHATML.first("a <b c> [INST] d") == "[INST]"
    assert CHATML.first("a") == ""
