"""Regular expressions of a recipe: refused when they do not compile, or could take forever on a name."""

import re
import warnings

MAX_NESTING = 10
MAX_OPEN_ENDS = 6  # `.*` and the like; each one more multiplies the time by the length of the name

_TOKEN = re.compile(
    r"(?P<escape>\\.)"
    r"|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|(?P<open>\((?:\?(?:P?<\w+>|<?[=!]|[:>]|[a-zA-Z-]+:?))?)"
    r"|(?P<close>\))"
    r"|(?P<either>\|)"
    r"|(?P<repeat>[*+?]|\{\d*,?\d*\})"
    r"|(?P<plain>.)",
    re.DOTALL,
)


def why_not(pattern: str) -> str | None:
    """Say what is wrong with a pattern; None when it compiles and cannot backtrack without end."""
    scan = _Scan(pattern)
    if scan.deepest > MAX_NESTING:
        return f"groups nested more than {MAX_NESTING} deep"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, OverflowError, Warning) as error:
        return f"not a regular expression: {error}"
    if scan.nested or scan.open_ends > MAX_OPEN_ENDS:
        return "repeats what repeats in itself, so that matching a name may take forever"
    return None


class _Group:
    """A bracketed part while it is read: could it, repeated, match one text in several ways?"""

    def __init__(self) -> None:
        self.ambiguous = False
        self.starts: list[str] = []  # first token of each branch
        self.fresh = True  # the next token starts a branch


class _Scan:
    """One reading of a pattern, token by token.

    A repeated group is refused when its inside has a repeat of variable length, or branches that may start
    alike: the two ways in which matching takes exponential time.
    """

    def __init__(self, pattern: str) -> None:
        self.groups = [_Group()]
        self.closed: _Group | None = None  # the group that the last token closed
        self.deepest = 0
        self.open_ends = 0
        self.nested = False
        for token in _TOKEN.finditer(pattern):
            self._take(str(token.lastgroup), token.group())

    def _take(self, kind: str, text: str) -> None:
        group, closed, self.closed = self.groups[-1], self.closed, None
        if kind == "repeat":
            self._repeat(text, closed)
        elif kind == "either":
            group.fresh = True
        elif kind == "close" and len(self.groups) > 1:
            self._close()
        else:
            if group.fresh:
                group.starts.append(text if kind in ("plain", "escape") else "")
                group.fresh = False
            if kind == "open":
                self.groups.append(_Group())
        self.deepest = max(self.deepest, len(self.groups) - 1)

    def _close(self) -> None:
        self.closed = self.groups.pop()
        starts = self.closed.starts
        loose = any(start in ("", ".") or (start[0] == "\\" and start[1].isalnum()) for start in starts)
        self.closed.ambiguous |= len(starts) > 1 and (loose or len(set(starts)) < len(starts))
        self.groups[-1].ambiguous |= self.closed.ambiguous

    def _repeat(self, text: str, closed: _Group | None) -> None:
        least, most = _bounds(text)
        self.nested |= most > 1 and closed is not None and closed.ambiguous
        self.open_ends += most == _ENDLESS
        self.groups[-1].ambiguous |= least != most


_ENDLESS = 65_535


def _bounds(text: str) -> tuple[int, int]:
    """Give how often a quantifier repeats, at least and at most."""
    if text in ("*", "+", "?"):
        return (int(text == "+"), 1 if text == "?" else _ENDLESS)
    low, comma, high = text[1:-1].partition(",")
    least = int(low[:5] or 0)
    return least, (int(high[:5]) if high else _ENDLESS if comma else least)
