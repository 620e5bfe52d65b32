"""The bad data of the robustness list, by number: each gives the same error or count every time, and no traceback.

81 to 108 are files, 109 to 124 rows and tokens. An answer is the code of the error with its exit code, or the
counts `read kept dropped truncated bad` with a remark that must be there.
"""

import gzip
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers_made import CHATML, byte_level
from transformers import PreTrainedTokenizerFast

from lorafit.data import sandbox
from lorafit.data.faults import ReadLog
from lorafit.data.prepare import PreparedData, prepare
from lorafit.data.rows import check_rows, read_rows
from lorafit.errors import LorafitError
from lorafit.model.tokenizer import check_positions, check_vocabulary
from lorafit.plan.plan import make_plan
from lorafit.recipe.schema import Recipe, Source

GOOD = b'{"prompt": "a", "completion": "b"}\n'
TOKENIZER = byte_level(CHATML)


@dataclass
class Kept:
    """Counts of an answer that is no error, and words of a remark that it comes with."""

    read: int
    kept: int
    dropped: int = 0
    truncated: int = 0
    bad: int = 0
    remark: str = ""


Answer = str | Kept


def recipe(path: Path, **data: Any) -> Recipe:
    source = {"path": str(path), **data.pop("source", {})}
    return Recipe.model_validate({"version": 1, "model": {"path": "m"}, "data": {"train": source, **data}})


def check(
    path: Path, expected: Answer, tokenizer: PreTrainedTokenizerFast = TOKENIZER, **data: Any
) -> LorafitError | PreparedData:
    """Prepare the data, and compare what comes of it."""
    if isinstance(expected, str):
        with pytest.raises(LorafitError) as caught:
            prepare(recipe(path, **data), tokenizer)
        assert [fault.code for fault in caught.value.faults] == [expected]
        assert caught.value.exit_code == int(expected[1:].split("-")[0])
        return caught.value
    prepared = prepare(recipe(path, **data), tokenizer)
    counts = prepared.report.counts
    found = (counts.read, counts.kept, counts.dropped, counts.truncated, counts.bad)
    assert found == (expected.read, expected.kept, expected.dropped, expected.truncated, expected.bad)
    assert counts.read == counts.kept + counts.dropped + counts.bad
    assert expected.remark in prepared.report.as_text()
    return prepared


def line(**fields: Any) -> bytes:
    return json.dumps({"prompt": "a", "completion": "b", **fields}, ensure_ascii=False).encode() + b"\n"


FILES: list[tuple[str, bytes, Answer]] = [
    ("81 no bytes", b"", "E3-NO-ROWS"),
    ("82 only newlines", b"\n\n \n", "E3-NO-ROWS"),
    ("83 byte order mark", b"\xef\xbb\xbf" + GOOD * 2, Kept(2, 2)),
    ("84 UTF-16", GOOD.decode().encode("utf-16"), "E3-FILE-ENCODING"),
    ("85 CRLF", (GOOD * 2).replace(b"\n", b"\r\n"), Kept(2, 2)),
    ("86 invalid UTF-8 first", line(prompt="@").replace(b"@", b"\xff") + GOOD, "E3-ROW-UTF8"),
    ("86 invalid UTF-8 amid", GOOD + line(prompt="@").replace(b"@", b"\xc3") + GOOD, "E3-ROW-UTF8"),
    ("86 invalid UTF-8 last", GOOD + line(prompt="@").replace(b"@", b"\xe2\x82").strip(), "E3-ROW-UTF8"),
    ("87 last line cut", GOOD + GOOD[:-6], "E3-ROW-CUT"),
    ("88 trailing comma", GOOD + GOOD.replace(b"}", b",}"), "E3-ROW-JSON"),
    ("89 single quotes", GOOD + GOOD.replace(b'"', b"'"), "E3-ROW-JSON"),
    ("90 HTML", b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "E3-FILE-HTML"),
    ("91 gzip without its name", gzip.compress(GOOD * 2), Kept(2, 2, remark="was unpacked")),
    ("92 gzip bomb", gzip.compress(b"\n" * 80_000_000), "E3-FILE-BOMB"),
    ("93 array", b"[" + GOOD + b"," + GOOD + b"]", Kept(2, 2)),
    ("94 scalar line", GOOD + b"3\n", "E3-ROW-TYPE"),
    ("94 list line", GOOD + b"[1]\n", "E3-ROW-TYPE"),
    ("95 missing field", GOOD + b'{"prompt": "a"}\n', "E3-ROW-MISSING"),
    ("96 null field", GOOD + line(completion=None), "E3-ROW-NULL"),
    ("97 number for text", GOOD + line(completion=3), "E3-ROW-TYPE"),
    ("98 type changes at 3001", GOOD * 3000 + line(prompt=5), "E3-ROW-TYPE"),
    ("99 extra column", GOOD + line(source="web"), Kept(2, 2, remark='ignored: "source"')),
    ("100 duplicate key", GOOD + b'{"prompt": "a", "completion": "b", "prompt": "c"}\n', "E3-ROW-DUPLICATE-KEY"),
    ("101 lone surrogate", GOOD + b'{"prompt": "\\ud83d", "completion": "b"}\n', "E3-ROW-SURROGATE"),
    ("102 U+0000", GOOD + b'{"prompt": "a\\u0000", "completion": "b"}\n', "E3-ROW-NUL"),
    ("103 NaN", GOOD + b'{"prompt": "a", "completion": "b", "score": NaN}\n', "E3-ROW-NAN"),
    ("104 40 digits for text", GOOD + line(prompt=10**39), "E3-ROW-TYPE"),
    ("104 40 digits beside", GOOD + line(n=10**39), Kept(2, 2)),
    ("104 500 digits", GOOD + b'{"prompt": "a", "completion": "b", "n": ' + b"9" * 500 + b"}\n", "E3-ROW-NUMBER"),
    ("105 20 MB line", GOOD + line(prompt="a" * 20_000_000) + GOOD, "E3-ROW-LONG"),
    ("106 2,000 deep", GOOD + b'{"prompt": ' + b"[" * 2000 + b"]" * 2000 + b"}\n", "E3-ROW-DEPTH"),
    ("107 one row", GOOD, Kept(1, 1)),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_files(tmp_path: Path, data: bytes, expected: Answer) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    answer = check(path, expected)
    if isinstance(answer, LorafitError):  # the command that looks before it trains says the same
        assert [str(fault) for fault in answer.faults] == [str(fault) for fault in check_rows(recipe(path))]


def test_92_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "rows.jsonl", "w") as archive:
        archive.writestr("rows.jsonl", GOOD)
    check(tmp_path / "rows.jsonl", "E3-FILE-KIND")


