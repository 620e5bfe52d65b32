"""The story of a run: data, model, plan, resume, train, save, report."""

from contextlib import AbstractContextManager, closing, nullcontext
from datetime import date

import torch

from lorafit.data.cache import default_cache
from lorafit.data.prepare import PreparedData
from lorafit.data.today import on_day
from lorafit.model.adapt import Attached, attach
from lorafit.model.documents import use_flat_rows
from lorafit.model.fast_linear import take_fast_linears
from lorafit.model.identity import base_hash, identify
from lorafit.model.load import Base, load_base, pick_device, pick_dtype
from lorafit.model.memory import free_bytes, host_bytes, product_workspace_bytes, recompute_activations
from lorafit.model.run import file_hashes, new_head
from lorafit.model.tokenizer import read_data
from lorafit.model.trained import Trained
from lorafit.model.unpacked import keep_unpacked
from lorafit.plan.find_shape import read_config
from lorafit.plan.plan import Plan, make_plan
from lorafit.plan.recompute import in_words
from lorafit.plan.targets import leaf_counts
from lorafit.recipe.adapters import Full
from lorafit.recipe.optimizers import OPTIMIZERS
from lorafit.recipe.resolved import recipe_hash
from lorafit.recipe.schema import Recipe
from lorafit.recipe.sharding import why_unsplit
from lorafit.report.finding import as_lines
from lorafit.report.machine import accelerators
from lorafit.report.progress import reporting, say
from lorafit.report.units import gibibytes, percent
from lorafit.rundir.layout import RunFolder
from lorafit.rundir.manifest import ACCOUNT, DAY, Manifest
from lorafit.rundir.state import Run
from lorafit.train.calibration import record_memory
from lorafit.train.course import Course
from lorafit.train.full_device import does_not_fit
from lorafit.train.loop import Loop
from lorafit.train.optimizer import build_optimizer
from lorafit.train.paths import way_of
from lorafit.train.ranks import Ranks, noticing_losses
from lorafit.train.record import Record
from lorafit.train.result import publish, summary
from lorafit.train.signals import listening
from lorafit.train.sizes import Sizes, choose_sizes, unpacked_as_before
from lorafit.train.together import read_together


def train(recipe: Recipe, folder: RunFolder, run: Run | None) -> dict[str, object]:
    """Train as the recipe says; give the final state, of which a finished run has nothing to add.

    `run` is None in all processes but the first, which alone needs the folder: others may be on another machine.
    """
    ranks = Ranks(recipe.output.trackers, folder.root / "trackers")
    record = Record(folder, run)
    sizes: Sizes | None = None
    try:
        with listening() as requests, noticing_losses():
            if ranks.from_first(lambda: run is not None and run.status == "finished"):
                return {}
            day = ranks.from_first(record.day)
            with on_day(day):
                model_folder, tokenizer, data = read_together(ranks, recipe)
            record.say(data_text(data))
            config, classes = read_config(model_folder / "config.json"), len(data.labels)
            dtype = pick_dtype(recipe.model.dtype, ranks.device)
            room = ranks.least(free_bytes(ranks.device, ranks.here))
            host = ranks.least(host_bytes(ranks.device, ranks.here))
            workspace = product_workspace_bytes(ranks.device)
            sizes = choose_sizes(recipe, config, dtype, ranks.count, room, classes, host, workspace)
            sizes = unpacked_as_before(sizes, ranks.from_first(record.unpacked_layers))
            head = new_head(data.labels, tokenizer, recipe.seed)
            base = load_base(recipe.model, recipe.quantization, ranks.device, model_folder, head, sharded=sizes.sharded)
            keep_unpacked(base.model, sizes.unpacked_layers)
            attached = adapt(recipe, base)
            loop = make_loop(recipe, attached, data, sizes, ranks, base)
            course = Course(loop, data, record, requests)
            identity = identify(base.folder)
            record.event("plan", loop.plan.as_json() | {"unpacked_layers": sizes.chosen_unpacked})
            if ranks.is_first:
                record.manifest(_manifest(recipe, base, identity, data, ranks, day))
                record.write_json(folder.data_report, data.report.as_json())
            _describe(record, recipe, base, attached, loop.plan, sizes, classes)
            way = way_of(recipe, config, attached.model, ranks.device, base.dtype, sizes)
            paths = [*way.findings(), *accelerators(recipe.model.attention)]
            record.say("\n".join(["fast paths:", *as_lines(paths)]))
            with reporting(loop.plan.total_steps, course.resume(), speaks=ranks.is_first) as reporter, closing(loop):
                course.run(reporter)
            commit = publish(record, recipe, attached, tokenizer, data, base_hash(identity))
            if not ranks.is_first:
                return {}
            record_memory(record, sizes.expected, ranks.device)
            result = summary(record, course, commit, sizes)
            record.finish(course.position.step)
            return result
    except torch.OutOfMemoryError as error:  # at one row a pass: a step mends what it can
        raise does_not_fit(error, sizes) from None
    finally:
        ranks.close()


