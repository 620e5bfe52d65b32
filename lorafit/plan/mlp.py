"""The MLP blocks of transformers' decoders: gated, plain, and mixtures of experts."""

from typing import NamedTuple

from lorafit.plan.attention import Bias, has_bias
from lorafit.plan.config_keys import ConfigKeys
from lorafit.plan.layers import Experts, Linear, Mlp


def _gated_linears(module: str, hidden: int, width: int, bias: bool = False) -> tuple[Linear, ...]:
    return (
        Linear(f"{module}.gate_proj", hidden, width, bias),
        Linear(f"{module}.up_proj", hidden, width, bias),
        Linear(f"{module}.down_proj", width, hidden, bias),
    )


def gated(keys: ConfigKeys, *, bias: Bias = False, module: str = "mlp", width: str = "intermediate_size") -> Mlp:
    """down(act(gate x) * up x)."""
    inner = keys.integer(width)
    return Mlp(_gated_linears(module, keys.integer("hidden_size"), inner, has_bias(keys, bias)), inner)


def gated_fused(keys: ConfigKeys) -> Mlp:
    """The same with gate and up in one projection."""
    hidden, inner = keys.integer("hidden_size"), keys.integer("intermediate_size")
    linears = (Linear("mlp.gate_up_proj", hidden, 2 * inner), Linear("mlp.down_proj", inner, hidden))
    return Mlp(linears, inner, fused=True)


def plain(keys: ConfigKeys, *, up: str, down: str, bias: Bias, widths: tuple[str, ...], composed: bool = False) -> Mlp:
    """down(act(up x)); the width is four hidden sizes where config.json does not give it."""
    hidden = keys.integer("hidden_size", "n_embd")
    inner = keys.integer(*widths, default=4 * hidden)
    biased = has_bias(keys, bias)
    return Mlp(
        (Linear(f"mlp.{up}", hidden, inner, biased), Linear(f"mlp.{down}", inner, hidden, biased)),
        inner,
        gated=False,
        composed_activation=composed,
    )


def halves(keys: ConfigKeys) -> Mlp:
    """Qwen (the first): the width in config.json is that of both halves together."""
    hidden, inner = keys.integer("hidden_size"), keys.integer("intermediate_size") // 2
    linears = (Linear("mlp.w1", hidden, inner), Linear("mlp.w2", hidden, inner), Linear("mlp.c_proj", inner, hidden))
    return Mlp(linears, inner)


class SharedExpert(NamedTuple):
    """An expert every token passes: an ordinary gated MLP beside the routed ones."""

    name: str
    width: str  # key of config.json
    times: str | None = None  # key of a factor
    gate: bool = False  # a linear of one output scales it


def experts(
    keys: ConfigKeys,
    *,
    count: tuple[str, ...],
    width: str = "moe_intermediate_size",
    module: str = "mlp",
    shared: SharedExpert | None = None,
    router: str | None = None,
    biased: bool = False,
    float32_shares: bool = False,
    sigmoid_shares: bool = False,
) -> Mlp:
    """Routed experts as stacked matrices; `router` names the router where it is a linear (else a bare matrix)."""
    hidden, inner, number = keys.integer("hidden_size"), keys.integer(width), keys.integer(*count)
    linears = (Linear(f"{module}.{router}", hidden, number, kind="router"),) if router else ()
    shared_linears, shared_width = _shared(keys, module, shared, hidden)
    bias_values = number * (2 * inner + hidden) if biased else 0
    return Mlp(
        linears=linears + shared_linears,
        width=shared_width,
        experts=Experts(
            count=number,
            per_token=keys.integer("num_experts_per_tok", "num_experts_per_token", default=1),
            width=inner,
            parameters=number * 3 * hidden * inner + bias_values,
            float32_shares=float32_shares,
            sigmoid_shares=sigmoid_shares,
        ),
        other_parameters=(0 if router else hidden * number) + (number if biased else 0),
    )


def _shared(keys: ConfigKeys, module: str, shared: SharedExpert | None, hidden: int) -> tuple[tuple[Linear, ...], int]:
    if shared is None:
        return (), 0
    width = keys.integer(shared.width) * (keys.integer(shared.times) if shared.times else 1)
    linears = _gated_linears(f"{module}.{shared.name}", hidden, width)
    gate = (Linear(f"{module}.{shared.name}_gate", hidden, 1, kind="router"),) if shared.gate else ()
    return linears + gate, width
