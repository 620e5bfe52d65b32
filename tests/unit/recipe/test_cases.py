"""The bad recipes of the robustness list, by number: what each is answered with.

Not here, as no recipe alone can tell: 46, 48 and 57 (targets and rows), 58 to 60 and 63 (the machine),
61 (merge), 62 (resume); 10, 39 and 40 are about files and stand at the end.
"""

from pathlib import Path

import pytest

from lorafit.errors import LorafitError
from lorafit.recipe.load import load_recipe, recipe_from
from recipe.texts import MINIMAL

BOMB = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True))
GOOD = ""

CASES: list[tuple[int, str | bytes, str]] = [
    (1, b"", "E2-EMPTY"),
    (2, b"# nothing\n  # at all\n", "E2-EMPTY"),
    (3, b"lora", "E2-VALUE"),
    (4, b"- version: 1", "E2-VALUE"),
    (5, "---\nversion: 1\n---\nversion: 1", "E2-YAML"),
    (6, "adapter:\n\trank: 3", "E2-YAML"),
    (7, "seed: 1\0", "E2-YAML"),
    (8, b"seed: \xff", "E2-UTF8"),
    (9, MINIMAL.encode("utf-16"), "E2-UTF8"),
    (11, b"[" * 3000, "E2-SIZE"),
    (12, "".join(" " * depth + f"k{depth}:\n" for depth in range(1500)), "E2-SIZE"),
    (13, BOMB.encode(), "E2-YAML"),
    (14, b"&a {x: *a}", "E2-YAML"),
    (15, "seed: *a", "E2-YAML"),
    (16, "seed: !!python/object/apply:os.system [id]", "E2-YAML"),
    (17, "seed: !Foo 3", "E2-YAML"),
    (18, "output: {dir: !!binary aGk=}", "E2-YAML"),
    (18, "output: !!set {dir}", "E2-YAML"),
    (19, "x: {a: 1}\n<<: {seed: 3}", "E2-YAML"),
    (20, "seed: 1\nseed: 2", "E2-DUP"),
    (21, "Seed: 1\nseed: 2", "E2-KEY"),
    (22, "se\u200bed: 1", "E2-KEY"),
    (23, "seed:\u00a01", "E2-YAML"),
    (24, "? [a]\n: b", "E2-YAML"),
    (24, "{{a: 1}: b}", "E2-YAML"),
    (25, "training: {learning_rate: 1e-4}", GOOD),
    (26, "adapter: {alpha: 1E5}", GOOD),
    (27, "training: {learning_rate: .nan}", "E2-VALUE"),
    (28, "adapter: {alpha: .inf}", "E2-VALUE"),
    (29, 'adapter: {alpha: "nan"}', "E2-VALUE"),
    (30, "seed: 0123", GOOD),  # 123, not 83
    (31, "seed: 12:30:45", "E2-VALUE"),
    (32, "output: {dir: 2024-01-01}", GOOD),
    (33, "output: {dir: no}", GOOD),
    (33, "on: 1", "E2-KEY"),
    (34, "seed: 1_000", "E2-VALUE"),
    (35, f"seed: {'9' * 5000}", "E2-VALUE"),
    (36, "training: {learning_rate: true}", "E2-VALUE"),
    (37, f"training: {{max_steps: {10**30}}}", "E2-VALUE"),
    (38, b"%YAML 9.9\n---\nversion: 1", "E2-YAML"),
    (41, "adapter: {rnk: 3}", "E2-KEY"),
    *((42, f"training: {{learning_rate: {rate}}}", "E2-VALUE") for rate in ("-1e-4", "0", "0.0", "1.5", "1e400")),
    (43, "adapter: {rank: 0}", "E2-VALUE"),
    (44, "adapter: {alpha: 0}", "E2-VALUE"),
    (45, "adapter: {dropout: 1.0}", "E2-VALUE"),
    (47, "adapter: {target_modules: {regex: (a+)+b}}", "E2-REGEX"),
    *((49, f"model: {{path: x}}\nversion: 1\ndata: {{train: {{path: x}}, max_length: {n}}}".encode(), "E2-VALUE")
      for n in (0, 1)),
    (50, "training: {micro_batch_size: 8, global_batch_size: 4}", "E2-RULE"),
    (51, "training: {warmup: 100, max_steps: 10}", "E2-RULE"),
    (52, "training: {epochs: 0, max_steps: 0}", "E2-VALUE"),
    (53, "training: {epochs: 1, max_steps: 1}", "E2-RULE"),
    (54, "training: {max_steps: 5, save_every: 10}", GOOD),  # saved at the end all the same
    *((55, f"training: {{keep_checkpoints: {count}}}", "E2-VALUE") for count in (0, 1)),
    *((56, f"seed: {seed}", "E2-VALUE") for seed in (-1, 2**32, 1.5)),
    (64, "output: {dir: runs/hf_" + "abcdefghijklmnopqrstuvwxyz}", "E12-SECRET"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "text", "code"), CASES, ids=[f"{case[0]}" for case in CASES])
def test_case(number: int, text: str | bytes, code: str) -> None:
    """Text comes after the required keys; bytes are the whole recipe."""
    content = (MINIMAL + text).encode() if isinstance(text, str) else text
    if code == GOOD:
        recipe_from(content, "recipe.yaml")
        return
    with pytest.raises(LorafitError) as caught:
        recipe_from(content, "recipe.yaml")
    assert code in {fault.code for fault in caught.value.faults}
    assert caught.value.exit_code == (12 if code.startswith("E12") else 2)


def test_case_10_a_10_mb_file(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"#" * 10_000_000)
    with pytest.raises(LorafitError, match="E2-SIZE"):
        load_recipe(tmp_path / "big.yaml")


@pytest.mark.parametrize("name", [".", "/dev/null", "dangling"])
def test_case_39_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    with pytest.raises(LorafitError, match="E2-FILE"):
        load_recipe(tmp_path / name)


def test_case_40_the_file_changes_later(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    loaded = load_recipe(tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text("other")
    assert loaded.text == MINIMAL.encode()