def _manifest(
    recipe: Recipe, base: Base, identity: dict[str, object], data: PreparedData, ranks: Ranks, day: date
) -> Manifest:
    """Gather what the run is made of."""
    card = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else None
    return Manifest(
        recipe_hash=recipe_hash(recipe),
        seed=recipe.seed,
        model=identity,
        data={
            "fingerprint": data.fingerprint,
            "files": file_hashes(data.report.as_json()),
            ACCOUNT: data.report.account() | {DAY: day.isoformat()},
        },
        device={
            "kind": ranks.device.type,
            "card": card,
            "processes": ranks.count,
            "cuda": torch.version.cuda,
            "dtype": str(base.dtype).removeprefix("torch."),
            "folder": str(base.folder.resolve()),
        },
    )


def dry_run(recipe: Recipe, world_size: int) -> dict[str, object]:
    """Say what a run would do, from its data and its sizes; loads no weights and writes nothing."""
    model_folder, _, data = read_data(recipe, default_cache())
    device = pick_device()
    dtype = pick_dtype(recipe.model.dtype, device)
    sizes = choose_sizes(
        recipe,
        read_config(model_folder / "config.json"),
        dtype,
        world_size,
        free_bytes(device, world_size),
        len(data.labels),
        host_bytes(device, world_size),
        product_workspace_bytes(device),
    )
    plan = make_plan(
        recipe.training, len(data.train_packs), world_size, sizes.micro_batch_size, sizes.recomputed_layers
    )
    said = [data_text(data), *filter(None, [why_unsplit(recipe, world_size)]), plan_text(plan, sizes)]
    say("\n".join(said))
    estimated = {"estimated_peak_bytes": sizes.estimated_peak_bytes}
    return {"plan": plan.as_json() | estimated, "data": data.report.as_json()}


def data_text(data: PreparedData) -> str:
    """Put in words what became of the rows, and whether they were prepared this time."""
    return "\n".join([*data.remarks, data.report.as_text()])


def adapt(recipe: Recipe, base: Base) -> Attached:
    """Lay rows out flat, and put the adapter on."""
    use_flat_rows(base.model, recipe.model.attention)
    attached = attach(base.model, recipe.adapter, recipe.model.path, recipe.seed)
    take_fast_linears(attached.model)
    return attached


def make_loop(recipe: Recipe, attached: Attached, data: PreparedData, sizes: Sizes, ranks: Ranks, base: Base) -> Loop:
    """Put together what a step needs."""
    if sizes.recomputed_layers != 0:
        recompute_activations(attached.model, sizes.recomputed_layers, offloaded=sizes.offloaded)
    trained = find_trained(attached, recipe)
    plan = make_plan(
        recipe.training, len(data.train_packs), ranks.count, sizes.micro_batch_size, sizes.recomputed_layers
    )
    return Loop(
        recipe=recipe,
        plan=plan,
        model=attached.model,
        trained=trained,
        optimizer=build_optimizer(trained, recipe.training, ranks.device),
        rows=data.train,
        packs=data.train_packs,
        ranks=ranks,
        precision=precision(base),
        micro_batch_size=sizes.micro_batch_size,
        offloaded=sizes.offloaded,
        in_step=sizes.sharded,
    )


def find_trained(attached: Attached, recipe: Recipe) -> Trained:
    """Find what is trained, and lay it flat where the optimizer takes it so."""
    named = {name: p for name, p in attached.model.named_parameters() if p.requires_grad}
    flat = not isinstance(recipe.adapter, Full) and OPTIMIZERS[recipe.training.optimizer].takes_flat
    return Trained(named, flat=flat)


def precision(base: Base) -> AbstractContextManager[object]:
    """Compute in the base's 16 bits with float32 adapters, or in float32 throughout."""
    if base.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(base.device.type, dtype=base.dtype)


def _describe(
    record: Record, recipe: Recipe, base: Base, attached: Attached, plan: Plan, sizes: Sizes, classes: int
) -> None:
    """Say what is about to happen, before it does."""
    if unsplit := why_unsplit(recipe, plan.world_size):
        record.say(unsplit)
    total = attached.model_parameters
    counts = leaf_counts(attached.targets)
    targets = ", ".join(f"{leaf} x{count}" for leaf, count in counts.items()) or "every weight"
    head = f" and a head of {classes:,} classes" if classes else ""
    record.say(
        f"model: {recipe.model.path} ({total:,} parameters, {recipe.quantization.kind}, {base.dtype}, {base.device})\n"
        f"adapter: {recipe.adapter.kind} on {targets}{head}; {attached.trainable_parameters:,} trained "
        f"({percent(attached.trainable_parameters, total)})\n"
        f"{plan_text(plan, sizes)}"
    )


def plan_text(plan: Plan, sizes: Sizes) -> str:
    """Put the sizes of a run in words."""
    peak = sizes.estimated_peak_bytes
    return (
        f"plan: {plan.total_steps} steps of {plan.global_batch_size} rows ({plan.packs} rows an epoch), "
        f"{plan.micro_batch_size} a pass, warm-up {plan.warmup_steps}, "
        f"{in_words(plan.recomputed_layers, sizes.layers, offloaded=sizes.offloaded)}, "
        f"{_processes(plan.world_size, sizes.sharded)}"
        f"memory {'not estimated' if peak is None else f'about {gibibytes(peak)} of tensors'}"
    )


def _processes(count: int, sharded: bool) -> str:
    """Say how several processes hold the base; nothing of one."""
    if count == 1:
        return ""
    return f"{count} processes, {'each with a part of the base' if sharded else 'each with the whole base'}, "
