"""Several processes have the data of the first, and what stops one of them stops all, in the same way."""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import chat_rows, write_recipe, write_rows

from lorafit.data.workshop import Workshop
from lorafit.errors import LorafitError
from lorafit.recipe.schema import Recipe
from lorafit.train.ranks import Ranks
from lorafit.train.together import read_together

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")

Before = Callable[[int], None]


def one_rank(rank: int, recipe: Recipe, before: Before, meeting: Path, ends: Any) -> None:
    """Read as one of two processes; report the data's name and how many rows were prepared here, or the exit code."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    prepared, outcomes = [], Workshop.outcomes

    def counted(shop: Workshop, window: Any) -> Any:
        prepared.extend(window)
        return outcomes(shop, window)

    Workshop.outcomes = counted  # type: ignore[method-assign]
    try:
        before(rank)
        ranks = cast("Ranks", SimpleNamespace(rank=rank, count=2, is_first=rank == 0))
        _, _, data = read_together(ranks, recipe)
        tokens = [data.train.row(number)[0].tolist() for number in range(len(data.train))]
        ends.put((rank, data.fingerprint, sum(map(len, tokens)), len(prepared)))
    except LorafitError as error:
        ends.put((rank, error.exit_code, error.faults[0].code, len(prepared)))
    except ValueError as error:
        ends.put((rank, 1, str(error), len(prepared)))


def together(recipe: Recipe, folder: Path, before: Before) -> list[tuple[Any, ...]]:
    context = multiprocessing.get_context("fork")
    ends = context.Queue()
    processes = [
        context.Process(target=one_rank, args=(rank, recipe, before, folder / "meeting", ends)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "a process hangs"
    return sorted(ends.get(timeout=5) for process in processes if process.exitcode == 0)


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Recipe:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    return write_recipe(tmp_path, model).recipe


@pytest.mark.parametrize("named", [("cache", "cache"), ("off", "off"), ("off", "cache"), ("cache", "off")])
def test_only_the_first_prepares_and_decides(recipe: Recipe, tmp_path: Path, named: tuple[str, str]) -> None:
    (tmp_path / "spare").mkdir()

    def before(rank: int) -> None:
        os.environ["LORAFIT_CACHE"] = "off" if named[rank] == "off" else str(tmp_path / "cache")
        tempfile.tempdir = str(tmp_path / "spare")

    (_, *first, here), (_, *second, there) = together(recipe, tmp_path, before)
    assert first == second
    assert here > 0
    assert there == 0
    assert (tmp_path / "cache").exists() == (named[0] == "cache")
    assert not list((tmp_path / "spare").iterdir())


def test_a_cache_too_small_for_the_rows_does_not_make_others_prepare_them(recipe: Recipe, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        os.environ |= {"LORAFIT_CACHE": str(tmp_path / "cache"), "LORAFIT_CACHE_GIB": "0"}

    (_, *first, _), (_, *second, there) = together(recipe, tmp_path, before)
    assert first == second
    assert there == 0
    assert not list((tmp_path / "cache" / "data").iterdir())


@pytest.mark.parametrize("rank_in_trouble", [0, 1])
def test_what_stops_one_stops_all(recipe: Recipe, tmp_path: Path, rank_in_trouble: int) -> None:
    def before(rank: int) -> None:
        if rank == rank_in_trouble:
            from lorafit.model import tokenizer

            tokenizer.AutoTokenizer = None  # type: ignore[attr-defined]

            def broken(*arguments: object) -> Any:
                raise tokenizer.ModelError("no tokenizer", code="E4-TOKENIZER")

            tokenizer.load_tokenizer = broken

    ends = together(recipe, tmp_path, before)
    assert [end[1] for end in ends] == [4, 4]
    assert ends[rank_in_trouble][2] == "E4-TOKENIZER"
    assert ends[1 - rank_in_trouble][2] == "E4-RANK"


def test_rows_that_are_wrong_are_so_in_all(recipe: Recipe, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [*chat_rows(20), {"messages": None}])
    first, second = together(recipe, tmp_path, lambda rank: None)
    assert (first[1], second[1]) == (3, 3)
    assert second[3] == 0  # nothing was read again


def test_a_bug_in_the_first_ends_all(recipe: Recipe, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        if rank == 0:
            from lorafit.train import together

            def broken(*arguments: object) -> Any:
                raise ValueError("a bug")

            together.read_data = broken

    assert [end[1:3] for end in together(recipe, tmp_path, before)] == [(1, "a bug"), (1, "E1-RANK")]


def test_settings_of_the_cache_that_are_wrong_are_said_by_the_first(recipe: Recipe, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        os.environ |= {"LORAFIT_CACHE": "somewhere"} | ({"LORAFIT_CACHE_GIB": "many"} if rank == 0 else {})

    assert [end[1:3] for end in together(recipe, tmp_path, before)] == [(5, "E5-CACHE-SIZE"), (5, "E5-RANK")]


def test_the_first_killed_meanwhile_is_noticed(recipe: Recipe, tmp_path: Path) -> None:
    def before(rank: int) -> None:
        if rank == 0:
            from lorafit.train import together

            together.read_data = lambda *arguments: os._exit(9)

    assert [end[1:3] for end in together(recipe, tmp_path, before)] == [(11, "E11-RANK")]


def test_other_files_on_another_machine_are_noticed(recipe: Recipe, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_rows(other / "train.jsonl", chat_rows(21))
    shutil.copy(tmp_path / "validation.jsonl", other)

    def before(rank: int) -> None:
        if rank == 1:
            for source in recipe.data.train:
                object.__setattr__(source, "path", str(other / "train.jsonl"))

    assert [end[1:3] for end in together(recipe, tmp_path, before)] == [(3, "E3-RANKS"), (3, "E3-RANKS")]
