"""Commands of the plan that are not there yet: each says so."""

from collections.abc import Callable

import typer

from lorafit import __version__
from lorafit.errors import RecipeError

NOT_BUILT = {
    "init": "writing a recipe that fits",
    "inspect": "saying what an adapter did",
    "compose": "making one adapter from several",
}


def refuse_what_is_not_built(app: typer.Typer) -> None:
    """Answer these names with what they will do, and RecipeError."""
    for name in NOT_BUILT:
        app.command(
            name,
            hidden=True,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )(_refusal(name))


def _refusal(name: str) -> Callable[[], None]:
    def refuse() -> None:
        raise RecipeError(
            f"`lorafit {name}` ({NOT_BUILT[name]}) is not part of version {__version__} yet",
            fix="lorafit --help lists what is",
            code="E2-NOT-BUILT",
        )

    return refuse
