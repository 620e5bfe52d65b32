"""One decoder layer of transformers with PEFT's adapters, played on a tape: what it keeps, and its worst moment.

Each method mirrors the modelling code it stands for, temporaries and lifetimes included: RMSNorm computes in float32
and keeps that copy; PEFT brings the input of an adapter to the adapter's float32, and autocast takes it back to 16
bits once for each of q, k and v; a 4-bit product unpacks its weight in the forward and in the backward.
"""

from typing import NamedTuple
from weakref import ref

from lorafit.plan.layers import Experts, Layer, Linear, Mlp, ModelShape
from lorafit.plan.mixing import Mixing
from lorafit.plan.operations import FLOAT32, Setting
from lorafit.plan.tape import CONSTANT, Form, Tape, Tensor

# of each expert of a token: what its rows are sorted by, and back, and what only the sorting needs (int64)
CHOICE_BYTES, SORTING_BYTES = 3 * 8, 3 * 8


class LayerMemory(NamedTuple):
    """What playing one layer showed; forms are bytes per token and width."""

    forward: Form  # live at the worst moment of its forward, its input included
    backward: Form  # live at the worst moment of its backward, and of the recomputation before it
    kept: Form  # live after its forward: what its backward needs
    pinned: Form  # of that, what recomputation cannot drop
    keeps_input: bool  # of what it kept, whether its input is there, as it came
    output_bytes: int  # per hidden unit of the residual stream


def play_layer(
    layer: Layer,
    tape: Tape,
    setting: Setting,
    adapted: frozenset[str],
    *,
    input_bytes: int,
    lowest: bool,
    recomputed: bool,
    reenters: bool = False,
) -> LayerMemory:
    """Play forward and backward; `lowest` marks the layer whose input wants no gradient.

    A recomputed layer plays its forward beside the gradients that are there by then. One that `reenters` is recomputed
    to its end before any of its backward, and the frame holds the output all through that (torch's
    CheckpointFunction.backward).
    """
    tape.recomputed = recomputed
    player = _Player(tape, setting, adapted)
    first = _first_gradients(layer, tape, setting, adapted, input_bytes, reenters=reenters) if recomputed else []
    waiting = [tape.temporary(symbol, size) for symbol, size in first]
    hidden = tape.tensor("hidden", input_bytes, needs_grad=setting.full or not lowest)
    output = player.layer(layer, hidden)
    checkpoint, entrance, came = hidden if recomputed else None, hidden.edge, ref(hidden)
    del hidden
    forward, kept, edge, size = tape.peak_form(), tape.live_form(without=output), output.edge, output.bytes_each
    held, keeps_input = output if recomputed and reenters else None, came() is not None
    del output
    if recomputed:
        if not reenters:
            tape.stop_at_last_save()
        player.outlasting.clear()  # the graph of a recomputation is gone with it
    else:
        tape.begin_anew()
    del waiting
    tape.backward(edge, tape.temporary("hidden", size))
    del checkpoint, held
    pinned = player.pinned_form(entrance if recomputed else 0)
    return LayerMemory(forward, tape.peak_form(), kept, pinned, keeps_input, size)


def _first_gradients(
    layer: Layer, tape: Tape, setting: Setting, adapted: frozenset[str], input_bytes: int, *, reenters: bool
) -> list[tuple[str, int]]:
    """Symbol and bytes of the gradients that wait while the layer is recomputed."""
    once = Tape(tape.widths, tape.tokens)
    output = _Player(once, setting, adapted).layer(layer, once.tensor("hidden", input_bytes))
    if reenters:
        return [(output.symbol, output.bytes_each)]
    return once.before_recomputation(output.edge, output.symbol, output.bytes_each)


