"""Where the assistant's turns stand in a rendered conversation, found without searching for their text.

A conversation is rendered once with blanks for its texts. Where the blanks come out is where the texts go,
whatever the template does around them; what it writes between them is fixed. Comparing that with the
generation prompt gives the first character the model must write itself, and comparing how a turn closes
when it is the last one and when another follows gives the text that ends it. Growing a prefix turn by turn,
the usual way, is wrong for about a fifth of templates: they write an earlier turn differently once it is
history.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorafit.data.blanks import BLANK, THINKING, Blanked, ends_in_tag, kind_of_blank, message_of
from lorafit.data.markers import Markers
from lorafit.data.template import ChatTemplate, TemplateRefusal
from lorafit.data.writing import TextLost, Unmaskable, check_parts, check_writing


@dataclass(frozen=True)
class Place:
    """A position in a render: so many characters into the piece that follows so many blanks."""

    piece: int
    offset: int


@dataclass(frozen=True)
class Turn:
    """An assistant's turn: where the prompt stops, and what of the rest is trained."""

    prompt_end: Place
    start: Place
    end: Place
    as_at_inference: bool  # what stands before it is what the model is given when it is asked


@dataclass(frozen=True)
class Skeleton:
    """What a template writes for one shape of conversation."""

    pieces: list[str]
    blanks: list[str]
    turns: dict[int, Turn | Unmaskable]
    added: str  # what ends the last turn, where the template leaves it open until something follows


class SkeletonMaker:
    """Makes the skeleton of each shape of conversation once."""

    def __init__(self, template: ChatTemplate, markers: Markers) -> None:
        self.template, self.markers = template, markers
        self._known: dict[str, Skeleton] = {}
        self._open: bool | None = None

    def of(self, blanked: Blanked, tools: Sequence[Mapping[str, Any]] | None) -> Skeleton:
        """Give the skeleton of a conversation.

        Raises Unmaskable when the template loses, repeats or escapes a text, TemplateRefusal when it fails.
        """
        key = blanked.key(tools)
        if key not in self._known:
            if len(self._known) >= 4096:  # shapes with tools in them may be as many as rows
                self._known.clear()
            reading = _Reading(self.template, self.markers, blanked, tools, self._leaves_open())
            self._known[key] = reading.skeleton()
        return self._known[key]

    def _leaves_open(self) -> bool:
        """Say whether the template puts nothing behind a plain answer that nothing follows."""
        if self._open is None:
            answer = "Qz1t1zQ"
            chat = [{"role": "user", "content": "Qz0t0zQ"}, {"role": "assistant", "content": answer}]
            try:
                self._open = not _after(self.template.render(chat), answer).strip()
            except (TemplateRefusal, Unmaskable):
                self._open = False
        return self._open


