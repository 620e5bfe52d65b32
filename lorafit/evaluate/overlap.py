"""Overlap of an answer with its reference: ROUGE-L and BLEU."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

WORD = re.compile(r"[^\W_]+")
LONGEST_NGRAM = 4
# mteval-v13a: ASCII punctuation stands apart; a full stop or comma does not inside a number, a hyphen only after one.
SPLITS_13A = (
    (re.compile(r"""([!"#$%&()*+/:;<=>?@\[\\\]^_`{|}~])"""), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])-"), r"\1 - "),
)
ENTITIES = (
    ("<skipped>", ""),
    ("-\n", ""),
    ("\n", " "),
    ("&quot;", '"'),
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
)


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words, 0 to 1 (Lin 2004; words in lower case, no stemming)."""
    found, expected = WORD.findall(answer.lower()), WORD.findall(reference.lower())
    common = common_subsequence(found, expected)
    return 2 * common / (len(found) + len(expected)) if common else 0.0


def common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, one row of the table held as the bits of one integer (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for index, word in enumerate(one):
        places[word] |= 1 << index
    everywhere = (1 << len(one)) - 1
    row = everywhere
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & everywhere
    return len(one) - row.bit_count()


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a whole set, 0 to 1: n-grams to 4, 13a tokens, exponential smoothing, as sacreBLEU (arXiv 1804.08771)."""
    matched, possible = [0] * LONGEST_NGRAM, [0] * LONGEST_NGRAM
    answer_words = reference_words = 0
    for answer, reference in zip(answers, references, strict=True):
        found, expected = words_13a(answer), words_13a(reference)
        answer_words, reference_words = answer_words + len(found), reference_words + len(expected)
        for size in range(1, LONGEST_NGRAM + 1):
            counts = _ngrams(found, size)
            matched[size - 1] += (counts & _ngrams(expected, size)).total()
            possible[size - 1] += counts.total()
    if not all(possible) or not any(matched):
        return 0.0
    brevity = min(1.0, math.exp(1 - reference_words / answer_words))
    mean_log = math.fsum(map(math.log, _smoothed(matched, possible))) / LONGEST_NGRAM
    return brevity * min(1.0, math.exp(mean_log))


def words_13a(text: str) -> list[str]:
    """Split as mteval-v13a does, the tokenisation that BLEU scores are published with."""
    text = text.rstrip()
    for written, meant in ENTITIES:
        text = text.replace(written, meant)
    text = f" {text} "
    for pattern, replacement in SPLITS_13A:
        text = pattern.sub(replacement, text)
    return text.split()


def _ngrams(words: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _smoothed(matched: list[int], possible: list[int]) -> Iterator[float]:
    """Each n-gram precision; the k-th that matches nothing counts as half of the one that did before it."""
    halvings = 1.0
    for hits, count in zip(matched, possible, strict=True):
        if hits == 0:
            halvings *= 2
        yield (hits or 1 / halvings) / count
