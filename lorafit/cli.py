"""The commands: read the words, load the recipe, call the one room that does the work, print."""

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer
from typer.exceptions import TyperException

from lorafit import __version__
from lorafit.errors import LorafitError, RecipeError, refused_by_machine
from lorafit.model.quiet import quiet_libraries, without_torch
from lorafit.not_built import refuse_what_is_not_built
from lorafit.report.output import emit, write_out, writing_out
from lorafit.report.picture import check_picture
from lorafit.report.progress import say
from lorafit.report.tell import tell
from lorafit.report.usage import usage_fault
from lorafit.train.launcher import inside_launcher, is_first_process

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML recipe.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="A.B=VALUE", help="Change one key of the recipe; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
NO_OVERRIDES: list[str] = []
Habits = Annotated[
    list[str],
    typer.Option(
        metavar="NAME",
        help="Of a run of transformers; may be repeated: no-amp (`bf16: false`), use-cache (left on), padded (rows, "
        "with a mask), narrow-adapters (in the base's 16 bits), fused-loss (no logits at once), old-bitsandbytes "
        "(before 0.43).",
    ),
]
NO_HABITS: list[str] = []


@app.callback(invoke_without_command=True)
def lorafit(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Fine-tune language models with low-rank adapters, from one YAML recipe."""
    if version:
        write_out(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(RecipeError.exit_code)


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = NO_OVERRIDES,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default output.dir of the recipe.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest valid checkpoint.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an earlier run in that folder aside.")] = False,
    gpus: Annotated[int, typer.Option(min=1, max=64, help="Processes, one per GPU (or on the CPU).")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen; load no weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train an adapter as the recipe says, and save it in the run folder."""
    from lorafit.recipe.load import load_recipe

    if resume and fresh:
        raise RecipeError("--resume continues a run and --fresh starts anew", fix="give one of them", code="E2-USAGE")
    loaded = load_recipe(recipe, overrides)
    mode: Literal["new", "resume", "fresh"] = "resume" if resume else "fresh" if fresh else "new"
    if gpus > 1 and not inside_launcher() and not dry_run:
        from lorafit.train.launch import launch

        raise typer.Exit(launch(sys.argv[1:], gpus))
    from lorafit.train.start import look_ahead, start

    result = look_ahead(loaded, gpus) if dry_run else start(loaded, loaded.output_dir(out), mode)
    if as_json and is_first_process():
        emit(result)


@app.command(name="eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a model.")],
    data: Annotated[list[str] | None, typer.Option(metavar="PATH", help="Rows; by default the run's own.")] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Metric; may be repeated.")] = None,
    compare_base: Annotated[bool, typer.Option("--compare-base", help="Measure the base model too.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; by default it is chosen.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run or a model on held-out rows."""
    if data and not all(data):
        raise RecipeError("--data names nothing", fix="give a file of rows", code="E2-USAGE")
    quiet_libraries()
    from lorafit.evaluate.run import evaluate as run_evaluation

    result = run_evaluation(
        target,
        data=data or [],
        metrics=metric or [],
        compare_base=compare_base,
        max_new_tokens=max_new_tokens,
        say=say,
    )
    tell(result, as_json)


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model.")],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Of the merged weights.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fold the adapter into its base, and check that the result is the same function."""
    quiet_libraries()
    from lorafit.export.merge import merge as run_merge

    result = run_merge(run, out, dtype=dtype, force=force)
    tell(result, as_json)


@app.command(name="estimate-vram")
def estimate_vram(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="A recipe, or use --model.")] = None,
    overrides: Overrides = NO_OVERRIDES,
    model: Annotated[str | None, typer.Option(help="Name, size (`70b`), or folder of a model.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, qlora, dora, qdora or full.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of the adapter.")] = None,
    target_modules: Annotated[str | None, typer.Option(help="all-linear, attention, mlp, or a,b,c.")] = None,
    max_length: Annotated[str | None, typer.Option(metavar="N", help="Tokens of a row: 8192, 8k.")] = None,
    micro_batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per forward pass.")] = None,
    gpus: Annotated[int, typer.Option(min=1, max=4096, help="GPUs; bytes are given for each.")] = 1,
    sharding: Annotated[str | None, typer.Option(help="Of the base over GPUs: auto, none or full.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Card to fit on: 24GB, rtx-4090, h100, ...")] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens to train on, over all epochs: 1000000, 1e9, 1B.")
    ] = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0, help="Of one GPU, in any currency.")] = None,
    sweep: Annotated[str | None, typer.Option(help="One setting over a range: max_length=1k..64k.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Trace the real step too (seconds, no GPU).")] = False,
    picture: Annotated[Path | None, typer.Option(help="With --exact: draw memory over the step, as SVG.")] = None,
    engine: Annotated[str, typer.Option(help="lorafit, or plain transformers[@VERSION] with PEFT.")] = "lorafit",
    upcast: Annotated[str | None, typer.Option(help="What transformers turns to float32: none, norms, all.")] = None,
    habit: Habits = NO_HABITS,
    as_json: AsJson = False,
) -> None:
    """Say how much GPU memory training takes, by component, without a GPU and without weights."""
    from lorafit.data.class_count import read_recipe
    from lorafit.model.of_class import read_shape
    from lorafit.plan.counts import tokens_of_a_row, tokens_to_train_on
    from lorafit.plan.vram import answer
    from lorafit.rundir.measured import own_truths

    if picture and not exact:
        raise RecipeError("--picture draws what --exact traces", fix="give both", code="E2-USAGE")
    if picture:
        check_picture(picture)
    asked, classes = read_recipe(recipe, overrides)
    result = answer(
        asked,
        model=model,
        method=method,
        rank=rank,
        target_modules=target_modules,
        max_length=None if max_length is None else tokens_of_a_row(max_length),
        micro_batch_size=micro_batch_size,
        gpus=gpus,
        gpu=gpu,
        engine=engine,
        upcast=upcast,
        swept=sweep,
        tokens=None if tokens is None else tokens_to_train_on(tokens),
        price_per_hour=price_per_hour,
        classes=classes,
        sharding=sharding,
        overrides=overrides,
        own_truths=own_truths(),
        habits=habit,
        of_class=read_shape if exact else None,
    )
    if exact:
        quiet_libraries()
        from lorafit.train.trace import with_trace

        result = with_trace(result, picture)
    tell(result, as_json)


