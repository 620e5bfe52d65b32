"""The memory model against the physics: layer forms, traced reference points, and how the parts must behave."""

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorafit.errors import RecipeError
from lorafit.plan.beside import positions
from lorafit.plan.block import play_layer, widths
from lorafit.plan.catalogue import entries
from lorafit.plan.memory import WORKSPACE_BYTES, estimate, largest_micro_batch
from lorafit.plan.operations import Setting
from lorafit.plan.passes import play_passes
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name, shape_from_config
from lorafit.plan.stack import Stack
from lorafit.plan.tape import Tape
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora
from lorafit.recipe.optimizers import OPTIMIZERS
from lorafit.recipe.quantization import Fp4, Int8, Nf4, Quantization, Unquantized

Packed = Literal["no", "4bit", "int8"]

GIB = 2**30
LLAMA_8B = shape_by_name("llama-3.1-8b").shape
ALL_LINEAR = frozenset(linear.name for linear in LLAMA_8B.layers[1].linears)


def ask(model: str = "llama-3.1-8b", **settings: object) -> MemoryQuestion:
    """A first micro-batch of rank 16 on all linears over NF4, one row of 2,048 tokens, recomputed."""
    defaults = {"adapter": Lora(), "quantization": Nf4(), "accumulation": False}
    return MemoryQuestion(shape=shape_by_name(model).shape, **(defaults | settings))


# --- one layer: bytes per token, as sums of widths (H hidden, Q query, K key, F mlp, r rank, a heads)


def kept(setting: Setting, adapted: frozenset[str] = ALL_LINEAR, input_bytes: int = 2) -> dict[str, int]:
    """What a middle layer of Llama-3.1-8B keeps for its backward, with repeated keys and values counted as such."""
    layer = LLAMA_8B.layers[1]
    tape = Tape(widths(LLAMA_8B, layer, 16, 4096), 4096)
    return play_layer(
        layer, tape, setting, adapted, input_bytes=input_bytes, lowest=False, recomputed=False
    ).kept.per_token


# with grouped keys, attention keeps 4Q + 4K; with keys and values repeated to all heads, as in the loop, 8Q
REPEATED = {"query": 4}


def test_qlora_with_16_bit_norms_keeps_12h_8f_14r() -> None:
    expected = {"hidden": 12, "query": 4 + REPEATED["query"], "mlp": 8, "rank": 14, "heads": 4, "norm": 8}
    assert kept(Setting(2, packed="4bit")) == expected


def test_lora_under_autocast_keeps_18h_8f_14r() -> None:
    """Every adapter's input goes to float32 and back, so q, k and v no longer share one."""
    expected = {"hidden": 18, "query": 6 + REPEATED["query"], "mlp": 8, "rank": 14, "heads": 4, "norm": 8}
    assert kept(Setting(2)) == expected


@pytest.mark.parametrize("packed", ["no", "4bit", "int8"])
@pytest.mark.parametrize("dropout", [False, True])
def test_lorafits_own_layer_keeps_4h_8q_4f_whatever_the_base_and_the_dropout(packed: Packed, dropout: bool) -> None:
    expected = {"hidden": 4, "query": 4 + REPEATED["query"], "mlp": 4, "rank": 14, "heads": 4, "norm": 8}
    assert kept(Setting(2, packed=packed, dropout=dropout, fused=True)) == expected


def test_dropout_adds_masks_and_ends_sharing() -> None:
    plain, dropped = kept(Setting(2)), kept(Setting(2, dropout=True))
    assert {width: dropped[width] - plain[width] for width in plain} == {
        "hidden": 5, "query": 1, "mlp": 1, "rank": 0, "heads": 0, "norm": 0
    }  # fmt: skip


def test_without_adapters_a_frozen_layer_keeps_norms_attention_and_mlp() -> None:
    assert kept(Setting(2), frozenset()) == {"hidden": 8, "query": 8, "mlp": 6, "heads": 4, "norm": 8}


