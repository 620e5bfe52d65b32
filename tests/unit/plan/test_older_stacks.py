"""What transformers of before version 5 does otherwise, against traces of its own step."""

from dataclasses import replace
from typing import Any

import pytest

from lorafit.plan.listed import with_listed_experts
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_by_name, shape_from_config
from lorafit.plan.stack import Stack
from lorafit.recipe.adapters import Full, Lora
from lorafit.recipe.quantization import Nf4, Unquantized

SANTACODER = {
    "model_type": "gpt_bigcode", "vocab_size": 49_280, "n_positions": 8192, "n_embd": 2048, "n_layer": 24, "n_head": 16,
    "n_inner": 8192,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 4, "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
WIDE = {
    "model_type": "llama", "vocab_size": 1024, "hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 6,
    "num_attention_heads": 64, "num_key_value_heads": 8,
}  # fmt: skip
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
SPARSE = ["w1", "w2", "w3", "q_proj"]


def question(
    config: dict[str, Any], method: str, rows: int, targets: list[str], *, checkpointing: bool = True, **stack: Any
) -> MemoryQuestion:
    return MemoryQuestion(
        shape=with_listed_experts(shape_from_config(config, "traced")),
        adapter=Full() if method == "full" else Lora(rank=16, dropout=0.1, target_modules=targets),
        quantization=Nf4() if method == "qlora" else Unquantized(),
        max_length=4096,
        micro_batch_size=rows,
        checkpointing=checkpointing,
        accumulation=False,
        stack=Stack((4, 48, 1), kernel="flash_attention_2", **stack),
    )


# 10^9 bytes, from fake-tensor traces of transformers 4.48.1 with PEFT 0.13.2, experts under even load
OLD = [
    (question(SANTACODER, "lora", 4, ["c_attn"], amp=False), 9.0602),
    (question(SANTACODER, "lora", 4, ["c_attn"], amp=False, cache=True), 10.8722),
    (question(SANTACODER, "lora", 8, ["c_attn"], amp=False, cache=True), 19.3737),
    (question(SANTACODER, "full", 4, ["c_attn"], amp=False), 13.5231),
    (question(SANTACODER, "full", 4, ["c_attn"], amp=False, cache=True), 15.3350),
    (question(SANTACODER, "qlora", 4, ["c_attn"]), 14.0722),
    (question(SANTACODER, "qlora", 4, ["c_attn"], cache=True), 17.6961),
    (question(MIXTRAL, "qlora", 4, ATTENTION), 11.8328),
    (question(MIXTRAL, "qlora", 4, ATTENTION, upcast="norms"), 13.8613),
    (question(MIXTRAL, "lora", 2, ATTENTION, amp=False), 16.3051),
    (question(MIXTRAL, "lora", 2, SPARSE, amp=False, checkpointing=False), 32.7255),
    (question(WIDE, "qlora", 2, ATTENTION), 8.2933),  # reentrant; 8.1591 where it is not
    (question(WIDE, "lora", 2, ATTENTION, amp=False), 16.4488),
]


@pytest.mark.parametrize(("asked", "billions"), OLD)
def test_it_is_what_a_trace_of_the_old_step_gives(asked: MemoryQuestion, billions: float) -> None:
    assert estimate(asked).peak_bytes == pytest.approx(billions * 1e9, rel=0.005)


@pytest.mark.parametrize(("amp", "billions"), [(True, 17.0508), (False, 17.6515)])
def test_a_layer_that_reenters_is_recomputed_to_its_end_before_its_backward(amp: bool, billions: float) -> None:
    """Traced as `scripts/vram_replay.py` does it: adapters on every linear make the moments differ."""
    asked = replace(question(WIDE, "lora", 2, ATTENTION, amp=amp), adapter=Lora(rank=16))
    assert estimate(asked).phases["backward of a layer"] == pytest.approx(billions * 1e9, rel=0.001)


def test_a_cache_is_kept_where_layers_are_recomputed_only_by_one_family_and_only_then() -> None:
    for config, version, grows in (
        (SANTACODER, (4, 54), True),
        (SANTACODER, (4, 55), False),
        (MIXTRAL, (4, 48), False),
    ):
        asked = question(config, "lora", 2, ["c_attn"] if config is SANTACODER else ATTENTION)
        off, on = (replace(asked, stack=Stack(version, kernel="flash_attention_2", cache=on)) for on in (False, True))
        assert (estimate(on).peak_bytes > estimate(off).peak_bytes) is grows


def test_a_cache_of_shared_keys_stays_beside_their_repetition() -> None:
    shape = shape_by_name("llama-3-8b").shape
    asked = MemoryQuestion(shape, Lora(), Unquantized(), checkpointing=False, accumulation=False, stack=Stack())
    cached = replace(asked, stack=Stack(cache=True))
    keys = 2 * 2 * 1024 * asked.tokens * len(shape.layers)
    difference = estimate(cached).phases["loss, forward"] - estimate(asked).phases["loss, forward"]
    assert difference == keys
    kept = replace(asked, stack=Stack(cache=True, keeps_outputs=True))
    more = estimate(kept).phases["loss, backward"] - estimate(asked).phases["loss, backward"]
    assert more == keys + 2 * asked.tokens * shape.vocab_size


def test_experts_in_a_list_are_packed_and_adapted_and_count_the_same() -> None:
    shape = shape_by_name("mixtral-8x7b").shape
    listed = with_listed_experts(shape)
    assert listed.total_parameters == shape.total_parameters
    assert listed.expert_parameters == 0
    assert not any("stacked" in note for note in listed.notes)
    adapter, packed = Lora(), Nf4()
    old, new = (MemoryQuestion(each, adapter, packed, stack=Stack((4, 48))) for each in (listed, shape))
    assert estimate(old).peak_bytes < estimate(new).peak_bytes / 3
    assert len(old.targets) == len(new.targets) + 32 * 8 * 3


def test_families_with_stacked_experts_from_the_start_stay_as_they_are() -> None:
    for name in ("gpt-oss-20b", "llama-3-8b"):
        shape = shape_by_name(name).shape
        assert with_listed_experts(shape) is shape


def test_adapters_in_16_bits_take_half() -> None:
    asked = MemoryQuestion(shape_by_name("llama-3-8b").shape, Lora(), Unquantized(), stack=Stack(amp=False))
    narrow = replace(asked, stack=Stack(amp=False, narrow_adapters=True))
    wide, half = estimate(asked), estimate(narrow)
    assert half.peak_bytes < wide.peak_bytes
    assert (narrow.trained_bytes, asked.trained_bytes) == (2, 4)
    assert half.phases["optimizer step"] < wide.phases["optimizer step"]


def test_bitsandbytes_before_0_43_keeps_inputs_that_recomputation_cannot_drop() -> None:
    asked = MemoryQuestion(shape_by_name("llama-3-8b").shape, Lora(), Nf4(), stack=Stack(loss="fused"))
    old = replace(asked, stack=Stack(loss="fused", keeps_packed_inputs=True))
    # inputs of q, k and v, of o, of gate and up, and of down: bytes of a token and layer
    inputs = 2 * (4096 + 4096 + 4096 + 14_336) * asked.tokens
    kept = estimate(old).peak_bytes - estimate(asked).peak_bytes
    assert kept == pytest.approx(inputs * 32, rel=0.05)
    before = Stack((4, 48), loss="fused")  # reentrant: the first forward has no graph to hold them
    old, asked = (replace(asked, stack=before._replace(keeps_packed_inputs=keeps)) for keeps in (True, False))
    assert estimate(old).peak_bytes - estimate(asked).peak_bytes <= inputs


def test_an_update_within_the_backward_leaves_no_gradients() -> None:
    asked = MemoryQuestion(shape_by_name("llama-3-8b").shape, Full(), Unquantized(), stack=Stack(amp=False))
    within = replace(asked, stack=Stack(amp=False, steps_in_backward=True))
    gradients = 2 * asked.total_parameters
    assert estimate(asked).peak_bytes - estimate(within).peak_bytes == pytest.approx(gradients, rel=0.05)


def test_a_fused_loss_holds_no_logits() -> None:
    asked = MemoryQuestion(shape_by_name("llama-3-8b").shape, Lora(), Nf4(), max_length=8192, stack=Stack())
    fused = replace(asked, stack=Stack(loss="fused"))
    logits = 4 * asked.tokens * asked.shape.vocab_size
    assert estimate(asked).peak_bytes - estimate(fused).peak_bytes > logits
