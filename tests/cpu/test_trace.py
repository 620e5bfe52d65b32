"""The trace of the real step: extrapolation against the whole, the estimate against the trace, the face."""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from lorafit.errors import ModelError, RecipeError
from lorafit.model.trace_depth import exact
from lorafit.plan.allocator import MIB, replay
from lorafit.plan.exact import Exact
from lorafit.plan.holdings import weights
from lorafit.plan.memory import CONTEXT_BYTES, estimate
from lorafit.plan.picture import COLOURS, moments
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.reserved import reserve, workspaces
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.stack import Stack
from lorafit.plan.unroll import training
from lorafit.plan.vram import answer
from lorafit.recipe.adapters import Dora, Full, Lora
from lorafit.recipe.quantization import Int8, Nf4, Unquantized
from lorafit.train.trace import fake_optimizer, with_trace

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 2048, "tie_word_embeddings": False,
}  # fmt: skip

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora, activations kept": {"checkpointing": False},
    "two layers of six recomputed": {"recomputed_layers": 2},
    "every layer recomputed from the host": {"offloaded": True, "max_length": 2048},
    "one pass a step": {"accumulation": False},
    "qlora": {"quantization": Nf4(), "optimizer": "paged_adamw_8bit", "max_length": 2048},
    "qlora, short": {"quantization": Nf4(), "optimizer": "adamw_8bit"},
    "qlora, every layer unpacked": {"quantization": Nf4(), "unpacked_layers": 6, "max_length": 2048},
    "qlora, two layers of six unpacked": {"quantization": Nf4(), "unpacked_layers": 2},
    "qdora": {"adapter": Dora(), "quantization": Nf4()},
    "full, activations kept": {"adapter": Full(), "checkpointing": False},
    "two rows, dropout, all logits": {"adapter": Lora(dropout=0.1), "micro_batch_size": 2},
    "dropout, recomputed": {"adapter": Lora(dropout=0.05), "accumulation": False},
    "five layers of six recomputed": {"recomputed_layers": 5},
    "int8": {"quantization": Int8()},
    "int8, dora": {"quantization": Int8(), "adapter": Dora()},
    "attention of a few layers": {"adapter": Lora(target_modules={"regex": r".*layers\.[13]\.self_attn\.q_proj"})},
}


def ask(config: dict[str, Any] = CONFIG, **settings: Any) -> MemoryQuestion:
    question = MemoryQuestion(shape_from_config(config, "toy"), Lora(), Unquantized(), max_length=512)
    return replace(question, **settings)


def traced(question: MemoryQuestion, config: dict[str, Any] = CONFIG, *, whole: bool = False) -> Exact:
    return exact(question, config, fake_optimizer, whole=whole)