def test_the_worst_moment_of_lora_is_28h_14f() -> None:
    """The recomputation's own input is the checkpoint: 2H more."""
    layer = LLAMA_8B.layers[1]
    tape = Tape(widths(LLAMA_8B, layer, 16, 8192), 8192)
    peak = play_layer(layer, tape, Setting(2), ALL_LINEAR, input_bytes=2, lowest=False, recomputed=True).backward
    assert peak.per_token == {
        "hidden": 28 + 2,
        "query": 6 + REPEATED["query"],
        "mlp": 14,
        "rank": 14,
        "heads": 4,
        "norm": 8,
    }


@pytest.mark.parametrize("tokens", [1024, 16384])
def test_a_short_pass_of_qlora_peaks_with_an_unpacked_weight(tokens: int) -> None:
    layer = LLAMA_8B.layers[1]
    tape = Tape(widths(LLAMA_8B, layer, 16, tokens), tokens)
    setting = Setting(2, packed="4bit")
    peak = play_layer(layer, tape, setting, ALL_LINEAR, input_bytes=2, lowest=False, recomputed=True).backward
    largest = 4096 * 14336
    assert (peak.constant >= 2 * largest) == (tokens == 1024)


@pytest.mark.parametrize("setting", [Setting(2), Setting(4), Setting(2, packed="int8"), Setting(2, full=True)])
def test_nothing_is_left_on_the_tape(setting: Setting) -> None:
    layer = LLAMA_8B.layers[1]
    tape = Tape(widths(LLAMA_8B, layer, 16, 512), 512)
    play_layer(layer, tape, setting, ALL_LINEAR, input_bytes=2, lowest=False, recomputed=True)
    adapted = sum(16 * (linear.in_features + linear.out_features) for linear in layer.linears)
    trained = adapted + (layer.parameters - layer.norm_parameters if setting.full else 0)
    assert tape.live_bytes == 4 * trained  # their gradients, in float32
    tape.weight_gradients.clear()
    assert tape.live_bytes == 0
    assert not any(tape.live.values())


# --- the whole step


@pytest.mark.parametrize(
    ("question", "traced_gib"),
    [
        (ask(full_logits=True), 9.25),
        (ask(full_logits=True, quantization=Unquantized()), 18.89),
        (ask(full_logits=True, micro_batch_size=4), 19.65),
        (ask("qwen3-8b", full_logits=True), 10.22),
        (ask("llama-3.1-70b", full_logits=True, max_length=1024), 42.03),
    ],
    ids=["8B QLoRA", "8B LoRA", "8B QLoRA, 4 rows", "Qwen3-8B QLoRA", "70B QLoRA"],
)
def test_traced_reference_points(question: MemoryQuestion, traced_gib: float) -> None:
    """Allocated peaks of transformers' code on fake tensors: Llama 3.1 and Qwen3, rank 16, autocast, recomputed."""
    assert estimate(question).peak_bytes / GIB == pytest.approx(traced_gib, rel=0.005)


def test_without_recomputation_the_estimate_is_the_trace_less_what_lean_layers_keep() -> None:
    """PEFT's trace had 62.69 GiB with grouped keys, as lorafit has them; lorafit's own layers keep 8H + 4F fewer."""
    tokens, layers = 4 * 2048, 32
    fewer = (8 * 4096 + 4 * 14336) * layers * tokens
    found = estimate(ask(micro_batch_size=4, checkpointing=False, full_logits=True)).peak_bytes + fewer
    assert found / GIB == pytest.approx(62.69, rel=0.005)


adapters: st.SearchStrategy[Adapter] = st.builds(
    lambda kind, rank, dropout, targets: kind(rank=rank, dropout=dropout, target_modules=targets),
    st.sampled_from([Lora, Dora]),
    st.integers(1, 256),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(["all-linear", "attention"]),
) | st.just(Full())
bases: st.SearchStrategy[Quantization] = st.sampled_from([Unquantized(), Nf4(), Nf4(double_quant=False), Fp4(), Int8()])
models = st.sampled_from([entry for entry in entries() if "405B" not in entry.hub_id])


