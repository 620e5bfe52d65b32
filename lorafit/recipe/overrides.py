"""`--set a.b=value`: changes to the plain recipe before it is judged, so that all faults come in one pass."""

import re
from collections.abc import Sequence

from lorafit.recipe import outline
from lorafit.recipe.outline import Node
from lorafit.recipe.problems import KeyPath, Located, Place, Problem, dotted, printable
from lorafit.recipe.schema import DEFAULT_ADAPTER
from lorafit.recipe.yaml_tree import MAX_DEPTH, Tree, parse_tree

_INDEX = re.compile("[0-9]{1,5}")
_SHAPE = "write --set KEY=VALUE, for example --set training.learning_rate=1e-4"


class _Refused(Exception):
    """The override cannot be applied to this recipe."""

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.fix = fix


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> None:
    """Change the tree in place, one override after the other; what cannot be applied is noted in it."""
    if not overrides or not isinstance(tree.value, dict):  # no block at all: validation says so
        return
    before = {block: _kind(tree.value, block) for block in outline.fields(outline.root(), None)}
    for number, text in enumerate(overrides, 1):
        place = override_place(number, text)
        keys, _, value = text.partition("=")
        path = tuple(keys.strip().split("."))
        try:
            _apply(tree, path, value, place, complete="=" in text)
        except _Refused as refused:
            tree.located.append(Located(place, Problem((), str(refused), refused.fix, "E2-SET")))
    for block, kind in before.items():
        _drop_what_no_longer_fits(tree, block, kind)


def override_place(number: int, text: str) -> Place:
    """Give the place of the n-th override."""
    return Place(0, number, f"--set {printable(text)}")


def _apply(tree: Tree, keys: tuple[str, ...], value: str, place: Place, *, complete: bool) -> None:
    if not complete or not all(keys) or len(keys) > MAX_DEPTH:
        raise _Refused("not a change of one key", _SHAPE)
    cursor = _Cursor(tree, place)
    for key in keys[:-1]:
        if not cursor.is_only_item(key):
            cursor.enter(cursor.step(key))
    last = cursor.step(keys[-1])
    cursor.put(last, _read(value, outline.at((*cursor.path, last), tree.value)))


class _Cursor:
    """A block or a list of the recipe, on the way to the key that is set."""

    def __init__(self, tree: Tree, place: Place) -> None:
        self.tree = tree
        self.place = place
        self.path: KeyPath = ()
        self.at: dict[str, object] | list[object] = tree.value  # type: ignore[assignment]  # the caller made sure

    def is_only_item(self, key: str) -> bool:
        """Say whether the key numbers the block we are in, which stands for a list of one."""
        whole = outline.at(self.path, self.tree.value)
        return key == "0" and isinstance(self.at, dict) and outline.takes_list(whole)

    def step(self, key: str) -> str | int:
        """Read a key against what stands here: the index of a list, or a key of a block."""
        if isinstance(self.at, list):
            return self._index(self.at, key)
        if self.is_only_item(key):
            raise _Refused(f"{dotted(self.path)} is one block, not a list", f"set {dotted(self.path)} itself")
        return key

    def _index(self, items: list[object], key: str) -> str | int:
        name = dotted(self.path)
        if _INDEX.fullmatch(key):
            if int(key) >= len(items):
                raise _Refused(f"{name} has no item {key}", f"it is a list of {len(items)}, counted from 0")
            return int(key)
        if len(items) != 1 or not isinstance(items[0], dict):
            raise _Refused(f"{name} is a list of {len(items)}", f"say which, from 0: {name}.0.{printable(key)}")
        self.enter(0)  # a list of one block is as good as the block
        return key

    def enter(self, part: str | int) -> None:
        """Go down; what is there and is no block or list makes room for a block."""
        inner = self.at.get(str(part)) if isinstance(self.at, dict) else self.at[int(part)]
        if not isinstance(inner, dict | list):
            inner = {}
            self.put(part, inner)
        self.path, self.at = (*self.path, part), inner

    def put(self, part: str | int, value: object) -> None:
        """Set a value here; from now on it, and all below it, stands on the command line."""
        if isinstance(self.at, dict):
            self.at[str(part)] = value
        else:
            self.at[int(part)] = value
        path = (*self.path, part)
        for places in (self.tree.keys, self.tree.values):
            for below in [one for one in places if one[: len(path)] == path]:
                del places[below]
            places[path] = self.place


def _read(text: str, node: Node) -> object:
    """Read a value as YAML; a number stays text where only text may stand (a commit may be all digits)."""
    tree = parse_tree(text, "")
    if tree.located:
        problem = tree.located[0].problem
        fix = "write null for no value" if problem.code == "E2-EMPTY" else problem.fix
        raise _Refused(f"the value cannot be read: {problem.what}", fix)
    if outline.takes_only_text(node) and isinstance(tree.value, bool | int | float):
        return text.strip()
    return tree.value


def _kind(recipe: object, block: str) -> object:
    value = recipe.get(block) if isinstance(recipe, dict) else None
    return value.get("kind", DEFAULT_ADAPTER) if isinstance(value, dict) else None


def _drop_what_no_longer_fits(tree: Tree, block: str, old_kind: object) -> None:
    """Where a `kind` was changed, take out the file's keys that only the old kind has."""
    variants = outline.kinds(outline.at((block,), tree.value))
    old, new = variants.get(str(old_kind)), variants.get(str(_kind(tree.value, block)))
    if old is None or new is None or old is new:
        return
    keys = tree.value[block]  # type: ignore[index]  # a block with a kind is a mapping
    for key in set(keys) & set(old["properties"]) - set(new["properties"]):
        if tree.place((block, key), at_key=True).line:
            del keys[key]
