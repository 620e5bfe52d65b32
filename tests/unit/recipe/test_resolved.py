"""The resolved recipe is one text for equal recipes, and reads back as the same recipe."""

import json
from pathlib import Path

import jsonschema
import pytest

from lorafit.errors import RecipeError
from lorafit.recipe.resolved import canonical_json, recipe_from_resolved, recipe_hash, schema_json
from lorafit.recipe.yaml_tree import parse_tree
from recipe.texts import MINIMAL, Load

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
FULL = """
version: 1
seed: 7
model: {path: x, revision: abc, dtype: bfloat16, attention: sdpa}
quantization: {kind: nf4, double_quant: false, compute_dtype: float32, keep_unpacked: none}
adapter: {kind: dora, rank: 3, alpha: 1e-5, dropout: 0.1, target_modules: {regex: .*}, rslora: true, init_from: y}
data: {train: [{path: a, format: chat, split: t, weight: 0.1, limit: 3}, {path: b}], validation: {fraction: 0.1},
  max_length: 99, packing: false, train_on: all, on_overlong: drop, on_bad_row: skip, chat_template: "été.jinja",
  chat_template_kwargs: {thinking: false, depth: 3, heat: 0.5, tone: "é"}}
training: {max_steps: 9, global_batch_size: 4, micro_batch_size: 2, learning_rate: 1e-7, schedule: wsd, warmup: 0,
  weight_decay: 1, max_grad_norm: null, optimizer: adamw_8bit, gradient_checkpointing: full, sharding: none,
  eval_every: 1, save_every: 2, keep_checkpoints: 3, early_stopping: {patience: 1, min_delta: 1e-3}}
output: {dir: runs/x, trackers: [wandb]}
"""


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_it_reads_back(load: Load, text: str) -> None:
    recipe = load(text)
    again = recipe_from_resolved(canonical_json(recipe))
    assert again == recipe
    assert canonical_json(again) == canonical_json(recipe)


def test_every_default_is_written_and_every_key_sorted(load: Load) -> None:
    resolved = json.loads(canonical_json(load(MINIMAL)))
    assert resolved["training"]["epochs"] == 1
    assert resolved["adapter"] | {"rank": 16, "alpha": 32.0, "kind": "lora"} == resolved["adapter"]
    assert canonical_json(load(MINIMAL)) == json.dumps(resolved, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    "same",
    [
        MINIMAL + "seed: 42",
        MINIMAL + "training: {learning_rate: 0.0002}\nadapter: {alpha: 32}",
        MINIMAL + "output: {dir: elsewhere, trackers: [wandb]}",
        json.dumps({"data": {"train": [{"path": "builtin:sql"}]}, "model": {"path": "builtin:tiny"}, "version": 1}),
    ],
)
def test_the_hash_is_of_what_is_computed(load: Load, same: str) -> None:
    assert recipe_hash(load(same)) == recipe_hash(load(MINIMAL))


def test_every_other_value_changes_the_hash(load: Load) -> None:
    overrides = [
        "seed=1", "model.path=y", "adapter.rank=4", "data.max_length=9", "data.train.weight=2",
        "training.learning_rate=2.0000000000000004e-4", "quantization.kind=int8",
    ]  # fmt: skip
    hashes = {recipe_hash(load(MINIMAL, override)) for override in overrides}
    assert len(hashes | {recipe_hash(load(MINIMAL))}) == len(overrides) + 1


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", MINIMAL + "adapter: {rnk: 2}"])
def test_a_damaged_one_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.resolved\.json"):
        recipe_from_resolved(text)


def test_where_it_wrote_is_not_asked_again(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resolved = canonical_json(load(MINIMAL, f"output.dir={tmp_path}"))
    monkeypatch.chdir(tmp_path)  # someone works in the run folder
    assert recipe_from_resolved(resolved).output.dir == str(tmp_path)


def test_the_schema_is_frozen() -> None:
    """What users wrote stays valid: a change is recorded by scripts/record_golden.py, and argued."""
    assert schema_json() == (GOLDEN / "recipe_schema.json").read_text(encoding="utf-8")


def test_the_schema_is_one() -> None:
    schema = json.loads(schema_json())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "discriminator" not in schema_json()


def described(node: dict[str, object], path: str = "") -> list[str]:
    """Name the properties without a description; `kind` is told by its values, a block by its own docstring."""
    properties = node.get("properties", {})
    assert isinstance(properties, dict)
    return [
        f"{path}{key}"
        for key, value in properties.items()
        if "description" not in value and "$ref" not in value and key != "kind"
    ]


def test_every_field_is_described() -> None:
    schema = json.loads(schema_json())
    assert described(schema) == []
    assert [name for title, node in schema["$defs"].items() for name in described(node, f"{title}.")] == []


@pytest.mark.parametrize("text", [MINIMAL, FULL, MINIMAL + "adapter: {rank: 3}", MINIMAL + "quantization: {kind: fp4}"])
def test_the_schema_takes_what_we_take(load: Load, text: str) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_json()))
    load(text)
    assert list(validator.iter_errors(parse_tree(text, "r").value)) == []
    assert list(validator.iter_errors(json.loads(canonical_json(load(text))))) == []


@pytest.mark.parametrize(
    "text",
    [
        "adapter: {rnk: 3}",
        "adapter: {kind: full, rank: 1}",
        "adapter: {target_modules: []}",
        "quantization: {double_quant: true}",
        "data: {train: []}",
        "data: {train: {}}",
        "training: {learning_rate: 2}",
        "seed: x",
        "seeed: 1",
    ],
)
def test_the_schema_refuses_what_we_refuse(load: Load, text: str) -> None:
    whole = "version: 1\nmodel: {path: x}\n" + text + ("" if "data" in text else "\ndata: {train: {path: x}}")
    with pytest.raises(RecipeError):
        load(whole)
    validator = jsonschema.Draft202012Validator(json.loads(schema_json()))
    assert list(validator.iter_errors(parse_tree(whole, "r").value)) != []