class _Reading:
    """One conversation with blanks, rendered in full and up to each of its turns."""

    def __init__(
        self,
        template: ChatTemplate,
        markers: Markers,
        blanked: Blanked,
        tools: Sequence[Mapping[str, Any]] | None,
        leaves_open: bool,
    ) -> None:
        self.template, self.markers, self.messages, self.tools = template, markers, blanked.messages, tools
        self.leaves_open, self.added = leaves_open, ""
        self.full, self.marks = template.render(self.messages, tools), template.marks(self.messages, tools)
        self.pieces, self.blanks = BLANK.split(self.full), BLANK.findall(self.full)
        _check_texts(blanked, self.blanks)
        written = "".join(self.pieces)
        check_writing(written, template.source + blanked.key(tools))
        check_parts(written, template.source)

    def skeleton(self) -> Skeleton:
        self.added = self._left_open()
        self.full += self.added
        self.pieces[-1] += self.added
        turns: dict[int, Turn | Unmaskable] = {}
        for number, message in enumerate(self.messages):
            if message["role"] == "assistant":
                try:
                    turns[number] = self._turn(number)
                except Unmaskable as reason:
                    turns[number] = reason
        return Skeleton(self.pieces, self.blanks, turns, self.added)

    def _turn(self, number: int) -> Turn:
        prompt = self.template.render(self.messages[:number], self.tools, generation_prompt=True)
        before = (BLANK.findall(prompt) or [""])[-1]
        header = self._header(_after(prompt, before), _after(self.full, before), self._is_last(number))
        prompt_end = Place(self._piece_after(before), len(header))
        own = [b for b in dict.fromkeys(self.blanks) if message_of(b) == number]
        own = [b for b in own if self._piece_after(b) > prompt_end.piece]
        anchor, skip = (own[-1], 0) if own else (before, len(header))
        opener = self._opener(number, prompt)
        end = Place(self._piece_after(anchor), skip + len(self._ending(number, anchor, skip, opener)))
        return Turn(
            prompt_end=prompt_end,
            start=self._marked_start(prompt_end, end, [b for b in own if kind_of_blank(b) != "r"]),
            end=end,
            as_at_inference=self.full[: self._position(prompt_end)] == prompt,
        )

    def _is_last(self, number: int) -> bool:
        return number == len(self.messages) - 1

    def _header(self, asked: str, written: str, is_last: bool) -> str:
        """Give how the turn is opened: as at inference, or (in the history) as much of that as is written."""
        if written.startswith(asked):
            return asked
        shared = self.markers.whole(_shared_start(asked, written), written)
        if is_last or not shared:
            place = max(len(_shared_start(asked, written)) - 20, 0)
            there = f"{asked[place : place + 60]!r}, but writes one after {written[place : place + 60]!r}"
            raise Unmaskable(f"it asks for an answer with {there}")
        return shared

    def _opener(self, number: int, prompt: str) -> str:
        """Give the marker with which a generation prompt opens a turn, "" where it adds nothing."""
        told = self.template.render(self.messages[:number], self.tools)
        return self.markers.first(prompt[len(told) :]) if prompt.startswith(told) else ""

    def _ending(self, number: int, anchor: str, skip: int, opener: str) -> str:
        gap = _after(self.full, anchor)[skip:]
        if self._is_last(number) and self.added:
            return gap
        if self._is_last(number):
            closing, following = gap, self._followed(anchor, skip)
        else:
            alone = self.template.render(self.messages[: number + 1], self.tools)
            closing, following = _after(alone, anchor)[skip:], gap
        self._check_closed(number, anchor, closing.rstrip())
        ending = self.markers.ending(gap, closing, following, opener)
        if following is not None and self._stays_open(closing):
            ending = self._open_ending(number, anchor, skip, closing.rstrip(), following)
        if ends_in_tag(self.messages[number]) and THINKING.fullmatch(ending.strip()):
            raise Unmaskable("it does not tell the thinking tag at the end of an answer from the end of its turn")
        if not ending or not gap.startswith(ending):
            raise Unmaskable(f"it does not end an answer with a token for that (but with {gap[:40]!r})")
        return ending

    def _check_closed(self, number: int, anchor: str, closing: str) -> None:
        """Some templates end a tool call only if there is a text beside it."""
        message = self.messages[number]
        if not message.get("tool_calls") or message.get("content"):
            return
        text = f"Qz{number}t9999zQ"
        try:
            spoken = self.template.render([*self.messages[:number], {**message, "content": text}], self.tools)
        except TemplateRefusal:
            return
        other = spoken[spoken.find(anchor) + len(anchor) :].replace(text, "").rstrip()
        if other != closing and other.startswith(closing):
            raise Unmaskable("it does not end a tool call without a text beside it")

    def _left_open(self) -> str:
        """Give what ends the last turn where the template writes that only when something follows."""
        last, tail = len(self.messages) - 1, self.pieces[-1]
        if not self.blanks or message_of(self.blanks[-1]) != last or not self._stays_open(tail):
            return ""
        following = self._followed(self.blanks[-1], 0)
        if following is None or not following.startswith(tail):
            return ""
        return self._open_ending(last, self.blanks[-1], 0, tail.rstrip(), following)[len(tail) :]

    def _stays_open(self, closing: str) -> bool:
        """Say whether a turn with this behind it is not ended: it says nothing, or only ends a tool call."""
        return not closing.strip() or self.leaves_open

    def _open_ending(self, number: int, anchor: str, skip: int, said: str, following: str) -> str:
        again = self._asked_again(number, anchor, skip)
        if not following.startswith(said) or not again.startswith(said):
            return ""
        ending = self.markers.left_open(again[len(said) :], following[len(said) :])
        return said + ending if ending else ""

    def _asked_again(self, number: int, anchor: str, skip: int) -> str:
        """Give what follows a turn when another answer is asked for at once."""
        again = self.template.render(self.messages[: number + 1], self.tools, generation_prompt=True)
        return _after(again, anchor)[skip:]

    def _followed(self, anchor: str, skip: int) -> str | None:
        """Give what follows the last turn when a user (or a tool) speaks after it."""
        role = "tool" if self.messages[-1].get("tool_calls") else "user"
        name = f"Qz{len(self.messages)}t0zQ"
        parts = isinstance(self.messages[0]["content"], list)
        probe = {"role": role, "content": [{"type": "text", "text": name}] if parts else name}
        try:
            return _after(self.template.render([*self.messages, probe], self.tools), anchor)[skip:]
        except (TemplateRefusal, Unmaskable):
            return None

    def _marked_start(self, start: Place, end: Place, texts: Sequence[str]) -> Place:
        """Move the start to where a `{% generation %}` block opens, if that is later.

        The block must hold the answer's `texts`; whether it holds the end of the turn too, templates disagree.
        """
        if not self.template.marked:
            return start
        position = self._position(start)
        for opens, closes in self.marks:
            if closes <= position or opens >= self._position(end):
                continue
            if any(not opens <= self.full.find(text) <= closes - len(text) for text in texts):
                break
            return start if opens <= position else self._place(opens)
        raise Unmaskable("its {% generation %} marks leave out (a part of) an answer")

    def _piece_after(self, blank: str) -> int:
        return self.blanks.index(blank) + 1 if blank else 0

    def _position(self, place: Place) -> int:
        before = zip(self.pieces[: place.piece], self.blanks[: place.piece], strict=True)
        return sum(len(piece) + len(blank) for piece, blank in before) + place.offset

    def _place(self, position: int) -> Place:
        for number, piece in enumerate(self.pieces):
            if position <= len(piece):
                return Place(number, position)
            position -= len(piece) + len(self.blanks[number])
        raise Unmaskable("its {% generation %} marks open inside an answer")


def check_kept(template: ChatTemplate, blanked: Blanked, tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Raise Unmaskable where a prompt loses, repeats or escapes a text of its conversation."""
    written = template.render(blanked.messages, tools, generation_prompt=True)
    _check_texts(blanked, BLANK.findall(written))
    check_writing("".join(BLANK.split(written)), template.source + blanked.key(tools))


def _after(rendered: str, blank: str) -> str:
    """Give the text between a blank ("": the beginning) and the next."""
    start = rendered.find(blank)
    if start < 0:
        raise Unmaskable("it writes a text of the conversation in one place and leaves it out in another")
    return BLANK.split(rendered[start + len(blank) :], maxsplit=1)[0]


def _shared_start(one: str, other: str) -> str:
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:place]
    return min(one, other, key=len)


def _check_texts(blanked: Blanked, written: Sequence[str]) -> None:
    for name, blank in blanked.blanks.items():
        role, times = blanked.messages[blank.message]["role"], written.count(name)
        what = f"the {role}'s text" if blank.kind in "tr" else "a tool call"
        if times > 1 and blank.kind != "n":
            raise Unmaskable(f"it writes {what} {times} times")
        if times == 0 and blank.must_appear:
            raise TextLost(f"it leaves out {what}")
