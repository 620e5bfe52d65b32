"""Evaluation: the loss is the loss, the questions are those of the training, and what is wrong is found early."""

import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from toys import save_toy, toy_gpt2, toy_llama, toy_run, toy_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorafit.data.row_files import made
from lorafit.data.token_rows import TokenRows
from lorafit.errors import DataError, ModelError, OutOfMemory, RecipeError
from lorafit.evaluate import measure as measuring
from lorafit.evaluate.chat import converse
from lorafit.evaluate.generation import Answer
from lorafit.evaluate.loss import row_batches, target_bytes
from lorafit.evaluate.measure import answer_limit
from lorafit.evaluate.metrics import Gold
from lorafit.evaluate.questions import HeldOut, Question, held_out, questions
from lorafit.evaluate.run import EvalResult, evaluate
from lorafit.evaluate.target import find_target
from lorafit.model.stops import stop_tokens, tokenizer_stops

CHATS = [
    [("user", "2+2"), ("assistant", "4")],
    [("system", "short"), ("user", "say a long thing"), ("assistant", "a " * 30 + "b")],
    [("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", "farewell")],
    [("user", "SQL?"), ("assistant", "SELECT 1")],
]


def write_rows(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chat_row(turns: Sequence[tuple[str, str]], **fields: object) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns], **fields}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(toy_llama(), tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def chats(tmp_path: Path) -> str:
    setup = "CREATE TABLE t (a INTEGER)"
    return write_rows(tmp_path / "chats.jsonl", [chat_row(turns, setup_sql=setup) for turns in CHATS])


@pytest.fixture
def run(tmp_path: Path, base: Path, chats: str) -> Path:
    data = {"train": [{"path": chats}], "validation": {"path": chats}, "max_length": 200}
    return toy_run(tmp_path / "run", base, data=data)


# ------------------------------------------------------------------ loss


def loss_by_hand(model: PreTrainedModel, rows: TokenRows) -> tuple[float, int]:
    """The oracle: each row alone, through the model as it comes."""
    nats, tokens = 0.0, 0
    for a, b in zip(rows.starts[:-1], rows.starts[1:], strict=True):
        ids = torch.tensor(rows.tokens[a:b].astype(np.int64))
        trained = torch.tensor(rows.targets[a:b])[1:]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        nats += float(cross_entropy(logits[trained].double(), ids[1:][trained], reduction="sum"))
        tokens += int(trained.sum())
    return nats, tokens


def test_the_loss_is_per_target_token_of_the_whole_set(base: Path, chats: str) -> None:
    result = evaluate(str(base), data=[chats], metrics=["bits_per_byte"])
    rows = held_out(find_target(str(base), [chats]).recipe, toy_tokenizer(), [chats]).rows
    nats, tokens = loss_by_hand(AutoModelForCausalLM.from_pretrained(base), rows)
    answers = "".join(text for turns in CHATS for role, text in turns if role == "assistant")
    assert (result.examples, result.target_tokens) == (4, tokens) == (4, len(answers) + 5)  # an <end> each
    assert result.metrics["loss"] == pytest.approx(nats / tokens, rel=1e-6)
    assert result.metrics["perplexity"] == pytest.approx(np.exp(nats / tokens), rel=1e-6)
    assert result.metrics["bits_per_byte"] == pytest.approx(nats / np.log(2) / len(answers), rel=1e-6)
    assert result.base is None


def test_gpt2_s_loss_is_right_too(tmp_path: Path) -> None:
    base = save_toy(toy_gpt2(), tmp_path / "gpt2")
    rows = write_rows(
        tmp_path / "rows.jsonl", [{"prompt": "a=", "completion": "1"}, {"prompt": "b", "completion": "c" * 20}]
    )
    result = evaluate(str(base), data=[rows])
    tokens = held_out(find_target(str(base), [rows]).recipe, toy_tokenizer(), [rows]).rows
    nats, count = loss_by_hand(AutoModelForCausalLM.from_pretrained(base), tokens)
    assert result.metrics["loss"] == pytest.approx(nats / count, rel=1e-6)


def test_the_base_beside_an_adapter_is_the_base_alone(run: Path, base: Path, chats: str) -> None:
    both = evaluate(str(run), metrics=["rouge_l"], compare_base=True, max_new_tokens=20)
    alone = evaluate(str(base), data=[chats], metrics=["rouge_l"], max_new_tokens=20)
    adapter = evaluate(str(run), metrics=["rouge_l"], max_new_tokens=20)
    assert both.base == pytest.approx(alone.metrics)
    assert both.metrics == pytest.approx(adapter.metrics)
    assert both.metrics["loss"] != pytest.approx(alone.metrics["loss"], rel=0.01)
    assert both.examples == alone.examples == 4


row_sets = st.lists(st.integers(2, 40), min_size=1, max_size=30)


@given(row_sets, st.integers(1, 100))
def test_batches_hold_every_row_once_within_their_limit(lengths: list[int], limit: int) -> None:
    rows = made([([number] * length, [True] * length) for number, length in enumerate(lengths)])
    batches = list(row_batches(rows, limit))
    assert all(len(batch.lengths) == 1 or sum(batch.lengths) <= limit for batch in batches)
    seen = [int(row) for batch in batches for row in batch.input_ids[batch.position_ids == 0]]
    assert sorted(seen) == list(range(len(lengths)))
    assert sum(batch.target_tokens for batch in batches) == sum(lengths) - len(lengths)


def test_bytes_of_targets_are_those_of_the_text(base: Path, tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "rows.jsonl",
        [chat_row([("user", "u" * 9), ("assistant", "x" * 7)]), {"messages": chat_row(CHATS[2])["messages"]}],
    )
    found = held_out(find_target(str(base), [path]).recipe, toy_tokenizer(), [path])
    assert target_bytes(found.rows, toy_tokenizer()) == 7 + len("hellofarewell")


# ------------------------------------------------------------------ questions


def test_a_question_is_what_stood_before_the_answer_in_training(base: Path, chats: str) -> None:
    tokenizer = toy_tokenizer()
    found = held_out(find_target(str(base), [chats]).recipe, tokenizer, [chats])
    asked = questions(found, tokenizer)
    for number, (question, turns) in enumerate(zip(asked, CHATS, strict=True)):
        row = found.rows.tokens[found.rows.starts[number] : found.rows.starts[number + 1]].tolist()
        reference = tokenizer(turns[-1][1], add_special_tokens=False)["input_ids"]
        assert [*question.prompt, *reference, tokenizer.eos_token_id] == row
        assert question.gold.reference == turns[-1][1]
        assert question.gold_tokens == len(reference)
        assert question.gold.origin == f"{chats}:{number + 1}"


def test_plain_text_is_asked_plainly(base: Path, tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "2+2=", "completion": "4"}])
    found = held_out(find_target(str(base), [path]).recipe, tokenizer, [path])
    (question,) = questions(found, tokenizer)
    assert [*question.prompt, *tokenizer("4")["input_ids"], tokenizer.eos_token_id] == found.rows.tokens.tolist()


