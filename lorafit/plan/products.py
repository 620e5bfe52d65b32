"""Linear layers on a tape, with their adapters: PEFT's LoRA and DoRA, lorafit's own, over plain and packed weights."""

from lorafit.plan.layers import Linear
from lorafit.plan.operations import FLOAT32, Operations
from lorafit.plan.tape import CONSTANT, Remake, Tensor, WeightGradient

# up to so many tokens bitsandbytes may multiply by the packed weight itself, in its forward
FUSED_4BIT_TOKENS = 1536


class Products(Operations):
    """Products with frozen and trained weights, with the temporaries and lifetimes of torch, PEFT and bitsandbytes."""

    def linear(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """A linear layer with its adapter, if it has one; `symbol` names the width of its output."""
        if self.setting.fused and linear.name in self.adapted:
            lean = self.lean_dora if self.setting.dora else self.lean_linear
            return lean(self.cast(x, self.size), linear, symbol)
        result = self.base(x, linear, symbol)
        if linear.name not in self.adapted:
            return result
        if self.setting.packed == "4bit":  # PEFT clones it, in defence against views
            result = self.tape.record(symbol, result.bytes_each, [result], passes_on=True)
        converts = self.setting.packed == "no" or not self.setting.autocast
        inner, base_bytes = self.cast(x, self.setting.adapter_bytes) if converts else x, result.bytes_each
        if self.setting.dora:
            result = self.add(result, self.dora_update(inner, result, linear, symbol))
        else:
            result = self.add(result, self.scaled(self.low_rank(self.dropped(inner), linear, symbol)))
        return self.cast(result, base_bytes) if converts else result

    def base(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """The product with the base weight: frozen, it keeps no input."""
        if self.setting.packed == "int8":
            return self.int8_product(x, linear, symbol)
        narrow = self.cast(x, self.size)
        if self.setting.full:
            return self.trained_product(narrow, symbol, linear.weights)
        if self.setting.packed == "no":
            return self.tape.record(symbol, self.size, [narrow], saves_weight=True)
        weight = self.weight_in_forward(linear)
        saved = [narrow] if self.setting.keeps_packed_inputs else []
        for each in saved:
            self._pin(each)
        scratch = [(CONSTANT, self.unpacked(linear, narrow.symbol))]
        out = self.tape.record(symbol, self.size, [narrow], saved=saved, scratch=scratch)
        del weight
        return self.cast(out, x.bytes_each)

    def int8_product(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """bitsandbytes', in the dtype of its input, which it keeps where checkpointing does not see it."""
        self._pin(x)
        meanwhile = self.int8_sums(x, symbol)
        scratch = [(CONSTANT, linear.weights * x.bytes_each)]
        out = self.tape.record(symbol, x.bytes_each, [x], scratch=scratch)
        del meanwhile
        return out

    def int8_sums(self, x: Tensor, symbol: str) -> list[Tensor]:
        """The input in 8 bits, made of a copy in float16, and what whole numbers add up to."""
        half, quantised = self.tape.temporary(x.symbol, 2), self.tape.temporary(x.symbol, 1)
        del half
        return [quantised, self.tape.temporary(symbol, 4)]

    def unpacked(self, linear: Linear, made: str = CONSTANT) -> int:
        """Bytes of a packed weight as it enters a product which makes something of this width.

        The float32 scales of its blocks of 64, where they are packed too, are gone by then, but may be more than that.
        """
        beside = self.tape.tokens * self.tape.widths[made] * self.size if made else 0
        return linear.weights * self.size + max(0, self.scales(linear) - beside)

    def scales(self, linear: Linear) -> int:
        """Bytes of the scales of 4 bits that double quantisation has packed, as they are unpacked."""
        return linear.weights // 16 if self.setting.packed_scales else 0

    def weight_in_forward(self, linear: Linear) -> Tensor:
        """bitsandbytes' forward in 4 bits: of many tokens it unpacks the weight, and holds the scales twice."""
        unpacks = self.setting.packed == "4bit" and self.tape.tokens > FUSED_4BIT_TOKENS
        return self.tape.temporary(CONSTANT, linear.weights * self.size + 2 * self.scales(linear) if unpacks else 0)

    def lean_linear(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """lorafit's LoRA linear: keeps its input, in one copy for all that read it, and A x."""
        low = self.tape.temporary("rank", self.size)
        packed = 0 if self.setting.packed == "no" else self.unpacked(linear, x.symbol)
        int8 = self.setting.packed == "int8"
        meanwhile = self.int8_sums(x, symbol) if int8 else [self.weight_in_forward(linear)]
        dropped, made = self._with_zeros(x), self.tape.temporary(symbol, self.size)
        del meanwhile
        beside = [self.tape.temporary(*each) for each in dropped]  # of what is made already
        del made, beside
        saved, again = self._source(x)
        return self.tape.record(
            symbol,
            self.size,
            [x],
            saved=[*saved, low],
            first_scratch=dropped,
            scratch=self._beside_gradient(x, packed),
            again=again,
            trains=True,
            weight=self.adapter_gradient(linear),
            saves_late=True,
        )

    def lean_dora(self, x: Tensor, linear: Linear, symbol: str) -> Tensor:
        """lorafit's DoRA linear: keeps its output too, or what it is made of where it has a bias or dropout."""
        dropped = self._with_zeros(x)
        apart = bool(dropped) or linear.bias
        whole, low, norms = self._summed(x, linear, symbol, dropped)
        saved, again = self._source(x)
        kept = [whole] if apart else []
        del whole
        scaled = self.tape.temporary(symbol, self.size if dropped else 0)
        packed = 0 if self.setting.packed == "no" else self.unpacked(linear, x.symbol)
        out = self.tape.record(
            symbol,
            self.size,
            [x],
            saved=[*saved, low, norms, *kept],
            first_scratch=dropped or [(symbol, self.size)],
            scratch=[(symbol, self.size), (CONSTANT, packed), ("rank", self.size), *dropped],
            again=again,
            trains=True,
            weight=self.adapter_gradient(linear),
            saves_output=not apart,
            saves_late=True,
        )
        del scaled
        return out

    def _summed(
        self, x: Tensor, linear: Linear, symbol: str, dropped: list[tuple[str, int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(W + s B A) x, A x and the norms; with dropout W x beside them, and the input without its mask."""
        packed = 0 if self.setting.packed == "no" else self.unpacked(linear, symbol)
        weight, plain = self.tape.temporary(CONSTANT, packed), self.tape.temporary(symbol, self.size if dropped else 0)
        zeroed = [self.tape.temporary(*each) for each in dropped][:1]  # the mask is gone by the next product
        whole, low = self.tape.temporary(symbol, self.size), self.tape.temporary("rank", self.size)
        copies = self.adapter_values(linear) * (self.size + FLOAT32) if self.size != FLOAT32 else 0
        across = linear.out_features * self.tape.widths["rank"] * FLOAT32  # W A^T, for the norms
        norms, meanwhile = (
            self.tape.temporary(CONSTANT, size) for size in (linear.out_features * FLOAT32, copies + across)
        )
        del weight, plain, zeroed, meanwhile
        return whole, low, norms

    def _with_zeros(self, x: Tensor) -> list[tuple[str, int]]:
        """With dropout, a copy of the input and its mask."""
        return [(x.symbol, self.size), (x.symbol, 1)] if self.setting.dropout else []

    def _source(self, x: Tensor) -> tuple[list[Tensor], tuple[Remake, str, int] | None]:
        """Give what is kept for an input, and what it is made of again."""
        if not x.remake:
            return [x], None
        x.remake.readers += 1
        return list(x.remake.sources), (x.remake, x.symbol, self.size)

    def _beside_gradient(self, x: Tensor, packed: int) -> list[tuple[str, int]]:
        """The unpacked weight; with dropout the mask, and the adapter's part of the gradient once that is gone."""
        if not self.setting.dropout:
            return [(CONSTANT, packed), ("rank", self.size)]
        part = self.tape.tokens * self.tape.widths[x.symbol] * self.size
        larger = (CONSTANT, packed) if packed > part else (x.symbol, self.size)
        return [larger, (x.symbol, 1), ("rank", self.size)]

    def _pin(self, x: Tensor) -> None:
        """Keep what recomputation cannot drop, and with it what it says that it can be made of again."""
        if not x.needs_grad:
            return
        for each in (x, *(x.remake.sources if x.remake else ())):
            self._pinned[each.edge] = (each.symbol, each.bytes_each)
            self.outlasting.append(each)

    def trained_product(self, x: Tensor, symbol: str, values: int) -> Tensor:
        """A product with a trained weight: keeps its input, and autocast's copy of the weight."""
        size = self.size if self.setting.autocast else x.bytes_each
        narrow = self.cast(x, size)
        copy_bytes = values * self.size if self.setting.copies else 0
        copy = self.tape.temporary(CONSTANT, copy_bytes)
        weight = self.weight_gradient(values, size)
        return self.tape.record(symbol, size, [narrow], saved=[narrow, copy], trains=True, weight=weight)

    def weight_gradient(self, values: int, size: int) -> WeightGradient | None:
        """What a trained weight gets of a product in so many bytes."""
        if self.setting.gradients == "elsewhere":
            return None
        return WeightGradient(values * size, values * self.setting.gradient_bytes, self.setting.gradients == "added")

    def adapter_gradient(self, linear: Linear) -> WeightGradient | None:
        """What A and B get."""
        return self.weight_gradient(self.adapter_values(linear), self.setting.gradient_bytes)

    def adapter_values(self, linear: Linear) -> int:
        """Count those of A and B."""
        return self.tape.widths["rank"] * (linear.in_features + linear.out_features)

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

    def dora_update(self, x: Tensor, result: Tensor, linear: Linear, symbol: str) -> Tensor:
        """(m / norm - 1) * base + (m / norm) * B A x: the norm is taken over a weight built on the spot.

        PEFT gets B A by sending an identity matrix through the adapter; what its product keeps, B A and the base
        weight live on to the end, their scaled sum only until its norm is known.
        """
        read, copies = self.dropped(x), self.adapter_copies(linear)
        held = [*self.built(linear, x.bytes_each), *self.base_weight(linear, x.bytes_each)]
        summed = self.tape.temporary(CONSTANT, 2 * linear.weights * x.bytes_each)
        del summed, copies  # which the products below read and count again
        update = self.low_rank(read, linear, symbol)
        if self.setting.dropout:
            result = self.base_of_dropped(read, linear, symbol, held[-1])
        elif linear.bias:  # which is taken off again
            result = self.tape.record(symbol, result.bytes_each, [result], passes_on=True)
        out = self.add(self.magnified(result), self.scaled(self.magnified(update)))
        del held, read
        return out

    def adapter_copies(self, linear: Linear) -> Tensor:
        """Autocast's copies of A and B."""
        return self.tape.temporary(CONSTANT, self.adapter_values(linear) * self.size if self.setting.copies else 0)

    def built(self, linear: Linear, wanted: int) -> list[Tensor]:
        """B A in so many bytes, of a float32 identity matrix; its products keep what they read."""
        size = self.size if self.setting.autocast else FLOAT32
        identity = self.tape.temporary(CONSTANT, linear.in_features**2 * FLOAT32)
        read = identity if size == FLOAT32 else self.tape.temporary(CONSTANT, linear.in_features**2 * size)
        low = self.tape.temporary(CONSTANT, linear.in_features * self.tape.widths["rank"] * size)
        product = self.tape.temporary(CONSTANT, linear.weights * size)
        del identity
        if wanted != size:
            product = self.tape.temporary(CONSTANT, linear.weights * wanted)
        return [read, low, product]

    def base_weight(self, linear: Linear, wanted: int) -> list[Tensor]:
        """The base weight in so many bytes: unpacked, or a copy, where it is not as it lies there."""
        size = {"no": 0, "4bit": linear.weights * self.size, "int8": linear.weights * FLOAT32}[self.setting.packed]
        unpacked = self.tape.temporary(CONSTANT, size)
        as_made = FLOAT32 if self.setting.packed == "int8" else self.size
        return [unpacked if wanted == as_made else self.tape.temporary(CONSTANT, linear.weights * wanted)]

    def base_of_dropped(self, x: Tensor, linear: Linear, symbol: str, weight: Tensor) -> Tensor:
        """The base product once more, of the dropped input, which keeps the weight that it is made with."""
        size = self.size if self.setting.autocast else x.bytes_each
        if x.bytes_each != size:  # autocast's copy of a copy
            weight = self.tape.temporary(CONSTANT, linear.weights * size)
        return self.tape.record(symbol, size, [self.cast(x, size)], saved=[weight])

    def magnified(self, x: Tensor) -> Tensor:
        """Times the trained float32 magnitude, whose gradient is a product of the same size summed up."""
        scratch = [(x.symbol, FLOAT32)]
        return self.tape.record(x.symbol, FLOAT32, [x], saved=[x], scratch=scratch, trains=True)