class _Player(Mixing):
    def layer(self, layer: Layer, x: Tensor) -> Tensor:
        if layer.order in ("parallel", "twin"):
            normed = self.norm(x, layer.norm)
            mixed = self.own_dropout(layer, self.attention(layer, normed))
            if layer.order == "twin":
                normed = self.norm(x, layer.norm)
            out = self.own_dropout(layer, self.mlp(layer.mlp, normed))
            return self.add(self.add(x, mixed), out)
        mixed = self.branch(layer, x, attention=True)
        x = self.add(x, mixed)
        if not layer.holds_mixed:
            del mixed
        return self.add(x, self.branch(layer, x, attention=False))

    def branch(self, layer: Layer, x: Tensor, *, attention: bool) -> Tensor:
        inner = x if layer.order == "post" else self.norm(x, layer.norm)
        out = self.own_dropout(layer, self.attention(layer, inner) if attention else self.mlp(layer.mlp, inner))
        del inner
        if layer.order != "pre":
            return self.norm(out, layer.norm)
        return self.scaled(out) if layer.scaled_branches else out

    def own_dropout(self, layer: Layer, x: Tensor) -> Tensor:
        return self.masked(x) if layer.dropout else x

    # --- MLP

    def mlp(self, mlp: Mlp, x: Tensor) -> Tensor:
        dense = [linear for linear in mlp.linears if linear.kind == "mlp"]
        if mlp.experts is None:
            return self.dense(mlp, dense, x)
        if not dense:
            return self.experts(mlp.experts, x)
        if any(linear.name.endswith("expert_gate") for linear in mlp.linears):  # Qwen: shared first, and weighed
            shared = self.dense(mlp, dense, x)
            routed = self.experts(mlp.experts, x)
            return self.add(routed, self.tape.record("hidden", shared.bytes_each, [shared], saved=[shared]))
        routed = self.experts(mlp.experts, x)
        return self.add(routed, self.dense(mlp, dense, x))

    def dense(self, mlp: Mlp, linears: list[Linear], x: Tensor) -> Tensor:
        if not mlp.gated:
            up, down = linears
            inner = self.activation(self.linear(x, up, "mlp"), "mlp", composed=mlp.composed_activation)
            return self.linear(inner, down, "hidden")
        if mlp.fused:
            both, down = self.linear(x, linears[0], "gate and up"), linears[1]
            return self.linear(self.product(self.activation(both, "mlp"), both), down, "hidden")
        gate, up, down = linears
        if self.setting.fused:
            product = self.lean_product(self.linear(x, gate, "mlp"), self.linear(x, up, "mlp"))
            return self.linear(product, down, "hidden")
        inner = self.product(self.activation(self.linear(x, gate, "mlp"), "mlp"), self.linear(x, up, "mlp"))
        return self.linear(inner, down, "hidden")

    def experts(self, experts: Experts, x: Tensor) -> Tensor:
        """The experts of each token, their load taken as even: frozen, they keep no inputs.

        transformers sorts tokens by expert; what is sorted lives on to the end of its function.
        """
        if experts.listed:
            return self.listed(experts, x)
        router = self.tape.record("router", FLOAT32, [x], saves_output=True)
        chosen = self.tape.temporary("chosen", CHOICE_BYTES)
        gathered = self.tape.record("routed", x.bytes_each, [x], saved=[chosen])
        sorting = self.tape.temporary("chosen", SORTING_BYTES)
        values = experts.count * experts.width * self.tape.widths["hidden"]
        both = self.stacked(gathered, "expert gate and up", 2 * values)
        inner = self.product(self.activation(both, "expert"), both)
        out = self.stacked(inner, "routed", values)
        del inner
        wide = experts.float32_shares and not (experts.sigmoid_shares and self.setting.autocast)
        size = max(out.bytes_each, FLOAT32 if wide else 0)
        weighted = self.tape.record("routed", size, [out, router], saved=[out], scratch=self.shares_scratch(out, size))
        # back in the order of tokens: the gradient is put into zeros, beside which it is made
        weighted = self.tape.record("routed", size, [weighted], scratch=[("routed", size)], saves_weight=True)
        del gathered, both, sorting
        summed = self.tape.record("hidden", size, [weighted], passes_on=experts.per_token == 1)
        return self.cast(summed, x.bytes_each)

    def shares_scratch(self, out: Tensor, size: int) -> list[tuple[str, int]]:
        """What the backward of a product with each token's shares makes: one product is summed up, one may be cast.

        By the cast, what was recomputed is gone.
        """
        if size == out.bytes_each:
            return [("routed", size)]
        return [("routed", 2 * size - (out.bytes_each if self.tape.recomputed else 0))]

    def listed(self, experts: Experts, x: Tensor) -> Tensor:
        """One expert after another over its share of the tokens; what it gives is added to a sum that keeps it."""
        room = self.tape.temporary("hidden", x.bytes_each)
        added = []
        for gate, up, down in experts.listed:
            state = self.tape.record("routed to one", x.bytes_each, [x])
            active = self.activation(self.linear(state, gate, "expert of one"), "expert of one")
            inner = self.product(active, self.linear(state, up, "expert of one"))
            del active, state
            out = self.linear(inner, down, "routed to one")
            del inner
            weighted = self.tape.record("routed to one", out.bytes_each, [out], saved=[out])
            del out
            added.append(self.tape.record(CONSTANT, 0, [weighted], saved=[weighted]))
            del weighted
        del room
        return self.tape.record("hidden", x.bytes_each, added, passes_on=True)

    def stacked(self, x: Tensor, symbol: str, values: int) -> Tensor:
        """A product of each expert's tokens with its matrix, in the dtype of that: autocast does not know it."""
        if not self.setting.full:
            return self.tape.record(symbol, self.size, [self.cast(x, self.size)], saves_weight=True)
        size = FLOAT32 if self.setting.copies else self.size
        narrow = self.cast(x, size)
        weight = self.weight_gradient(values, size)
        return self.tape.record(symbol, size, [narrow], saved=[narrow], trains=True, weight=weight)


