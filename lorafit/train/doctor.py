"""`lorafit doctor`: the machine, and the way that a recipe would take on it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from lorafit.errors import LorafitError, MachineError
from lorafit.model.quiet import quiet_libraries
from lorafit.recipe.load import LoadedRecipe
from lorafit.recipe.optimizers import OPTIMIZERS
from lorafit.recipe.quantization import Unquantized
from lorafit.recipe.schema import Recipe
from lorafit.report.finding import Finding, as_lines
from lorafit.report.machine import examine

TITLES = {
    "software": "Software", "device": "Devices", "host": "Host", "processes": "Several processes",
    "accelerators": "Optional accelerators", "hub": "Hugging Face hub", "path": "This recipe",
}  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in order."""

    findings: Sequence[Finding]

    @property
    def exit_code(self) -> int:
        """0, or that of an environment which a run would fail on."""
        return MachineError.exit_code if any(f.status == "broken" for f in self.findings) else 0

    def as_json(self) -> dict[str, object]:
        """Give the findings for a program."""
        return {"healthy": self.exit_code == 0, "findings": [finding.as_json() for finding in self.findings]}

    def as_text(self) -> str:
        """Give the findings for a person, by part; what is broken once more at the end."""
        lines: list[str] = []
        for part, group in groupby(self.findings, key=lambda finding: finding.part):
            lines += [f"{TITLES[part]}:", *as_lines(group)]
        broken = [f"  {f.name}: {f.what}" for f in self.findings if f.status == "broken"]
        return "\n".join([*lines, *(["Broken:", *broken] if broken else ["Nothing that is needed is broken."])])


def diagnose(loaded: LoadedRecipe | None, ask_hub: bool = False) -> Diagnosis:
    """Look at the machine, and at a recipe's way on it; nothing is loaded or fetched for it."""
    with suppress(Exception):  # a library that is broken is found below
        quiet_libraries()
    found = examine(ask_hub)
    if loaded is None:
        return Diagnosis(found)
    found = [_needed(finding, loaded.recipe) for finding in found]
    if any(f.status == "broken" and f.name in ("torch", "transformers", "peft") for f in found):
        return Diagnosis(found)
    return Diagnosis([*found, *_way(loaded.recipe)])


def _needed(finding: Finding, recipe: Recipe) -> Finding:
    """What a recipe cannot do without is broken where it is off."""
    kind = OPTIMIZERS[recipe.training.optimizer]
    bits = not isinstance(recipe.quantization, Unquantized) or kind.bits == 8 or kind.paged
    flash = recipe.model.attention == "flash_attention_2"
    needs = {"bitsandbytes": bits, "flash-attn": flash}
    if finding.status == "off" and needs.get(finding.name):
        return Finding(finding.part, finding.name, "broken", f"{finding.what} (the recipe needs it)", finding.fix)
    return finding


def _way(recipe: Recipe) -> list[Finding]:
    """Foresee the paths; an error of the recipe's model or machine is a finding like others."""
    from lorafit.data.class_count import count_classes
    from lorafit.model.load import pick_device, pick_dtype
    from lorafit.model.memory import free_bytes, host_bytes, product_workspace_bytes
    from lorafit.plan.base_config import refuse_stored_quantised
    from lorafit.plan.find_shape import find_shape
    from lorafit.train.paths import way_by_shape
    from lorafit.train.sizes import choose_sizes

    try:
        device = pick_device()
        dtype = pick_dtype(recipe.model.dtype, device)
        config = find_shape(recipe.model.path, recipe.model.revision).config
        refuse_stored_quantised(config, "model.path")
        classes = count_classes(recipe)
        workspace = product_workspace_bytes(device)
        sizes = choose_sizes(recipe, config, dtype, 1, free_bytes(device, 1), classes, host_bytes(device, 1), workspace)
    except MachineError as error:
        return [Finding("path", f.where or "machine", "broken", f.what, f.fix) for f in error.faults]
    except LorafitError as error:  # no shape, no data: not the machine's fault, and other commands say more
        return [Finding("path", f.where or "recipe", "off", f.what, f.fix) for f in error.faults]
    rows = f"{sizes.micro_batch_size} rows of {recipe.data.max_length} tokens a pass, by the memory that is free now"
    return [
        Finding("path", "sizes", "ok", rows),
        *way_by_shape(recipe, config, device, dtype, sizes, classes).findings(),
    ]
