"""The names that product.md gives to the parts of a run."""

from pathlib import Path

from lorafit.rundir.layout import RunFolder


def test_everything_is_where_the_product_says() -> None:
    run = RunFolder(Path("runs/a"))
    paths = [
        run.state, run.recipe, run.resolved_recipe, run.manifest, run.events, run.metrics, run.lock, run.checkpoints,
        run.checkpoint(120), run.adapter, run.reports,
    ]  # fmt: skip
    assert [path.relative_to("runs/a").as_posix() for path in paths] == [
        "run.json", "recipe.yaml", "recipe.resolved.json", "manifest.json", "events.jsonl", "metrics.jsonl", "run.lock",
        "checkpoints", "checkpoints/step-00000120", "adapter", "reports",
    ]  # fmt: skip


def test_asking_makes_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    assert not run.is_run()
    assert run.checkpoint_steps() == []
    assert not run.root.exists()


def test_steps_are_numbers_and_come_newest_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for name in (
        "step-00000009",
        "step-00000010",
        "step-123456789",
        "step-7",
        "step-0000001x",
        "notes",
        ".tmp-1",
    ):
        (run.checkpoints / name).mkdir(parents=True)
    (run.checkpoints / "step-00000011").touch()
    (run.checkpoints / "step-00000012").symlink_to(run.checkpoint(9))
    assert run.checkpoint_steps() == [123456789, 10, 9]
    assert run.checkpoint(123456789).is_dir()