@app.command()
def validate(recipe: RecipePath, overrides: Overrides = NO_OVERRIDES, as_json: AsJson = False) -> None:
    """Check everything that can be checked without loading weights, and show every setting."""
    from lorafit.recipe.load import load_recipe
    from lorafit.report.validation import check

    result = check(load_recipe(recipe, overrides))
    tell(result, as_json)


@app.command()
def preview(
    recipe: RecipePath,
    count: Annotated[int, typer.Option("-n", min=0, metavar="N", help="Rows to show: the first that are trained.")] = 3,
    row: Annotated[str | None, typer.Option(metavar="FILE:LINE", help="Show the row at this place instead.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show long rows whole.")] = False,
    overrides: Overrides = NO_OVERRIDES,
    as_json: AsJson = False,
) -> None:
    """Show the rows as the model will see them: tokens, which are trained, what was packed, dropped and cut."""
    from lorafit.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    without_torch()
    quiet_libraries()
    from lorafit.report.preview import look

    result = look(loaded.recipe, count, row)
    if as_json:
        emit(result.as_json())
        return
    from lorafit.report.preview_text import show

    with writing_out():
        show(result, full=full)


@app.command()
def generate(
    target: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, or a model.")],
    prompt: Annotated[str | None, typer.Option(help="One question; without it, a chat in the terminal.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Answer a prompt, or chat, with the same template as in training."""
    if prompt is not None and not prompt.strip():
        raise RecipeError("the prompt is empty", fix="give text; without --prompt it is a chat", code="E2-USAGE")
    quiet_libraries()
    from lorafit.evaluate.chat import converse

    result = converse(target, prompt, max_new_tokens=max_new_tokens, speak=not as_json)
    if as_json:
        emit(result)


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="Say which way this recipe takes.")] = None,
    overrides: Overrides = NO_OVERRIDES,
    network: Annotated[bool, typer.Option("--network", help="Ask the hub whether it answers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do, which fast paths are on, and why others are off."""
    from lorafit.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides) if recipe else None
    from lorafit.train.doctor import diagnose

    result = diagnose(loaded, network)
    tell(result, as_json)
    raise typer.Exit(result.exit_code)


@app.command()
def schema() -> None:
    """Print the recipe's JSON Schema, for completion in an editor."""
    from lorafit.recipe.resolved import schema_json

    write_out(schema_json().rstrip())


refuse_what_is_not_built(app)


def main() -> None:
    """Run a command and leave with the exit code of the error tree."""
    try:
        sys.exit(app(prog_name="lorafit", standalone_mode=False))
    except TyperException as error:
        _fail(usage_fault(error, sys.argv[1:]))
    except LorafitError as error:
        _fail(error)
    except OSError as error:
        if (refused := refused_by_machine(error)) is None:
            raise
        _fail(refused)


def _fail(error: LorafitError) -> NoReturn:
    say(str(error))
    if "--json" in sys.argv[1:] and is_first_process():
        emit(error.as_json())
    sys.exit(error.exit_code)
