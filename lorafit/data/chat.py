"""Conversations as text, with the spans that are trained: what the model writes, and what ends its turn."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lorafit.data.blanks import Blanked, blank_out, ends_in_tag, variants
from lorafit.data.markers import Markers
from lorafit.data.skeleton import Place, Skeleton, SkeletonMaker, Turn, check_kept
from lorafit.data.spellings import Messages, quotes_arguments, spellings
from lorafit.data.template import ChatTemplate, TemplateRefusal, template_of
from lorafit.data.writing import TextLost, Unmaskable
from lorafit.recipe.formats import Conversation, Message, RowFault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainOn = Literal["assistant", "last_assistant", "all"]
Span = tuple[int, int]


class TemplateFault(RowFault):
    """The template cannot be masked for this conversation; no row of its kind can, so it is never skipped."""


@dataclass(frozen=True)
class Rendered:
    """The text of a row and, in characters, what of it is trained.

    The prompt and the answer that starts at `prompt_end` are tokenised apart where a token would join them.
    """

    text: str
    trained: list[Span]
    prompt_end: int
    history_rewritten: bool = False
    notes: tuple[str, ...] = ()  # keys of NOTES: what the template made of the conversation


NOTES = {
    "arguments": "the template takes the arguments of tool calls only as JSON text where they are objects, or the "
    "other way round; they were given to it so",
    "quoted": "the template writes the arguments of tool calls, given as JSON text, as one quoted text; where models "
    "are served it is mostly given objects, so give it objects",
    "empty": "the template cannot do without a text beside a tool call; it was given an empty one",
    "parts": "the template takes texts only as lists of parts; they were given to it so",
    "thinking apart": "the template takes thinking only apart from an answer's text; it was given to it so",
    "no tools": "the template cannot do without a list of tools; it was given an empty one",
    "closed": "the template leaves the last answer open until something follows; what ends it then was added",
    "thinking lost": "the template leaves out the thinking of an answer, which is not trained",
    "trimmed": "the template trims a text of the conversation",
}


class ChatRenderer:
    """Renders conversations with a tokenizer's template and finds what is trained in them."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", train_on: TrainOn) -> None:
        self.tokenizer, self.train_on = tokenizer, train_on
        self._makers: dict[bool, SkeletonMaker] = {}

    def render(self, conversation: Conversation) -> Rendered:
        """Render one conversation.

        Raises RowFault when the template refuses the row, TemplateFault when it cannot be masked exactly,
        DataError when there is no template.
        """
        maker = self._maker(conversation.tools is not None)
        first: TemplateRefusal | Unmaskable | None = None
        for messages, changes in spellings([message.for_template() for message in conversation.messages]):
            if "parts" in changes and not isinstance(first, TemplateRefusal | TextLost):
                continue  # the template took plain texts: it only cannot be followed
            try:
                return self._spelled(maker, conversation, messages, changes)
            except (TemplateRefusal, Unmaskable) as reason:
                first = first or reason
        assert first is not None
        raise _template_fault(first) if isinstance(first, Unmaskable) else _refused(first) from None

    def _spelled(
        self, maker: SkeletonMaker, conversation: Conversation, messages: Messages, changes: tuple[str, ...]
    ) -> Rendered:
        text = maker.template.render(messages, conversation.tools)
        notes = [*changes, *(["no tools"] if maker.template.gave_no_tools else [])]
        notes += ["quoted"] if quotes_arguments(messages, text) else []
        laid = self._laid(maker, conversation, messages, text)
        rendered = self._rendered(maker.template, conversation, messages, laid)
        return replace(rendered, notes=(*notes, *laid.notes))

    def _maker(self, tools: bool) -> SkeletonMaker:
        if tools not in self._makers:
            markers = Markers(self.tokenizer.all_special_tokens, str(self.tokenizer.eos_token or ""))
            self._makers[tools] = SkeletonMaker(template_of(self.tokenizer, tools=tools), markers)
        return self._makers[tools]

    def _laid(self, maker: SkeletonMaker, conversation: Conversation, messages: Messages, text: str) -> "_Laid":
        """Find the turns in the text: by the conversation's shape, else with only its answers blanked.

        An answer that ends in a thinking tag is first taken for text throughout, as most templates take it.
        """
        if any(map(ends_in_tag, messages)):
            with suppress(Unmaskable):
                laid = self._fitted(maker, conversation, blank_out(messages, tags_are_text=True), text)
                if laid is not None:
                    return laid
        for roles in (None, frozenset({"assistant"})):
            laid = self._fitted(maker, conversation, blank_out(messages, roles=roles), text)
            if laid is not None:
                return laid
        raise Unmaskable("it changes the text of an answer in a way that cannot be followed")

    def _fitted(self, maker: SkeletonMaker, conversation: Conversation, blanked: Blanked, text: str) -> "_Laid | None":
        skeleton = maker.of(blanked, conversation.tools)
        return _fit(text + skeleton.added, skeleton, blanked)

    def _rendered(
        self, template: ChatTemplate, conversation: Conversation, messages: Messages, laid: "_Laid"
    ) -> Rendered:
        last = len(messages) - 1
        if self.train_on == "all":
            turn = laid.turns[last]
            return Rendered(laid.text, [(0, len(laid.text))], 0 if isinstance(turn, Unmaskable) else turn.prompt_end)
        chosen = []
        for number in _trained_turns(conversation.messages, self.train_on):
            turn = laid.turns[number]
            if isinstance(turn, Unmaskable):
                raise turn
            chosen.append(turn)
            if number == last:
                _check_prompt(template, messages[:-1], conversation.tools, laid.text[: turn.prompt_end])
        spans = [(turn.start, turn.end) for turn in chosen]
        rewritten = not all(turn.as_at_inference for turn in chosen)
        return Rendered(laid.text, spans, chosen[-1].prompt_end, rewritten)


