"""A shape off transformers' own class, which takes seconds to load, for whoever may not need it."""

from collections.abc import Mapping

from lorafit.model.quiet import quiet_libraries
from lorafit.plan.layers import ModelShape


def read_shape(config: Mapping[str, object], name: str) -> ModelShape:
    """Load transformers, and give the `class_shape` of a config.json. ModelError."""
    quiet_libraries()
    from lorafit.model.class_shape import class_shape

    return class_shape(config, name)