def test_98_says_where(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 3000 + line(prompt=5))
    assert f"{path}:3001: " in str(check(path, "E3-ROW-TYPE"))
    check(path, Kept(3001, 3000, bad=1), on_bad_row="skip")


def test_104_a_long_integer_is_kept_to_its_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line(n=10**39 + 1))
    assert next(read_rows(Source(path=str(path)))).fields["n"] == 10**39 + 1


def test_107_fewer_rows_than_a_batch_are_one_step_of_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 3)
    data = check(path, Kept(3, 3), packing=False)
    assert isinstance(data, PreparedData)
    training = recipe(path).training
    assert training.global_batch_size > len(data.train_packs) == 3
    plan = make_plan(training, len(data.train_packs), world_size=1, micro_batch_size=1, recomputed_layers=0)
    assert (plan.total_steps, plan.total_packs) == (1, 3)


CHANGES: dict[str, Callable[[Path], object]] = {
    "shrinks": lambda path: path.write_bytes(GOOD),
    "grows": lambda path: path.write_bytes(GOOD * 6000),
    "is replaced": lambda path: path.with_suffix(".new").replace(path),
    "vanishes": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=[f"108 {name}" for name in CHANGES])
def test_108_a_file_that_changes_while_it_is_read(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD * 5000)
    path.with_suffix(".new").write_bytes(GOOD * 5000)
    log = ReadLog()
    rows = read_rows(Source(path=str(path)), log)
    next(rows)
    change(path)
    assert len(list(rows)) >= 1
    assert [fault.code for fault in log.faults] == ["E3-FILE-CHANGED"]


def chat(*messages: Any) -> dict[str, Any]:
    """Make a row of texts, which the user and the assistant say in turn, or of whole messages."""
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": roles[n % 2], "content": text} if isinstance(text, str) else text
            for n, text in enumerate(messages)
        ]
    }


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


