"""Conversations as text, with the spans that are trained: what the model writes, and what ends its turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lorafit.data.blanks import Blanked, blank_out, variants
from lorafit.data.markers import Markers
from lorafit.data.skeleton import Place, Skeleton, SkeletonMaker, Turn, Unmaskable
from lorafit.data.template import ChatTemplate, TemplateRefusal, template_of
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
        messages = [message.for_template() for message in conversation.messages]
        try:
            text = maker.template.render(messages, conversation.tools)
            turns = self._turns(maker, conversation, messages, text)
        except TemplateRefusal as refusal:
            raise RowFault(f"the chat template refuses the row: {refusal}", "E3-ROW-TEMPLATE") from None
        except Unmaskable as reason:
            raise _template_fault(reason) from None
        return self._rendered(maker.template, conversation, text, turns)

    def _maker(self, tools: bool) -> SkeletonMaker:
        if tools not in self._makers:
            markers = Markers(self.tokenizer.all_special_tokens, str(self.tokenizer.eos_token or ""))
            self._makers[tools] = SkeletonMaker(template_of(self.tokenizer, tools=tools), markers)
        return self._makers[tools]

    def _turns(
        self, maker: SkeletonMaker, conversation: Conversation, messages: list[dict[str, Any]], text: str
    ) -> dict[int, "_TextTurn | Unmaskable"]:
        """Find the turns in the text: by the conversation's shape, else with only its answers blanked."""
        for roles in (None, frozenset({"assistant"})):
            blanked = blank_out(messages, roles=roles)
            skeleton = maker.of(blanked, conversation.tools)
            starts = _fit(text, skeleton, blanked)
            if starts is not None:
                return {number: _placed(turn, starts) for number, turn in skeleton.turns.items()}
        raise Unmaskable("it changes the text of an answer in a way that cannot be followed")

    def _rendered(
        self,
        template: ChatTemplate,
        conversation: Conversation,
        text: str,
        turns: dict[int, "_TextTurn | Unmaskable"],
    ) -> Rendered:
        last = len(conversation.messages) - 1
        if self.train_on == "all":
            turn = turns[last]
            return Rendered(text, [(0, len(text))], 0 if isinstance(turn, Unmaskable) else turn.prompt_end)
        chosen = []
        for number in _trained_turns(conversation.messages, self.train_on):
            turn = turns[number]
            if isinstance(turn, Unmaskable):
                raise _template_fault(turn)
            chosen.append(turn)
            if number == last:
                _check_prompt(template, conversation, text[: turn.prompt_end])
        spans = [(turn.start, turn.end) for turn in chosen]
        rewritten = not all(turn.as_at_inference for turn in chosen)
        return Rendered(text, spans, chosen[-1].prompt_end, rewritten)


@dataclass(frozen=True)
class _TextTurn:
    prompt_end: int
    start: int
    end: int
    as_at_inference: bool


def generation_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Give the text after which the assistant answers: what training put before the answer.

    Raises RowFault when the template refuses the conversation, DataError when there is no template.
    """
    template = template_of(tokenizer, tools=tools is not None)
    try:
        return template.render(messages, tools, generation_prompt=True)
    except TemplateRefusal as refusal:
        raise RowFault(f"the chat template refuses the row: {refusal}", "E3-ROW-TEMPLATE") from None


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


def _check_prompt(template: ChatTemplate, conversation: Conversation, prompt: str) -> None:
    """What stands before the last answer must be what the model is given when it is asked."""
    asked = [message.for_template() for message in conversation.messages[:-1]]
    try:
        given = template.render(asked, conversation.tools, generation_prompt=True)
    except TemplateRefusal as refusal:
        raise RowFault(f"the chat template refuses the row: {refusal}", "E3-ROW-TEMPLATE") from None
    if given != prompt:
        raise _template_fault(
            Unmaskable("it writes the turns before the last answer differently when it asks for that answer")
        )


def _template_fault(reason: Unmaskable) -> TemplateFault:
    return TemplateFault(f"the chat template cannot be masked exactly: {reason}", "E3-TEMPLATE")


def _fit(text: str, skeleton: Skeleton, blanked: Blanked) -> list[int] | None:
    """Lay a text over a skeleton, byte for byte; give where each piece starts, None where it does not fit."""
    if not text.startswith(skeleton.pieces[0]):
        return None
    starts, position = [0], len(skeleton.pieces[0])
    for name, piece in zip(skeleton.blanks, skeleton.pieces[1:], strict=True):
        for written in variants(blanked.blanks[name].text):
            if text.startswith(written, position) and text.startswith(piece, position + len(written)):
                break
        else:
            return None
        starts.append(position + len(written))
        position = starts[-1] + len(piece)
    return starts if position == len(text) else None


def _placed(turn: Turn | Unmaskable, starts: Sequence[int]) -> "_TextTurn | Unmaskable":
    if isinstance(turn, Unmaskable):
        return turn

    def at(place: Place) -> int:
        return starts[place.piece] + place.offset

    return _TextTurn(at(turn.prompt_end), at(turn.start), at(turn.end), turn.as_at_inference)
