"""One decoder layer of transformers with PEFT's adapters, played on a tape: what it keeps, and its worst moment.

Each method mirrors the modelling code it stands for, temporaries and lifetimes included: RMSNorm computes in float32
and keeps that copy; PEFT brings the input of an adapter to the adapter's float32, and autocast takes it back to 16
bits once for each of q, k and v; a 4-bit product unpacks its weight in the forward and in the backward.
"""

from dataclasses import dataclass
from functools import partial

from lorafit.plan.layers import Attention, Experts, Layer, Linear, Mlp, ModelShape, NormKind
from lorafit.plan.operations import FLOAT32, Operations, Setting
from lorafit.plan.tape import CONSTANT, Form, Tape, Tensor


@dataclass(frozen=True)
class LayerMemory:
    """What playing one layer showed; forms are bytes per token and width."""

    forward: Form  # live at the worst moment of its forward, its input included
    backward: Form  # live at the worst moment of its backward, and of the recomputation before it
    kept: Form  # live after its forward: what its backward needs
    pinned: Form  # of that, what recomputation cannot drop
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
) -> LayerMemory:
    """Play forward and backward; `lowest` marks the layer whose input wants no gradient.

    A recomputed layer plays its forward beside the gradients that are there by then.
    """
    player = _Player(tape, setting, adapted)
    first = _first_gradients(layer, tape, setting, adapted, input_bytes) if recomputed else []
    waiting = [tape.temporary(symbol, size) for symbol, size in first]
    hidden = tape.tensor("hidden", input_bytes, needs_grad=setting.full or not lowest)
    output = player.layer(layer, hidden)
    checkpoint = hidden if recomputed else None
    del hidden
    forward, kept, edge, size = tape.peak_form(), tape.live_form(without=output), output.edge, output.bytes_each
    del output
    if recomputed:
        tape.stop_at_last_save()
    else:
        tape.begin_anew()
    del waiting
    tape.backward(edge, tape.temporary("hidden", size))
    del checkpoint
    return LayerMemory(forward, tape.peak_form(), kept, player.pinned_form(), size)


def _first_gradients(
    layer: Layer, tape: Tape, setting: Setting, adapted: frozenset[str], input_bytes: int
) -> list[tuple[str, int]]:
    """Symbol and bytes of the gradients that wait while the layer is recomputed."""
    once = Tape(tape.widths, tape.tokens)
    output = _Player(once, setting, adapted).layer(layer, once.tensor("hidden", input_bytes))
    return once.before_recomputation(output.edge, output.symbol, output.bytes_each)


