"""`--set` is typed by the recipe's fields, and its faults are named as such."""

import pytest

from lorafit.recipe.resolved import canonical_json
from recipe.texts import MINIMAL, Faults, Load

QLORA = MINIMAL + "quantization: {kind: nf4, double_quant: false}\nadapter: {kind: dora, rank: 8}\n"
TWO = "version: 1\nmodel: {path: x}\ndata: {train: [{path: a}, {path: b}]}\n"


def same(load: Load, overridden: tuple[str, ...], written: str, text: str = MINIMAL) -> None:
    assert canonical_json(load(text, *overridden)) == canonical_json(load(written))


@pytest.mark.parametrize(
    ("override", "written"),
    [
        ("seed=7", "seed: 7"),
        ("training.learning_rate=1e-4", "training: {learning_rate: 1e-4}"),
        ("adapter.rank=8", "adapter: {rank: 8}"),
        ("adapter={kind: dora}", "adapter: {kind: dora}"),
        ('adapter={"kind": "dora", "rank": 4}', "adapter: {kind: dora, rank: 4}"),
        ("adapter.target_modules=[q_proj, v_proj]", "adapter: {target_modules: [q_proj, v_proj]}"),
        ("adapter.target_modules.regex=.*q", "adapter: {target_modules: {regex: .*q}}"),
        ("training.early_stopping=null", ""),
        ("output.dir= a b ", "output: {dir: a b}"),
        ("output.dir=a=b", "output: {dir: a=b}"),
        # text stays text: a commit may be all digits
        ("model.revision=0123", 'model: {path: builtin:tiny, revision: "0123"}'),
        ("model.revision=1e10", 'model: {path: builtin:tiny, revision: "1e10"}'),
        ("model.revision=null", ""),
        ("data.train.path=3", 'data: {train: {path: "3"}}'),
        ("data.train.0.path=b", "data: {train: {path: b}}"),
        ("data.train.limit=5", "data: {train: {path: builtin:sql, limit: 5}}"),
        ("data.train=[{path: a}, {path: b}]", "data: {train: [{path: a}, {path: b}]}"),
        ("data.validation.fraction=0.1", "data: {train: {path: builtin:sql}, validation: {fraction: 0.1}}"),
    ],
)
def test_it_is_as_if_written(load: Load, override: str, written: str) -> None:
    key = written.split(":")[0]
    kept = [line for line in MINIMAL.splitlines() if not written or not line.startswith(f"{key}:")]
    same(load, (override,), "\n".join([*kept, written]))


def test_items_of_a_list(load: Load) -> None:
    assert [source.path for source in load(TWO, "data.train.1.path=c").data.train] == ["a", "c"]
    one = TWO.replace(", {path: b}", "")
    assert [source.path for source in load(one, "data.train.path=c").data.train] == ["c"]


def test_the_last_one_counts(load: Load) -> None:
    assert load(MINIMAL, "seed=1", "adapter.rank=2", "seed=3").seed == 3


def test_a_new_kind_keeps_the_keys_that_fit(load: Load) -> None:
    assert load(QLORA, "adapter.kind=lora").adapter.model_dump()["rank"] == 8
    assert load(QLORA, "quantization.kind=fp4").quantization.model_dump()["double_quant"] is False
    assert load(QLORA, "quantization.kind=int8").quantization.model_dump() == {"kind": "int8"}
    assert load(QLORA, "quantization.kind=none", "adapter.kind=full").adapter.model_dump() == {"kind": "full"}


def test_a_new_kind_drops_no_mistake(faults: Faults) -> None:
    text = QLORA.replace("rank: 8", "rnk: 8")
    assert 'adapter.rnk: unknown key; did you mean "rank"?' in faults(text, "adapter.kind=lora")[0]
    assert "adapter.rank: unknown key; only kind lora or dora" in faults(
        MINIMAL, "adapter.kind=full", "adapter.rank=8"
    )[0]  # fmt: skip


def test_a_new_kind_drops_nothing_that_was_set_beside_it(faults: Faults) -> None:
    said = faults(QLORA, "quantization.kind=none", "adapter.kind=full", "adapter.rank=9")
    assert said == ["--set adapter.rank=9: adapter.rank: unknown key; only kind lora or dora has it  [E2-KEY]"]


def test_what_an_override_replaced_is_forgotten(faults: Faults) -> None:
    assert faults(QLORA, "adapter={kind: dora, rank: x}")[0].startswith("--set adapter={")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("adapter.rnk=3", '--set adapter.rnk=3: adapter.rnk: unknown key; did you mean "rank"?  [E2-KEY]'),
        ("seed.x=3", "--set seed.x=3: seed: expected a whole number in [0, 4294967295], got a block of keys"),
        ("seed", "--set seed: not a change of one key; write --set KEY=VALUE"),
        ("=3", "--set =3: not a change of one key"),
        ("a..b=3", "--set a..b=3: not a change of one key"),
        (".".join("a" * 21) + "=1", "not a change of one key"),
        ("seed=", "--set seed=: the value cannot be read: nothing is written here; write null for no value"),
        ("model.path=@x", "a value cannot start with this character; put the value in quotes  [E2-SET]"),
        ("seed=&a 1", "the value cannot be read: anchors are not read"),
        ("data.train.0=x", "data.train is one block, not a list; set data.train itself  [E2-SET]"),
        ("training.learning_rate=1e-4x", 'training.learning_rate: expected a number in (0, 1], got "1e-4x"'),
        ("seed=\x1b[31m", "--set seed=\\x1b[31m: the value cannot be read"),
    ],
)
def test_faults(faults: Faults, override: str, expected: str) -> None:
    said = faults(MINIMAL, override)
    assert len(said) == 1
    assert expected in said[0]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.train.path=c", "data.train is a list of 2; say which, from 0: data.train.0.path  [E2-SET]"),
        ("data.train.2.path=c", "data.train has no item 2; it is a list of 2, counted from 0  [E2-SET]"),
    ],
)
def test_faults_of_lists(faults: Faults, override: str, expected: str) -> None:
    assert faults(TWO, override) == [f"--set {override}: {expected}"]


def test_all_faults_in_one_pass(faults: Faults) -> None:
    said = faults(MINIMAL + "seeed: 1", "adapter.rnk=3", "nonsense", "seed=x")
    assert [line.split(": ")[0] for line in said] == [
        "--set adapter.rnk=3", "--set nonsense", "--set seed=x", "recipe.yaml:4:1",
    ]  # fmt: skip


def test_an_override_mends_the_file(load: Load) -> None:
    assert load(MINIMAL + "seed: x", "seed=1").seed == 1
