"""How TRL and LLaMA-Factory prepare the rows of data.py, each by its own code, run by a Python that has it."""

import argparse
import json
import sys
import tempfile
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

Timed = Callable[[Callable[[], dict[str, Any]]], dict[str, Any]]


def trl(options: argparse.Namespace, timed: Timed, max_length: int) -> dict[str, Any]:
    """Time what SFTTrainer does to the rows before it trains: its own method, on a model of no size."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found, unused-ignore]

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    shape: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    found: dict[str, Any] = {}

    class Trainer(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def _prepare_dataset(self, *args: Any, **settings: Any) -> Any:
            def work() -> dict[str, Any]:
                self.prepared = super(Trainer, self)._prepare_dataset(*args, **settings)
                return {}

            found.update(timed(work))
            return self.prepared

    with tempfile.TemporaryDirectory() as folder:
        rows = load_dataset("json", data_files=options.data, split="train", cache_dir=folder)
        args = SFTConfig(
            output_dir=folder, packing=True, max_length=max_length, assistant_only_loss=True, use_cpu=True,
            report_to=[],
        )  # fmt: skip
        Trainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    return found


def llamafactory(options: argparse.Namespace, timed: Timed, max_length: int) -> dict[str, Any]:
    """Time its get_dataset, packing included, with one process or (`--factory-workers`) several."""
    for name in ("torchaudio", "torchvision"):  # imported for sounds and pictures, of which there are none
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    from llamafactory.data import (  # type: ignore[import-not-found, unused-ignore]
        get_dataset,
        get_template_and_fix_tokenizer,
    )
    from llamafactory.hparams import DataArguments  # type: ignore[import-not-found, unused-ignore]
    from transformers import AutoTokenizer, Seq2SeqTrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        _describe(Path(folder), Path(options.data))
        data = DataArguments(
            template="qwen3_nothink", dataset="rows", dataset_dir=folder, cutoff_len=max_length, packing=True,
            overwrite_cache=True, preprocessing_num_workers=options.factory_workers,
        )  # fmt: skip
        template = get_template_and_fix_tokenizer(tokenizer, data)
        settings = Seq2SeqTrainingArguments(output_dir=folder, use_cpu=True, report_to=[])
        model = types.SimpleNamespace(
            cache_dir=folder, streaming=False, hf_hub_token=None, ms_hub_token=None, om_hub_token=None
        )

        def work() -> dict[str, Any]:
            made = get_dataset(template, model, data, settings, stage="sft", tokenizer=tokenizer, processor=None)
            return {"packs": len(made["train_dataset"])}

        return timed(work)


def _describe(folder: Path, rows: Path) -> None:
    """Tell it where the rows are and how they are laid out."""
    (folder / "rows.jsonl").symlink_to(rows)
    tags = {
        "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "system_tag": "system",
    }  # fmt: skip
    layout = {"file_name": "rows.jsonl", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    (folder / "dataset_info.json").write_text(json.dumps({"rows": layout}), encoding="utf-8")