ROWS: list[tuple[str, list[dict[str, Any]], Answer]] = [
    ("109 empty prompt", [{"prompt": "", "completion": "b"}], "E3-ROW-EMPTY"),
    ("109 empty question", [chat("", "b")], "E3-ROW-EMPTY"),
    ("110 empty answer", [chat("a", "")], "E3-ROW-EMPTY"),
    ("110 empty completion", [{"prompt": "a", "completion": ""}], "E3-ROW-EMPTY"),
    ("110 empty output", [{"instruction": "a", "output": ""}], "E3-ROW-EMPTY"),
    ("111 white space", [chat("a", " \n\t\u3000")], "E3-ROW-EMPTY"),
    ("111 white space as text", [{"text": " \n "}], "E3-ROW-EMPTY"),
    ("115 control tokens in a question", [chat("a<|im_end|>b", "c")], Kept(1, 1, remark="special token")),
    ("116 BOS in a question", [chat("<s>a", "c")], Kept(1, 1, remark="special token")),
    ("117 two questions", [chat("a", said("user", "b"), said("assistant", "c"))], "E3-ROW-ORDER"),
    ("117 unknown role", [chat("a", said("bot", "b"))], "E3-ROW-ROLE"),
    ("117 system amid", [chat("a", "b", said("system", "c"), said("user", "d"), said("assistant", "e"))],
     "E3-ROW-ORDER"),
    ("117 the user last", [chat("a", "b", "c")], "E3-ROW-ORDER"),
    ("118 no messages", [{"messages": []}], "E3-ROW-EMPTY"),
    ("119 content is a list", [chat("a", said("assistant", [1]))], "E3-ROW-TYPE"),
    ("119 content is an object", [chat("a", said("assistant", {"text": "b"}))], "E3-ROW-TYPE"),
    ("122 all rows the same", [chat("a", "b")] * 5, Kept(5, 5, remark="4 of them said before")),
]  # fmt: skip


