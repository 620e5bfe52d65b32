"""The loop against transformers.Trainer, and against itself in other arrangements."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from lorafit.data.order import permutation
from lorafit.data.packing import Packs, unpacked
from lorafit.data.row_files import made
from lorafit.data.token_rows import TokenRows
from lorafit.model.adapt import attach
from lorafit.model.documents import use_flat_rows
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.memory import decoder_layers, recompute_activations
from lorafit.plan.plan import make_plan
from lorafit.recipe.schema import Recipe
from lorafit.train.loop import Loop
from lorafit.train.optimizer import build_optimizer
from lorafit.train.ranks import Ranks
from lorafit.train.run import find_trained

STEPS = 20
BATCH = 8
VOCABULARY = 200


def ragged_rows(count: int, longest: int = 40) -> TokenRows:
    """Random rows of different lengths, each trained from a random place on."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(5, longest, count)
    tokens = [generator.integers(3, VOCABULARY, n) for n in lengths]
    trained = [np.arange(n) >= generator.integers(1, n - 1) for n in lengths]
    return make_rows(tokens, trained)


def make_rows(tokens: list[np.ndarray], trained: list[np.ndarray]) -> TokenRows:
    return made(list(zip(tokens, trained, strict=True)))


def one_row_packs(rows: TokenRows) -> Packs:
    return unpacked(np.arange(len(rows)))


def recipe(**training: Any) -> Recipe:
    settings = {"learning_rate": 1e-3, "schedule": "constant", "warmup": 0, "global_batch_size": BATCH}
    return Recipe.model_validate(
        {
            "version": 1,
            "model": {"path": "builtin:tiny"},
            "adapter": {"kind": "lora", "rank": 4, "alpha": 8},
            "data": {"train": {"path": "none"}},
            "training": settings | {"max_steps": STEPS} | training,
        }
    )


def base_model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def make_loop(folder: Path, rows: TokenRows, packs: Packs, micro: int, **training: Any) -> Loop:
    settings = recipe(**training)
    model = base_model(folder)
    model.requires_grad_(False)
    use_flat_rows(model, "auto")
    attached = attach(model, settings.adapter, "base", settings.seed)
    take_fast_linears(attached.model)
    trained = find_trained(attached, settings)
    ranks = Ranks()
    return Loop(
        recipe=settings,
        plan=make_plan(settings.training, len(packs), 1, micro, recomputed_layers=0),
        model=attached.model,
        trained=trained,
        optimizer=build_optimizer(trained, settings.training, ranks.device),
        rows=rows,
        packs=packs,
        ranks=ranks,
        precision=nullcontext(),
        micro_batch_size=micro,
    )


class Padded(Dataset[dict[str, torch.Tensor]]):
    """The same rows as Trainer takes them, in the loop's order, padded on the right."""

    def __init__(self, rows: TokenRows, seed: int) -> None:
        order = [int(i) for epoch in range(50) for i in permutation(seed, epoch, len(rows))]
        self.items = [self._item(rows, i) for i in order[: STEPS * BATCH]]

    @staticmethod
    def _item(rows: TokenRows, index: int) -> dict[str, torch.Tensor]:
        span = slice(int(rows.starts[index]), int(rows.starts[index + 1]))
        tokens = torch.from_numpy(rows.tokens[span].astype(np.int64))
        labels = torch.where(torch.from_numpy(rows.trained[span]), tokens, -100)
        room = 40 - len(tokens)
        return {
            "input_ids": torch.nn.functional.pad(tokens, (0, room)),
            "attention_mask": torch.nn.functional.pad(torch.ones_like(tokens), (0, room)),
            "labels": torch.nn.functional.pad(labels, (0, room), value=-100),
        }

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.items[index]


