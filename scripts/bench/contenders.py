"""Who does the work: lorafit's own loop, transformers' Trainer with PEFT, and a loop written by hand."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from lorafit.data.batch import IGNORED, flat_batch
from lorafit.data.order import permutation
from lorafit.data.packing import unpacked
from lorafit.recipe.adapters import LowRank
from scripts.bench.work import LINEARS, Work


@dataclass(frozen=True)
class Step:
    """What a step has done."""

    loss: float
    tokens: int  # real ones, no padding


Told = Callable[[Step], None]


def lorafit(work: Work, steps: int, told: Told) -> None:
    """Train as `lorafit train` does, rows laid end to end; `told` is called after each step."""
    from lorafit.model.unpacked import keep_unpacked
    from lorafit.train.ranks import Ranks
    from lorafit.train.run import adapt, make_loop

    recipe, rows, ranks = work.recipe(steps), work.rows(), Ranks()
    data: Any = SimpleNamespace(train=rows, train_packs=unpacked(np.arange(len(rows))))
    sizes = work.sizes(recipe)  # by what is free before the base is there
    base = work.own_base(recipe)
    keep_unpacked(base.model, sizes.unpacked_layers)
    loop = make_loop(recipe, adapt(recipe, base), data, sizes, ranks, base)
    for step in range(steps):
        record = loop.step(step).record()
        told(Step(record.loss, record.tokens))


def peft_model(work: Work, steps: int) -> Any:
    """Give the same model with plain PEFT on it, as its documentation says."""
    from peft import get_peft_model

    recipe = work.recipe(steps)
    assert isinstance(recipe.adapter, LowRank)
    model: Any = work.peer_base()
    torch.manual_seed(recipe.seed)
    return get_peft_model(model, recipe.adapter.build(list(LINEARS))).train()


def documents_by_step(work: Work, steps: int) -> Iterator[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
    """Give the ids and labels of the rows of each step, in lorafit's order."""
    rows, seed = work.rows(), work.recipe(steps).seed
    epochs = range(-(-steps * work.batch_rows // len(rows)))
    order = np.concatenate([permutation(seed, epoch, len(rows)) for epoch in epochs])
    for step in range(steps):
        chosen = unpacked(order[step * work.batch_rows : (step + 1) * work.batch_rows])
        documents = [flat_batch(rows, chosen, np.array([place])) for place in range(work.batch_rows)]
        yield [(document.input_ids, document.labels) for document in documents]


def _batches(work: Work, steps: int) -> Iterator[dict[str, torch.Tensor]]:
    """Give the rows of each step, padded to the longest of the step."""
    return map(_padded, documents_by_step(work, steps))


def _padded(documents: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> dict[str, torch.Tensor]:
    ids = [torch.from_numpy(tokens) for tokens, _ in documents]
    labels = [torch.from_numpy(targets) for _, targets in documents]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def loop(work: Work, steps: int, told: Told) -> None:
    """Train as a person would write it down in a minute, with PEFT and torch's fused AdamW."""
    model = peft_model(work, steps)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    for batch in _batches(work, steps):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        told(Step(float(loss.detach()), int(batch["attention_mask"].sum())))


def trainer(work: Work, steps: int, told: Told) -> None:
    """Train with transformers' Trainer, rows padded to the longest of their batch."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    batches = list(_batches(work, steps))

    class Paced(Trainer):
        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            self.last = super().training_step(*arguments, **named)
            return self.last

        def get_train_dataloader(self) -> Any:
            return batches

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            batch = batches[state.global_step - 1]
            told(Step(float(paced.last), int(batch["attention_mask"].sum())))

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # gradient_checkpointing: its new name is not in all of v5
        settings = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=work.batch_rows, max_steps=steps, learning_rate=1e-3,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, save_strategy="no", report_to=[],
            use_cpu=work.device == "cpu", disable_tqdm=True, logging_strategy="no", bf16=work.dtype == torch.bfloat16,
            gradient_checkpointing=work.recompute,
        )  # fmt: skip
        paced = Paced(
            model=peft_model(work, steps), args=settings, train_dataset=list(range(len(batches) * work.batch_rows))
        )
        paced.add_callback(Tell())
        paced.train()


def trl_trains(work: Work, steps: int, told: Told, *, packing: bool) -> None:
    """Train with TRL's SFTTrainer and its fused head: rows padded, or those of a step packed by its own packer."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer, pack_dataset  # type: ignore[import-not-found, unused-ignore]

    batches = list(documents_by_step(work, steps))
    parts = [Dataset.from_dict({"input_ids": [i for i, _ in rows], "labels": [t for _, t in rows]}) for rows in batches]
    if packing:  # one pack a step, so that a step holds what it holds elsewhere
        parts = [pack_dataset(part, sum(len(row) for row in part["input_ids"])) for part in parts]
    rows = Dataset.from_dict({name: [v for part in parts for v in part[name]] for name in parts[0].column_names})

    class Paced(SFTTrainer):  # type: ignore[misc, unused-ignore]
        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*arguments, **named)
            self.last = loss
            return loss

        def _get_train_sampler(self, *arguments: Any, **named: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            told(Step(float(paced.last), sum(len(ids) for ids, _ in batches[state.global_step - 1])))

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder, per_device_train_batch_size=1 if packing else work.batch_rows, max_steps=steps,
            learning_rate=1e-3, lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, save_strategy="no",
            report_to=[], use_cpu=work.device == "cpu", disable_tqdm=True, logging_strategy="no", padding_free=packing,
            bf16=work.dtype == torch.bfloat16, gradient_checkpointing=work.recompute,
            dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        )  # fmt: skip
        paced = Paced(model=peft_model(work, steps), args=settings, train_dataset=rows, processing_class=_tokenizer())
        paced.add_callback(Tell())
        paced.train()


def _tokenizer() -> Any:
    """Give the least that TRL asks for: it only pads."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def products(work: Work, steps: int, told: Told) -> None:
    """Multiply large matrices, float32: what this machine can do at most. "Tokens" are operations."""
    del work
    side = 2048
    left, right = torch.randn(side, side), torch.randn(side, side)
    for _ in range(steps):
        for _ in range(4):
            torch.mm(left, right)
        told(Step(0.0, 4 * 2 * side**3))


CONTENDERS: dict[str, Callable[[Work, int, Told], None]] = {
    "lorafit": lorafit,
    "trainer": trainer,
    "loop": loop,
    "trl": partial(trl_trains, packing=False),
    "trl_packed": partial(trl_trains, packing=True),
    "products": products,
}
