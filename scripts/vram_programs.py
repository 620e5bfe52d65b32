"""Other programs than plain transformers: what answers for each, and the reasons by which it may be off."""

import re

from lorafit.errors import LorafitError
from lorafit.plan.find_shape import find_shape
from lorafit.plan.listed import with_listed_experts
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.stack import OLDEST, Stack
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora
from lorafit.recipe.optimizers import OptimizerName
from lorafit.recipe.quantization import Int8, Nf4, Quantization, Unquantized
from scripts import vram_bounds as bounds
from scripts import vram_reasons as reasons
from scripts.vram_axolotl import AXOLOTL
from scripts.vram_reasons import Bound, Program, Reason, Row, is_run, noted, of_source

METHODS = ("full", "lora", "qlora", "dora", "lora dora", "lora rslora", "lora packing", "lora-8bit")
# names of other programs, as the leaves that transformers gives the same parts
LEAVES = {
    "query": ("q_proj", "query_key_value", "qkv_proj", "c_attn", "W_pack"),
    "key": ("k_proj", "query_key_value", "qkv_proj"),
    "value": ("v_proj", "query_key_value", "qkv_proj"),
    "projection": ("o_proj", "dense"),
    "output_proj": ("o_proj",),
    "mlp": ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h"),
    "fused": ("c_attn", "query_key_value", "W_pack", "q_proj", "k_proj", "v_proj"),
}


def question_for(row: Row, program: Program) -> MemoryQuestion | None:
    """Ask what comes nearest to a run of another program; None where its model or settings are not known."""
    length = re.search(r"\d+", row["seq_len"])
    if row["method"] not in METHODS or not length or not row["micro_batch"].isdigit():
        return None
    try:
        shape = find_shape(row["model"]).shape
        question = MemoryQuestion(
            shape=with_listed_experts(shape) if program.stack and program.stack.lists_experts else shape,
            adapter=_adapter(row, {linear.name.rsplit(".", 1)[-1] for linear in shape.linears()}),
            quantization=_quantization(row),
            optimizer=_optimizer(row["optimizer"]),
            max_length=int(length[0]),
            micro_batch_size=int(row["micro_batch"]),
            checkpointing=row["grad_ckpt"].startswith("true"),
            explicit_attention=row["attention"] == "eager",
            stack=program.stack,
        )
        estimate(question)
    except (LorafitError, ValueError):
        return None
    return question


def _quantization(row: Row) -> Quantization:
    """litgpt calls doubly quantised scales `nf4-dq`."""
    if row["method"] == "lora-8bit":
        return Int8()
    return Nf4(double_quant=not row["dtype"].endswith("bnb.nf4")) if row["method"] == "qlora" else Unquantized()


def _optimizer(name: str) -> OptimizerName:
    paged, eight = "paged" in name.lower(), "8bit" in name.lower() or "8-bit" in name.lower()
    if paged:
        return "paged_adamw_8bit" if eight else "paged_adamw"
    return "adamw_8bit" if eight else "adamw"


def _adapter(row: Row, known: set[str]) -> Adapter:
    if row["method"] == "full":
        return Full()
    leaves = [leaf for name in _named(row["target_modules"]) for leaf in LEAVES.get(name, (name,)) if leaf in known]
    dropout = re.search(r"dropout ([\d.]+)", row["notes"])
    kind = Dora if "dora" in row["method"] else Lora
    return kind(
        rank=int(row["rank"]),
        dropout=float(dropout[1]) if dropout else 0.0,
        target_modules=list(dict.fromkeys(leaves)) or "all-linear",
    )


def _named(targets: str) -> list[str]:
    """Names up to a remark in brackets; `default (fused qkv)` is one of its own."""
    if "fused qkv" in targets:
        return ["fused"]
    names = targets.partition("(")[0].split()
    return [name.rsplit(".", 1)[-1] for name in names if ".experts." not in name]  # those are stacks, and no linears


