"""The operations a layer is made of, as they lie on a tape: what each keeps, makes and needs meanwhile."""

from typing import Literal, NamedTuple

from lorafit.plan.layers import NormKind
from lorafit.plan.tape import Form, Remake, Tape, Tensor

FLOAT32 = 4


class Setting(NamedTuple):
    """How a layer is trained, as far as its memory goes."""

    compute_bytes: int  # of an activation in a product: 2 under autocast, else 4
    packed: Literal["no", "4bit", "int8"] = "no"
    packed_scales: bool = False  # of 4 bits, under double quantisation
    full: bool = False  # the base weights themselves are trained, in float32
    dora: bool = False
    dropout: bool = False
    explicit_attention: bool = False  # `attention: eager`: every score is written out
    documents: int = 1  # that attention goes through one after another, where no kernel takes them all
    window: int | None = None  # how many tokens a token sees; None: all

    autocast: bool = True  # products run in 16 bits whatever their operands are
    copies: bool = True  # of trained float32 weights in 16 bits
    norm_bytes: int = 2  # of a weight of the norms
    adapter_bytes: int = 4  # of an adapter's weight
    gradient_bytes: int = 4  # of a trained weight's gradient
    # of this pass they are all there is, or added to those that are there (or used up at once), or counted elsewhere
    gradients: Literal["kept", "added", "elsewhere"] = "kept"
    keeps_packed_inputs: bool = False  # a 4-bit product keeps its input where checkpointing does not see it
    plain: bool = False  # attention as transformers calls it, over rows of one length
    masked: bool = False  # by a mask that the kernel of attention takes as a bias
    windows_mask: bool = False  # a window shorter than the rows is such a mask
    bias_bytes: int = 2  # of a value of the mask that is added to written-out scores
    narrows: bool = False  # the kernel of attention brings what it reads to 16 bits
    groups: bool = False  # the kernel for all documents takes grouped keys as they are
    fused: bool = False  # lorafit's own backward of adapters, norms and gated MLPs


class Operations:
    """Elementwise functions and norms, with the temporaries and lifetimes of torch and transformers."""

    def __init__(self, tape: Tape, setting: Setting, adapted: frozenset[str]) -> None:
        self.tape, self.setting, self.adapted = tape, setting, adapted
        self.size = setting.compute_bytes
        self._pinned: dict[int, tuple[str, int]] = {}
        self.outlasting: list[Tensor] = []  # what lives until the whole graph is gone

    def pinned_form(self, without: int) -> Form:
        """Give what recomputation cannot drop: tensors kept outside autograd's sight, but for that of this edge."""
        per_token: dict[str, int] = {}
        for edge, (symbol, size) in self._pinned.items():
            if edge == without:
                continue
            per_token[symbol] = per_token.get(symbol, 0) + size
        return Form(per_token)

    def cast(self, x: Tensor, size: int) -> Tensor:
        """Bring to so many bytes a value; x itself where it has them."""
        return x if x.bytes_each == size else self.tape.record(x.symbol, size, [x])

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """A sum, which keeps nothing and hands its gradient on."""
        return self.tape.record(a.symbol, max(a.bytes_each, b.bytes_each), [a, b], passes_on=True)

    def norm(self, x: Tensor, kind: NormKind, vectors: str = "norm") -> Tensor:
        """A norm: computed in float32, of which it keeps the copy, and a number for each of so many vectors a token."""
        scale = self.tape.temporary(vectors, FLOAT32)
        if kind == "rms" and self.setting.fused:
            return self.lean_norm(x, scale)
        if kind == "layer":  # the mean beside the deviation
            own = [scale, self.tape.temporary(vectors, FLOAT32)]
            if not self.setting.autocast and self.size != FLOAT32:
                return self.tape.record(x.symbol, x.bytes_each, [x], saved=[x, *own])
            wide = self.cast(x, FLOAT32)  # autocast runs it in float32 and leaves it there
            return self.tape.record(x.symbol, FLOAT32, [wide], saved=[wide, *own], scratch=[(x.symbol, FLOAT32)])
        wide = self.cast(x, FLOAT32)
        if kind == "centred":  # x less its mean, once for the variance and once for the product
            wide = self.tape.record(x.symbol, FLOAT32, [wide], saved=[self.tape.temporary(x.symbol, FLOAT32)])
        squared = self.tape.temporary(x.symbol, FLOAT32)
        del squared
        # the backward of x^2 builds three tensors of the same size
        normal = self.tape.record(x.symbol, FLOAT32, [wide], saved=[wide, scale], scratch=[(x.symbol, 3 * FLOAT32)])
        del wide
        if kind == "rms":
            return self.weighted(self.cast(normal, x.bytes_each))
        return self.cast(self.weighted(normal), x.bytes_each)

    def lean_norm(self, x: Tensor, scale: Tensor) -> Tensor:
        """lorafit's: keeps what it reads, of which its readers make again what they need."""
        meanwhile = self.tape.temporary(x.symbol, 2 * FLOAT32)
        scratch = [(x.symbol, 3 * FLOAT32 - x.bytes_each)]
        out = self.tape.record(x.symbol, x.bytes_each, [x], saved=[x, scale], scratch=scratch, saves_late=True)
        del meanwhile
        out.remake = Remake((x, scale))
        return out

    def lean_product(self, gate: Tensor, up: Tensor) -> Tensor:
        """act(gate) * up, lorafit's: keeps both and neither the activation nor, for its reader, the product."""
        size, both = gate.bytes_each, (gate, up)
        out = self.tape.record(gate.symbol, size, both, saved=both, scratch=[(gate.symbol, size)], saves_late=True)
        out.remake = Remake(both)
        return out

    def weighted(self, x: Tensor) -> Tensor:
        """Times the scale of a norm, which keeps x only where that scale is trained."""
        trains = self.setting.full
        size = x.bytes_each if trains else max(x.bytes_each, self.setting.norm_bytes)
        return self.tape.record(x.symbol, size, [x], saved=[x] if trains else [], trains=trains, saves_weight=True)

    def activation(self, x: Tensor, symbol: str, *, composed: bool = False) -> Tensor:
        """An elementwise function, which keeps its input; `composed`: written out in several."""
        if not composed:
            return self.tape.record(symbol, x.bytes_each, [x], saved=[x], part=symbol)
        # gelu_new is written out: autocast has its power in float32, and so is all that follows
        wide = self.cast(x, FLOAT32) if self.setting.autocast else x
        tanh = self.tape.record(symbol, wide.bytes_each, [wide], saved=[wide], saves_output=True)
        return self.product(self.scaled(tanh), self.scaled(x))

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """An elementwise product, which keeps both."""
        wide = max(a.bytes_each, b.bytes_each)  # gradients are as wide first, and cast while all of them are there
        narrower = [x.bytes_each for x in (a, b) if x.bytes_each < wide]
        # what was recomputed is gone by then
        scratch = [(a.symbol, wide - size if self.tape.recomputed else wide) for size in narrower]
        return self.tape.record(a.symbol, wide, [a, b], saved=[a, b], scratch=scratch, part=a.symbol)

    def masked(self, x: Tensor) -> Tensor:
        """A dropout, which keeps a mask of a byte a value."""
        mask = self.tape.temporary(x.symbol, 1)
        return self.tape.record(x.symbol, x.bytes_each, [x], saved=[mask])

    def scaled(self, x: Tensor) -> Tensor:
        """Times a number, or any function whose backward needs nothing kept."""
        return self.tape.record(x.symbol, x.bytes_each, [x])
