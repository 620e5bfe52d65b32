"""What a person writes to train an adapter with transformers' Trainer: MODEL ROWS FOLDER; for benchmark C7."""

import json
import sys
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Tell(TrainerCallback):
    """Say when a step is done."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print it at once."""
        print(f"step {state.global_step} is done", flush=True)


def main(model_name: str, rows: str, folder: str) -> None:
    """Train one step."""
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts = [json.loads(line)["text"] for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    data: Any = [tokenizer(text) for text in texts]
    model: Any = AutoModelForCausalLM.from_pretrained(model_name)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    settings = TrainingArguments(
        output_dir=folder, max_steps=1, per_device_train_batch_size=8, use_cpu=True, report_to=[], disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(model=model, args=settings, train_dataset=data, data_collator=collator, callbacks=[Tell()])
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
