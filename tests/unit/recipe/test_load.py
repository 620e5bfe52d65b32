"""A loaded recipe knows where its run goes."""

from pathlib import Path

import pytest

from lorafit.errors import SafetyRefusal
from lorafit.recipe.load import LoadedRecipe, load_recipe
from recipe.texts import MINIMAL


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedRecipe:
    (tmp_path / "first.yaml").write_text(MINIMAL)
    return load_recipe(tmp_path / "first.yaml")


def test_the_run_folder(loaded: LoadedRecipe, tmp_path: Path) -> None:
    assert loaded.output_dir(None) == Path("runs/first")
    assert loaded.output_dir(Path("../elsewhere")) == Path("../elsewhere")  # typed by hand, so it is meant
    assert load_recipe(loaded.path, ["output.dir=runs/x"]).output_dir() == Path("runs/x")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("qwen2.5-7b", "qwen2.5-7b"),
        ("my recipe (1)", "my-recipe-1-"),
        ("-rf", "rf"),
        ("..", "run"),
        ("\n\x1b[31m", "31m"),
        ("é" * 9, "run"),
        ("a" * 300, "a" * 64),
    ],
)
def test_any_name_gives_one_plain_folder(loaded: LoadedRecipe, name: str, folder: str) -> None:
    assert loaded._replace(name=name).output_dir() == Path("runs") / folder


@pytest.mark.parametrize("out", ["/", ".", "..", "~", "~/.."])
def test_out_cannot_be_a_folder_of_everything(loaded: LoadedRecipe, out: str) -> None:
    with pytest.raises(SafetyRefusal, match=r"--out .*(the current|the home) folder.*E12-PATH"):
        loaded.output_dir(Path(out).expanduser())


def test_the_caller_gets_its_own_copy_of_nothing(loaded: LoadedRecipe) -> None:
    with pytest.raises(AttributeError):
        loaded.name = "other"  # type: ignore[misc]
