"""A recipe's plain value -> the recipe, and every problem in one pass.

Pydantic stops at the first layer that is wrong: the rules of a block run only when all its values are good,
and a wrong `kind` hides the keys beside it. So after each round the faulty parts are mended in a copy, and
the rest is asked again; what comes out of the last round serves the checks that need a whole recipe.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from lorafit.recipe import outline
from lorafit.recipe.faults import problems_of
from lorafit.recipe.problems import KeyPath, Problem, value_at
from lorafit.recipe.schema import Recipe
from lorafit.recipe.suggest import did_you_mean, nearest

ROUNDS = 8  # each mends a layer of nesting; a recipe has fewer layers than that

# harmless values in the place of required ones, to be able to ask about the rest
_STAND_INS: dict[str, Any] = {
    "version": 1,
    "path": "-",
    "regex": "-",
    "model": {"path": "-"},
    "train": [{"path": "-"}],
    "data": {"train": [{"path": "-"}]},
}


@dataclass
class Verdict:
    """Every problem; the recipe, mended where it was wrong, if it could be; and what was mended."""

    problems: list[Problem] = field(default_factory=list)
    recipe: Recipe | None = None
    mended: set[KeyPath] = field(default_factory=set)
    around_mended: set[KeyPath] = field(default_factory=set)

    def explains(self, contradiction: Problem) -> bool:
        """Say whether a check may have failed only because a value it looks at was mended."""
        return any(self.touches(path) for path in (contradiction.path, *contradiction.depends_on))

    def touches(self, path: KeyPath) -> bool:
        """Say whether a mended value lies at, above or below this path."""
        return path in self.around_mended or any(path[:length] in self.mended for length in range(len(path)))

    def mend(self, path: KeyPath) -> None:
        """Note that the value at this path, or what it misses, is not the user's."""
        self.mended.add(path)
        self.around_mended.update(path[:length] for length in range(len(path) + 1))


def judge(value: object) -> Verdict:
    """Validate the plain value of a recipe."""
    verdict = Verdict()
    copy = deepcopy(value)
    for _ in range(ROUNDS):
        try:
            verdict.recipe = Recipe.model_validate(copy)
            break
        except ValidationError as error:
            found = list(problems_of(error, copy))
        verdict.problems += [one for one in _once(found) if not _is_echo(one, verdict)]
        if not all(_mend(copy, one) for one in found):
            break
        for one in found:
            verdict.mend(one.path)
    return verdict


def _once(problems: list[Problem]) -> list[Problem]:
    """Keep one problem of each place; a key that is there, misspelt, is not missing too."""
    misspelt = {(one.path[:-1], one.fix) for one in problems if one.code == "E2-KEY"}
    first = {(one.path, one.at_key): one for one in reversed(problems)}
    return [
        one
        for one in reversed(first.values())
        if one.code != "E2-MISSING" or (one.path[:-1], did_you_mean(str(one.path[-1]))) not in misspelt
    ]


def _is_echo(problem: Problem, verdict: Verdict) -> bool:
    """Say whether a problem only follows from an earlier one: a key taken out, a rule on its block."""
    block = problem.path[:-1]
    if problem.code == "E2-KEY" and (*block, "kind") in verdict.mended:  # the kind is a guess of ours
        return problem.path[-1] in outline.fields(outline.at(block, None), None)
    return problem.path != () and verdict.touches(problem.path)


def _mend(recipe: object, problem: Problem) -> bool:
    """Take out or replace in place what is wrong; say whether the rest can be asked again."""
    path = problem.path
    while path and isinstance(path[-1], int):  # an item that goes would renumber the others: the whole list goes
        path = path[:-1]
    if not path:
        return False
    block = value_at(path[:-1], recipe)
    if not isinstance(block, dict):
        return True  # went with its parent
    key = str(path[-1])
    if problem.code == "E2-KIND":
        return _mend_kind(recipe, block, path)
    if problem.code == "E2-MISSING":
        return _stand_in(block, key)
    block.pop(key, None)
    return True


def _mend_kind(recipe: object, block: dict[str, object], path: KeyPath) -> bool:
    """Take the kind that was probably meant, so that the keys beside it are judged; else drop the block."""
    known = outline.kinds(outline.at(path[:-1], recipe))
    kind = block.get("kind")
    close = nearest(kind, known) if isinstance(kind, str) else None
    if close:
        block["kind"] = close
        return True
    return _mend(recipe, Problem(path[:-1], ""))


def _stand_in(block: dict[str, object], key: str) -> bool:
    if key in _STAND_INS:
        block[key] = deepcopy(_STAND_INS[key])
    return key in _STAND_INS