@dataclass(frozen=True)
class _TextTurn:
    prompt_end: int
    start: int
    end: int
    as_at_inference: bool


@dataclass(frozen=True)
class _Laid:
    """The text of a row with its turns found in it."""

    text: str
    turns: dict[int, "_TextTurn | Unmaskable"]
    notes: list[str]


def generation_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Give the text after which the assistant answers: what training put before the answer.

    Raises RowFault when the template refuses the conversation, DataError when there is no template.
    """
    template = template_of(tokenizer, tools=tools is not None)
    first: TemplateRefusal | None = None
    best: str | None = None
    for spelled, _ in spellings(messages):
        try:
            prompt = template.render(spelled, tools, generation_prompt=True)
            best = prompt if best is None else best
            check_kept(template, blank_out(spelled), tools)
            return prompt
        except TemplateRefusal as refusal:
            first = first or refusal
        except Unmaskable:
            continue
    if best is not None:
        return best
    assert first is not None
    raise _refused(first)


def generation_prompt_ids(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """Give the tokens after which the assistant answers, as `apply_chat_template` does."""
    text = generation_prompt(tokenizer, messages, tools)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _trained_turns(messages: Sequence[Message], train_on: TrainOn) -> list[int]:
    """Give the numbers of the trained messages: those `train_on` takes, but for what `train` says itself."""
    answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
    taken = set(answers[-1:] if train_on == "last_assistant" else answers)
    chosen = [n for n in answers if messages[n].train or (messages[n].train is None and n in taken)]
    if not chosen:
        raise RowFault("no turn of the row is trained", "E3-ROW-NO-TARGET", f"train_on is {train_on}")
    return chosen


def _check_prompt(
    template: ChatTemplate, asked: Messages, tools: Sequence[Mapping[str, Any]] | None, prompt: str
) -> None:
    """What stands before the last answer must be what the model is given when it is asked."""
    if template.render(asked, tools, generation_prompt=True) != prompt:
        raise Unmaskable("it writes the turns before the last answer differently when it asks for that answer")


def _refused(refusal: TemplateRefusal) -> RowFault:
    return RowFault(f"the chat template refuses the row: {refusal}", "E3-ROW-TEMPLATE")


def _template_fault(reason: Unmaskable) -> TemplateFault:
    return TemplateFault(f"the chat template cannot be masked exactly: {reason}", "E3-TEMPLATE")


def _fit(text: str, skeleton: Skeleton, blanked: Blanked) -> _Laid | None:
    """Lay a text over a skeleton, byte for byte; None where it does not fit."""
    if not text.startswith(skeleton.pieces[0]):
        return None
    starts, position, trimmed = [0], len(skeleton.pieces[0]), False
    for name, piece in zip(skeleton.blanks, skeleton.pieces[1:], strict=True):
        blank = blanked.blanks[name]
        for written in variants(blank.text):
            if text.startswith(written, position) and text.startswith(piece, position + len(written)):
                break
        else:
            return None
        trimmed = trimmed or (blank.kind == "t" and blank.must_appear and len(written) < len(blank.text))
        starts.append(position + len(written))
        position = starts[-1] + len(piece)
    if position != len(text):
        return None
    lost = any(name not in skeleton.blanks for name in blanked.blanks)
    said = {"closed": bool(skeleton.added), "thinking lost": lost, "trimmed": trimmed}
    turns = {number: _placed(turn, starts) for number, turn in skeleton.turns.items()}
    return _Laid(text, turns, [note for note, holds in said.items() if holds])


def _placed(turn: Turn | Unmaskable, starts: Sequence[int]) -> "_TextTurn | Unmaskable":
    if isinstance(turn, Unmaskable):
        return turn

    def at(place: Place) -> int:
        return starts[place.piece] + place.offset

    return _TextTurn(at(turn.prompt_end), at(turn.start), at(turn.end), turn.as_at_inference)
