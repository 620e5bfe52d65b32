"""Other programs than plain transformers: what answers for each, and the reasons by which it may be off.

A reason is one setting that the program's own code or configuration names. It is checked by changing that one setting:
what is left of the error is the rest that it does not explain. Nothing is fitted to a row.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lorafit.errors import LorafitError
from lorafit.plan.find_shape import find_shape
from lorafit.plan.listed import with_listed_experts
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.stack import OLDEST, Stack
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora
from lorafit.recipe.optimizers import OptimizerName
from lorafit.recipe.quantization import Int8, Nf4, Quantization, Unquantized

Row = dict[str, str]
Change = Callable[[MemoryQuestion], MemoryQuestion]

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


@dataclass(frozen=True)
class Reason:
    """One setting that may be it, where that is read, the rows it may hold for, and the change that checks it."""

    text: str
    source: str
    holds: Callable[[Row], bool]
    change: Change


@dataclass(frozen=True)
class Program:
    """Another program: what answers for it."""

    source: str  # how the column begins
    name: str
    nearest: str
    stack: Stack | None
    reasons: tuple[Reason, ...] = field(default=())


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


# --- changes


def _stack(**changes: object) -> Change:
    def changed(question: MemoryQuestion) -> MemoryQuestion:
        assert question.stack
        return replace(question, stack=replace(question.stack, **changes))  # type: ignore[arg-type]

    return changed


def _rows_of(length: int) -> Change:
    return lambda question: replace(question, max_length=min(length, question.max_length))


def _split_over(gpus: int) -> Change:
    return lambda question: replace(question, gpus=gpus, sharded=True, checkpointing=True)


def _kept(question: MemoryQuestion) -> MemoryQuestion:
    return replace(question, checkpointing=False)


def _plain_scores(question: MemoryQuestion) -> MemoryQuestion:
    """Attention by a kernel where transformers writes scores out."""
    layers = {
        layer: replace(layer, attention=replace(layer.attention, scores="plain"))
        for layer in set(question.shape.layers)
    }
    return replace(
        question, shape=replace(question.shape, layers=tuple(layers[each] for each in question.shape.layers))
    )


def _packed_experts(question: MemoryQuestion) -> MemoryQuestion:
    return replace(question, shape=with_listed_experts(question.shape))


# --- which rows


def _is(method: str, *models: str) -> Callable[[Row], bool]:
    return lambda row: row["method"] == method and (not models or row["model"] in models)


def _noted(text: str) -> Callable[[Row], bool]:
    return lambda row: text in row["notes"]


LITGPT = Program(
    "Lightning-AI/litgpt",
    "litgpt",
    "transformers, no AMP, adapters in 16 bits, no recomputation",
    Stack((4, 57), amp=False, narrow_adapters=True),
    (
        Reason(
            "bitsandbytes before 0.43 keeps the input of each 4-bit product",
            "the wheels of 0.41.3, 0.42.0 and 0.43.3",
            _is("qlora"),
            _stack(keeps_packed_inputs=True),
        ),
        Reason(
            "4 cards, split, layers recomputed",
            "`devices: 4` in full.yaml, FSDPStrategy in finetune/full.py",
            _is("full", "llama-2-7b", "gemma-2b"),
            _split_over(4),
        ),
        Reason("2 cards, split, layers recomputed", "`devices: 2` in full.yaml", _is("full", "phi-2"), _split_over(2)),
    ),
)
QWEN = Program(
    "QwenLM/Qwen",
    "Qwen README",
    "transformers 4.38 with AMP, the oldest modelled",
    Stack(OLDEST, kernel="flash_attention_2"),
)
SWIFT = Program(
    "modelscope/ms-swift",
    "ms-swift",
    "transformers 4.38 with AMP, rows of the full length",
    Stack(OLDEST, kernel="flash_attention_2"),
    (
        Reason(
            "norms, embedding and head in float32",
            "prepare_model_for_kbit_training",
            _is("qlora"),
            _stack(upcast="all"),
        ),
        Reason("data of short rows (of 256 tokens)", "the examples' data", _noted("header comment"), _rows_of(256)),
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
            "`optimizer_in_bwd: True` in 8B_full_single_device.yaml",
            _is("full"),
            _stack(steps_in_backward=True),
        ),
        Reason("no recomputation", "the two rows of one table differ in nothing else", _is("lora"), _kept),
    ),
)
AXOLOTL = Program(
    "axolotl-ai-cloud",
    "Axolotl",
    "transformers with AMP, a fused loss",
    Stack(loss="fused", kernel="flash_attention_2"),
    (
        Reason("experts packed in 4 bits", "`quantize_moe_experts`", _noted("quantize_moe_experts"), _packed_experts),
        Reason(
            "a kernel for the scores", "flash_attention_2 in its YAML", _is("lora", "openai/gpt-oss-20b"), _plain_scores
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
            "no row has more than 730 tokens",
            "three rank settings agree on 723 to 735",
            lambda row: True,
            _rows_of(730),
        ),
    ),
)
PROGRAMS = (LITGPT, QWEN, SWIFT, TORCHTUNE, AXOLOTL, PEFT)
