"""The order of training: derived from the seed and the epoch, so that a position is one integer.

Nothing about the order is stored, and it depends neither on workers nor on how many processes train.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def random_words(count: int, *key: object) -> NDArray[np.uint64]:
    """Give `count` random 64-bit words for a key, the same on every machine and in every release of numpy.

    Philox is counter-based (Salmon et al., SC 2011), and its raw stream is fixed, which numpy's
    distributions are not.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    words: NDArray[np.uint64] = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)
    return words


def shuffled(count: int, *key: object) -> NDArray[np.int64]:
    """Give a random order of `count` things for a key, [count]."""
    return np.argsort(random_words(count, *key), kind="stable").astype(np.int64)


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Give the order of one epoch: a permutation of `count` things, [count], read-only."""
    order = shuffled(count, "order", seed, epoch)
    order.setflags(write=False)
    return order


def positions_of_step(step: int, global_batch_size: int, total: int) -> range:
    """Give the positions of a step (counted from 0): step s takes `[s * B, (s + 1) * B)`, up to the total."""
    return range(step * global_batch_size, min((step + 1) * global_batch_size, total))


def packs_at(positions: range, seed: int, packs: int) -> NDArray[np.int64]:
    """Give the packs that stand at some positions of a run, [positions].

    Epochs follow one another, each in an order of its own: position p is pack `p % packs` of the order of
    epoch `p // packs`, so that every pack comes once an epoch wherever steps begin and end.
    """
    parts = [
        permutation(seed, epoch, packs)[max(positions.start - epoch * packs, 0) : positions.stop - epoch * packs]
        for epoch in range(positions.start // packs, -(-positions.stop // packs))
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])
