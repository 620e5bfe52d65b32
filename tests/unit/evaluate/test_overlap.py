"""ROUGE-L and BLEU: against values of rouge-score 0.1.2 and sacreBLEU 2.6.0, and against the textbook."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafit.evaluate.overlap import bleu, common_subsequence, rouge_l, words_13a

PUBLISHED = [
    (["the cat sat on the mat"], ["the cat sat on the mat"], 1.0, [1.0]),
    (["the cat sat on mat"], ["the cat sat on the mat"], 0.57893006746741, [0.9090909090909091]),
    (["a cat"], ["the cat sat on the mat"], 0.0, [0.25]),
    (
        ["It costs $1,000.50 (roughly), e.g. a 10-20% rise.", "no match here at all"],
        ["It cost $1,000.50, roughly: a 10-20% rise.", "something else entirely is written"],
        0.30661487102926743,
        [0.8181818181818182, 0.0],
    ),
    (
        ["SELECT name FROM cities WHERE people > 500;", "SELECT 1"],
        ["SELECT name FROM cities WHERE people >= 500;", "SELECT 1 FROM t"],
        0.6140632348249272,
        [1.0, 0.6666666666666666],
    ),
    (
        ["&quot;quoted&quot; &amp; it's end-\nof line"],
        ['"quoted" & it\'s endof line today'],
        0.866877899750182,
        [0.5333333333333333],
    ),
    ([""], ["something"], 0.0, [0.0]),
]


@pytest.mark.parametrize(("answers", "references", "bleu_score", "rouge_scores"), PUBLISHED)
def test_scores_are_those_of_the_reference_programs(
    answers: list[str], references: list[str], bleu_score: float, rouge_scores: list[float]
) -> None:
    assert bleu(answers, references) == pytest.approx(bleu_score, abs=1e-12)
    assert [rouge_l(*pair) for pair in zip(answers, references, strict=True)] == pytest.approx(rouge_scores, abs=1e-12)


def test_rouge_reads_other_alphabets_too() -> None:
    assert rouge_l("Über ÄRGER", "über ärger") == 1.0
    assert rouge_l("東京 大阪", "東京") == pytest.approx(2 / 3)


def test_bleu_sets_punctuation_apart_but_not_inside_numbers() -> None:
    assert " ".join(words_13a("It's 3.14, or 10-20 (x_y).")) == "It's 3.14 , or 10 - 20 ( x _ y ) ."


letters = st.lists(st.sampled_from("abcd"), max_size=12)


@given(letters, letters)
def test_the_subsequence_in_bits_is_that_of_the_textbook(one: list[str], other: list[str]) -> None:
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, left in enumerate(one):
        for j, right in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    assert common_subsequence(one, other) == table[-1][-1]


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), min_size=1, max_size=3))
def test_every_score_is_a_share(pairs: list[tuple[str, str]]) -> None:
    answers, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert 0.0 <= bleu(answers, references) <= 1.0
    assert all(0.0 <= rouge_l(*pair) <= 1.0 for pair in pairs)
