"""Talk to a run or a model in the terminal, with the template it was trained with."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict

from transformers import PreTrainedTokenizerBase, TextStreamer

from lorafit.data.chat import generation_prompt_ids
from lorafit.data.classes import SEPARATOR
from lorafit.data.faults import ReadLog
from lorafit.data.rows import read_examples
from lorafit.data.tokens import Encoder
from lorafit.errors import DataError
from lorafit.evaluate.classify import classify
from lorafit.evaluate.generation import Answer, generate_answers
from lorafit.evaluate.target import Target, check_text, find_target
from lorafit.model.adapt import base_of
from lorafit.model.run import Loaded
from lorafit.model.stops import stop_tokens
from lorafit.recipe.formats import Example, Labelled, PlainText
from lorafit.recipe.schema import Recipe
from lorafit.rundir.lock import RunLock

Messages = list[dict[str, str]]
HELP = "/reset forgets the conversation, /exit ends it"


class Terminal(TextStreamer):
    """Writes an answer to standard output while it is made."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write what can no longer change."""
        if sys.stdout is not None:  # as it is when it was closed before the command began
            sys.stdout.write(text + ("\n" if stream_end else ""))
            sys.stdout.flush()


class Speaker:
    """A loaded model and how it is spoken to."""

    def __init__(self, found: Target, max_new_tokens: int, speak: bool) -> None:
        self.loaded: Loaded = found.load()
        self.tokenizer: PreTrainedTokenizerBase = found.tokenizer
        self.context = found.context
        self.max_new_tokens = max_new_tokens
        self.speak = speak
        first = None if found.run is None else _first_example(found.recipe)
        self.plain = not self.tokenizer.chat_template or isinstance(first, PlainText)
        self.lead = SEPARATOR if self.plain and isinstance(first, Labelled) else ""  # what stood before the label
        self.stop_ids = stop_tokens(base_of(self.loaded.model), self.tokenizer)

    def answer(self, messages: Messages) -> Answer:
        """Give the assistant's next turn; DataError when the conversation has outgrown the model's context."""
        prompt = self._prompt(messages)
        room = self.max_new_tokens if self.context is None else self.context - len(prompt)
        if room < 1:
            raise DataError(
                f"the conversation has {len(prompt):,} tokens, the model takes {self.context:,}",
                fix="ask something shorter (in a chat: /reset)",
                code="E3-CONTEXT",
            )
        return generate_answers(
            self.loaded.model,
            self.tokenizer,
            [prompt],
            max_new_tokens=min(self.max_new_tokens, room),
            batch_size=1,
            stop_ids=self.stop_ids,
            streamer=Terminal(self.tokenizer, skip_prompt=True, skip_special_tokens=True) if self.speak else None,
        )[0]

    def _prompt(self, messages: Messages) -> Sequence[int]:
        """Give the token ids after which the answer stands, as in training."""
        if not self.plain:
            return generation_prompt_ids(self.tokenizer, messages)
        encoder = Encoder(self.tokenizer)
        return [*encoder.begin, *encoder.ids(messages[-1]["content"] + self.lead)]


def _first_example(recipe: Recipe) -> Example | None:
    """Give a row of a run: it may stand outside any template, which its tokenizer may have all the same."""
    source = recipe.data.train[0]
    if source.format in ("chat", "alpaca"):
        return None
    try:
        _, examples = read_examples(source.model_copy(update={"limit": 1}), ReadLog())
        return next((example for _, example in examples), None)
    except DataError:  # the rows are gone; a template is what nearly every run has
        return None


def converse(target: str, prompt: str | None, *, max_new_tokens: int, speak: bool) -> dict[str, object]:
    """Answer one prompt, or hold a conversation with whoever types, until /exit or the end of input.

    With `speak` answers go to standard output as they are made. Gives what was said.
    """
    if prompt is not None:
        check_text(prompt, "--prompt")
    found = find_target(target)
    if found.labels:
        return _classified(found, prompt, speak=speak)
    if found.run is None:
        return _converse(Speaker(found, max_new_tokens, speak), prompt)
    with RunLock(found.run, shared=True):
        speaker = Speaker(found, max_new_tokens, speak)
    return _converse(speaker, prompt)


def _classified(found: Target, prompt: str | None, *, speak: bool) -> dict[str, object]:
    with nullcontext() if found.run is None else RunLock(found.run, shared=True):
        return classify(found, prompt, speak=speak)


def _converse(speaker: Speaker, prompt: str | None) -> dict[str, object]:
    if prompt is None:
        return {"messages": _chat(speaker)}
    answer = speaker.answer([{"role": "user", "content": prompt}])
    words = asdict(answer)
    return {"prompt": prompt, "answer": words.pop("text"), **words}


def _chat(speaker: Speaker) -> Messages:
    """Take turns; a question that does not fit is said to be so, and can be asked otherwise."""
    messages: Messages = []
    if sys.stdin.isatty():
        sys.stderr.write(HELP + "\n")
    while (said := _listen()) != "/exit":
        if said == "/reset":
            messages = []
        elif said:
            messages = _turn(speaker, messages, said)
    return messages


def _turn(speaker: Speaker, messages: Messages, said: str) -> Messages:
    asked = [*messages, {"role": "user", "content": said}]
    try:
        answer = speaker.answer(asked)
    except DataError as error:
        sys.stderr.write(f"{error}\n")
        return messages
    return [*asked, {"role": "assistant", "content": answer.text}]


def _listen() -> str:
    """Read a line; the end of input is /exit."""
    try:
        said = input("> " if sys.stdin.isatty() else "").strip()
        return said.encode("utf-8", "replace").decode()  # bytes that are no text come as surrogates
    except EOFError:
        return "/exit"
