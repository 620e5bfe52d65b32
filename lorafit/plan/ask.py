"""From a recipe, or a model's name, and the options of the command line to a question about memory."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import ValidationError

from lorafit.errors import Fault, RecipeError
from lorafit.plan.autos import Room, least_question, resolve
from lorafit.plan.cards import Card
from lorafit.plan.layers import ModelShape
from lorafit.plan.listed import with_listed_experts
from lorafit.plan.question import BaseDtype, MemoryQuestion
from lorafit.plan.stack import Stack
from lorafit.recipe.adapters import Adapter, Dora, Full, Lora, TargetModules
from lorafit.recipe.adapters.low_rank import LowRank
from lorafit.recipe.problems import printable
from lorafit.recipe.quantization import Nf4, Quantization, Unquantized
from lorafit.recipe.schema import DataSpec, ModelSpec, OutputSpec, Recipe, Source, TrainingSpec
from lorafit.recipe.sharding import why_whole
from lorafit.recipe.spec import Spec
from lorafit.recipe.suggest import nearest

BlockOfRecipe = TypeVar("BlockOfRecipe", bound=Spec)

SAYS: dict[str, tuple[str, ...]] = {  # the keys of a recipe that an option speaks for
    "--model": ("model.path",),
    "--method": ("adapter.kind", "quantization.kind"),
    "--rank": ("adapter.rank",),
    "--target-modules": ("adapter.target_modules",),
    "--max-length": ("data.max_length",),
    "--micro-batch-size": ("training.micro_batch_size",),
    "--sharding": ("training.sharding",),
}
METHODS = ("lora", "qlora", "dora", "qdora", "full")
_KEYWORDS: dict[str, TargetModules] = {"all-linear": "all-linear", "attention": "attention", "mlp": "mlp"}


def default_recipe(model: str, method: str | None, overrides: Sequence[str] = (), *, plain: bool = False) -> Recipe:
    """The recipe that a name alone stands for: one row a pass, every layer recomputed, on 4 bits a lean optimizer.

    `plain`: as the Trainer of transformers has it, AdamW and a step after every pass. Raises RecipeError.
    """
    packed = method is not None and method.startswith("q")
    lean = packed and not plain
    recipe = Recipe.model_construct(  # nothing here but the path needs a check, and validators take a while to make
        version=1,
        model=_named(model),
        quantization=Nf4.model_construct(keep_unpacked="none") if packed else Unquantized.model_construct(),
        adapter=Lora.model_construct(),
        data=DataSpec.model_construct(train=[Source.model_construct(path="rows")]),
        training=TrainingSpec.model_construct(
            micro_batch_size=1,
            gradient_checkpointing="full",
            optimizer="paged_adamw_8bit" if lean else "adamw",
            global_batch_size=1 if plain else TrainingSpec.model_construct().global_batch_size,
        ),
        output=OutputSpec.model_construct(),
    )
    return _overridden(recipe, overrides) if overrides else recipe


def _named(model: str) -> ModelSpec:
    try:
        return ModelSpec(path=model)
    except ValidationError:
        fix = "give a hub id, a name like llama-3-8b, a size like 8b, or a folder with a config.json"
        what = f"{printable(model)} is no name of a model: it is too long, or no valid text"
        raise RecipeError(what, where="--model", fix=fix, code="E2-USAGE") from None


def _overridden(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    from lorafit.recipe.load import recipe_from  # only here, for YAML takes a while to load

    tree = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"quantization"})
    tree["quantization"] = {"kind": recipe.quantization.kind}  # its own default, which the rest of the block goes by
    found = recipe_from(json.dumps(tree).encode(), f"--model {recipe.model.path}", overrides)
    block = found.quantization
    if isinstance(block, Nf4) and "keep_unpacked" not in block.model_fields_set:
        return found.model_copy(update={"quantization": block.model_copy(update={"keep_unpacked": "none"})})
    return found


def with_options(
    recipe: Recipe,
    *,
    method: str | None,
    rank: int | None,
    target_modules: str | None,
    max_length: int | None,
    micro_batch_size: int | None,
    sharding: str | None = None,
) -> Recipe:
    """Put the options of the command line in place of the recipe's own settings. Raises RecipeError."""
    adapter, quantization = _method(method, recipe.adapter, recipe.quantization)
    changes: dict[str, object] = {}
    if rank is not None:
        changes["rank"] = rank
    if target_modules is not None:
        changes["target_modules"] = _targets(target_modules)
    if changes and isinstance(adapter, Full):
        raise RecipeError("full fine-tuning has no rank and no target modules", fix="leave them out", code="E2-USAGE")
    options = {"micro_batch_size": micro_batch_size, "sharding": sharding}
    sizes = {name: value for name, value in options.items() if value is not None}
    return recipe.model_copy(
        update={
            "adapter": _changed("adapter", adapter, changes),
            "quantization": quantization,
            "data": _changed("data", recipe.data, {} if max_length is None else {"max_length": max_length}),
            "training": _changed("training", recipe.training, sizes),
        }
    )


