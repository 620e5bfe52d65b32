"""Axolotl's examples: what answers for them, and the reasons by which they may be off."""

from lorafit.plan.stack import Stack
from scripts import vram_reasons as reasons
from scripts.vram_reasons import Program, Reason, is_run, of_source

AXOLOTL = Program(
    "axolotl-ai-cloud",
    "Axolotl",
    "transformers with AMP, a fused loss",
    Stack(loss="fused", kernel="flash_attention_2"),
    (
        Reason(
            "experts packed in 4 bits, those of a layer unpacked at once",
            "axolotl-ai-cloud/axolotl src/axolotl/monkeypatch/moe_quant.py@01cd194, `quantize_moe_experts`",
            lambda row: "quantize_moe_experts" in row["notes"] and row["method"] == "qlora",
            reasons.packed_experts(4),
        ),
        Reason(
            "experts packed in 8 bits, those of a layer unpacked at once",
            "axolotl-ai-cloud/axolotl src/axolotl/monkeypatch/moe_quant.py@01cd194, `Bnb8bitParametrization`",
            lambda row: "quantize_moe_experts" in row["notes"] and row["method"] == "lora-8bit",
            reasons.packed_experts(8),
        ),
        Reason(
            "a kernel for the scores",
            "flash_attention_2 in its YAML",
            is_run("lora", "openai/gpt-oss-20b"),
            reasons.plain_scores,
        ),
        Reason(
            "all logits at once: no plugin for the loss in its YAML",
            "axolotl-ai-cloud/axolotl examples/llama-3/fft-8b.yaml@15f7910, examples/mimo/mimo-7b-qlora.yaml@85156cc "
            "(`CCE - N/A as of now`)",
            of_source("fft-8b", "mimo"),
            reasons.stack(loss="full"),
        ),
        Reason(
            "weights wait on the card in 16 bits, read faster than they are packed: at the most, all of them",
            "huggingface/transformers#44576, which ended it in 5.4.0 (wheels of 5.3.0, 5.4.0: core_model_loading.py "
            "`thread_pool`); the row (axolotl-ai-cloud/axolotl#3499) is older than axolotl 0.16.0, which took 5.4.0",
            is_run("qlora", "Qwen/Qwen3.5-27B"),
            reasons.read_before_packed,
        ),
        Reason(
            "nothing is trained: what its YAML unfreezes matches no weight",
            "axolotl-ai-cloud/axolotl#3586 (`freezing all the layers due to mistake in regex`), of "
            "examples/qwen3.5/27b-fft.yaml@17495cd",
            is_run("full", "Qwen/Qwen3.5-27B"),
            reasons.nothing_trained,
        ),
    ),
)
