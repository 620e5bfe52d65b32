"""Set the estimate against the traced step over random models and settings; say how far apart, and in which part.

    python scripts/vram_agreement.py 500 [SEED]

Sizes are drawn as real models have them; widths are small where they may be, since only ratios matter to the forms.
"""

import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lorafit.model.trace_depth import exact
from lorafit.plan.memory import estimate
from lorafit.plan.question import MemoryQuestion
from lorafit.plan.shapes import shape_from_config
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora
from lorafit.recipe.quantization import Nf4, Quantization, Unquantized
from lorafit.train.trace import fake_optimizer

FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "olmo2", "glm4",
    "cohere",
)  # fmt: skip
TARGETS: tuple[Any, ...] = ("all-linear", "all-linear", "attention", "mlp")


@dataclass(frozen=True)
class Agreement:
    """One configuration, both answers, and the phases in which they lie."""

    setting: str
    estimated_bytes: int
    exact_bytes: int
    estimated_phase: str
    exact_phase: str

    @property
    def error(self) -> float:
        """As a share of the traced peak."""
        return self.estimated_bytes / self.exact_bytes - 1


def agreements(count: int, seed: int) -> Iterator[Agreement]:
    """Draw configurations and answer each in both ways."""
    for index in range(count):
        draw = random.Random(seed * 1_000_003 + index)
        config = _config(draw)
        question = _question(draw, config)
        found, traced = estimate(question), exact(question, config, fake_optimizer)
        yield Agreement(_setting(question), found.peak_bytes, traced.peak_bytes, found.peak_phase, traced.peak_phase)


def _config(draw: random.Random) -> dict[str, Any]:
    heads = draw.choice([8, 16, 32])
    hidden = heads * draw.choice([64, 128])
    family = draw.choice(FAMILIES)
    config: dict[str, Any] = {
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": round(hidden * draw.uniform(2.5, 4)) // 64 * 64,
        "num_hidden_layers": draw.choice([2, 8, 32, 80]),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([1, 2, heads // 4, heads]),
        "vocab_size": draw.choice([32_000, 128_256, 151_936]),
        "tie_word_embeddings": draw.random() < 0.3,
    }
    if family in ("gemma", "gemma2", "gemma3_text", "qwen3", "glm4"):
        config["head_dim"] = draw.choice([64, 128])
    return config


def _question(draw: random.Random, config: dict[str, Any]) -> MemoryQuestion:
    adapter = _adapter(draw)
    packed: Quantization = Unquantized() if isinstance(adapter, Full) or draw.random() < 0.5 else Nf4()
    return MemoryQuestion(
        shape=shape_from_config(config, config["model_type"]),
        adapter=adapter,
        quantization=packed,
        optimizer=draw.choice(["adamw", "adamw_8bit", "paged_adamw_8bit"]),
        dtype=draw.choice(["bfloat16", "bfloat16", "float32"]),
        max_length=draw.choice([512, 1024, 2048, 4096, 16_384]),
        micro_batch_size=draw.choice([1, 1, 2, 4]),
        checkpointing=draw.random() < 0.6,
        accumulation=draw.random() < 0.5,
    )


def _adapter(draw: random.Random) -> Adapter:
    kind = draw.choice(["lora", "lora", "lora", "dora", "full"])
    if kind == "full":
        return Full()
    made = Dora if kind == "dora" else Lora
    return made(
        rank=draw.choice([8, 16, 64]), target_modules=draw.choice(TARGETS), dropout=draw.choice([0.0, 0.0, 0.05])
    )


def _setting(question: MemoryQuestion) -> str:
    shape, adapter = question.shape, question.adapter
    kind = "full" if isinstance(adapter, Full) else f"r{adapter.rank} {adapter.target_modules} drop {adapter.dropout}"
    recompute = "recomputed" if question.checkpointing else "kept"
    return (
        f"{shape.model_type} h{shape.hidden_size} L{len(shape.layers)} {question.method} {kind} {question.dtype} "
        f"{question.micro_batch_size}x{question.max_length} {recompute} {question.optimizer}"
    )


def main() -> None:
    """Print each configuration and the distribution of the error."""
    found = []
    for each in agreements(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0):
        found.append(each)
        sizes = f"{each.exact_bytes / 2**30:9.3f} {each.estimated_bytes / 2**30:9.3f} GiB {100 * each.error:+7.2f} %"
        print(f"{sizes}  {each.setting}: {each.exact_phase} | {each.estimated_phase}", flush=True)
    errors = sorted(abs(each.error) for each in found)
    high = errors[min(len(errors) - 1, round(0.95 * len(errors)))]
    print(
        f"{len(errors)} configurations: median {100 * statistics.median(errors):.2f} %, 95th percentile "
        f"{100 * high:.2f} %, worst {100 * errors[-1]:.2f} %"
    )


if __name__ == "__main__":
    main()