def test_running_text_has_a_loss_but_no_answers(base: Path, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "once upon"}, {"text": "a time"}])
    assert evaluate(str(base), data=[path]).examples == 2
    with pytest.raises(DataError, match="asks for no answer") as caught:
        evaluate(str(base), data=[path], metrics=["exact_match"])
    assert len(caught.value.faults) == 2


def test_the_rows_of_a_fraction_are_those_that_training_held_out(tmp_path: Path, base: Path) -> None:
    rows = write_rows(tmp_path / "r.jsonl", [chat_row([("user", f"q{n}"), ("assistant", f"a{n}")]) for n in range(20)])
    data = {"train": [{"path": rows}], "validation": {"fraction": 0.25}, "max_length": 200}
    run = toy_run(tmp_path / "run", base, data=data)
    result = evaluate(str(run), metrics=["exact_match"])
    report = json.loads((run / "reports/eval-0001.json").read_text())
    assert result.examples == 5
    places = [sample["origin"] for sample in report["samples"]]
    assert len(set(places)) == 5
    assert all(
        sample["reference"] == f"a{int(sample['origin'].rpartition(':')[2]) - 1}" for sample in report["samples"]
    )


# ------------------------------------------------------------------ answers


def rig(monkeypatch: pytest.MonkeyPatch, reply: Callable[[int], Answer]) -> list[int]:
    """Answer by rule instead of by model; gives the batch sizes that were tried."""
    tried: list[int] = []

    def generate(*_: object, batch_size: int, max_new_tokens: int, **__: object) -> list[Answer]:
        tried.append(batch_size)
        return [reply(number) for number in range(len(CHATS))]

    monkeypatch.setattr(measuring, "generate_answers", generate)
    return tried


