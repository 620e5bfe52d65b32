"""Everything that is wrong is said in one pass, once, at its line, with what was expected and perhaps meant."""

import json

import pytest

from lorafit.errors import RecipeError
from lorafit.recipe import outline
from lorafit.recipe.suggest import ELSEWHERE
from recipe.texts import MINIMAL, Faults, Load


def test_the_form_of_the_contract(faults: Faults) -> None:
    text = MINIMAL + "adapter:\n  rnk: 3\ntraining:\n  learning_rate: 1e-4x\n"
    assert faults(text) == [
        'recipe.yaml:5:3: adapter.rnk: unknown key; did you mean "rank"?  [E2-KEY]',
        'recipe.yaml:7:18: training.learning_rate: expected a number in (0, 1], got "1e-4x"  [E2-VALUE]',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # keys
        ("learning_rate: 1", 'unknown key; "learning_rate" belongs under training  [E2-KEY]'),
        ("limit: 1", 'unknown key; "limit" belongs under data.train or data.validation  [E2-KEY]'),
        ("training: {seed: 1}", 'unknown key; "seed" belongs under the top of the recipe  [E2-KEY]'),
        ("training: {lr: 1}", "unknown key; lorafit calls it training.learning_rate  [E2-KEY]"),
        ("LoRA-alpha: 1", "unknown key; lorafit calls it adapter.alpha  [E2-KEY]"),
        ("adapter: {Target-Modules: mlp}", 'unknown key; did you mean "target_modules"?  [E2-KEY]'),
        ("adapter: {kind: full, rank: 8}", "unknown key; only kind lora or dora has it  [E2-KEY]"),
        ("quantization: {kind: int8, double_quant: true}", "unknown key; only kind nf4 or fp4 has it  [E2-KEY]"),
        ("output: {learning_rat: 1}", 'unknown key; did you mean "learning_rate", under training?  [E2-KEY]'),
        ("output: {zzz: 1}", "unknown key; known here: dir, trackers  [E2-KEY]"),
        ("r\u0430nk: 8", 'unknown key; did you mean "rank", under adapter?  [E2-KEY]'),  # a Cyrillic a
        # kinds
        ("adapter: {kind: lorra}", 'adapter.kind: expected lora, dora or full, got "lorra"; did you mean "lora"?'),
        ("adapter: {kind: 3}", "adapter.kind: expected lora, dora or full, got 3  [E2-KIND]"),
        ("quantization: {double_quant: true}", "quantization.kind: expected none, nf4, fp4 or int8, got nothing"),
        ("adapter: dora", 'expected a block with kind: lora, dora or full, got "dora"; write {kind: dora}'),
        # values
        ("training: {optimizer: paged_adamw_32bit}", 'got "paged_adamw_32bit"; lorafit calls it paged_adamw  [E2'),
        ("training: {optimizer: adamw_torch}", 'got "adamw_torch"; lorafit calls it adamw  [E2-VALUE]'),
        ('training: {epochs: "3"}', 'expected a number in (0, 10000], got "3"; write 3  [E2-VALUE]'),
        ("training: {max_steps: 1_000}", 'got "1_000"; write 1000  [E2-VALUE]'),
        ("training: {max_steps: 2.0}", "expected a whole number in [1, 1000000000], got 2.0  [E2-VALUE]"),
        ("training: {weight_decay: true}", "expected a number in [0, 1], got true  [E2-VALUE]"),
        ("training: {learning_rate: .nan}", "expected a number in (0, 1], got nan  [E2-VALUE]"),
        ("training: {schedule: cosin}", 'constant, linear, cosine or wsd, got "cosin"; did you mean "cosine"?'),
        ("training: {max_grad_norm: -1}", "expected a number above 0, got -1  [E2-VALUE]"),
        ("seed: 4294967296", "expected a whole number in [0, 4294967295], got 4294967296  [E2-VALUE]"),
        ("adapter: {rslora: yes}", 'expected true or false, got "yes"; write true  [E2-VALUE]'),
        ("adapter: {init_from: ''}", 'expected text of 1 to 4096 characters, got ""  [E2-VALUE]'),
        ("output: {dir: 3}", 'expected text of 1 to 4096 characters, got 3; write "3" in quotes  [E2-VALUE]'),
        ("output: {trackers: wandb}", 'expected a list of tensorboard, wandb or mlflow, got "wandb"'),
        ("output: {trackers: [wandb, tb]}", "output.trackers.1: expected tensorboard, wandb or mlflow"),
        ("training:", "expected a block of keys (epochs, max_steps, global_batch_size, micro_batch_size, "
         "learning_rate, schedule, warmup, weight_decay, ...), got nothing (null); leave the key out"),
        ("training: []", "got a list of 0  [E2-VALUE]"),
        # unions are one sentence
        ("training: {micro_batch_size: 0}", "expected auto or a whole number in [1, 1000000], got 0  [E2-VALUE]"),
        ("training: {warmup: -1}", "a whole number of at least 0 or a number in [0, 1), got -1  [E2-VALUE]"),
        ("adapter: {target_modules: all}", 'got "all"'),
        ("adapter: {target_modules: []}", "got a list of 0  [E2-VALUE]"),
        ("adapter: {target_modules: [q, 3]}", "adapter.target_modules.1: expected text of 1 to 200 characters, got 3"),
        ("adapter: {target_modules: {regx: q}}", 'target_modules.regx: unknown key; did you mean "regex"?  [E2-KEY]'),
        ("adapter: {target_modules: {}}", "adapter.target_modules.regex: a required key is missing"),
        # rules of a block
        ("training: {epochs: 1, max_steps: 1}", "leave the other out, or null (--set training.epochs=null)"),
        ("adapter: {kind: full}\nquantization: {kind: int8}", "quantization.kind: adapter.kind full trains"),
    ],
)  # fmt: skip
def test_one_fault(faults: Faults, text: str, expected: str) -> None:
    said = faults("+" + text)
    assert len(said) == 1
    assert expected in said[0]
    assert said[0].startswith(("recipe.yaml:4:", "recipe.yaml:5:"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1", ["1:1: version: a req", "1:1: model: a req", "1:1: data: a req"]),
        ("version: 2\nmodel: {}\ndata:\n  train: []", ["1:10: version: expected 1, got 2", "2:1: model.path: a req",
                                                       "4:10: data.train: expected a list of blocks of keys"]),
        ("version: 1\nmodel: x\ndata: x.jsonl", ["2:8: model: expected a block", "3:7: data: expected a block"]),
        ("version: '1'\nmodel: {pth: x}\ndata: {train: 7}", ["1:10: version: expected 1, got \"1\"; write 1",
                                                             '2:9: model.pth: unknown key; did you mean "path"?',
                                                             "3:15: data.train: expected a list"]),
    ],
)  # fmt: skip
def test_required_keys(faults: Faults, text: str, expected: list[str]) -> None:
    said = faults(text)
    assert len(said) == len(expected)
    for start, line in zip(sorted(expected), sorted(said), strict=True):
        assert line.startswith(f"recipe.yaml:{start}")


