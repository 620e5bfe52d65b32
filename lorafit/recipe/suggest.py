"""What the user may have meant by a key or a word that the recipe does not know."""

from collections.abc import Iterable

from lorafit.recipe.outline import Node, every_key, fields, kinds, one_of
from lorafit.recipe.problems import KeyPath, dotted

# what other tools call it; a value that must change with the name is written out
ELSEWHERE = {
    "base_model": "model.path",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "torch_dtype": "model.dtype",
    "bf16": "model.dtype: bfloat16",
    "fp16": "model.dtype: float16",
    "attn_implementation": "model.attention",
    "flash_attention": "model.attention: flash_attention_2",
    "load_in_4bit": "quantization.kind: nf4",
    "load_in_8bit": "quantization.kind: int8",
    "quantization_bit": "quantization.kind",
    "bnb_4bit_quant_type": "quantization.kind",
    "bnb_4bit_use_double_quant": "quantization.double_quant",
    "bnb_4bit_compute_dtype": "quantization.compute_dtype",
    "peft_type": "adapter.kind",
    "finetuning_type": "adapter.kind",
    "use_dora": "adapter.kind: dora",
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target": "adapter.target_modules",
    "lora_target_modules": "adapter.target_modules",
    "lora_target_linear": "adapter.target_modules: all-linear",
    "use_rslora": "adapter.rslora",
    "peft_use_rslora": "adapter.rslora",
    "lora_model_dir": "adapter.init_from",
    "adapter_name_or_path": "adapter.init_from",
    "dataset": "data.train",
    "datasets": "data.train",
    "train_file": "data.train",
    "test_datasets": "data.validation",
    "val_dataset": "data.validation",
    "eval_dataset": "data.validation",
    "val_size": "data.validation.fraction",
    "val_set_size": "data.validation.fraction",
    "split_dataset_ratio": "data.validation.fraction",
    "max_samples": "data.train.limit",
    "cutoff_len": "data.max_length",
    "sequence_len": "data.max_length",
    "max_seq_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "model_max_length": "data.max_length",
    "sample_packing": "data.packing",
    "train_on_inputs": "data.train_on",
    "completion_only_loss": "data.train_on",
    "num_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "iters": "training.max_steps",
    "batch_size": "training.global_batch_size",
    "train_batch_size": "training.global_batch_size",
    "gradient_accumulation_steps": "training.global_batch_size (micro-batch x accumulation x GPUs)",
    "per_device_train_batch_size": "training.micro_batch_size",
    "lr": "training.learning_rate",
    "lr_scheduler": "training.schedule",
    "lr_scheduler_type": "training.schedule",
    "warmup_ratio": "training.warmup",
    "warmup_steps": "training.warmup",
    "gradient_clipping": "training.max_grad_norm",
    "optim": "training.optimizer",
    "eval_steps": "training.eval_every",
    "save_steps": "training.save_every",
    "save_total_limit": "training.keep_checkpoints",
    "early_stopping_patience": "training.early_stopping.patience",
    "output_dir": "output.dir",
    "report_to": "output.trackers",
}

# what other tools call a value; names of `optim` in transformers/training_args.py
WORDS_ELSEWHERE = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw_32bit": "paged_adamw",
}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word most like this one: the same up to case, hyphens and accents, or else close."""
    from difflib import get_close_matches  # needed on this path only

    plain = {_plain(each): each for each in known}
    close = get_close_matches(_plain(word)[:100], plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def did_you_mean(word: str | None) -> str:
    """Ask back; nothing when there is no word."""
    return f'did you mean "{word}"?' if word else ""


def for_key(key: str, block: KeyPath, node: Node, value: object) -> str:
    """Say what an unknown key of this block may have been meant to be."""
    known = fields(node, value)
    same = {_plain(each): each for each in known}.get(_plain(key))
    if same:
        return did_you_mean(same)
    if belongs := [kind for kind, variant in kinds(node).items() if key in variant["properties"]]:
        return f"only kind {one_of(belongs)} has it"
    if elsewhere := ELSEWHERE.get(_plain(key)):
        return f"lorafit calls it {elsewhere}"
    if homes := _homes(key, block):
        return f'"{key}" belongs under {one_of(homes)}'
    if close := nearest(key, known):
        return did_you_mean(close)
    if close := nearest(key, {name for name, home in every_key() if home != block}):
        return f'did you mean "{close}", under {one_of(_homes(close, block))}?'
    return f"known here: {', '.join(known)}"


def _homes(key: str, block: KeyPath) -> list[str]:
    homes = (home for name, home in every_key() if name == key and home != block)
    return list(dict.fromkeys(dotted(home) or "the top of the recipe" for home in homes))


def _plain(word: str) -> str:
    ascii_only = word.encode("ascii", "ignore").decode()
    return ascii_only.lower().replace("-", "_").replace(" ", "_")
