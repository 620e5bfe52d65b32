"""What a decoder is made of: its layers, their linears and sizes, as numbers without weights."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

LinearKind = Literal["attention", "mlp", "router", "expert"]
# `wide` applies its scale in float32; `centred` is a LayerNorm written out
NormKind = Literal["rms", "wide", "layer", "centred"]
# where norms sit; attention and MLP side by side share one (`parallel`) or have one each (`twin`)
NormOrder = Literal["pre", "post", "sandwich", "parallel", "twin"]


class Linear(NamedTuple):
    """One linear layer under its dotted name in transformers; a router picks experts and never gets an adapter."""

    name: str
    in_features: int
    out_features: int
    bias: bool = False
    kind: LinearKind = "mlp"

    @property
    def weights(self) -> int:
        """Values of the matrix, which is what quantisation packs."""
        return self.in_features * self.out_features

    @property
    def biases(self) -> int:
        """Values of the bias, which no quantisation touches."""
        return self.out_features if self.bias else 0


class Attention(NamedTuple):
    """The part of a layer that mixes tokens; widths are numbers per token."""

    linears: tuple[Linear, ...]
    heads: int
    query_width: int
    key_width: int
    value_width: int
    kind: Literal["softmax", "latent", "gated_delta"] = "softmax"
    fused: bool = False  # queries, keys and values come out of one projection
    sliced: bool = False  # which is cut by slices, whose gradients are as wide as the whole
    qk_norm: bool = False
    normed_heads: bool = False  # each head by itself
    scores: Literal["plain", "capped", "sinks"] = "plain"  # what no fused kernel has: soft caps, a sink a head
    joined: bool = False  # turned and other parts are joined anew, in a layout that the way out has to copy
    turned_width: int = 0  # numbers of a head that turn, which are joined with the others anew; 0: all turn
    own_positions: bool = False  # spreads the sines and cosines anew, and keeps them
    turned: bool = True  # by positions, so that queries and keys are no parts of what was projected
    dropout: bool = False  # of the scores, which only some kernels have
    narrow_softmax: bool = False  # of written-out scores in their own dtype, where others take float32
    other_parameters: int = 0  # norms of queries and keys, sinks, convolutions
    output_index: int = -1  # which of the linears is the way out

    @property
    def output(self) -> Linear:
        """The projection back to the residual stream."""
        return self.linears[self.output_index]

    @property
    def rotary_width(self) -> int:
        """Numbers a token in a table of positions: a head's width, or the part of it that turns."""
        if self.kind != "latent":
            return self.turned_width or self.query_width // self.heads
        narrow, wide = self.inward[-2:]
        return narrow.out_features - wide.in_features

    @property
    def inward(self) -> list[Linear]:
        """The projections that read the residual stream, in order."""
        return [linear for linear in self.linears if linear is not self.output]


@dataclass(frozen=True)
class Experts:
    """Experts that transformers keeps as stacked matrices: no nn.Linear, so neither adapted nor quantised.

    Before version 5 many families kept a list of them, gate, up and down each, which are linears like others.
    """

    count: int
    per_token: int
    width: int
    parameters: int  # in stacked matrices
    listed: tuple[tuple[Linear, Linear, Linear], ...] = ()
    float32_shares: bool = False  # the router's shares stay in float32, and so does what they are multiplied with
    sigmoid_shares: bool = False  # but where autocast has them in 16 bits: it brings a softmax to float32, no sigmoid


class Mlp(NamedTuple):
    """The part of a layer that works on each token alone; `width` counts the linears, experts come on top."""

    linears: tuple[Linear, ...]
    width: int
    gated: bool = True
    fused: bool = False  # gate and up come out of one projection
    experts: Experts | None = None
    other_parameters: int = 0  # matrices of routers that are no nn.Linear
    composed_activation: bool = False  # gelu_new: written out in Python, with all its steps kept


class Layer(NamedTuple):
    """One decoder layer."""

    attention: Attention
    mlp: Mlp
    norm: NormKind = "rms"
    order: NormOrder = "pre"
    norm_parameters: int = 0
    holds_mixed: bool = False  # its frame holds what attention gave
    scaled_branches: bool = False  # a factor on what attention and MLP add
    dropout: bool = False  # the model's own, on what attention and MLP add

    @property
    def linears(self) -> tuple[Linear, ...]:
        """All linears of the layer, with names relative to it."""
        return self.attention.linears + self.mlp.linears

    @property
    def expert_parameters(self) -> int:
        """Values in stacked expert matrices."""
        return self.mlp.experts.parameters if self.mlp.experts else 0

    @property
    def other_parameters(self) -> int:
        """Norms, biases, routers: whatever is neither a linear's matrix nor an expert's."""
        biases = sum(linear.biases for linear in self.linears)
        return self.norm_parameters + self.attention.other_parameters + self.mlp.other_parameters + biases

    @property
    def parameters(self) -> int:
        """All values of the layer."""
        return sum(linear.weights for linear in self.linears) + self.expert_parameters + self.other_parameters


