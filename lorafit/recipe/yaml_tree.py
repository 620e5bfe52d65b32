"""YAML text -> plain values that know the line and column of every key and value.

A recipe needs little of YAML, and the rest only surprises: anchors, aliases, tags, merge keys, duplicate keys
and second documents are refused. This works on PyYAML's stream of events, so that the limits on depth and
size hold before anything is built, and reads plain words by YAML 1.2 (`scalars`). JSON is read the same way.
"""

import re
from dataclasses import dataclass, field

import yaml

from lorafit.recipe.problems import KeyPath, Located, Place, Problem, child_value, printable
from lorafit.recipe.scalars import plain_scalar
from lorafit.recipe.yaml_errors import character_name, hidden_character, located, place_of, syntax_error

MAX_DEPTH = 20
MAX_NODES = 10_000

# no control characters, no odd line breaks, no byte order mark inside, no lone surrogates
_UNREADABLE = re.compile("[^\t\n\r -~\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Tree:
    """The plain value of a recipe, where each part of it stands, and what is wrong so far.

    `broken` says that the text could not be read to its end.
    """

    value: object = None
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    located: list[Located] = field(default_factory=list)
    broken: bool = False
    noted: set[tuple[KeyPath, bool]] = field(default_factory=set)

    def place(self, path: KeyPath, *, at_key: bool = False) -> Place:
        """Give the place of a key or a value; of the innermost block around it when it is not written."""
        if not at_key and path in self.values:
            return self.values[path]
        around = (path[:length] for length in range(len(path), -1, -1))
        return next(place for one in around if (place := self.keys.get(one) or self.values.get(one)))

    def add(self, problem: Problem) -> None:
        """Note a problem at its place, unless that key or value is known to be wrong already."""
        problem = problem._replace(path=self._as_written(problem.path))
        if (problem.path, problem.at_key) not in self.noted:
            self.noted.add((problem.path, problem.at_key))
            self.located.append(Located(self.place(problem.path, at_key=problem.at_key), problem))

    def _as_written(self, path: KeyPath) -> KeyPath:
        """Leave out the number of the item where one block stands for a list of one."""
        written, value = KeyPath(), self.value
        for part in path:
            if not (isinstance(value, dict) and isinstance(part, int)):
                written, value = (*written, part), child_value(value, part)
        return written


class _Broken(Exception):
    """The text cannot be read further."""

    def __init__(self, why: Located) -> None:
        super().__init__(why.problem.what)
        self.why = why


@dataclass
class _Block:
    """A mapping or a list that is being read; `key` is the mapping's key that waits for its value."""

    value: dict[str, object] | list[object]
    path: KeyPath
    key: str | None = None


def parse_tree(text: str, source: str) -> Tree:
    """Read the one document of a text; what is wrong is noted in the tree."""
    builder = _Builder(source)
    try:
        builder.read(text)
    except _Broken as broken:
        builder.tree.located.append(broken.why)
        builder.tree.broken = True
    return builder.tree


class _Builder:
    """Builds the tree from the events, with its own stack: no depth of nesting can exhaust Python's."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = Tree()
        self.blocks: list[_Block] = []
        self.nodes = 0
        self.documents = 0

    def read(self, text: str) -> None:
        """Take every event of the text. Raises _Broken."""
        if odd := _UNREADABLE.search(text):
            what = f"{character_name(odd.group())} in the text"
            raise _Broken(located(place_of(text, odd.start(), self.source), what, "remove it"))
        # tabs may indent JSON, but PyYAML takes none; JSON cannot hold one inside a string
        readable = text.replace("\t", " ") if text.lstrip().startswith("{") else text
        events = yaml.SafeLoader(readable)
        try:
            while events.check_event():
                self._take(events.get_event())  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            raise _Broken(syntax_error(error, text, self.source)) from error
        except (ValueError, OverflowError) as error:  # the code of an escape, the number of a version
            what = "a number here is too large to read"
            raise _Broken(located(self._place(events.get_mark()), what)) from error
        if self.documents == 0:
            raise _Broken(located(Place(1, 1, self.source), "nothing is written here", code="E2-EMPTY"))

    def _take(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._start_document(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self.blocks.pop()
            case yaml.NodeEvent():
                self._hold_limits(event)
                self._take_node(event)

    def _start_document(self, event: yaml.DocumentStartEvent) -> None:
        self.documents += 1
        if self.documents > 1:
            why = located(self._place(event.start_mark), "a second document", 'remove the "---" line')
            raise _Broken(why)
        if event.version not in (None, (1, 2)):
            why = located(self._place(event.start_mark), "a recipe is YAML 1.2", "remove the %YAML line")
            raise _Broken(why)

    def _hold_limits(self, event: yaml.NodeEvent) -> None:
        self.nodes += 1
        place = self._place(event.start_mark)
        if self.nodes > MAX_NODES:
            raise _Broken(located(place, f"more than {MAX_NODES:,} keys and values", code="E2-SIZE"))
        if isinstance(event, yaml.CollectionStartEvent) and len(self.blocks) == MAX_DEPTH:
            raise _Broken(located(place, f"nested more than {MAX_DEPTH} deep", code="E2-SIZE"))

    def _take_node(self, event: yaml.NodeEvent) -> None:
        block = self.blocks[-1] if self.blocks else None
        if block and isinstance(block.value, dict) and block.key is None:
            block.key = self._key(event, block)
            return
        path = self._path_in(block)
        self.tree.values[path] = self._place(event.start_mark)
        self._refuse_extras(event, path, at_key=False)
        value = self._value(event, path)
        if block is None:
            self.tree.value = value
        elif isinstance(block.value, list):
            block.value.append(value)
        else:
            block.value[str(block.key)] = value
            block.key = None

    def _path_in(self, block: _Block | None) -> KeyPath:
        if block is None:
            return ()
        return (*block.path, len(block.value) if isinstance(block.value, list) else str(block.key))

    def _key(self, event: yaml.NodeEvent, block: _Block) -> str:
        place = self._place(event.start_mark)
        if not isinstance(event, yaml.ScalarEvent):
            raise _Broken(located(place, "a key must be text", 'write "key: value"'))
        key = self._quoted(event.value, block.path, at_key=True)
        path = (*block.path, key)
        first = self.tree.keys.get(path)
        self.tree.keys[path] = place
        self._refuse_extras(event, path, at_key=True)
        if first and key in block.value:
            what = f"the key appears twice, at lines {first.line} and {place.line}"
            self._note(path, what, "keep one", "E2-DUP", at_key=True)
        elif hidden := hidden_character(key):
            self._note(path, f"the key holds {character_name(hidden)}", "remove it", "E2-KEY", at_key=True)
        elif event.style is None and key == "<<":
            self._note(path, "merge keys are not read", "write the keys out", at_key=True)
        elif event.style is None and not _is_word(key):
            self._note(path, "a key must be text", f'write "{printable(key)}"', "E2-KEY", at_key=True)
        return key

    def _refuse_extras(self, event: yaml.NodeEvent, path: KeyPath, *, at_key: bool) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._note(path, "aliases are not read", "write the value out", at_key=at_key)
        elif event.anchor is not None:
            self._note(path, "anchors are not read", f'remove "&{printable(event.anchor)}"', at_key=at_key)
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            self._note(path, "tags are not read", f'remove the tag "{printable(event.tag)}"', at_key=at_key)

    def _value(self, event: yaml.NodeEvent, path: KeyPath) -> object:
        match event:
            case yaml.MappingStartEvent():
                self.blocks.append(_Block({}, path))
                return self.blocks[-1].value
            case yaml.SequenceStartEvent():
                self.blocks.append(_Block([], path))
                return self.blocks[-1].value
            case yaml.ScalarEvent():
                read = self._plain if event.style is None else self._quoted
                return read(event.value, path)
        return None  # an alias, which was refused

    def _plain(self, word: str, path: KeyPath) -> object:
        if hidden := hidden_character(word):
            what = f"the value holds {character_name(hidden)}"
            self._note(path, what, "remove it, or put the value in quotes", "E2-VALUE")
        try:
            return plain_scalar(word)
        except ValueError as error:
            self._note(path, str(error), "", "E2-VALUE")
            return None

    def _quoted(self, text: str, path: KeyPath, *, at_key: bool = False) -> str:
        if not _SURROGATE.search(text):
            return text
        # JSON writes characters beyond U+FFFF as two escapes, which PyYAML leaves apart
        joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if "\ufffd" in joined:
            self._note(path, "half of a surrogate pair", "remove the escape", "E2-VALUE", at_key=at_key)
        return joined

    def _note(self, path: KeyPath, what: str, fix: str, code: str = "E2-YAML", *, at_key: bool = False) -> None:
        self.tree.add(Problem(path, what, fix, code, at_key))

    def _place(self, mark: object) -> Place:
        assert isinstance(mark, yaml.Mark), "PyYAML's own scanner says where each event starts"
        return Place(mark.line + 1, mark.column + 1, self.source)


def _is_word(text: str) -> bool:
    try:
        return isinstance(plain_scalar(text), str)
    except ValueError:
        return False