SLOW = (
    "one pass a step",
    "qlora",
    "qlora, short",
    "qlora, two layers of six unpacked",
    "qdora",
    "two rows, dropout, all logits",
    "attention of a few layers",
    "int8, dora",
)
EVERY_SETTING = [
    pytest.param(settings, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, settings in SETTINGS.items()
]


@pytest.mark.parametrize("settings", EVERY_SETTING)
def test_two_shallow_traces_give_the_deep_one_and_the_estimate_agrees(settings: dict[str, Any]) -> None:
    question = ask(**settings)
    shallow = traced(question)
    whole = shallow if shallow.traced_layers == (shallow.layers,) else traced(question, whole=True)
    assert estimate(question).peak_bytes == pytest.approx(shallow.peak_bytes, rel=0.03)
    assert shallow.peak_bytes == whole.peak_bytes
    assert shallow.components() == whole.components()
    for phase, moment in whole.moments.items():  # lists of norms are rounded up to 512 bytes as a whole
        assert shallow.moments[phase].total == pytest.approx(moment.total, abs=2048)
        assert shallow.moments[phase].counts == moment.counts  # tensors over all layers too, in their full shape
    repeated, told = (replay(training(each.recording)) for each in (shallow, whole))
    assert repeated.peak_allocated == pytest.approx(told.peak_allocated, abs=2**16)  # norms of tensors: 512 bytes each
    assert repeated.allocated == pytest.approx(told.allocated, abs=2**16)
    assert repeated.peak_reserved == pytest.approx(told.peak_reserved, abs=2 * MIB)


def test_a_tensor_without_values_is_no_death_in_a_deep_recording() -> None:
    config = {**CONFIG, "model_type": "phi3"}  # all of a head turns, so that the part which does not is empty
    found = traced(ask(config, adapter=Full(), accumulation=False), config)
    assert found.traced_layers < (found.layers,)
    assert estimate(ask(config, adapter=Full(), accumulation=False)).peak_bytes == pytest.approx(
        found.peak_bytes, rel=0.02
    )


def test_layers_of_which_some_are_recomputed_are_traced_one_and_all() -> None:
    found = [traced(ask(recomputed_layers=count, checkpointing=count > 0), whole=count != 3) for count in (0, 3, 6)]
    assert found[0].peak_bytes > found[1].peak_bytes > found[2].peak_bytes
    assert found[1].traced_layers == (6,)


def test_a_recording_ends_with_its_step() -> None:
    question = ask({**CONFIG, "num_hidden_layers": 2}, accumulation=False)
    recording, _ = [traced(question, {**CONFIG, "num_hidden_layers": 2}).recording for _ in range(2)]
    gc.collect()  # of the traced models, whose tensors are logged as they die
    held = {number for number, _ in [*recording.weights, *recording.states]}
    assert not held & {number for number, size in recording.step if not size}


def test_layers_that_differ_are_traced_one_and_all() -> None:
    question = ask(adapter=SETTINGS["attention of a few layers"]["adapter"])
    found = traced(question)
    assert found.traced_layers == (6,)
    assert {"forward of a layer between", "backward of a layer between"} <= found.moments.keys()
    held = list(training(found.recording))
    most = replay([*workspaces(), *held], expandable=True)
    assert found.peak_bytes == pytest.approx(most.peak_allocated, abs=2**16)
    assert reserve(held, most.peak_reserved + CONTEXT_BYTES).fits_expandable
    assert not reserve(held, most.peak_allocated + CONTEXT_BYTES - MIB).fits_expandable


@pytest.mark.parametrize("adapter", [Lora(), Full()], ids=["lora", "full"])
def test_a_classifier_is_traced_with_its_head(adapter: Lora | Full) -> None:
    question = ask(classes=3, adapter=adapter)
    found = traced(question)
    assert estimate(question).peak_bytes == pytest.approx(found.peak_bytes, rel=0.01)
    assert found.peak_bytes < estimate(replace(question, classes=0)).peak_bytes  # logits of documents are nothing


GPT2: dict[str, Any] = {
    "model_type": "gpt2", "n_embd": 256, "n_head": 4, "n_layer": 2, "n_positions": 512, "vocab_size": 1024,
}  # fmt: skip


@pytest.mark.parametrize("config", [CONFIG, GPT2], ids=["Linear", "Conv1D"])
def test_weights_are_what_bitsandbytes_packs(config: dict[str, Any]) -> None:
    question = ask(config, quantization=Nf4())
    parts = traced(question, config).components()
    held = sum(part.bytes for part in weights(question))
    assert parts["weights"] == pytest.approx(held, rel=0.01)


def test_the_face(tmp_path: Path) -> None:
    asked = {"rank": None, "target_modules": None, "max_length": 256, "micro_batch_size": None, "gpus": 1, "gpu": None}
    picture = tmp_path / "step.svg"
    found = with_trace(answer(None, model="builtin:tiny", method="lora", **asked), picture)  # type: ignore[arg-type]
    assert found.exact
    most = max(moment.total for moment in moments(found.exact.recording))
    assert most == pytest.approx(found.exact.peak_bytes - found.exact.workspace_bytes, abs=2**16)
    drawn = ElementTree.parse(picture).getroot()
    assert len(drawn.findall("{*}polygon")) == len(COLOURS)
    assert any("peak" in (text.text or "") for text in drawn.iter("{http://www.w3.org/2000/svg}text"))
    facts: Any = found.as_json()["exact"]
    assert facts["peak_bytes"] == sum(part["bytes"] for part in facts["components"])
    assert facts["peak_bytes"] == facts["phases"][facts["peak_phase"]]
    assert facts["largest_tensors"][0]["bytes"] >= facts["largest_tensors"][-1]["bytes"]
    assert facts["peak_bytes"] <= facts["reserved_bytes"] < facts["on_card_bytes"]
    assert facts["fits"] is None
    text = found.as_text()
    assert "EXACT, the real step traced" in text
    assert "GiB" not in text.replace("0.3 to 2 GiB", "")  # the unit of the table, throughout


def test_a_model_that_transformers_does_not_have() -> None:
    config = CONFIG | {"model_type": "qwen"}
    with pytest.raises(ModelError, match="cannot build 'qwen'"):
        traced(ask(), config)


def test_a_shape_that_transformers_refuses() -> None:
    with pytest.raises(ModelError, match="cannot build 'llama'"):
        traced(ask(), CONFIG | {"hidden_size": 250})


def test_the_installed_transformers_is_traced_and_no_other() -> None:
    asked = {"rank": None, "target_modules": None, "max_length": 256, "micro_batch_size": 2, "gpus": 1, "gpu": None}
    asked |= {"model": "builtin:tiny", "method": "qlora"}
    plain = answer(None, engine="transformers", habits=["padded"], **asked)  # type: ignore[arg-type]
    found = with_trace(plain).exact
    assert found
    assert plain.estimate.peak_bytes == pytest.approx(found.peak_bytes, rel=0.02)
    for engine, habits in [("transformers@4.48.1", []), ("transformers", ["use-cache"])]:
        with pytest.raises(RecipeError, match="is installed"):
            with_trace(answer(None, engine=engine, habits=habits, **asked))  # type: ignore[arg-type]


def test_a_split_base_is_refused_and_says_what_to_do() -> None:
    asked = {"rank": None, "target_modules": None, "max_length": 512, "micro_batch_size": 1, "gpu": None}
    split = answer(None, model="builtin:tiny", method="lora", gpus=2, sharding="full", **asked)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="--sharding none"):
        with_trace(split)


def test_what_a_card_refuses_is_refused() -> None:
    """float32 norms before a 16-bit head, without autocast: fake tensors would multiply them."""
    config = CONFIG | {"num_hidden_layers": 1}
    asked = ask(config, quantization=Nf4(), stack=Stack(upcast="norms", amp=False), max_length=64)
    with pytest.raises(ModelError, match="a card refuses a product or norm of bfloat16 and float32"):
        traced(asked, config)
