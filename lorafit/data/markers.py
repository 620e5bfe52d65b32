"""The tokens that end a turn, as text."""

import re
from collections.abc import Iterable

# What stands for a token in templates at large: <|im_end|>, </s>, <end_of_turn>, [/INST].
_LOOKS = r"<[^<>\s]{1,60}>|\[/?[A-Z][A-Z_]{1,40}\]"


class Markers:
    """Tells markers from words: the tokenizer's special tokens, and what looks like one."""

    def __init__(self, special_tokens: Iterable[str], eos: str | None) -> None:
        literals = sorted({token for token in special_tokens if token.strip()}, key=len, reverse=True)
        self.eos = eos
        self._pattern = re.compile("|".join([*map(re.escape, literals), _LOOKS]))

    def first(self, text: str) -> str:
        """Give the first marker in a text, or ""."""
        found = self._pattern.search(text)
        return found.group() if found else ""

    def ending(self, gap: str, closing: str, following: str | None, opener: str) -> str:
        """Give the text that ends a turn, or "" where there is none.

        `gap` is what follows the answer here, `closing` what follows it when it is the last turn,
        `following` what follows it when somebody speaks next (None when that cannot be), `opener` the
        marker that opens a turn.
        """
        last = closing.rstrip()
        if not last:
            return ""
        if following is None or following.startswith(last):
            return last if self._closes(last) else ""
        ending = self._shared(closing, following) or (self._through_first(gap) if gap == following else last)
        return ending if self._closes(ending) and not (opener and ending.endswith(opener)) else ""

    def left_open(self, asked: str, following: str) -> str:
        """Give the text that ends a turn which is closed only when something follows it, or "".

        `asked` is what follows the answer when another is asked for at once, `following` what follows it when
        somebody else speaks. Both begin with the end of the turn; where they share nothing, the turn ends with
        the token of whoever speaks next. A marker which opens turns of both speakers ends none.
        """
        shared = self._common(asked, following)
        first = self._pattern.search(following)
        if first is None or following[: first.start()].strip():
            return ""
        if not shared:
            return following[: first.end()] if first.group() not in asked else ""
        alone = not asked[shared[0] :].strip()
        return following[: shared[0]] if alone or len(shared) > 1 else ""

    def whole(self, shared: str, text: str) -> str:
        """Cut the beginning of a text so that it splits no marker of that text and ends with one."""
        if shared == text:
            return shared
        ends = [found.end() for found in self._pattern.finditer(text) if found.end() <= len(shared)]
        return text[: ends[-1]] if ends else ""

    def _closes(self, text: str) -> bool:
        return any(found.end() == len(text) for found in self._pattern.finditer(text))

    def _shared(self, closing: str, following: str) -> str:
        """Give what both begin with: through the end-of-text token if it is there, else the first marker."""
        ends = self._common(closing, following)
        for end in ends:
            if self.eos and closing.endswith(self.eos, 0, end):
                return closing[:end]
        return closing[: ends[0]] if ends else ""

    def _common(self, one: str, other: str) -> list[int]:
        """Give where the markers end with which both texts begin."""
        ends = []
        for a, b in zip(self._pattern.finditer(one), self._pattern.finditer(other), strict=False):
            if one[: a.end()] != other[: b.end()]:
                break
            ends.append(a.end())
        return ends

    def _through_first(self, text: str) -> str:
        found = self._pattern.search(text)
        return text[: found.end()] if found else ""
