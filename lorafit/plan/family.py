"""What transformers builds for one `model_type`: the layers, from the numbers of `config.json`."""

from collections.abc import Callable
from typing import NamedTuple

from lorafit.plan import attention, mlp
from lorafit.plan.attention import Bias, has_bias
from lorafit.plan.config_keys import ConfigKeys
from lorafit.plan.layers import Attention, Layer, Mlp, NormKind, NormOrder
from lorafit.plan.windows import Sliding

# which of so many layers hold experts, or have the family's other kind of attention
LayerChoice = Callable[[ConfigKeys, int], list[bool]]


def no_layer(keys: ConfigKeys, count: int) -> list[bool]:
    """None of them."""
    del keys
    return [False] * count


def every_layer(keys: ConfigKeys, count: int) -> list[bool]:
    """All of them."""
    del keys
    return [True] * count


def after_dense(keys: ConfigKeys, count: int, *, dense: int) -> list[bool]:
    """DeepSeek and GLM: the first layers are dense, or each layer is named."""
    kinds = keys.listed("mlp_layer_types")
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    first = keys.integer("first_k_dense_replace", default=dense, least=0)
    return [index >= first for index in range(count)]


def stepped(keys: ConfigKeys, count: int) -> list[bool]:
    """Qwen: the last of every so many layers, less a list of exceptions."""
    step, dense = keys.integer("decoder_sparse_step", default=1), keys.listed("mlp_only_layers") or []
    return [index not in dense and (index + 1) % step == 0 for index in range(count)]


def interleaved(keys: ConfigKeys, count: int) -> list[bool]:
    """Llama 4: a list of layers, or the last of every so many."""
    listed, step = keys.listed("moe_layers"), keys.integer("interleave_moe_layer_step", default=1)
    return [(index + 1) % step == 0 if listed is None else index in listed for index in range(count)]


def linear_attention(keys: ConfigKeys, count: int) -> list[bool]:
    """Qwen3-Next: three of four layers have linear attention."""
    kinds, interval = keys.listed("layer_types"), keys.integer("full_attention_interval", default=4)
    if kinds is not None:
        return [kind == "linear_attention" for kind in kinds]
    return [(index + 1) % interval != 0 for index in range(count)]


class OwnDropout(NamedTuple):
    """Keys of config.json with the shares that a model drops while it trains, whatever the adapter drops."""

    attention: str = "attention_dropout"
    residual: str | None = None
    embedding: str | None = None
    usual: float = 0.0


MOST_LAYERS = 10_000  # ten times the deepest model there is: more is a broken file


class Family(NamedTuple):
    """What transformers builds for one `model_type`."""

    attention: Callable[[ConfigKeys], Attention] = attention.split
    mlp: Callable[[ConfigKeys], Mlp] = mlp.gated
    sparse_mlp: Callable[[ConfigKeys], Mlp] | None = None
    sparse_layers: LayerChoice = no_layer
    other_attention: Callable[[ConfigKeys], Attention] | None = None
    other_attention_layers: LayerChoice = no_layer
    norm: NormKind = "rms"
    norm_values: int = 1  # trained values per hidden unit: scale, shift
    norms: int = 2  # per layer
    order: NormOrder = "pre"
    parallel_key: tuple[str, bool] | None = None  # key that makes attention and MLP run side by side, with its default
    parallel_norms: Callable[[ConfigKeys], int] | None = None  # norms of such a layer, where they are fewer
    tied: bool = False  # where config.json does not say
    prefix: str = "model.layers"
    head_bias: Bias = False
    positions: str | None = None  # key with the number of learned positions
    mask: bool = False  # of all those positions, as a buffer
    dropout: OwnDropout = OwnDropout()
    sliding: Sliding | None = None
    position_tables: int = 1  # pairs of sines and cosines, at most: one for each kind of layer that there is
    wide_positions: bool = False  # which stay in float32
    own_positions: bool = False  # and are spread anew by each layer
    turned_share: tuple[str, float] | None = None  # key with the share of a head that turns, and the usual one
    holds_mixed: bool = False  # a layer's frame holds what attention gave
    scaled_branches: bool = False
    capped_logits: bool = False
    scaled_embeddings: bool = False  # after the embedding, so that its own output stays too
    scaled_logits: bool = False  # the head is not all there is to the logits
    narrow_loss_before: tuple[int, ...] | None = None  # version of transformers up to which the loss took 16 bits
    remote_code: bool = False  # transformers has no class for it: the shape is known, the model cannot be loaded

    def layer(self, keys: ConfigKeys, sparse: bool, other: bool) -> Layer:
        """Lay out one layer."""
        mixer = self.other_attention if other and self.other_attention else self.attention
        inner = self.sparse_mlp if sparse and self.sparse_mlp else self.mlp
        parallel = self.order == "parallel" or (self.parallel_key is not None and keys.flag(*self.parallel_key))
        norms = self.parallel_norms(keys) if parallel and self.parallel_norms else self.norms
        mixing, own = mixer(keys), self.dropout
        share = keys.rotary_share(*self.turned_share) if self.turned_share else 1.0
        return Layer(
            attention=mixing._replace(
                turned=self.positions is None,
                turned_width=int(mixing.query_width // mixing.heads * share) if share < 1 else 0,
                own_positions=self.own_positions,
                dropout=self.drops(keys, own.attention),
            ),
            mlp=inner(keys),
            norm=self.norm,
            order=("parallel" if norms == 1 else "twin") if parallel else self.order,
            holds_mixed=self.holds_mixed,
            scaled_branches=self.scaled_branches,
            dropout=self.drops(keys, own.residual),
            norm_parameters=norms * self.norm_values * keys.integer("hidden_size", "n_embd"),
        )

    def drops(self, keys: ConfigKeys, name: str | None) -> bool:
        """Tell whether a dropout of the model is on."""
        return name is not None and keys.share(name, self.dropout.usual) > 0

    def layers(self, keys: ConfigKeys) -> tuple[Layer, ...]:
        """Lay out all layers; equal ones are one object."""
        count = keys.integer("num_hidden_layers", "n_layer", most=MOST_LAYERS)
        sparse, other = self.sparse_layers(keys, count), self.other_attention_layers(keys, count)
        for key, kinds in (("mlp_layer_types", sparse), ("layer_types", other)):
            if len(kinds) != count:
                keys.refuse(key, f"{count} entries, one per layer")
                return ()
        kinds_of_layers = list(zip(sparse, other, strict=True))
        made = {kind: self.layer(keys, *kind) for kind in set(kinds_of_layers)}
        return tuple(made[kind] for kind in kinds_of_layers)

    def outer_parameters(self, keys: ConfigKeys) -> int:
        """Count the final norm, learned positions and the bias of the head."""
        hidden = keys.integer("hidden_size", "n_embd")
        return self.norm_values * hidden + self.position_parameters(keys) + self.head_biases(keys)

    def head_biases(self, keys: ConfigKeys) -> int:
        """Count the bias of the output head."""
        return keys.integer("vocab_size") if has_bias(keys, self.head_bias) else 0

    def position_parameters(self, keys: ConfigKeys) -> int:
        """Count the learned positions."""
        return keys.integer(self.positions) * keys.integer("hidden_size", "n_embd") if self.positions else 0