def test_answers_are_scored_against_the_last_turn(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gold = [turns[-1][1] for turns in CHATS]
    rig(monkeypatch, lambda n: Answer(gold[n] if n != 2 else "hello", finished=n < 3, tokens=1))
    result = evaluate(str(run), metrics=["exact_match", "rouge_l", "exact_match"])
    assert result.metrics["exact_match"] == 0.75
    assert list(result.metrics) == ["loss", "perplexity", "exact_match", "rouge_l"]
    assert result.finished == 0.75
    assert result.max_new_tokens == 2 * 61 + 16
    assert "25.0% of the answers were cut at 138 tokens" in result.as_text()


def test_memory_that_runs_out_costs_time_and_no_answer(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(_: int) -> Answer:
        if tried[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Answer("4", True, 2)

    tried = rig(monkeypatch, reply)
    assert evaluate(str(run), metrics=["exact_match"]).metrics["exact_match"] == 0.25
    assert tried == [32, 16, 8]


def test_memory_that_never_suffices_is_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(_: int) -> Answer:
        raise torch.OutOfMemoryError("CUDA out of memory")

    tried = rig(monkeypatch, reply)
    with pytest.raises(OutOfMemory):
        evaluate(str(run), metrics=["exact_match"])
    assert tried == [32, 16, 8, 4, 2, 1]


def asked(prompt_tokens: int, gold_tokens: int) -> Question:
    return Question([1] * prompt_tokens, Gold("rows:1", "x", {}), gold_tokens)


def test_an_answer_may_be_twice_the_longest_gold_one_within_the_context() -> None:
    assert answer_limit([asked(10, 5), asked(3, 20)], None, None) == 56
    assert answer_limit([asked(10, 5), asked(3, 20)], None, 60) == 50
    assert answer_limit([asked(10, 5)], 7, 64) == 7
    for limit, context in ((None, 10), (60, 64)):
        with pytest.raises(DataError, match="leaves"):
            answer_limit([asked(10, 5)], limit, context)


# ------------------------------------------------------------------ what the command says


def test_the_json_is_as_promised_and_the_run_keeps_it(run: Path) -> None:
    result = evaluate(str(run), metrics=["exact_match"], compare_base=True)
    shown = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert {"examples", "target_tokens", "metrics", "base"} <= shown.keys()
    assert shown["metrics"].keys() == shown["base"].keys() == {"loss", "perplexity", "exact_match"}
    kept = json.loads((run / "reports/eval-0001.json").read_text())
    assert kept.items() >= shown.items()
    assert {"prompt", "reference", "answer", "base_answer", "origin"} == kept["samples"][0].keys()
    evaluate(str(run))
    assert (run / "reports/eval-0002.json").exists()


def test_a_report_that_cannot_be_kept_costs_nothing_but_a_word(run: Path) -> None:
    (run / "reports").write_text("in the way")
    said: list[str] = []
    assert isinstance(evaluate(str(run), say=said.append), EvalResult)
    assert any("was not kept" in text for text in said)


WRONG: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "an unknown metric": ({"metrics": ["exactness"]}, RecipeError),
    "no such file": ({"data": ["absent.jsonl"]}, DataError),
    "a gold answer that is no SQL": ({"metrics": ["sql_execution"]}, DataError),
    "a gold answer without a number": ({"metrics": ["last_number"]}, DataError),
    "no room for an answer": ({"metrics": ["exact_match"], "max_new_tokens": 1000}, DataError),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_found_before_weights_are_loaded(
    case: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lorafit.evaluate.target.load_run", load)
    options, kind = WRONG[case]
    with pytest.raises(kind):
        evaluate(str(run), **options)


def test_a_model_has_no_rows_and_no_base(base: Path, chats: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--data"):
        evaluate(str(base))
    with pytest.raises(RecipeError, match="nothing to compare"):
        evaluate(str(base), data=[chats], compare_base=True)
    with pytest.raises(ModelError):
        evaluate(str(tmp_path / "nothing"), data=[chats])


def test_a_run_that_held_nothing_out_asks_for_rows(tmp_path: Path, base: Path, chats: str) -> None:
    run = toy_run(tmp_path / "run", base, data={"train": [{"path": chats}], "max_length": 200})
    with pytest.raises(RecipeError, match="--data") as caught:
        evaluate(str(run))
    assert caught.value.exit_code == 2
    assert evaluate(str(run), data=[chats]).examples == 4


# ------------------------------------------------------------------ chat


def test_one_prompt_gets_one_answer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = converse(str(run), "2+2", max_new_tokens=12, speak=True)
    assert set(result) == {"prompt", "answer", "finished", "tokens"}
    assert capsys.readouterr().out == f"{result['answer']}\n"
    assert converse(str(run), "2+2", max_new_tokens=12, speak=False) == result
    assert capsys.readouterr().out == ""


def test_a_chat_keeps_its_history_until_it_is_reset(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[int]] = []

    def listening(model: object, tokenizer: object, prompts: list[list[int]], **options: Any) -> list[Answer]:
        heard.extend(map(list, prompts))
        return [Answer("ok", True, 3)]

    monkeypatch.setattr("lorafit.evaluate.chat.generate_answers", listening)
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n\nmore\n/reset\nagain\n/exit\nnever\n"))
    result = converse(str(run), None, max_new_tokens=5, speak=False)
    texts = [toy_tokenizer().decode(prompt) for prompt in heard]
    assert texts == [
        "<bos><user>hi<end><assistant>",
        "<bos><user>hi<end><assistant>ok<end><user>more<end><assistant>",
        "<bos><user>again<end><assistant>",
    ]
    assert [message["content"] for message in result["messages"]] == ["again", "ok"]  # type: ignore[attr-defined]


def test_a_chat_ends_with_its_input_and_survives_a_question_that_is_too_long(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * 300 + "\nhi\n"))
    result = converse(str(run), None, max_new_tokens=5, speak=False)
    assert len(result["messages"]) == 2  # type: ignore[arg-type]
    assert "/reset" in capsys.readouterr().err


def test_a_run_on_plain_text_is_spoken_to_plainly(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "2+2=", "completion": "4"}])
    run = toy_run(tmp_path / "run", base, data={"train": [{"path": rows}], "max_length": 200})
    heard: list[list[int]] = []

    def listening(model: object, tokenizer: object, prompts: list[list[int]], **options: Any) -> list[Answer]:
        heard.extend(map(list, prompts))
        return [Answer("4", True, 2)]

    monkeypatch.setattr("lorafit.evaluate.chat.generate_answers", listening)
    converse(str(run), "3+3=", max_new_tokens=5, speak=False)
    assert toy_tokenizer().decode(heard[0]) == "3+3="


def test_stop_tokens_are_those_of_model_tokenizer_and_template() -> None:
    model, tokenizer = toy_llama(), toy_tokenizer()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [7, 8]
    assert stop_tokens(model, tokenizer) == {4, 7, 8}
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = "<user>"
    assert stop_tokens(model, tokenizer) == {2, 4}
    tokenizer.chat_template = None
    assert tokenizer_stops(tokenizer) == {2}
    tokenizer.chat_template = "{{ messages[3] }}"
    assert tokenizer_stops(tokenizer) == {2}


def test_held_out_keeps_its_sources(base: Path, chats: str) -> None:
    found = held_out(find_target(str(base), [chats, chats]).recipe, toy_tokenizer(), [chats, chats])
    assert isinstance(found, HeldOut)
    assert len(found.rows) == 8
    assert len(questions(found, toy_tokenizer())) == 8
