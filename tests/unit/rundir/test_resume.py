"""What may change when a run goes on: a decision for every field of a recipe."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from lorafit.errors import ResumeRefused
from lorafit.recipe.schema import Recipe
from lorafit.rundir.resume import MAY_CHANGE, changed_keys, check_recipe

# A new field of the recipe must be put into one of these two lists (reliability: what does it change in the result?).
ALLOWED = {
    "output.dir",
    "output.trackers",
    "training.eval_every",
    "training.gradient_checkpointing",
    "training.sharding",
    "quantization.keep_unpacked",
    "training.keep_checkpoints",
    "training.micro_batch_size",
    "training.save_every",
}
REFUSED = {
    "version", "seed",
    "model.path", "model.revision", "model.dtype", "model.attention",
    "quantization.kind", "quantization.double_quant", "quantization.compute_dtype",
    "adapter.kind", "adapter.rank", "adapter.alpha", "adapter.dropout", "adapter.target_modules",
    "adapter.target_modules.regex", "adapter.rslora", "adapter.init_from",
    "data.train.path", "data.train.format", "data.train.split", "data.train.weight", "data.train.limit",
    "data.validation.fraction", "data.validation.path", "data.validation.format", "data.validation.split",
    "data.validation.limit", "data.train.columns", "data.validation.columns", "data.classification",
    "data.max_length", "data.packing", "data.train_on", "data.on_overlong", "data.on_bad_row", "data.chat_template",
    "data.chat_template_kwargs",
    "training.epochs", "training.max_steps", "training.global_batch_size", "training.learning_rate",
    "training.schedule", "training.warmup", "training.weight_decay", "training.max_grad_norm", "training.optimizer",
    "training.early_stopping.patience", "training.early_stopping.min_delta",
}  # fmt: skip


def leaves(annotation: Any, key: str) -> Iterator[str]:
    """Walk a pydantic type to every key that a recipe may have; an index of a list is left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from leaves(field.annotation, f"{key}.{name}" if key else name)
        return
    inner: tuple[Any, ...] = ()
    if get_origin(annotation) in (Union, types.UnionType, list):
        inner = get_args(annotation)
    elif get_origin(annotation) is Annotated:
        inner = get_args(annotation)[:1]
    blocks = [option for option in inner if option is not type(None)]
    below = {leaf for option in blocks for leaf in leaves(option, key)}
    yield from below or {key}


def recipe_of(values: dict[str, str]) -> dict[str, Any]:
    """Nest dotted keys, with the one list of blocks that a recipe has."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        *blocks, name = key.split(".")
        block = made
        for part in blocks:
            block = block.setdefault(part, {})
        block[name] = value
    if "train" in made.get("data", {}):
        made["data"]["train"] = [made["data"]["train"]]
    return made


def test_every_field_is_decided_on() -> None:
    assert set(leaves(Recipe, "")) == ALLOWED | REFUSED
    assert not ALLOWED & REFUSED


@pytest.mark.parametrize("key", sorted(REFUSED | ALLOWED))
def test_one_changed_field_is_refused_or_gone_along_with(key: str) -> None:
    same = {"training.optimizer": "same", "output.dir": "same", "seed": "same"}
    old, new = recipe_of(same | {key: "was"}), recipe_of(same | {key: "is"})
    shown = key.replace("data.train.", "data.train[0].")
    if key in ALLOWED:
        assert check_recipe(old, new, "runs/a") == {shown: ("was", "is")}
    else:
        with pytest.raises(ResumeRefused) as caught:
            check_recipe(old, new, "runs/a")
        assert caught.value.exit_code == 10
        (fault,) = caught.value.faults
        assert fault.what == f'{shown} changed: "was" -> "is"'
        assert (fault.where, fault.code) == ("runs/a", "E10-RECIPE")


def test_the_table_names_real_keys() -> None:
    for allowed in MAY_CHANGE:
        assert any(key == allowed or key.startswith(f"{allowed}.") for key in ALLOWED), allowed


def test_every_refusal_is_said_at_once() -> None:
    old = {"seed": 1, "training": {"schedule": "cosine", "save_every": 5}, "data": {"train": [{"path": "a"}]}}
    new = {
        "seed": 2,
        "training": {"schedule": "linear", "save_every": 9},
        "data": {"train": [{"path": "a"}, {"path": "b"}]},
    }
    with pytest.raises(ResumeRefused) as caught:
        check_recipe(old, new, "runs/a")
    assert [fault.what for fault in caught.value.faults] == [
        "seed changed: 1 -> 2",
        'training.schedule changed: "cosine" -> "linear"',
        'data.train[1].path changed: (not there) -> "b"',
    ]


@pytest.mark.parametrize(("old", "new"), [(1, 1.0), (1, True), (0, False), (None, 0), ("1", 1), ([], {}), ([], None)])
def test_what_python_calls_equal_is_not_the_same_recipe(old: object, new: object) -> None:
    assert changed_keys({"x": old}, {"x": new}) == {"x": (old, new)}
    assert changed_keys({"x": new}, {"x": new}) == {}


def test_a_name_that_only_begins_alike_is_not_allowed() -> None:
    with pytest.raises(ResumeRefused):
        check_recipe({"output_style": 1}, {"output_style": 2}, "runs/a")
