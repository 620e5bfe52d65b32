"""Random models and settings for the estimate of memory, with sizes as real models have them."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.plan.stack import Stack
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora, RegexTargets
from lorafit.recipe.quantization import Int8, Nf4, Quantization, Unquantized

DENSE = (
    "llama", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "olmo2", "glm4",
    "cohere", "starcoder2", "gpt2", "gpt_neox", "phi",
)  # fmt: skip
EXPERTS = ("mixtral", "qwen3_moe", "deepseek_v3")
OWN_HEAD_WIDTH = ("gemma", "gemma2", "gemma3_text", "qwen3", "glm4", "mistral", "qwen3_moe")
METHODS = ("lora", "lora", "qlora", "qlora", "dora", "qdora", "full")
OPTIMIZERS: tuple[Any, ...] = ("adamw", "adamw_8bit", "paged_adamw_8bit")
TARGETS: tuple[Any, ...] = ("all-linear", "all-linear", "attention", "mlp")  # stacked experts are no linears
LENGTHS = (256, 512, 1024, 2048, 4096, 16_384)
LONGEST_EXPLICIT = 4096  # scores grow with the square


# of the second draw
FIRST_OTHER = 1000
FIRST_PLAIN = 2000  # of the third: plain transformers, with and without padding
OWN_DROPOUT = {
    "gpt2": (),
    "starcoder2": ("residual_dropout", "embedding_dropout", "attention_dropout"),
    "llama": ("attention_dropout",),
    "phi": ("resid_pdrop", "embd_pdrop"),
    "phi3": ("resid_pdrop",),
    "gpt_neox": ("hidden_dropout", "attention_dropout"),
}
OTHER_EXPERTS = ("qwen2_moe", "glm4_moe", "deepseek_v2", "olmoe", "mixtral", "qwen3_moe")
WINDOWED = ("mistral", "gemma3_text", "cohere2", "olmo3", "phi3", "starcoder2")
CLASSIFIED = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "gpt_neox", "starcoder2")
DEEP = 6


@dataclass(frozen=True)
class Drawn:
    """A model's config.json and a question about it."""

    config: Mapping[str, Any]
    question: MemoryQuestion
    kind: str = ""  # what sets it apart from the first draw

    @property
    def family(self) -> str:
        """As transformers names it."""
        return str(self.config["model_type"])

    @property
    def setting(self) -> str:
        """All that was drawn, in one line."""
        asked, config = self.question, self.config
        heads = f"{config['num_attention_heads']}/{config['num_key_value_heads']}"
        sizes = f"h{asked.shape.hidden_size} a{heads} f{config['intermediate_size']} v{asked.shape.vocab_size}"
        parts = [
            f"{self.family} {sizes} L{len(asked.shape.layers)}",
            "tied" if asked.shape.tied else "",
            asked.method,
            _adapter_text(asked.adapter),
            asked.dtype,
            f"{asked.micro_batch_size}x{asked.max_length}",
            "recomputed" if asked.checkpointing else "kept",
            "eager" if asked.explicit_attention else "",
            "accumulates" if asked.accumulation else "",
            asked.optimizer,
            self.kind,
        ]
        return " ".join(part for part in parts if part)


def _adapter_text(adapter: Adapter) -> str:
    if isinstance(adapter, Full):
        return ""
    dropout = f" dropout {adapter.dropout}" if adapter.dropout else ""
    return f"r{adapter.rank} {adapter.target_modules}{dropout}"


def drawn(seed: int, index: int) -> Drawn:
    """Draw one: the same for the same numbers. Seeds from FIRST_OTHER on draw what the others leave out."""
    draw = random.Random(seed * 1_000_003 + index)
    if seed >= FIRST_PLAIN:
        return _plain(draw)
    if seed >= FIRST_OTHER:
        return _other(draw)
    config = _config(draw)
    return Drawn(config, _question(draw, config))