@pytest.mark.parametrize("text", ["3", "[1, 2]", "words", "null", '"x"'])
def test_the_root_is_a_block(faults: Faults, text: str) -> None:
    assert "expected a block of keys (version, seed, model" in faults(text)[0]


def test_a_wrong_kind_hides_nothing_beside_it(faults: Faults) -> None:
    said = faults("+adapter: {kind: dorra, rnk: 1, alpha: 0}")
    assert [line.split(": ")[1] for line in said] == ["adapter.kind", "adapter.rnk", "adapter.alpha"]


def test_a_guessed_kind_is_not_held_against_its_keys(faults: Faults) -> None:
    assert len(faults("+quantization: {kind: int9, double_quant: true}")) == 1


def test_a_wrong_value_hides_no_rule_of_another_block(faults: Faults) -> None:
    said = faults("version: 1\nmodel: {path: x, dtype: 3}\ndata: {train: [{path: x}, 5, {pth: y}],\n"
                  "  validation: {}}\ntraining: {early_stopping: {}, warmup: 9, max_steps: 5, epochs: x}")  # fmt: skip
    assert [line.split(": ")[1] for line in said] == [
        "model.dtype", "data.train.1", "data.train.2.pth", "data.validation",
        "training.early_stopping", "training.warmup", "training.epochs",
    ]  # fmt: skip