def widths(shape: ModelShape, layer: Layer, rank: int, row_tokens: int) -> dict[str, int]:
    """Give the numbers per token behind each symbol of a layer; `row_tokens` is the longest document."""
    attention, mlp = layer.attention, layer.mlp
    found = {
        "hidden": shape.hidden_size,
        "rank": rank,
        "heads": attention.heads,
        "key heads": attention.heads * attention.key_width // attention.query_width,
        "norm": 1,
        "query": attention.query_width,
        "query and gate": 2 * attention.query_width,
        "key": attention.key_width,
        "value": attention.value_width,
        "query, key, value": attention.query_width + attention.key_width + attention.value_width,
        "scores": attention.heads * row_tokens,
        "row": row_tokens,
        "mlp": mlp.width,
        "gate and up": 2 * mlp.width,
    }
    if attention.turned_width:
        share = attention.turned_width * attention.heads / attention.query_width
        for symbol in ("query", "key"):
            found[f"turned {symbol}"] = round(found[symbol] * share)
            found[f"rest of {symbol}"] = found[symbol] - found[f"turned {symbol}"]
    found["turned"] = attention.rotary_width
    if attention.kind == "latent":
        found["key latent"], found["key and value"] = (linear.out_features for linear in attention.inward[-2:])
        found["latent"] = attention.inward[-1].in_features
        found["query latent"] = attention.inward[0].out_features
        found["key part"] = found["key and value"] - attention.value_width
    if attention.kind == "gated_delta":
        found |= {linear.name: linear.out_features for linear in attention.inward}
    if mlp.experts:
        active = mlp.experts.per_token
        found |= {"expert": active * mlp.experts.width, "expert gate and up": 2 * active * mlp.experts.width}
        found["routed"] = active * shape.hidden_size
        found["router"], found["chosen"] = mlp.experts.count, active
        share = active / mlp.experts.count
        found["routed to one"] = round(share * shape.hidden_size)
        found["expert of one"] = round(share * mlp.experts.width)
    return found