@st.composite
def questions(draw: st.DrawFn) -> MemoryQuestion:
    entry, adapter = draw(models), draw(adapters)
    return MemoryQuestion(
        shape=shape_from_config(entry.config, entry.hub_id),
        adapter=adapter,
        quantization=Unquantized() if isinstance(adapter, Full) else draw(bases),
        optimizer=draw(st.sampled_from(list(OPTIMIZERS))),
        dtype=draw(st.sampled_from(["bfloat16", "float32"])),
        max_length=draw(st.integers(8, 20_000)),
        micro_batch_size=draw(st.integers(1, 8)),
        checkpointing=draw(st.booleans()),
        accumulation=draw(st.booleans()),
        gpus=draw(st.integers(1, 8)),
    )


@settings(deadline=None)
@given(questions())
def test_components_add_up_and_the_parts_make_sense(question: MemoryQuestion) -> None:
    found = estimate(question)
    assert sum(part.bytes for part in found.components) == found.peak_bytes == max(found.phases.values())
    assert found.peak_phase in found.phases
    assert all(part.bytes > 0 and part.formula for part in found.components)
    assert found.low_bytes < found.peak_bytes < found.high_bytes
    assert found.trainable_parameters > 0
    assert found.total_parameters == question.shape.total_parameters
    assert found.on_card_bytes > found.peak_bytes


@settings(deadline=None)
@given(questions(), st.sampled_from(["max_length", "micro_batch_size"]))
def test_more_tokens_never_take_less(question: MemoryQuestion, size: str) -> None:
    larger = replace(question, **{size: getattr(question, size) + 8})
    assert estimate(larger).peak_bytes >= estimate(question).peak_bytes


@settings(deadline=None)
@given(questions())
def test_recomputation_and_fewer_gradients_never_take_more(question: MemoryQuestion) -> None:
    kept_all, recomputed = (replace(question, checkpointing=choice) for choice in (False, True))
    waiting = [estimate(q).phases["loss, backward"] for q in (kept_all, recomputed)]
    assert waiting[0] >= waiting[1]
    alone = replace(question, accumulation=False)
    assert estimate(alone).peak_bytes <= estimate(replace(question, accumulation=True)).peak_bytes


