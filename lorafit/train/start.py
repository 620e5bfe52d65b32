"""Begin a run: take its folder before anything heavy is loaded, then train."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lorafit.model.quiet import quiet_libraries
from lorafit.recipe.load import LoadedRecipe
from lorafit.recipe.resolved import canonical_json, recipe_hash
from lorafit.report.progress import say
from lorafit.report.validation import check_settings
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.result import read_result
from lorafit.rundir.state import Mode, Run, open_run
from lorafit.train.launcher import inside_launcher, is_first_process


def start(loaded: LoadedRecipe, root: Path, mode: Mode) -> dict[str, object]:
    """Train as the recipe says, in the folder `root`; give the final state of `train --json`."""
    with _claim(loaded, root, mode) as run:
        folder = RunFolder(root.resolve())
        finished = run is not None and run.status == "finished"
        if finished and not inside_launcher():
            return _already_finished(folder)
        for note in run.notes if run else ():
            say(note)
        check_settings(loaded.recipe)
        quiet_libraries()
        expand_segments()
        from lorafit.train.run import train

        result = train(loaded.recipe, folder, run)
        return _already_finished(folder) if finished else result


def look_ahead(loaded: LoadedRecipe, world_size: int) -> dict[str, object]:
    """Say what `start` would do; write nothing."""
    check_settings(loaded.recipe)
    quiet_libraries()
    from lorafit.train.run import dry_run

    return dry_run(loaded.recipe, world_size)


def expand_segments() -> None:
    """Have torch let its segments grow, for fewer holes, unless the user chose otherwise. To call before it loads."""
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the name of before torch 2.9, which still counts
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def _claim(loaded: LoadedRecipe, root: Path, mode: Mode) -> AbstractContextManager[Run | None]:
    """Open the run in the process that writes it."""
    if not is_first_process():
        return nullcontext()
    return open_run(root, loaded.text, canonical_json(loaded.recipe), recipe_hash(loaded.recipe), mode)


def _already_finished(folder: RunFolder) -> dict[str, object]:
    say(f"{folder.root} is finished: nothing left to do (use --fresh to train anew)")
    return read_result(folder)
