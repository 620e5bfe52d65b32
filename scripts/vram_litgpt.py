"""litgpt's own step, traced: what each of its published runs holds, by mechanism.

    pip download --no-deps litgpt==0.4.5 && unzip litgpt-0.4.5-*.whl -d LITGPT
    python -m scripts.vram_litgpt MEASURED.csv LITGPT    # adds to benchmarks/2026-11-30-vram-litgpt.json

Most of its table is from April to July 2024, which 0.4.5 ends; after it, 0.5.0 answers for the models that came later.

Its modelling code and its loss run on fake tensors as `finetune/lora.py` and `finetune/full.py` run them: the logits of
one pass, and the graph behind them, are the loop's variables until the next pass has made its own. Around the code
stand what the rest of the program does, each read in its own wheel:

- Fabric gives the outputs in float32 (`convert_output` in lightning 2.2.2, fabric/plugins/precision/half.py).
- Its 4-bit weights were quantised from float16, so that a product unpacks to float16 and copies to bfloat16
  (fabric/plugins/precision/bitsandbytes.py, `quantize`; bitsandbytes 0.42.0, `MatMul4Bit.forward`).
- MatMul4Bit keeps its input as an attribute, which lives as long as the graph does, not until the backward.
"""

import csv
import gc
import importlib
import json
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lorafit.model.trace_card import AsOnCard, fused_attention
from lorafit.model.trace_log import StorageLog
from lorafit.plan.memory import WORKSPACE_BYTES
from scripts.vram_reasons import TRACES, row_key

DEPTHS = (3, 4)  # layers that are traced: each further one adds what the last one did
PASSES = 2  # the first makes the optimizer's states, the second begins beside the first's graph
HEAD_CHUNK = 128  # `lm_head_chunk_size` of finetune/lora.py
NAMES = {
    "gemma-2b": "Gemma-2b", "gemma-7b": "Gemma-7b", "gemma2-2b": "Gemma-2-2b", "gemma2-9b": "Gemma-2-9b",
    "llama-2-7b": "Llama-2-7b-hf", "llama-3-8b": "Llama-3-8B", "llama-3.1-8b": "Llama-3.1-8B",
    "llama-3.2-1b": "Llama-3.2-1B", "llama-3.2-3b": "Llama-3.2-3B", "mistral-7b": "Mistral-7B-v0.1",
    "mistral-7b-v0.2": "Mistral-7B-v0.1", "tiny-llama": "TinyLlama-1.1B-intermediate-step-1431k-3T",
}  # fmt: skip
PARTS = ("query", "key", "value", "projection", "mlp", "head")


def import_litgpt(folder: Path) -> None:
    """Make litgpt's model and loss importable without the libraries that only its loop and its data need."""
    package = types.ModuleType("litgpt")
    package.__path__ = [str(folder / "litgpt")]
    sys.modules["litgpt"] = package
    names = ["lightning", "lightning.fabric", "lightning.pytorch", "lightning_utilities", "lightning_utilities.core"]
    names += ["lightning.fabric.loggers", "lightning.fabric.strategies", "lightning.fabric.utilities", "torchmetrics"]
    names += ["lightning.fabric.utilities.load", "lightning.pytorch.loggers", "lightning_utilities.core.imports"]
    names += ["lightning.pytorch.cli", "lightning.fabric.plugins", "lightning.fabric.utilities.types"]
    for name in [*names, "litgpt.data", "litgpt.prompts"]:
        sys.modules[name] = MagicMock()
    importlib.import_module("litgpt.model")  # before its configuration, with which it goes in a circle