class _Player(Operations):
    def layer(self, layer: Layer, x: Tensor) -> Tensor:
        if layer.order in ("parallel", "twin"):
            normed = self.norm(x, layer.norm)
            mixed = self.own_dropout(layer, self.attention(layer, normed))
            if layer.order == "twin":
                normed = self.norm(x, layer.norm)
            out = self.own_dropout(layer, self.mlp(layer.mlp, normed))
            return self.add(self.add(x, mixed), out)
        x = self.add(x, self.branch(layer, x, attention=True))
        return self.add(x, self.branch(layer, x, attention=False))

    def branch(self, layer: Layer, x: Tensor, *, attention: bool) -> Tensor:
        inner = x if layer.order == "post" else self.norm(x, layer.norm)
        out = self.own_dropout(layer, self.attention(layer, inner) if attention else self.mlp(layer.mlp, inner))
        del inner
        if layer.order != "pre":
            return self.norm(out, layer.norm)
        return self.scaled(out) if layer.scaled_branches else out

    # --- attention

    def own_dropout(self, layer: Layer, x: Tensor) -> Tensor:
        return self.masked(x) if layer.dropout else x

    def attention(self, layer: Layer, x: Tensor) -> Tensor:
        attention = layer.attention
        if attention.kind == "gated_delta":
            return self.gated_delta(attention, x)
        query, key, value = self.projected(attention, x, layer.norm)
        mixed = self.mixed(attention, query, key, value)
        if self.gated_query(attention):
            mixed = self.product(mixed, self.activation(query, "query"))
        return self.linear(mixed, attention.output, "hidden")

    def projected(self, attention: Attention, x: Tensor, norm: NormKind) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys with their positions, and values."""
        if attention.kind == "latent":
            return self.latent(attention, x, norm)
        if attention.fused:
            both = self.linear(x, attention.inward[0], "query, key, value")
            parts = ("query", "key", "key")
            query, key, value = (self.tape.view(both, part, padded=attention.sliced) for part in parts)
            del both
            return self.turned(attention, query, "query"), self.turned(attention, key, "key"), value
        query_proj, key_proj, value_proj = attention.inward
        query = self.linear(x, query_proj, "query and gate" if self.gated_query(attention) else "query")
        key, value = self.linear(x, key_proj, "key"), self.linear(x, value_proj, "key")
        if attention.qk_norm:
            query, key = self.norm(query, norm), self.norm(key, norm)
        return self.turned(attention, query, "query"), self.turned(attention, key, "key"), value

    def turned(self, attention: Attention, x: Tensor, symbol: str) -> Tensor:
        return self.rotated(x, symbol) if attention.turned else x

    def gated_query(self, attention: Attention) -> bool:
        return not attention.fused and attention.inward[0].out_features == 2 * attention.query_width

    def latent(self, attention: Attention, x: Tensor, norm: NormKind) -> tuple[Tensor, Tensor, Tensor]:
        *query_projs, narrow_proj, wide_proj = attention.inward
        query = self.linear(x, query_projs[0], "query" if len(query_projs) == 1 else "query latent")
        if len(query_projs) > 1:
            query = self.linear(self.norm(query, norm), query_projs[1], "query")
        narrow = self.norm(self.linear(x, narrow_proj, "key latent"), norm)
        both = self.linear(narrow, wide_proj, "key and value")
        return self.rotated(query, "query"), self.rotated(both, "query"), both

    def rotated(self, x: Tensor, symbol: str) -> Tensor:
        """x cos + rotate_half(x) sin."""
        meanwhile = self.tape.temporary(symbol, 2 * x.bytes_each)
        out = self.tape.record(symbol, x.bytes_each, [x], scratch=[(symbol, x.bytes_each)], saves_weight=True)
        del meanwhile
        return out

    def flash(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Fused attention on keys and values repeated to all heads: keeps its inputs, output and log-sums."""
        scratch = [("query", FLOAT32), ("heads", FLOAT32)]
        keys, values = key, value
        if key.symbol == "key" and self.tape.widths["key"] < self.tape.widths["query"]:
            if self.setting.groups:  # the gradients of keys and values are made per head of the queries, then added up
                scratch.append(("query", 2 * self.size))
            else:
                keys, values = self.repeated(key), self.repeated(value)
        sums = self.tape.temporary("heads", FLOAT32)
        return self.tape.record(
            "query", self.size, [query, keys, values], [query, keys, values, sums], scratch, saves_output=True
        )

    def repeated(self, x: Tensor) -> Tensor:
        """One copy per query head."""
        return self.tape.record("query", x.bytes_each, [x])

    def mixed(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Values mixed by attention: by a kernel for all documents, or document by document."""
        query, key, value = (self.cast(x, self.size) for x in (query, key, value))
        explicit = self.setting.explicit_attention or attention.scores != "plain"
        if not explicit and self.size != FLOAT32 and attention.kind != "latent" and not attention.dropout:
            mixed = self.flash(query, key, value)
            return self.tape.record("query", self.size, [mixed]) if attention.joined else mixed
        attend = partial(self.explicit, attention) if explicit else partial(self.efficient, attention)
        parts = [attend(*self.document_of(query, key, value)) for _ in range(self.setting.documents)]
        symbol = "value" if attention.kind == "latent" else "query"
        joined = self.tape.record(symbol, self.size, parts, passes_on=True)
        del parts
        return self.tape.record(symbol, self.size, [joined])

    def document(self, width: int) -> int:
        """Values of a document at so many a token."""
        return width * self.tape.tokens // self.setting.documents

    def document_of(self, *tensors: Tensor) -> list[Tensor]:
        """Cut a document out."""
        return [self.tape.view(x, CONSTANT, self.document(self.tape.widths[x.symbol]) * self.size) for x in tensors]

    def document_heads(self, attention: Attention, x: Tensor) -> Tensor:
        """Keys or values of a document, repeated to all heads where heads share them."""
        every = self.document(attention.query_width) * self.size
        shared = attention.kind != "latent" and x.bytes_each < every
        return self.tape.record(CONSTANT, every, [x]) if shared else x

    def efficient(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One document's kernel, FlashAttention or the memory-efficient one: keeps inputs, output and log-sums."""
        keys, values = self.document_heads(attention, key), self.document_heads(attention, value)
        sums = self.document(attention.heads) * FLOAT32
        flash = self.size != FLOAT32 and attention.kind != "latent"  # FlashAttention adds gradients up in float32
        scratch = sums + (self.document(attention.query_width) * FLOAT32 if flash else 0)
        kept = self.tape.temporary(CONSTANT, sums)
        out = self.document(attention.output.in_features) * self.size
        inputs = [query, keys, values]
        return self.tape.record(CONSTANT, out, inputs, [*inputs, kept], [(CONSTANT, scratch)], saves_output=True)

    def explicit(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every score written out: products, cap, float32 mask and softmax, 16-bit shares."""
        keys, values = self.document_heads(attention, key), self.document_heads(attention, value)
        count = self.document(self.tape.widths["scores"])
        raw = self.tape.record(CONSTANT, count * self.size, [query, keys], saved=[query, keys])
        scores = self.tape.record(CONSTANT, count * self.size, [raw])
        del raw
        if attention.scores == "capped":
            divided = self.tape.record(CONSTANT, count * self.size, [scores])
            capped = self.tape.record(CONSTANT, count * self.size, [divided], saves_output=True)
            del divided
            scores = self.tape.record(CONSTANT, count * self.size, [capped])
            del capped
        shares, masked = self.shares(attention, scores, count)
        del scores
        out = self.document(attention.output.in_features) * self.size
        mixed = self.tape.record(CONSTANT, out, [shares, values], saved=[shares, values])
        del masked
        return mixed

    def shares(self, attention: Attention, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Softmax of masked float32 scores in 16 bits; and those scores, which stay as long as the frame."""
        visible = self.tape.temporary(CONSTANT, count // attention.heads)
        hidden = self.tape.temporary(CONSTANT, count // attention.heads)
        wide = scores if self.size == FLOAT32 else self.tape.record(CONSTANT, count * FLOAT32, [scores])
        masked = self.tape.record(CONSTANT, count * FLOAT32, [wide], saved=[hidden])
        del wide, hidden
        if attention.scores == "sinks":  # a column for the sinks
            masked = self.tape.record(CONSTANT, count * FLOAT32, [masked], passes_on=True)
        scratch = [(CONSTANT, count * FLOAT32)]
        shares = self.tape.record(CONSTANT, count * FLOAT32, [masked], scratch=scratch, saves_output=True)
        if self.size != FLOAT32:
            shares = self.tape.record(CONSTANT, count * self.size, [shares])
        del visible
        return shares, masked

    def gated_delta(self, attention: Attention, x: Tensor) -> Tensor:
        """Linear attention, roughly: what its projections and a fused kernel keep."""
        parts = [self.linear(x, linear, linear.name) for linear in attention.inward]
        mixed = self.activation(parts[0], parts[0].symbol)
        out = self.tape.record("value", self.size, [mixed, *parts[1:]], saved=[mixed, *parts], saves_output=True)
        return self.linear(self.product(self.norm(out, "rms"), out), attention.output, "hidden")

    # --- MLP

    def mlp(self, mlp: Mlp, x: Tensor) -> Tensor:
        dense = [linear for linear in mlp.linears if linear.kind == "mlp"]
        out = self.dense(mlp, dense, x) if dense else None
        if mlp.experts is None:
            assert out is not None
            return out
        routed = self.experts(mlp.experts, x)
        return routed if out is None else self.add(routed, out)

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
        """The experts of each token, their load taken as even: frozen, they keep no inputs."""
        gathered = self.tape.record("routed", self.size, [x])
        both = self.stacked(gathered, "expert gate and up", experts.parameters * 2 // 3)
        del gathered
        inner = self.product(self.activation(both, "expert"), both)
        out = self.stacked(inner, "routed", experts.parameters // 3)
        weighted = self.tape.record("routed", self.size, [out], saved=[out])
        del out
        return self.tape.record("hidden", x.bytes_each, [weighted])

    def stacked(self, x: Tensor, symbol: str, values: int) -> Tensor:
        if self.setting.full:
            return self.trained_product(x, symbol, values)
        return self.tape.record(symbol, self.size, [x])


def widths(shape: ModelShape, layer: Layer, rank: int, row_tokens: int) -> dict[str, int]:
    """Give the numbers per token behind each symbol of a layer; `row_tokens` is the longest document."""
    attention, mlp = layer.attention, layer.mlp
    found = {
        "hidden": shape.hidden_size,
        "rank": rank,
        "heads": attention.heads,
        "query": attention.query_width,
        "query and gate": 2 * attention.query_width,
        "key": attention.key_width,
        "value": attention.value_width,
        "query, key, value": attention.query_width + attention.key_width + attention.value_width,
        "scores": attention.heads * row_tokens,
        "mlp": mlp.width,
        "gate and up": 2 * mlp.width,
    }
    if attention.kind == "latent":
        found["key latent"], found["key and value"] = (linear.out_features for linear in attention.inward[-2:])
        found["query latent"] = attention.inward[0].out_features
    if attention.kind == "gated_delta":
        found |= {linear.name: linear.out_features for linear in attention.inward}
    if mlp.experts:
        active = mlp.experts.per_token
        found |= {"expert": active * mlp.experts.width, "expert gate and up": 2 * active * mlp.experts.width}
        found["routed"] = active * shape.hidden_size
    return found