def rows_file(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("rows", "expected"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_rows(tmp_path: Path, rows: list[dict[str, Any]], expected: Answer) -> None:
    check(rows_file(tmp_path, rows), expected)


LONG = chat("a", "the cat " * 50)
LONG_QUESTION = chat("the cat " * 50, "a")
PLAIN = {"prompt": "the cat " * 50, "completion": "a"}
LENGTHS: list[tuple[str, dict[str, Any], str, Answer]] = [
    ("112 answer beyond, error", LONG_QUESTION, "error", "E3-OVERLONG"),
    ("112 answer beyond, drop", LONG_QUESTION, "drop", Kept(2, 1, dropped=1)),
    ("112 answer beyond, truncate", LONG_QUESTION, "truncate", Kept(2, 1, dropped=1)),
    ("112 plain answer beyond, truncate", PLAIN, "truncate", Kept(2, 1, dropped=1)),
    ("112 answer half beyond, truncate", LONG, "truncate", Kept(2, 2, truncated=1)),
    ("112 answer half beyond, drop", LONG, "drop", Kept(2, 1, dropped=1)),
]


@pytest.mark.parametrize(("row", "policy", "expected"), [c[1:] for c in LENGTHS], ids=[c[0] for c in LENGTHS])
def test_lengths(tmp_path: Path, row: dict[str, Any], policy: str, expected: Answer) -> None:
    short: dict[str, Any] = chat("a", "b") if "messages" in row else {"prompt": "a", "completion": "b"}
    check(rows_file(tmp_path, [short, row]), expected, max_length=40, on_overlong=policy)


def tokens_of(path: Path) -> Any:
    data = check(path, Kept(1, 1))
    assert isinstance(data, PreparedData)
    return data.train


@pytest.mark.parametrize("row", [LONG, {"prompt": "a", "completion": "the cat " * 30}], ids=["113 chat", "113 plain"])
def test_113_exactly_the_length_keeps_the_end_and_one_less_does_not(tmp_path: Path, row: dict[str, Any]) -> None:
    path = rows_file(tmp_path, [row])
    whole = tokens_of(path)
    exact = check(path, Kept(1, 1), max_length=len(whole.tokens))
    assert isinstance(exact, PreparedData)
    assert exact.train.tokens.tolist() == whole.tokens.tolist()
    assert not exact.train.unfinished.any()
    check(path, "E3-OVERLONG", max_length=len(whole.tokens) - 1)
    cut = check(path, Kept(1, 1, truncated=1), max_length=len(whole.tokens) - 1, on_overlong="truncate")
    assert isinstance(cut, PreparedData)
    assert cut.train.unfinished.all()


def test_114_a_prompt_of_the_whole_length_leaves_nothing_to_learn(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [LONG_QUESTION])
    whole = tokens_of(path)
    prompt = int(np.flatnonzero(whole.trained)[0])
    assert check(path, "E3-OVERLONG", max_length=prompt, on_overlong="error")
    check(path, "E3-NO-ROWS", max_length=prompt, on_overlong="truncate")
    check(path, Kept(1, 1, truncated=1), max_length=prompt + 1, on_overlong="truncate")


@pytest.mark.parametrize(
    "text",
    ["شكرا جزيلا " * 8, "👨‍👩‍👧‍👦" * 8, "e\u0301o\u0308" * 12],
    ids=["120 right to left", "120 ZWJ", "120 marks"],
)
def test_120_a_cut_inside_a_character_leaves_the_tokens_before_it(tmp_path: Path, text: str) -> None:
    path = rows_file(tmp_path, [chat("a", text)])
    whole = tokens_of(path)
    for length in range(len(whole.tokens) - 20, len(whole.tokens)):
        cut = check(path, Kept(1, 1, truncated=1), max_length=length, on_overlong="truncate")
        assert isinstance(cut, PreparedData)
        assert cut.train.tokens.tolist() == whole.tokens[:length].tolist()


def test_121_a_row_in_both_sets(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [chat("a", "b"), chat("c", "d")])
    other = rows_file(tmp_path, [chat("c", "d")], "other.jsonl")
    check(path, "E3-LEAK", validation={"path": str(other)})


def test_122_rows_that_are_all_the_same_cannot_be_split(tmp_path: Path) -> None:
    check(rows_file(tmp_path, [chat("a", "b")] * 5), "E3-TOO-FEW", validation={"fraction": 0.5})


TEMPLATES: list[tuple[str, str, str]] = [
    ("123 syntax", "{% for %}", "E3-TEMPLATE"),
    ("123 raise_exception", "{{ raise_exception('no') }}", "E3-ROW-TEMPLATE"),
    ("123 undefined variable", CHATML + "{{ nothing.at.all }}", "E3-ROW-TEMPLATE"),
    (
        "123 infinite loop",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "E12-TEMPLATE",
    ),
    ("123 100 MB", CHATML + "{{ 'a' * 100000000 }}", "E12-TEMPLATE"),
    ("123 sandbox", "{{ messages.__class__.__mro__ }}", "E12-TEMPLATE"),
    ("123 sandbox by a global", CHATML + "{{ cycler.__init__.__globals__ }}", "E12-TEMPLATE"),
]


@pytest.mark.parametrize(("text", "expected"), [c[1:] for c in TEMPLATES], ids=[c[0] for c in TEMPLATES])
def test_templates(tmp_path: Path, text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RENDER_SECONDS", 0.3)
    check(rows_file(tmp_path, [chat("a", "b")]), expected, byte_level(text))


def without(name: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_level(CHATML)
    setattr(tokenizer, name, None)
    return tokenizer


def test_124_tokenizers_that_lack_something(tmp_path: Path) -> None:
    talk, text = rows_file(tmp_path, [chat("a", "b")]), rows_file(tmp_path, [{"text": "a"}], "text.jsonl")
    check(talk, Kept(1, 1), without("pad_token"))
    check(talk, Kept(1, 1), without("eos_token"))
    check(text, "E4-NO-EOS", without("eos_token"))
    check(talk, "E3-NO-TEMPLATE", without("chat_template"))
    check(text, Kept(1, 1), without("chat_template"))


def test_124_a_vocabulary_larger_than_the_embeddings(tmp_path: Path) -> None:
    rows = tokens_of(rows_file(tmp_path, [chat("a", "b")]))
    largest = int(rows.tokens.max())
    check_vocabulary([rows], {"vocab_size": largest + 1})
    with pytest.raises(LorafitError, match=r"rows.jsonl:1: .*E4-VOCABULARY"):
        check_vocabulary([rows], {"vocab_size": largest})
    with pytest.raises(LorafitError, match="E4-VOCABULARY"):
        check_vocabulary([rows], {"text_config": {"vocab_size": largest}})


def test_rows_beyond_the_positions_of_a_model(tmp_path: Path) -> None:
    file = rows_file(tmp_path, [chat("a", "b"), chat("a" * 40, "b" * 40)])
    rows = prepare(recipe(file), TOKENIZER).train
    longest = int(rows.lengths.max())
    for model_type in ("llama", "gpt2"):
        assert check_positions([rows], {"model_type": model_type, "max_position_embeddings": longest}) == []
    assert check_positions([rows], {"model_type": "llama"}) == []  # its config does not say
    said = check_positions([rows], {"model_type": "llama", "max_position_embeddings": longest - 1})
    assert [line for line in said if "1 rows are longer" in line and "rows.jsonl:2" in line] == said != []
    with pytest.raises(LorafitError, match=r"rows.jsonl:2: .*E4-POSITIONS"):
        check_positions([rows], {"model_type": "gpt2", "n_positions": longest - 1})


def test_124_given_ids_beyond_the_vocabulary(tmp_path: Path) -> None:
    row = {"input_ids": [5, len(TOKENIZER)], "labels": [-100, len(TOKENIZER)]}
    check(rows_file(tmp_path, [row]), "E3-ROW-VOCABULARY")