def _config(draw: random.Random) -> dict[str, Any]:
    family = draw.choice(EXPERTS if draw.random() < 0.12 else DENSE)
    heads, width = draw.choice([4, 8, 16, 32]), draw.choice([64, 128])
    hidden = heads * width
    config: dict[str, Any] = {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": round(hidden * draw.uniform(2.5, 4)) // 64 * 64,
        "num_hidden_layers": draw.choice([2, 4] if family == "deepseek_v3" else [2, 4, 8, 32, 80]),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([1, 2, heads // 4, heads]),
        "vocab_size": draw.choice([32_000, 50_304, 128_256, 151_936]),
        "tie_word_embeddings": draw.random() < 0.3,
    }
    if family in OWN_HEAD_WIDTH:
        config["head_dim"] = draw.choice([64, 128, width])
    return config | _own_keys(draw, family, hidden)


def _own_keys(draw: random.Random, family: str, hidden: int) -> dict[str, Any]:
    """What some families call by other names, or have alone."""
    experts = {"num_experts_per_tok": draw.choice([1, 2, 4]), "moe_intermediate_size": hidden // 2}
    count = draw.choice([4, 8, 16])
    keys: dict[str, dict[str, Any]] = {
        "gpt2": {"n_inner": 4 * hidden, "n_positions": 16_384},
        "gpt_neox": {"use_parallel_residual": draw.random() < 0.7},
        "mixtral": experts | {"num_local_experts": count},
        "olmoe": experts | {"num_experts": count},
        "qwen2_moe": experts | {"num_experts": count, "shared_expert_intermediate_size": hidden},
        "glm4_moe": experts
        | {"n_routed_experts": count, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
        | {"first_k_dense_replace": 1},
        "deepseek_v2": experts
        | {"n_routed_experts": count, "n_shared_experts": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
        | {"q_lora_rank": hidden // 2, "kv_lora_rank": hidden // 4, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32}
        | {"v_head_dim": 64},
        "qwen3_moe": experts | {"num_experts": count},
        "deepseek_v3": experts
        | {"n_routed_experts": count, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
        | {"q_lora_rank": hidden // 2, "kv_lora_rank": hidden // 4, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32}
        | {"v_head_dim": 64},
    }
    return keys.get(family, {})


def _question(draw: random.Random, config: dict[str, Any]) -> MemoryQuestion:
    method = draw.choice(METHODS)
    packed: Quantization = Nf4(double_quant=draw.random() < 0.7) if method.startswith("q") else Unquantized()
    explicit = draw.random() < 0.1
    return MemoryQuestion(
        shape=shape_from_config(config, config["model_type"]),
        adapter=_adapter(draw, method, TARGETS if config["model_type"] in DENSE else TARGETS[:3]),
        quantization=packed,
        optimizer=draw.choice(OPTIMIZERS),
        dtype=draw.choice(["bfloat16", "bfloat16", "bfloat16", "float32"]),
        max_length=draw.choice([n for n in LENGTHS if n <= LONGEST_EXPLICIT or not explicit]),
        micro_batch_size=draw.choice([1, 1, 2, 4]),
        checkpointing=draw.random() < 0.6,
        accumulation=draw.random() < 0.5,
        explicit_attention=explicit,
    )


def _adapter(draw: random.Random, method: str, targets: tuple[Any, ...]) -> Adapter:
    rank, reached, dropout = draw.choice([4, 8, 16, 64, 256]), draw.choice(targets), draw.choice([0.0, 0.0, 0.05])
    if method == "full":
        return Full()
    kind = Dora if method.endswith("dora") else Lora
    return kind(rank=rank, target_modules=reached, dropout=dropout)


def _other(draw: random.Random) -> Drawn:
    """A model and a question of a kind that the first draw leaves out."""
    kind = draw.choice([*KINDS])
    return KINDS[kind](draw, kind)


def _of(draw: random.Random, kind: str, families: tuple[str, ...], **changes: Any) -> Drawn:
    family = draw.choice(families)
    config = _config(draw) | {"model_type": family}
    if config["num_hidden_layers"] > 2 * DEEP:  # layers that differ are traced one and all
        config["num_hidden_layers"] = DEEP
    if "stack" in changes and family not in OWN_HEAD_WIDTH:
        config.pop("head_dim", None)
    config |= _own_keys(draw, family, config["hidden_size"]) | changes.pop("config", {})
    return Drawn(config, replace(_question(draw, config), **changes), kind)


def _classifier(draw: random.Random, kind: str) -> Drawn:
    return _of(draw, kind, CLASSIFIED, classes=draw.choice([2, 7, 100]))


def _int8(draw: random.Random, kind: str) -> Drawn:
    found = _of(draw, kind, DENSE, quantization=Int8())
    adapter = Lora(rank=16) if isinstance(found.question.adapter, Full) else found.question.adapter
    return replace(found, question=replace(found.question, adapter=adapter))


def _own_dropout(draw: random.Random, kind: str) -> Drawn:
    family = draw.choice([*OWN_DROPOUT])
    return _of(draw, kind, (family,), config=dict.fromkeys(OWN_DROPOUT[family], 0.1))


def _partly_recomputed(draw: random.Random, kind: str) -> Drawn:
    count = draw.randint(1, DEEP - 1)
    found = _of(draw, f"{kind}: {count}", DENSE, config={"num_hidden_layers": DEEP})
    return replace(found, question=replace(found.question, checkpointing=True, recomputed_layers=count))


def _experts(draw: random.Random, kind: str) -> Drawn:
    return _of(draw, kind, OTHER_EXPERTS)


def _windows(draw: random.Random, kind: str) -> Drawn:
    width = draw.choice([512, 1024])
    return _of(draw, f"{kind}: {width}", WINDOWED, config={"sliding_window": width}, dtype="float32")


def _few_targets(draw: random.Random, kind: str) -> Drawn:
    reached = draw.choice([["q_proj", "v_proj"], RegexTargets(regex=r".*\.[02]\..*(q|down)_proj")])
    found = _of(draw, kind, ("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2", "granite"))
    adapter = draw.choice([Lora, Dora])(rank=16, target_modules=reached)
    return replace(found, question=replace(found.question, adapter=adapter))


def _half_precision(draw: random.Random, kind: str) -> Drawn:
    return _of(draw, kind, DENSE, dtype="float16")


def _few_predict(draw: random.Random, kind: str) -> Drawn:
    return _of(draw, kind, DENSE, target_share=0.25, full_logits=draw.random() < 0.5)


PLAIN = ("llama", "mistral", "qwen2", "qwen3", "gemma", "granite", "olmo2", "phi3", "gpt2", "starcoder2")


def _plain(draw: random.Random) -> Drawn:
    padded, explicit = draw.random() < 0.5, draw.random() < 0.25
    stack = Stack(upcast=draw.choice(["none", "none", "norms", "all"]), amp=draw.random() < 0.7, padded=padded)
    habits = f"upcast {stack.upcast}{'' if stack.amp else ', no amp'}"
    kind = f"transformers, {'padded' if padded else 'equal rows'}: {habits}"
    length = draw.choice([256, 512, 1024, 2048])
    return _of(draw, kind, PLAIN, stack=stack, explicit_attention=explicit, dtype="bfloat16", max_length=length)


KINDS: dict[str, Callable[[random.Random, str], Drawn]] = {
    "classifier": _classifier,
    "int8": _int8,
    "the model's own dropout": _own_dropout,
    "partly recomputed": _partly_recomputed,
    "other experts": _experts,
    "windows": _windows,
    "few targets": _few_targets,
    "float16": _half_precision,
    "a quarter predicts": _few_predict,
}