class _Product(torch.autograd.Function):
    """MatMul4Bit before 0.43."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, out_features: int, keeps: bool) -> torch.Tensor:
        ctx.shape = (out_features, x.shape[-1])
        if keeps and ctx.needs_input_grad[0]:
            ctx.tensors = x
        return functional.linear(x, _unpacked(x, ctx.shape))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0] @ _unpacked(gradients[0], ctx.shape), None, None


def _unpacked(x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float16).to(x.dtype)


class _Packed(nn.Module):
    """A linear in NF4 without double quantisation (`bnb.nf4`)."""

    def __init__(self, linear: nn.Linear, keeps: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.out_features, linear.in_features
        self.bias: Any = linear.bias  # None where there is none
        values = linear.weight.numel()
        self.keeps = keeps
        self.register_buffer("weight", torch.empty(values // 2, dtype=torch.uint8))
        self.register_buffer("absmax", torch.empty(values // 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Product.apply(x, self.out_features, self.keeps)  # type: ignore[no-untyped-call]
        bias: torch.Tensor | None = self.bias
        return out if bias is None else out + bias


def _pack(module: nn.Module, keeps: bool) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, _Packed(child, keeps))
        else:
            _pack(child, keeps)


class Traced:
    """A run of litgpt with so many layers: bytes by phase."""

    def __init__(self, row: dict[str, str], layers: int, *, old: bool, held: bool, recomputed: bool) -> None:
        self.row, self.old, self.held, self.recomputed = row, old, held, recomputed
        self.full, self.packed = row["method"] == "full", row["method"] == "qlora"
        self.rows = int(row["micro_batch"])
        found = re.search(r"\d+", row["seq_len"])
        assert found
        self.length = int(found[0])
        self.log = StorageLog()
        self.logits: Any = None
        self.loss: Any = None
        self._run(layers)

    @property
    def working_bytes(self) -> int:
        """What comes and goes beside weights, gradients and AdamW's two states, once those are there."""
        last = PASSES - 1
        return max(self.peaks[f"forward {last}"], self.peaks[f"backward {last}"]) - 4 * self.trained_bytes

    def _run(self, layers: int) -> None:
        with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True), AsOnCard(), _kernels(), self.log:
            warnings.simplefilter("ignore")
            self.model = self._build(layers)
            gc.collect()
            self.log.start_over()
            self.weights = self.log.bytes
            self.trained = [each for each in self.model.parameters() if each.requires_grad]
            self.trained_bytes: int = 2 * sum(each.numel() for each in self.trained)
            self._train()
            self.peaks = {phase: peak.bytes for phase, peak in self.log.peaks.items()}

    def _build(self, layers: int) -> Any:
        source = importlib.import_module("litgpt.model" if self.full else "litgpt.lora")
        lora = {} if self.full else _lora(self.row)
        config = source.Config.from_name(NAMES.get(self.row["model"], self.row["model"]), n_layer=layers, **lora)
        config.rope_adjustments = None  # a look at values, which are not there; the table is as large
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        model = source.GPT(config)
        torch.set_default_dtype(before)
        self.vocabulary_bytes = 2 * model.lm_head.weight.numel() if self.full else 0
        self.logits_bytes = 4 * self.rows * self.length * config.padded_vocab_size
        if not self.full:
            source.mark_only_lora_as_trainable(model)
        if self.packed:
            _pack(model, self.old)
        model.max_seq_length = self.length
        if self.recomputed:
            for block in model.transformer.h:
                block.forward = _recomputing(block.forward)
        return model.train()

    def _train(self) -> None:
        states: list[torch.Tensor] = []
        ids = torch.zeros(self.rows, self.length, dtype=torch.long)
        for turn in range(PASSES):
            self.log.enter(f"forward {turn}")
            self._pass(ids)
            self.log.enter(f"backward {turn}")
            torch.autograd.backward(self.loss)
            self.log.enter(f"update {turn}")
            if not self.packed:  # whose optimizer is paged
                states = states or [torch.empty_like(each) for each in self.trained for _ in range(2)]
                temporaries = [torch.empty_like(each) for each in self.trained]  # AdamW over lists
                del temporaries
            for each in self.trained:  # of a full run they add up over several passes
                each.grad = each.grad if self.full else None
            if not self.held:
                self.logits = self.loss = None

    def _pass(self, ids: torch.Tensor) -> None:
        """Take a pass; of the last one the logits go when the new ones are there, the graph when the loss is."""
        entropy = importlib.import_module("litgpt.utils").chunked_cross_entropy
        if self.full:
            self.logits = self.model(ids).float()
            self.loss = entropy(self.logits[..., :-1, :], ids[..., 1:])
        else:
            self.logits = [chunk.float() for chunk in self.model(ids, lm_head_chunk_size=HEAD_CHUNK)]
            self.logits[-1] = self.logits[-1][..., :-1, :]
            self.loss = entropy(self.logits, ids[..., 1:])


@contextmanager
def _kernels() -> Iterator[None]:
    with patch.object(functional, "scaled_dot_product_attention", fused_attention):
        yield


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)