def test_an_echo_of_a_fault_is_not_said(faults: Faults) -> None:
    # the wrong fraction leaves `validation` empty, which by itself would break a rule of the block and a check
    assert faults("+") == []
    text = MINIMAL.replace("sql}}", "sql}, validation: {fraction: 2}}") + "training: {eval_every: 1}"
    assert [line.split(": ")[1] for line in faults(text)] == ["data.validation.fraction"]


def test_a_word_in_place_of_a_source_or_a_model_is_its_path(faults: Faults) -> None:
    lists = faults("version: 1\nmodel: m\ndata: {train: [a.jsonl, {path: b.jsonl}]}")
    assert [said.rpartition("; ")[2] for said in lists] == [
        "write {path: m}  [E2-VALUE]", "write {path: a.jsonl}  [E2-VALUE]",
    ]  # fmt: skip


def test_one_block_of_data_is_named_as_written(faults: Faults) -> None:
    assert "data.train.pth: " in faults("version: 1\nmodel: {path: x}\ndata: {train: {pth: x}}")[0]
    assert "data.train.weight: expected a number in (0, 1000000], got 0" in faults(
        "version: 1\nmodel: {path: x}\ndata: {train: {path: x, weight: 0}}"
    )[0]  # fmt: skip
    assert "data.train.0.pth: " in faults("version: 1\nmodel: {path: x}\ndata: {train: [{pth: x}]}")[0]


def test_long_lists_are_cut(faults: Faults) -> None:
    for count in (20, 21, 3000):
        said = faults("+" + "".join(f"k{number}: 1\n" for number in range(count)))
        assert len(said) == 20
        assert said[-1].startswith(f"and {count - 19} more") == (count > 20)


@pytest.mark.parametrize("value", ['"' + "x" * 9999 + '"', '"\\e[31m\\n\\u202e"', "hf_" + "a" * 34])
def test_values_are_shown_short_and_plain(faults: Faults, value: str) -> None:
    said = faults(f"+seed: {value}\n{'k' * 999}: 1")
    assert all(line.isprintable() and len(line) < 300 and "aaaa" not in line for line in said)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("{a: [1]}", "data.chat_template_kwargs.a: expected true or false, a whole number, a number or text, got a l"),
        ("{a: null}", "data.chat_template_kwargs.a: expected true or false, a whole number, a number or text, got no"),
        ("{a b: 1}", "data.chat_template_kwargs: 'a b' is no name that a template's variable can have"),
    ],
)
def test_values_under_names_of_ones_own(faults: Faults, values: str, expected: str) -> None:
    (said,) = faults(f"version: 1\nmodel: {{path: m}}\ndata: {{train: [{{path: x}}], chat_template_kwargs: {values}}}")
    assert expected in said


def test_faults_are_data_for_programs(load: Load) -> None:
    with pytest.raises(RecipeError) as caught:
        load("+adapter: {rnk: 3}")
    assert caught.value.as_json() == json.loads(
        '{"error": {"exit_code": 2, "faults": [{"code": "E2-KEY", "what": "unknown key",'
        ' "where": "recipe.yaml:4:11: adapter.rnk", "fix": "did you mean \\"rank\\"?"}]}}'
    )


def test_every_key_of_other_tools_leads_to_a_key_of_ours() -> None:
    known = {".".join(map(str, (*block, key))) for key, block in outline.every_key()}
    for theirs, ours in ELSEWHERE.items():
        assert ours.split(" ")[0].rstrip(":") in known, theirs


def test_no_key_of_other_tools_is_one_of_ours() -> None:
    assert not set(ELSEWHERE) & {key for key, _ in outline.every_key()}


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "a whole number of at least 1"),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 9}, "a whole number in [1, 8]"),
        ({"type": "integer", "maximum": 9}, "a whole number of at most 9"),
        ({"type": "number", "exclusiveMaximum": 0.5}, "a number below 0.5"),
        ({"type": "number", "minimum": 1e-5, "maximum": 1}, "a number in [1e-05, 1]"),
        ({"type": "number"}, "a number"),
        ({"type": "string"}, "text"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, "a list of text, at least 2"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, "true or false"),
    ],
)
def test_what_is_expected(node: outline.Node, words: str) -> None:
    assert outline.describe(node) == words


def test_everything_expected_can_be_said() -> None:
    def walk(node: outline.Node) -> None:
        assert outline.describe(node)
        for block in list(outline.kinds(node).values()) or outline.options(node):
            for below in block.get("properties", {}).values():
                walk(below)

    walk(outline.root())
