"""Who does the work: lorafit's own loop, transformers' Trainer with PEFT, and a loop written by hand."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from lorafit.data.batch import IGNORED, flat_batch
from lorafit.data.order import permutation
from lorafit.data.packing import unpacked
from lorafit.data.token_rows import TokenRows
from scripts.bench.work import BATCH_ROWS, Work


@dataclass(frozen=True)
class Step:
    """What a step has done."""

    loss: float
    tokens: int  # real ones, no padding


Told = Callable[[Step], None]


def lorafit(work: Work, steps: int, told: Told) -> None:
    """Train with lorafit's loop; `told` is called after each step."""
    from lorafit.model.adapt import attach
    from lorafit.model.documents import use_flat_rows
    from lorafit.plan.plan import make_plan
    from lorafit.train.loop import Loop
    from lorafit.train.optimizer import build_optimizer
    from lorafit.train.ranks import Ranks

    recipe, rows, model, ranks = work.recipe(steps), work.rows(), work.model(), Ranks()
    use_flat_rows(model, "auto")
    attached = attach(model, recipe.adapter, "base", recipe.seed)
    parameters = {name: p for name, p in attached.model.named_parameters() if p.requires_grad}
    packs = unpacked(np.arange(len(rows)))
    loop = Loop(
        recipe=recipe,
        plan=make_plan(recipe.training, len(packs), 1, BATCH_ROWS, gradient_checkpointing=False),
        model=attached.model,
        parameters=parameters,
        optimizer=build_optimizer(parameters, recipe.training, ranks.device),
        rows=rows,
        packs=packs,
        ranks=ranks,
        precision=nullcontext(),
        micro_batch_size=BATCH_ROWS,
    )
    for step in range(steps):
        record = loop.step(step)
        told(Step(record.loss, record.tokens))


def _adapted(work: Work, steps: int) -> Any:
    from lorafit.model.adapt import attach

    recipe = work.recipe(steps)
    return attach(work.model(), recipe.adapter, "base", recipe.seed).model.train()


def _batches(work: Work, steps: int) -> Iterator[dict[str, torch.Tensor]]:
    """Give the rows of each step in lorafit's order, padded to the longest of the step."""
    rows, seed = work.rows(), work.recipe(steps).seed
    epochs = range(-(-steps * BATCH_ROWS // len(rows)))
    order = np.concatenate([permutation(seed, epoch, len(rows)) for epoch in epochs])
    for step in range(steps):
        yield _padded(rows, order[step * BATCH_ROWS : (step + 1) * BATCH_ROWS])


def _padded(rows: TokenRows, chosen: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    packs = unpacked(chosen)
    documents = [flat_batch(rows, packs, np.array([place])) for place in range(len(chosen))]
    ids = [torch.from_numpy(document.input_ids) for document in documents]
    labels = [torch.from_numpy(document.labels) for document in documents]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


def loop(work: Work, steps: int, told: Told) -> None:
    """Train as a person would write it down in a minute, with PEFT and torch's fused AdamW."""
    model = _adapted(work, steps)
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
    from transformers import Trainer, TrainingArguments

    batches = list(_batches(work, steps))

    class Paced(Trainer):
        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            self.last = super().training_step(*arguments, **named)
            return self.last

        def get_train_dataloader(self) -> Any:
            return batches

    from transformers import TrainerCallback

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            batch = batches[state.global_step - 1]
            told(Step(float(paced.last), int(batch["attention_mask"].sum())))

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH_ROWS, max_steps=steps, learning_rate=1e-3,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, save_strategy="no", report_to=[],
            use_cpu=not torch.cuda.is_available(), disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        paced = Paced(model=_adapted(work, steps), args=settings, train_dataset=list(range(len(batches) * BATCH_ROWS)))
        paced.add_callback(Tell())
        paced.train()


CONTENDERS: dict[str, Callable[[Work, int, Told], None]] = {"lorafit": lorafit, "trainer": trainer, "loop": loop}