def check_split(recipe: Recipe, stack: Stack | None, where: str) -> None:
    """Refuse a base that a run could not split either, whichever options made it so. Raises RecipeError.

    FSDP under transformers splits what is trained too.
    """
    if stack is None and recipe.training.sharding == "full" and (reason := why_whole(recipe)):
        raise RecipeError(reason, where=where, fix="leave it out, or take auto or none", code="E2-USAGE")


def check_overrides(overrides: Sequence[str], options: Mapping[str, object]) -> None:
    """Refuse what is said both by an option and by `--set`, of which one would go unheard. Raises RecipeError."""
    keys = [each.partition("=")[0].strip() for each in overrides]
    twice = [(option, key) for option, value in options.items() if value is not None for key in SAYS[option]]
    faults = [
        Fault(f"{option} and --set {key} say the same", fix="give one of them", code="E2-USAGE")
        for option, key in twice
        if any(f"{each}.".startswith(f"{key}.") or f"{key}.".startswith(f"{each}.") for each in keys)
    ]
    if faults:
        raise RecipeError(faults)


def _changed(key: str, block: BlockOfRecipe, changes: Mapping[str, object]) -> BlockOfRecipe:
    """Put values into the block of a key, under the same rules as in a recipe. Raises RecipeError."""
    if not changes:
        return block
    asked = {**block.model_dump(), **changes}
    try:
        return type(block).model_validate(asked)
    except ValidationError:
        raise RecipeError(_refused(key, asked)) from None


def _refused(key: str, block: Mapping[str, object]) -> list[Fault]:
    """Give the faults of a block in the words that a recipe has for them, by the options that set them."""
    from lorafit.recipe.judge import judge  # only here, for the words take a while to load

    recipe = {"version": 1, "model": {"path": "-"}, "data": {"train": [{"path": "-"}]}} | {key: block}
    return [
        Fault(
            one.what,
            f"--{one.path[1]}".replace("_", "-"),
            fix=one.fix or "lorafit estimate-vram --help tells what it takes",
            code="E2-USAGE",
        )
        for one in judge(recipe).problems
    ]


def _method(method: str | None, adapter: Adapter, quantization: Quantization) -> tuple[Adapter, Quantization]:
    """Change adapter and base to those of a method, keeping what both have in common."""
    if method is None:
        return adapter, quantization
    if method not in METHODS:
        near = nearest(method, METHODS)
        ask = f"did you mean {near}? " if near else ""
        raise RecipeError(
            f"unknown method {method!r}", where="--method", fix=f"{ask}known: {', '.join(METHODS)}", code="E2-USAGE"
        )
    if method == "full":
        return Full(), Unquantized()
    shared = adapter.model_dump(exclude={"kind"}) if isinstance(adapter, LowRank) else {}
    kind = Dora if method.endswith("dora") else Lora
    if method.startswith("q"):
        return kind.model_validate(shared), quantization if not isinstance(quantization, Unquantized) else Nf4()
    return kind.model_validate(shared), Unquantized()


def _targets(text: str) -> TargetModules:
    """`all-linear`, `attention`, `mlp`, or names joined by commas. RecipeError where there is none."""
    targets = _KEYWORDS.get(text) or [name.strip() for name in text.split(",") if name.strip()]
    if not targets:
        fix = "give all-linear, attention, mlp, or names of layers joined by commas, such as q_proj,v_proj"
        raise RecipeError("it names no layer", where="--target-modules", fix=fix, code="E2-USAGE")
    return targets


def ask(
    recipe: Recipe, shape: ModelShape, gpus: int, card: Card | None, stack: Stack | None = None, classes: int = 0
) -> MemoryQuestion:
    """Make the question, with every `auto` resolved: on a card to what fits, else to one row, recomputed.

    Of a shape that was read off a class nobody knows what else would fit, so that each stays at its least.

    `classes` are those of a classification head, 0 without one.
    """
    if stack and stack.lists_experts:
        shape = with_listed_experts(shape)
    least = least_question(recipe, shape, _dtype(recipe, card), gpus, stack, classes)
    if card is not None:
        least = replace(least, workspace_bytes=card.workspace_bytes)
    return resolve(recipe, least, None if card is None or shape.read_off else Room(card.capacity_bytes))


def _dtype(recipe: Recipe, card: Card | None) -> BaseDtype:
    """Resolve `auto` as the run does: bfloat16 on a card that computes in it."""
    if recipe.model.dtype != "auto":
        return recipe.model.dtype
    return "float32" if card is not None and not card.bfloat16 else "bfloat16"
