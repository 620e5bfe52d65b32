"""Families without a table: sizes off transformers' class, and an answer that is the trace's."""

import json
import re
from pathlib import Path

import pytest
from test_shapes_oracle import ONE_OF_EACH_FAMILY, SMALL, VARIANTS

from lorafit.errors import ModelError, RecipeError
from lorafit.model.of_class import read_shape
from lorafit.plan.catalogue import Entry
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.vram import Answer, answer
from lorafit.plan.work import work
from lorafit.recipe.adapters import Lora
from lorafit.recipe.load import load_recipe
from lorafit.recipe.quantization import Unquantized
from lorafit.report.validation import check
from lorafit.train.trace import with_trace

NEW = SMALL | {"model_type": "ministral", "head_dim": 16, "sliding_window": 4096}


def assert_read_as_tabled(config: dict[str, object]) -> None:
    tabled, read = shape_from_config(config, "it"), read_shape(config, "it")
    sizes = [[(linear.name, linear.weights, linear.biases) for linear in shape.linears()] for shape in (tabled, read)]
    assert sizes[0] == sizes[1]
    counts = [(shape.total_parameters, shape.tied, shape.embedding_parameters) for shape in (tabled, read)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_what_is_read_off_a_class_is_what_the_table_says(changes: dict[str, object]) -> None:
    assert_read_as_tabled(SMALL | changes)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ONE_OF_EACH_FAMILY, ids=lambda entry: str(entry.config["model_type"]))
def test_what_is_read_off_a_class_is_what_the_table_says_of_every_family(entry: Entry) -> None:
    assert_read_as_tabled(entry.config)


def ask(folder: Path, config: dict[str, object], **options: object) -> Answer:
    (folder / "config.json").write_text(json.dumps(config))
    usual: dict[str, object] = {
        "model": str(folder), "method": "qlora", "rank": None, "target_modules": None, "max_length": 512,
        "micro_batch_size": None, "gpus": 1, "gpu": "24GB", "of_class": read_shape,
    }  # fmt: skip
    return answer(None, **usual | options)  # type: ignore[arg-type]


def test_a_family_without_a_table_is_answered_by_its_trace(tmp_path: Path) -> None:
    """Ministral, which the table lacks, does as Mistral; so does its trace, which the table's estimate must meet."""
    read, tabled = with_trace(ask(tmp_path, NEW)), with_trace(ask(tmp_path, NEW | {"model_type": "mistral"}))
    assert tabled.exact
    assert read.estimate.peak_bytes == sum(part.bytes for part in read.estimate.components) == tabled.exact.peak_bytes
    assert read.estimate.peak_bytes == max(read.estimate.phases.values())
    assert read.estimate.peak_bytes == pytest.approx(tabled.estimate.peak_bytes, rel=0.01)
    said = json.loads(json.dumps(read.as_json()))
    assert (said["fits"]["verdict"], said["fits"]["longest_row_tokens"]) == ("fits", None)
    assert (said["advice"], said["exact"]["difference"]) == ([], None)
    text = read.as_text()
    assert "of 'ministral' there is no table" in text
    assert "the estimate is" not in text
    assert "FITS 24 GB card" in text


def test_without_a_trace_such_a_family_is_refused_with_the_way_to_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--exact reads it off"):
        ask(tmp_path, NEW, of_class=None)
    with pytest.raises(RecipeError, match="a sweep makes none"):
        ask(tmp_path, NEW, swept="max_length=128..512")
    with pytest.raises(ModelError, match="is no family that transformers has"):
        ask(tmp_path, NEW | {"model_type": "miniestral"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "bert"}, "'bert' is no decoder"),
        (
            {"model_type": "whisper", "decoder_attention_heads": 4, "encoder_attention_heads": 4},
            "'whisper' is no decoder",
        ),
        ({"model_type": "t5"}, "'t5' is no decoder"),
        ({"model_type": "xlnet", "max_position_embeddings": 8}, "transformers cannot make a 'xlnet' of it"),
        ({"vocab_size": 10**12}, "a vocabulary of 1000000000000"),
        ({"hidden_size": "x"}, "Field 'hidden_size' expected int, got str"),
    ],
)
def test_a_config_that_no_decoder_can_be_made_of_is_a_fault(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=re.escape(said)):
        read_shape(NEW | changes, "it")


def test_of_a_family_that_cannot_be_traced_nothing_else_is_promised(tmp_path: Path) -> None:
    asked = ask(tmp_path, NEW | {"model_type": "nemotron"})
    with pytest.raises(ModelError, match=r"do not tell attention where documents end; .*try a run"):
        with_trace(asked)


def test_experts_are_counted_as_far_as_a_token_picks_them() -> None:
    sparse = NEW | {"model_type": "granitemoe", "num_local_experts": 40, "num_experts_per_tok": 8}
    few, all_of_them = (read_shape(sparse | {"num_experts_per_tok": picked}, "it") for picked in (8, 40))
    flops = [
        work(MemoryQuestion(shape, Lora(), Unquantized()), None, None, None).flops_per_token
        for shape in (few, all_of_them)
    ]
    assert flops[1] - flops[0] == (4 + 2) * few.expert_parameters * 32 // 40
    assert read_shape(NEW | {"model_type": "lfm2"}, "it").expert_parameters == 0  # a convolution is no stack of experts


def test_validate_leaves_the_layers_of_such_a_family_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NEW))
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"version: 1\nmodel: {{path: {tmp_path}}}\ndata: {{train: [{{path: {tmp_path}/rows.jsonl}}]}}\n")
    notes = check(load_recipe(recipe, [])).notes
    assert any("'ministral' is no family" in note and "not checked" in note for note in notes)
    (tmp_path / "config.json").write_text(json.dumps(NEW | {"model_type": "miniestral"}))
    with pytest.raises(ModelError, match="miniestral"):
        check(load_recipe(recipe, []))


OPT = {
    "model_type": "opt", "vocab_size": 64, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "word_embed_proj_dim": 32, "pad_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "lie",
    [
        {"num_attention_heads": 0}, {"num_attention_heads": 5}, {"hidden_size": 0}, {"hidden_size": -1},
        {"ffn_dim": -1}, {"num_hidden_layers": 0}, {"num_hidden_layers": 10**30}, {"pad_token_id": 10**30},
        {"hidden_size": "x"}, {"vocab_size": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_that_lies_is_a_fault_and_never_a_bug(lie: dict[str, object]) -> None:
    assert read_shape(OPT, "it").hidden_size == 32
    with pytest.raises(ModelError, match=r"^it: transformers cannot make a 'opt' of it") as caught:
        read_shape(OPT | lie, "it")
    assert caught.value.faults[0].fix