class InOrder(Trainer):
    """Trainer that takes the rows as they come, and keeps each loss unrounded."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.losses: list[float] = []

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **named)
        self.losses.append(float(loss))
        return loss

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_twenty_steps_equal_twenty_steps_of_trainer(tiny_model: Path, tmp_path: Path, accumulation: int) -> None:
    rows = ragged_rows(64)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=BATCH)
    theirs = base_model(tiny_model)
    theirs.requires_grad_(False)
    adapted = attach(theirs, loop.recipe.adapter, "base", loop.recipe.seed).model
    trainer = InOrder(
        model=adapted,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=BATCH // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=STEPS,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=Padded(rows, loop.recipe.seed),
    )
    trainer.train()
    expected = np.array(trainer.losses).reshape(STEPS, accumulation).sum(axis=1)
    ours = [loop.step(step).record().loss for step in range(STEPS)]
    assert ours == pytest.approx(expected, abs=1e-5)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(loop.parameters[name], parameter, rtol=1e-4, atol=2e-6)


def gradient(loop: Loop, step: int = 0) -> dict[str, torch.Tensor]:
    loop.accumulate(step, loop.packs.target_tokens(loop.rows, loop._window(step)))
    return {name: p.grad.clone() for name, p in loop.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_the_gradient_does_not_depend_on_the_micro_batch(tiny_model: Path, micro: int) -> None:
    rows = ragged_rows(BATCH)
    whole, parts = (gradient(make_loop(tiny_model, rows, one_row_packs(rows), micro=size)) for size in (BATCH, micro))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_the_gradient_does_not_depend_on_packing(tiny_model: Path) -> None:
    rows = ragged_rows(BATCH)
    loose = gradient(make_loop(tiny_model, rows, one_row_packs(rows), micro=BATCH))
    packed = Packs(rows=np.arange(BATCH, dtype=np.int64), starts=np.array([0, 3, 5, BATCH], dtype=np.int64))
    loop = make_loop(tiny_model, rows, packed, micro=2, global_batch_size=3)
    loop.accumulate(0, loop.packs.target_tokens(loop.rows, loop._window(0)))
    for name, value in loose.items():
        torch.testing.assert_close(loop.parameters[name].grad, value, rtol=1e-5, atol=1e-6)


def test_the_environment_does_not_scale_the_gradient(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ragged_rows(BATCH)
    plain = gradient(make_loop(tiny_model, rows, one_row_packs(rows), micro=4))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    again = gradient(make_loop(tiny_model, rows, one_row_packs(rows), micro=4))
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_every_b_moves_and_the_base_does_not(tiny_model: Path) -> None:
    rows = ragged_rows(16)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=4)
    before = {n: p.clone() for n, p in loop.model.named_parameters() if n not in loop.parameters}
    for step in range(2):
        loop.step(step)
    assert all(p.abs().sum() > 0 for n, p in loop.parameters.items() if "lora_B" in n)
    after = dict(loop.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_last_step_of_fewer_rows_weighs_its_tokens_the_same(tiny_model: Path) -> None:
    rows = ragged_rows(BATCH + 3)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=2, max_steps=None, epochs=1)
    assert loop.plan.total_steps == 2
    records = [loop.step(step).record() for step in range(2)]
    assert sum(r.target_tokens for r in records) == rows.targets.sum()


def test_recomputing_activations_changes_nothing(tiny_model: Path) -> None:
    rows = ragged_rows(BATCH)
    loops = [make_loop(tiny_model, rows, one_row_packs(rows), micro=4) for _ in range(4)]
    forwards: list[list[int]] = []
    for loop, layers in zip(loops, (0, 1, 2, None), strict=True):
        if layers != 0:
            recompute_activations(loop.model, layers)
        forwards.append(count_forwards(loop))
    plain, *recomputed = (gradient(loop) for loop in loops)
    assert all(torch.equal(plain[name], other[name]) for other in recomputed for name in plain)
    assert forwards == [[2, 2], [4, 2], [4, 4], [4, 4]], "two passes; the first so many layers once more for each"


def count_forwards(loop: Loop) -> list[int]:
    """Count how often each layer's attention runs, from now on."""
    layers = decoder_layers(loop.model)
    counts = [0] * len(layers)

    def counted(place: int) -> Callable[..., None]:
        def count(*_: object) -> None:
            counts[place] += 1

        return count

    for place, layer in enumerate(layers):
        layer.self_attn.register_forward_pre_hook(counted(place))  # type: ignore[operator, union-attr]
    return counts


def test_dropout_is_drawn_from_the_step_and_nothing_else(tiny_model: Path) -> None:
    rows = ragged_rows(BATCH)

    def dropped(step: int, noise: int) -> dict[str, torch.Tensor]:
        loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=4)
        for name, module in loop.model.named_modules():
            if name.endswith("lora_dropout"):
                module["default"] = torch.nn.Dropout(0.5)
        torch.manual_seed(noise)
        torch.rand(noise)
        return gradient(loop, step)

    first, again, other = dropped(3, 1), dropped(3, 77), dropped(4, 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_memory_running_out_halves_the_micro_batch_and_changes_no_number(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lorafit.train import loop as module

    rows = ragged_rows(BATCH)
    calm, pressed = (make_loop(tiny_model, rows, one_row_packs(rows), micro=m) for m in (2, BATCH))
    real = module.summed_loss

    def full_above_two(model: PreTrainedModel, batch: Any) -> torch.Tensor:
        if len(batch.lengths) > 2:
            raise torch.OutOfMemoryError("device full")
        return real(model, batch)

    monkeypatch.setattr(module, "summed_loss", full_above_two)
    records = [loop.step(0).record() for loop in (calm, pressed)]
    assert pressed.micro_batch_size == 2
    assert records[0].loss == records[1].loss
    assert all(torch.equal(calm.parameters[n], pressed.parameters[n]) for n in calm.parameters)


def test_a_loss_that_is_not_finite_stops_before_the_update(tiny_model: Path) -> None:
    from lorafit.errors import NumericalError

    rows = ragged_rows(BATCH)
    loop = make_loop(tiny_model, rows, one_row_packs(rows), micro=4)
    name = next(n for n in loop.parameters if "lora_B" in n)
    with torch.no_grad():
        loop.parameters[name][0, 0] = float("nan")
    before = copy.deepcopy({n: p.detach() for n, p in loop.parameters.items()})
    with pytest.raises(NumericalError, match="nothing of this step was applied"):
        loop.step(0).record()
    for n, p in loop.parameters.items():
        torch.testing.assert_close(p.detach(), before[n], equal_nan=True, rtol=0, atol=0)