_is_split = reasons.traced_as("litgpt", "split")

LITGPT = Program(
    "Lightning-AI/litgpt",
    "litgpt",
    "transformers, no AMP, adapters in 16 bits, no recomputation",
    Stack((4, 57), amp=False, narrow_adapters=True),
    (
        Reason(
            "its own modelling code and loss, logits in float32 and kept until the next pass has its own",
            "wheels of litgpt 0.4.5 (Gemma 2, Llama 3.2: 0.5.0), finetune/lora.py, and of lightning 2.2.2, "
            "fabric/plugins/precision/half.py `convert_output`",
            reasons.traced_as("litgpt", "own code"),
            reasons.by_trace("litgpt", "own code"),
        ),
        Reason(
            "bitsandbytes before 0.43 keeps the input of each 4-bit product",
            "bitsandbytes 0.42.0, autograd/_functions.py `MatMul4Bit`: `ctx.tensors` (wheel)",
            reasons.traced_as("litgpt", "inputs until the backward"),
            reasons.by_trace("litgpt", "inputs until the backward"),
        ),
        Reason(
            "and keeps it as long as the graph, which the loop holds until the next pass has its own",
            "litgpt 0.4.5, finetune/lora.py `fit`: `logits`, `loss` (wheel)",
            reasons.traced_as("litgpt", "inputs until the next pass"),
            reasons.by_trace("litgpt", "inputs until the next pass"),
        ),
        Reason(
            "split over the cards of its configuration, gradients whole until they are sent",
            "Lightning-AI/litgpt config_hub/finetune/{llama-2-7b@08bf15d, gemma-2b@0fe99f8, phi-2@0f9f670}/full.yaml "
            "`devices`; finetune/full.py@29ece59 `no_backward_sync`",
            lambda row: is_run("full", "llama-2-7b", "gemma-2b", "phi-2")(row) and _is_split(row),
            reasons.by_trace("litgpt", "split"),
        ),
    ),
    (
        Bound(
            "labelled as one card, which what is trained alone overfills",
            "the trace of its own code",
            is_run("full", "llama-3.2-1b", "llama-3.2-3b", "Phi-3-mini-4k-instruct"),
            bounds.needs_cards,
        ),
        Bound(
            "the table does not say which linears; the configuration of that date is not kept",
            "Lightning-AI/litgpt config_hub/finetune/README.md@4a9b7e62",
            of_source("2024-03-15"),
            bounds.needs_fewer_targets,
        ),
    ),
)
QWEN = Program(
    "QwenLM/Qwen",
    "Qwen README",
    "transformers 4.38 with AMP, the oldest modelled",
    Stack(OLDEST, kernel="flash_attention_2"),
    (
        Reason(
            "DeepSpeed's ZeRO-2 on one card: float32 masters, gradients flattened and widened at once",
            "QwenLM/Qwen finetune/finetune_ds.sh@0400505, ds_config_zero2.json@af22d5e; "
            "deepspeedai/DeepSpeed deepspeed/runtime/zero/stage_1_and_2.py@02aa38c `step`",
            is_run("full"),
            reasons.zero_two,
        ),
        Reason(
            "read off the card, with a CUDA context",
            "three models lack 1.1 to 1.3 GB at 256 tokens; the context is the estimate's own",
            is_run("lora"),
            reasons.with_context,
        ),
    ),
    (
        Bound(
            "more than rows of that length take",
            "its data is not published",
            is_run("lora"),
            bounds.needs_shorter_rows,
        ),
        Bound(
            "its context is not published",
            "QwenLM/Qwen README.md, whose table does not say how it was read",
            is_run("lora"),
            bounds.needs_context,
        ),
    ),
)
SWIFT = Program(
    "modelscope/ms-swift",
    "ms-swift",
    "transformers 4.38 with AMP, rows of the full length",
    Stack(OLDEST, kernel="flash_attention_2"),
    (
        Reason(
            "torch reserves more for rows of many lengths: the middle one of three draws, where they agree to a tenth; "
            "the step traced with its model's own loss and head",
            "modelscope/ms-swift docs/source_en/LLM/Benchmark.md@4692215 (lengths of its data), "
            "scripts/benchmark/test_memory_time/run_single.py@61badfe; wheel of ms-swift 1.6.0: rows above the limit "
            "dropped, `max_memory_reserved` read, non-reentrant recomputation",
            lambda row: reasons.drawn_alike(row) and "ms-agent" not in row["notes"],
            reasons.over_lengths,
        ),
        Reason(
            "the loss of agents over packed rows: float32 outputs, and a copy of those that are answers; every token "
            "taken for one, the most that there can be",
            "modelscope/ms-swift scripts/benchmark/config/tuner.json@87fc380 `loss_scale`; wheel of ms-swift 2.0.5: "
            "`compute_scaled_loss`, `ConstantLengthDataset`",
            lambda row: reasons.run_key(row).endswith("packed"),
            reasons.by_trace("swift", "one length"),
        ),
    ),
    (
        Bound(
            "how much more hangs on the order of its rows, which is not published; above 2,048 tokens also on which "
            "thousand rows it took",
            "modelscope/ms-swift docs/source_en/LLM/Benchmark.md@4692215",
            lambda row: "Benchmark.md" in row["source"] and "ms-agent" not in row["notes"],
            bounds.lies_between_draws,
        ),
        Bound(
            "the same, of data (ms-agent, ms-bench) whose lengths are not published",
            "modelscope/ms-swift docs/source_en/LLM/Benchmark.md@4692215, `Tuners`",
            lambda row: "ms-agent" in row["notes"] and "packing" not in row["method"],
            bounds.lies_between_other_draws,
        ),
        Bound(
            "a round figure at the head of a script, whose data's lengths are not published",
            "modelscope/ms-swift examples/train",
            noted("header comment"),
            bounds.needs_shorter_rows,
        ),
    ),
)
TORCHTUNE = Program(
    "pytorch/torchtune",
    "torchtune",
    "transformers, no AMP, adapters in 16 bits, a fused loss (chunked and compiled)",
    Stack(amp=False, narrow_adapters=True, loss="fused"),
    (
        Reason(
            "an update within the backward: no gradients wait",
            "pytorch/torchtune recipes/configs/llama3_1/8B_full_single_device.yaml@02d7035 `optimizer_in_bwd: True`",
            is_run("full"),
            reasons.stack(steps_in_backward=True),
        ),
        Reason(
            "no accumulation, nothing recomputed, norms compiled to one kernel that keeps 16 bits",
            "pytorch/torchtune README.md@0031bfb (`without gradient accumulation`, `torch compile enabled`); of a "
            "method's two rows the one for the larger card does 1.5 times the tokens a second",
            lambda row: "A6000" in row["gpus"],
            reasons.both(reasons.asked(accumulation=False, checkpointing=False), reasons.compiled_norms),
        ),
    ),
)
PEFT = Program(
    "huggingface/peft method",
    "PEFT MetaMathQA",
    "transformers, no AMP, outputs and cache kept, four rows of 768 tokens",
    Stack((4, 57), amp=False, cache=True, keeps_outputs=True),
    (
        Reason(
            "gradients do not outlive a step",
            "huggingface/peft method_comparison/MetaMathQA/run.py@026d1e0: `optimizer.zero_grad()` before each pass",
            lambda row: True,
            reasons.asked(accumulation=False),
        ),
    ),
    (
        Bound(
            "its longest batch is not published",
            "huggingface/peft method_comparison/MetaMathQA/run.py@026d1e0: batches are padded to their longest row",
            lambda row: True,
            bounds.needs_shorter_rows,
        ),
    ),
)
PROGRAMS = (LITGPT, QWEN, SWIFT, TORCHTUNE, AXOLOTL, PEFT)
