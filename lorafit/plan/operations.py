"""The operations a layer is made of, as they lie on a tape: what each keeps, makes and needs meanwhile."""

from dataclasses import dataclass
from typing import Literal

from lorafit.plan.layers import Linear, NormKind
from lorafit.plan.tape import CONSTANT, Form, Remake, Tape, Tensor

FLOAT32 = 4
# up to so many tokens bitsandbytes may multiply by the packed weight itself, in its forward
FUSED_4BIT_TOKENS = 1536


@dataclass(frozen=True)
class Setting:
    """How a layer is trained, as far as its memory goes."""

    compute_bytes: int  # of an activation in a product: 2 under autocast, else 4
    packed: Literal["no", "4bit", "int8"] = "no"
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
    keeps_packed_inputs: bool = False  # a 4-bit product keeps its input where checkpointing does not see it
    groups: bool = False  # the kernel for all documents takes grouped keys as they are
    drops: bool = True  # attention may have dropout, which that kernel has not
    fused: bool = False  # lorafit's own backward of adapters, norms and gated MLPs


class Operations:
    """Norms, products and adapters, with the temporaries and lifetimes of torch, PEFT and bitsandbytes."""

    def __init__(self, tape: Tape, setting: Setting, adapted: frozenset[str]) -> None:
        self.tape, self.setting, self.adapted = tape, setting, adapted
        self.size = setting.compute_bytes
        self._pinned: dict[int, tuple[str, int]] = {}

    def pinned_form(self) -> Form:
        """Give what recomputation cannot drop: tensors kept outside autograd's sight."""
        per_token: dict[str, int] = {}
        for symbol, size in self._pinned.values():
            per_token[symbol] = per_token.get(symbol, 0) + size
        return Form(per_token)

    # --- elementwise

    def cast(self, x: Tensor, size: int) -> Tensor:
        """Bring to so many bytes a value; x itself where it has them."""
        return x if x.bytes_each == size else self.tape.record(x.symbol, size, [x])

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """A sum, which keeps nothing and hands its gradient on."""
        return self.tape.record(a.symbol, max(a.bytes_each, b.bytes_each), [a, b], passes_on=True)

    def norm(self, x: Tensor, kind: NormKind) -> Tensor:
        """A norm: computed in float32, of which it keeps the copy."""
        if kind == "rms" and self.setting.fused:
            return self.lean_norm(x)
        if kind == "layer" and not self.setting.autocast and self.size != FLOAT32:
            return self.tape.record(x.symbol, x.bytes_each, [x], saved=[x])
        wide = self.cast(x, FLOAT32)
        if kind == "layer":  # autocast runs it in float32 and leaves it there
            return self.tape.record(x.symbol, FLOAT32, [wide], saved=[wide], scratch=[(x.symbol, FLOAT32)])
        if kind == "centred":  # x less its mean, once for the variance and once for the product
            wide = self.tape.record(x.symbol, FLOAT32, [wide], saved=[self.tape.temporary(x.symbol, FLOAT32)])
        squared = self.tape.temporary(x.symbol, FLOAT32)
        del squared
        # the backward of x^2 builds three tensors of the same size
        normal = self.tape.record(x.symbol, FLOAT32, [wide], saved=[wide], scratch=[(x.symbol, 3 * FLOAT32)])
        del wide
        if kind == "rms":
            return self.weighted(self.cast(normal, x.bytes_each))
        return self.cast(self.weighted(normal), x.bytes_each)

    def lean_norm(self, x: Tensor) -> Tensor:
        """lorafit's: keeps what it reads, of which its readers make again what they need."""
        meanwhile = self.tape.temporary(x.symbol, 2 * FLOAT32)
        scratch = [(x.symbol, 3 * FLOAT32 - x.bytes_each)]
        out = self.tape.record(x.symbol, x.bytes_each, [x], saved=[x], scratch=scratch, saves_late=True)
        del meanwhile
        out.remake = Remake((x,))
        return out

    def lean_product(self, gate: Tensor, up: Tensor) -> Tensor:
        """act(gate) * up, lorafit's: keeps both and neither the activation nor, for its reader, the product."""
        size, both = gate.bytes_each, (gate, up)
        active = self.tape.temporary(gate.symbol, size)
        scratch = [(gate.symbol, 2 * size)]
        out = self.tape.record(gate.symbol, size, both, saved=both, scratch=scratch, saves_late=True)
        del active
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
        # gelu_new is written out: under autocast its power is float32, and so is all that follows
        wide = self.cast(x, FLOAT32)
        tanh = self.tape.record(symbol, FLOAT32, [wide], saved=[wide], saves_output=True)
        return self.product(self.scaled(tanh), self.scaled(x))

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """An elementwise product, which keeps both."""
        wide = max(a.bytes_each, b.bytes_each)  # gradients are as wide first, and cast while all of them are there
        narrower = [x.bytes_each for x in (a, b) if x.bytes_each < wide]
        # what was recomputed is gone by then
        scratch = [(a.symbol, wide - size if self.tape.recomputed else wide) for size in narrower]
        return self.tape.record(a.symbol, wide, [a, b], saved=[a, b], scratch=scratch, part=a.symbol)

    # --- linears

    def linear(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """A linear layer with its adapter, if it has one; `symbol` names the width of its output."""
        if self.setting.fused and linear.name in self.adapted:
            return self.lean_linear(self.cast(x, self.size), linear, symbol)
        result = self.base(x, linear, symbol)
        if linear.name not in self.adapted:
            return result
        if self.setting.packed == "4bit":  # PEFT clones it, in defence against views
            result = self.tape.record(symbol, result.bytes_each, [result], passes_on=True)
        converts = self.setting.packed == "no" or not self.setting.autocast
        inner = self.cast(x, self.setting.adapter_bytes) if converts else x
        if self.setting.dora:
            result = self.add(result, self.dora_update(inner, result, linear, symbol))
        else:
            result = self.add(result, self.scaled(self.low_rank(self.dropped(inner), linear, symbol)))
        return self.cast(result, self.size) if converts else result

    def base(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """The product with the base weight: frozen, it keeps no input."""
        narrow = self.cast(x, self.size)
        if self.setting.full:
            return self.trained_product(narrow, symbol, linear.weights)
        if self.setting.packed == "no":
            return self.tape.record(symbol, self.size, [narrow], saves_weight=True)
        unpacked = self.unpacked(linear)
        if self.setting.packed == "int8":  # keeps its input where checkpointing does not see it
            self._pin(narrow)
            quantised = self.tape.temporary(x.symbol, 1)
            out = self.tape.record(symbol, self.size, [narrow], saved=[narrow], scratch=[(CONSTANT, unpacked)])
            del quantised
            return self.cast(out, x.bytes_each)
        weight = self.tape.temporary(CONSTANT, unpacked if self.tape.tokens > FUSED_4BIT_TOKENS else 0)
        saved = [narrow] if self.setting.keeps_packed_inputs else []
        for each in saved:
            self._pin(each)
        out = self.tape.record(symbol, self.size, [narrow], saved=saved, scratch=[(CONSTANT, unpacked)])
        del weight
        return self.cast(out, x.bytes_each)

    def unpacked(self, linear: Linear) -> int:
        """Bytes of a packed weight as it enters a product; of 4 bits with the float32 scales of its blocks of 64."""
        return linear.weights * self.size + (linear.weights // 16 if self.setting.packed == "4bit" else 0)

    def lean_linear(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """lorafit's LoRA linear: keeps its input, in one copy for all that read it, and A x."""
        low = self.tape.temporary("rank", self.size)
        packed = 0 if self.setting.packed == "no" else self.unpacked(linear)
        meanwhile = self.tape.temporary(CONSTANT, packed if self.tape.tokens > FUSED_4BIT_TOKENS else 0)
        dropped = [(x.symbol, self.size), (x.symbol, 1)] if self.setting.dropout else []
        saved, again = [x], None
        if x.remake:
            x.remake.readers += 1
            saved, again = list(x.remake.sources), (x.remake, x.symbol, self.size)
        out = self.tape.record(
            symbol,
            self.size,
            [x],
            saved=[*saved, low],
            first_scratch=dropped,
            scratch=self._beside_gradient(x, packed),
            again=again,
            trains=True,
            saves_late=True,
        )
        del meanwhile
        for width, size in dropped:
            self.tape.temporary(width, size)
        return out

    def _beside_gradient(self, x: Tensor, packed: int) -> list[tuple[str, int]]:
        """The unpacked weight; with dropout the mask, and the adapter's part of the gradient once that is gone."""
        if not self.setting.dropout:
            return [(CONSTANT, packed), ("rank", self.size)]
        part = self.tape.tokens * self.tape.widths[x.symbol] * self.size
        larger = (CONSTANT, packed) if packed > part else (x.symbol, self.size)
        return [larger, (x.symbol, 1), ("rank", self.size)]

    def _pin(self, x: Tensor) -> None:
        if x.needs_grad:
            self._pinned[x.edge] = (x.symbol, x.bytes_each)

    def trained_product(self, x: Tensor, symbol: str, values: int) -> Tensor:
        """A product with a trained weight: keeps its input, and autocast's copy of the weight."""
        size = self.size if self.setting.autocast else x.bytes_each
        narrow = self.cast(x, size)
        copy_bytes = values * self.size if self.setting.copies else 0
        copy = self.tape.temporary(CONSTANT, copy_bytes)
        return self.tape.record(
            symbol, size, [narrow], saved=[narrow, copy], scratch=[(CONSTANT, copy_bytes)], trains=True
        )

    def low_rank(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """B A x."""
        rank = self.tape.widths["rank"]
        return self.trained_product(
            self.trained_product(x, "rank", rank * linear.in_features),
            symbol,
            rank * linear.out_features,
        )

    def dropped(self, x: Tensor) -> Tensor:
        """Dropout of the adapter's input."""
        return self.masked(x) if self.setting.dropout else x

    def masked(self, x: Tensor) -> Tensor:
        """A dropout, which keeps a mask of a byte a value."""
        mask = self.tape.temporary(x.symbol, 1)
        return self.tape.record(x.symbol, x.bytes_each, [x], saved=[mask])

    def scaled(self, x: Tensor) -> Tensor:
        """Times a number, or any function whose backward needs nothing kept."""
        return self.tape.record(x.symbol, x.bytes_each, [x])

    def dora_update(self, x: Tensor, result: Tensor, linear: Linear, symbol: str) -> Tensor:
        """(m / norm - 1) * base + (m / norm) * B A x: the norm is taken over a weight built on the spot.

        PEFT gets B A by sending an identity matrix through the adapter; what its product keeps, B A and the base
        weight live on to the end, their scaled sum only until its norm is known.
        """
        read = self.dropped(x)
        held = [*self.built(linear, x.bytes_each), *self.base_weight(linear, x.bytes_each)]
        summed = self.tape.temporary(CONSTANT, 2 * linear.weights * x.bytes_each)
        del summed
        update = self.low_rank(read, linear, symbol)
        if self.setting.dropout:
            result = self.base_of_dropped(read, linear, symbol, held[-1])
        elif linear.bias:  # which is taken off again
            result = self.tape.record(symbol, result.bytes_each, [result], passes_on=True)
        out = self.add(self.magnified(result), self.scaled(self.magnified(update)))
        del held, read
        return out

    def built(self, linear: Linear, wanted: int) -> list[Tensor]:
        """B A in so many bytes, of a float32 identity matrix, which its first product keeps as it reads it."""
        identity = self.tape.temporary(CONSTANT, linear.in_features**2 * FLOAT32)
        read = identity
        if self.size != FLOAT32:
            read = self.tape.temporary(CONSTANT, linear.in_features**2 * self.size)
        product = self.tape.temporary(CONSTANT, linear.weights * self.size)
        del identity
        if wanted != self.size:
            product = self.tape.temporary(CONSTANT, linear.weights * wanted)
        return [read, product]

    def base_weight(self, linear: Linear, wanted: int) -> list[Tensor]:
        """The base weight in so many bytes: unpacked, or a copy, where it is not as it lies there."""
        unpacked = self.tape.temporary(CONSTANT, 0 if self.setting.packed == "no" else self.unpacked(linear))
        return [unpacked if wanted == self.size else self.tape.temporary(CONSTANT, linear.weights * wanted)]

    def base_of_dropped(self, x: Tensor, linear: Linear, symbol: str, weight: Tensor) -> Tensor:
        """The base product once more, of the dropped input, which keeps the weight that it is made with."""
        if x.bytes_each != self.size:  # autocast's copy of a copy
            weight = self.tape.temporary(CONSTANT, linear.weights * self.size)
        return self.tape.record(symbol, self.size, [self.cast(x, self.size)], saved=[weight])

    def magnified(self, x: Tensor) -> Tensor:
        """Times the trained float32 magnitude, whose gradient is a product of the same size summed up."""
        scratch = [(x.symbol, FLOAT32)]
        return self.tape.record(x.symbol, FLOAT32, [x], saved=[x], scratch=scratch, trains=True)
