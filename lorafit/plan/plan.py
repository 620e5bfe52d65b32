"""What will happen: the sizes that follow from the recipe, the data and the machine."""

import math
from typing import NamedTuple

from lorafit.plan.schedule import warmup_steps
from lorafit.recipe.schema import TrainingSpec


class Plan(NamedTuple):
    """The resolved sizes of a run. A pack is one row of the global batch: several short documents, or one."""

    packs: int  # in one epoch
    total_packs: int  # over the run
    global_batch_size: int
    total_steps: int
    warmup_steps: int
    micro_batch_size: int
    world_size: int
    gradient_checkpointing: bool  # of any layer
    recomputed_layers: int | None  # how many, from the first on; None: all of them, as many as there may be

    @property
    def micro_batches(self) -> int:
        """Forward passes of a process in one step."""
        return math.ceil(math.ceil(self.global_batch_size / self.world_size) / self.micro_batch_size)

    def as_json(self) -> dict[str, object]:
        """Give the sizes for the run's record."""
        return self._asdict() | {"micro_batches": self.micro_batches}


def make_plan(
    training: TrainingSpec, packs: int, world_size: int, micro_batch_size: int, recomputed_layers: int | None
) -> Plan:
    """Resolve the length of the run. The last step may be smaller; no pack is seen less than the others."""
    batch = training.global_batch_size
    total = training.max_steps * batch if training.max_steps else max(1, round((training.epochs or 1) * packs))
    steps = math.ceil(total / batch)
    return Plan(
        packs=packs,
        total_packs=total,
        global_batch_size=batch,
        total_steps=steps,
        warmup_steps=warmup_steps(training, steps),
        micro_batch_size=micro_batch_size,
        world_size=world_size,
        gradient_checkpointing=recomputed_layers != 0,
        recomputed_layers=recomputed_layers,
    )