@pytest.mark.parametrize("model", ["llama-3.2-1b", "deepseek-v2-lite", "qwen3.5-0.8b"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_worst_layer_is_the_worst_of_all(model: str, checkpointing: bool) -> None:
    """Layers below it wait, layers above it have their gradients."""
    question = ask(model, checkpointing=checkpointing, max_length=333)
    played, found = play_passes(question).layers, estimate(question)
    held = found.phases["optimizer step"] - 4 * found.trainable_parameters + positions(question).bytes
    alive = [
        sum(below.waiting.total(333) for below in played[:index])
        + layer.working.total(333)
        + 4 * sum(above.trained for above in played[index + 1 :])
        for index, layer in enumerate(played)
    ]
    assert found.phases["backward of a layer"] == held + max(alive)


def test_nf4_takes_the_bytes_of_its_layout() -> None:
    linears = next(part for part in estimate(ask()).components if part.name == "linear weights in nf4")
    assert linears.bytes / LLAMA_8B.linear_parameters == pytest.approx(0.5159, abs=2e-4)
    single = estimate(ask(quantization=Nf4(double_quant=False)))
    assert single.components[0].bytes / LLAMA_8B.linear_parameters == pytest.approx(0.5625, abs=2e-4)


def test_paged_states_are_beyond_the_peak_but_for_small_tensors() -> None:
    resident, paged = (estimate(ask(optimizer=name)) for name in ("adamw", "paged_adamw"))
    assert resident.paged_bytes == 0
    states = {part.name: part.bytes for part in paged.components}["paged_adamw states"]
    assert states + paged.paged_bytes == 8 * paged.trainable_parameters
    assert resident.peak_bytes - paged.peak_bytes == paged.paged_bytes


def test_8_bit_states_keep_small_tensors_in_32_bits() -> None:
    found = estimate(ask(optimizer="adamw_8bit", adapter=Lora(rank=1, target_modules=["k_proj"])))
    states = next(part for part in found.components if part.name == "adamw_8bit states")
    per_layer = 2 * (4096 + 4 * 16) + 8 * 1024  # A has 4,096 values and is packed, B has 1,024 and is not
    assert states.bytes == 32 * per_layer


@pytest.mark.parametrize("stack", [None, Stack()])
def test_int8_keeps_inputs_that_recomputation_cannot_drop(stack: Stack | None) -> None:
    packed, plain = (
        estimate(ask(quantization=quantization, stack=stack)).phases["loss, backward"]
        for quantization in (Int8(), Unquantized())
    )
    inputs = 2048 * 31 * 2 * (4096 + 4096 + 4096 + 14336)  # q, k, v share one; gate and up share one
    kept = inputs if stack else 0  # lorafit's own backward asks for none
    assert packed - plain == pytest.approx(kept - LLAMA_8B.linear_parameters, rel=0.05)


def test_full_fine_tuning_takes_sixteen_bytes_a_weight() -> None:
    found = estimate(ask(adapter=Full(), quantization=Unquantized(), max_length=64))
    assert found.trainable_parameters == found.total_parameters
    held = found.phases["optimizer step"] - WORKSPACE_BYTES
    assert held == 16 * found.total_parameters


def test_gradients_are_laid_flat_beside_themselves() -> None:
    alone = estimate(ask(max_length=8))
    assert alone.phases["laying gradients flat"] - alone.phases["optimizer step"] == 4 * alone.trainable_parameters


def test_several_gpus_exchange_gradients_of_loose_tensors_in_a_flat_copy() -> None:
    loose = ask(max_length=8, optimizer="adamw_8bit")
    alone, together = estimate(loose), estimate(replace(loose, gpus=8))
    assert "adding up gradients" not in alone.phases
    assert together.phases["adding up gradients"] - together.phases["optimizer step"] == 4 * alone.trainable_parameters


def test_fewer_targets_have_logits() -> None:
    half, whole = (estimate(ask(target_share=share, full_logits=True)).phases["loss, backward"] for share in (0.5, 1.0))
    assert whole - half == 1024 * 12 * 128256


def test_a_frozen_head_holds_the_logits_of_a_chunk() -> None:
    """Beyond a chunk a token costs its hidden state and the gradient of it, and no logits."""
    short, long = (estimate(ask(max_length=n)).phases["loss, forward"] for n in (2048, 4096))
    layers, positions = 32 * 2 * 4096, 2 * 2 * 128 + 4 * 8  # checkpoints; sines, cosines, ids
    assert long - short == 2048 * (layers + positions + (4 + 2) * 4096)
    assert estimate(ask(max_length=64)).phases["loss, forward"] < short


@pytest.mark.parametrize("name", ["gemma-2-9b", "CohereForAI/c4ai-command-r7b-12-2024"])
def test_a_head_that_is_not_all_there_is_to_the_logits_holds_them_all(name: str) -> None:
    assert estimate(ask(name)).phases == estimate(ask(name, full_logits=True)).phases


def test_soft_caps_write_out_every_score() -> None:
    """Gemma 2: scores are heads x S a token; twice the row, four times the scores."""
    short, long = (estimate(ask("gemma-2-9b", max_length=n, checkpointing=False)) for n in (4096, 8192))
    assert long.peak_bytes - 2 * short.peak_bytes > 16 * 4096 * 4096 * 40 * 6


def test_experts_are_never_quantised() -> None:
    parts = {part.name: part.bytes for part in estimate(ask("mixtral-8x7b")).components}
    assert parts["experts, not quantised"] == 2 * shape_by_name("mixtral-8x7b").shape.expert_parameters


def test_targets_that_match_nothing_are_the_users_to_mend() -> None:
    with pytest.raises(RecipeError, match="c_attn"):
        estimate(ask(adapter=Lora(target_modules=["c_attn"])))


@settings(deadline=None)
@given(capacity_gib=st.integers(1, 200), share=st.integers(1, 48), world=st.integers(1, 8))
def test_the_largest_micro_batch_divides_fits_and_is_the_largest(capacity_gib: int, share: int, world: int) -> None:
    question = ask(max_length=512)
    rows = largest_micro_batch(question, capacity_gib * GIB, share * world, world)

    def fits(count: int) -> bool:
        asked = replace(question, micro_batch_size=count, accumulation=count < share, gpus=world)
        return count * 512 <= 16_384 and estimate(asked).on_card_bytes <= capacity_gib * GIB

    assert share % rows == 0
    assert rows == max([count for count in range(1, share + 1) if share % count == 0 and fits(count)], default=1)