def _lora(row: dict[str, str]) -> dict[str, object]:
    dropout = re.search(r"dropout ([\d.]+)", row["notes"])
    found: dict[str, object] = {f"lora_{part}": part in row["target_modules"].split() for part in PARTS}
    sizes = {"lora_r": int(row["rank"]), "lora_alpha": 16, "lora_dropout": float(dropout[1]) if dropout else 0.0}
    return {**found, **sizes}


# cards, and whether gradients of several passes add up: `devices` and `global_batch_size` of each full.yaml
SPLITS = {
    "llama-2-7b": (4, True), "gemma-2b": (4, True), "phi-2": (2, False),
    "llama-3.2-1b": (4, True), "llama-3.2-3b": (4, True), "Phi-3-mini-4k-instruct": (2, False),
}  # fmt: skip


def deep(row: dict[str, str], layers: int, **how: bool) -> tuple[Traced, dict[str, int]]:
    """Give the deeper of two traces, and the bytes of each phase at the model's own depth."""
    shallow, deeper = (Traced(row, depth, **how) for depth in DEPTHS)
    further = layers - DEPTHS[1]
    return deeper, {name: at + further * (at - shallow.peaks[name]) for name, at in deeper.peaks.items()}


def split(row: dict[str, str], layers: int, cards: int, whole_gradients: bool) -> dict[str, int]:
    """Bytes of a card of several, FSDP over recomputed blocks in bfloat16; and what one alone would hold at the least.

    Passes whose gradients are not sent yet keep them whole (`no_backward_sync` of finetune/full.py). The embedding and
    the head are the root's, gathered from the forward to the end of the backward; of blocks two are gathered at once.
    The root's weights are views of one flat tensor: their gradients wait for each other, then are joined in another.
    """
    traces = [Traced(row, depth, old=False, held=True, recomputed=True) for depth in DEPTHS]
    further = layers - DEPTHS[1]

    def grown(at: Callable[[Traced], int]) -> int:
        shallow, deeper = map(at, traces)
        return deeper + further * (deeper - shallow)

    trained, root = grown(lambda trace: trace.trained_bytes), 2 * traces[1].vocabulary_bytes
    block = traces[1].trained_bytes - traces[0].trained_bytes
    at_the_end = 2 * root + traces[1].logits_bytes
    passing = max(grown(lambda trace: trace.working_bytes), at_the_end)
    gradients = trained if whole_gradients else trained // cards
    found = 3 * trained // cards + gradients + root + 2 * block + passing + WORKSPACE_BYTES
    return {"states alone": 4 * trained, "cards": cards, "split": found}


def answers(row: dict[str, str]) -> dict[str, int]:
    """Bytes of a row by litgpt's own code, then by what stands around it."""
    source = importlib.import_module("litgpt.config")
    layers = source.Config.from_name(NAMES.get(row["model"], row["model"])).n_layer
    if row["method"] == "full" and row["model"] in SPLITS:
        return split(row, layers, *SPLITS[row["model"]])
    found = {"own code": _peak(row, layers, old=False, held=True)}
    if row["method"] == "qlora":
        found["inputs until the backward"] = _peak(row, layers, old=True, held=False)
        found["inputs until the next pass"] = _peak(row, layers, old=True, held=True)
    if row["model"] == "tiny-llama" and "2024-03-15" in row["source"]:
        narrow = row | {"target_modules": "query value"}
        found["query and value"] = _peak(narrow, layers, old=row["method"] == "qlora", held=True)
    return found


def _peak(row: dict[str, str], layers: int, *, old: bool, held: bool) -> int:
    return max(deep(row, layers, old=old, held=held, recomputed=False)[1].values()) + WORKSPACE_BYTES


def main() -> None:
    """Add what each row of litgpt comes to, as far as it is not there yet."""
    import_litgpt(Path(sys.argv[2]))
    with Path(sys.argv[1]).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["source"].startswith("Lightning-AI/litgpt")]
    found = json.loads(TRACES["litgpt"].read_text(encoding="utf-8")) if TRACES["litgpt"].exists() else {}
    for row in rows:
        if row_key(row) in found or row["model"].startswith(("stablelm", "StableLM")):
            continue
        try:
            found[row_key(row)] = answers(row)
        except ValueError as error:  # a model that this version does not know
            print(row["model"], error, file=sys.stderr)
            continue
        print(row_key(row), found[row_key(row)], flush=True)
        TRACES["litgpt"].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