class Matched(NamedTuple):
    """The linears that carry an adapter: all of them, how many of each size, and their names within each layer."""

    linears: list[Linear]
    sizes: Counter[tuple[int, int]]
    of_layers: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class ModelShape:
    """A causal language model by its sizes; `layers` holds one entry per layer, equal ones being one object."""

    name: str
    model_type: str
    hidden_size: int
    vocab_size: int
    tied: bool  # one matrix serves as embedding and as head
    layers: tuple[Layer, ...]
    prefix: str = "model.layers"
    outer_parameters: int = 0  # final norm, learned positions, bias of the head
    position_parameters: int = 0  # of those, the learned positions
    head_biases: int = 0  # and the bias of the head
    capped_logits: bool = False  # tanh over the logits keeps a copy of them
    scaled_embeddings: bool = False  # times a number, outside the embedding itself
    dropped_embeddings: bool = False  # the model's own dropout behind the embedding
    scaled_logits: bool = False  # the logits are the head's times a number
    narrow_loss_before: tuple[int, ...] | None = None  # version of transformers up to which the loss took 16 bits
    position_tables: int = 1  # pairs of sines and cosines; none where positions are learned
    wide_positions: bool = False  # which stay in float32
    windows: tuple[int | None, ...] = ()  # of each layer: how many tokens it sees; None or nothing here: all
    mask_bytes: int = 0  # of a causal mask for all positions that lies beside the weights
    notes: tuple[str, ...] = ()
    read_off: bool = False  # of transformers' class: what its layers keep only a trace tells

    @property
    def changed_embeddings(self) -> bool:
        """The layers begin with something else than the embedding gave: scaled, with learned positions, dropped."""
        return self.scaled_embeddings or self.dropped_embeddings or self.position_tables == 0

    @property
    def explicit_attention(self) -> bool:
        """Some layer has no fused kernel: every score is written out."""
        return any(layer.attention.scores != "plain" for layer in self.layers)

    @property
    def embedding_parameters(self) -> int:
        """Embedding and head; a tied matrix counts once."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @cached_property
    def linear_sizes(self) -> Counter[tuple[int, int]]:
        """How many linears of the layers there are of each size (in, out)."""
        return _sizes(self._linears)

    @cached_property
    def matches(self) -> dict[tuple[str, str | None], Matched]:
        """What target modules match, by these: filled by whoever asks."""
        return {}

    def matched(self, names: Collection[str]) -> Matched:
        """Look up linears by their full names."""
        linears = [linear for linear in self._linears if linear.name in names]
        prefixes = [f"{self.prefix}.{index}." for index in range(len(self.layers))]
        of_layers = tuple(
            frozenset(linear.name for linear in layer.linears if prefix + linear.name in names)
            for prefix, layer in zip(prefixes, self.layers, strict=True)
        )
        return Matched(linears, _sizes(linears), of_layers)

    @property
    def linear_parameters(self) -> int:
        """Matrix values of all linears inside the layers."""
        return sum(d_in * d_out * count for (d_in, d_out), count in self.linear_sizes.items())

    @cached_property
    def expert_parameters(self) -> int:
        """Values in stacked expert matrices, which this stack neither adapts nor quantises."""
        return sum(layer.expert_parameters for layer in self.layers)

    @cached_property
    def other_parameters(self) -> int:
        """Everything else: norms, biases, routers, learned positions."""
        return self.outer_parameters + sum(layer.other_parameters for layer in self.layers)

    @property
    def total_parameters(self) -> int:
        """What `sum(p.numel() for p in model.parameters())` gives for the transformers model."""
        return self.embedding_parameters + self.linear_parameters + self.expert_parameters + self.other_parameters

    def linears(self) -> list[Linear]:
        """Every linear inside the layers, in module order, under its full dotted name; the head is not among them."""
        return list(self._linears)

    @cached_property
    def _linears(self) -> tuple[Linear, ...]:
        return tuple(
            linear._replace(name=f"{self.prefix}.{index}.{linear.name}")
            for index, layer in enumerate(self.layers)
            for linear in layer.linears
        )


def _sizes(linears: Iterable[Linear]) -> Counter[tuple[int, int]]:
    return Counter((linear.in_features, linear.out_features) for linear in linears)
