"""Where an answer ends: every token that says so, wherever it is written down."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorafit.data.chat import ChatRenderer
from lorafit.data.tokens import Encoder
from lorafit.errors import LorafitError
from lorafit.recipe.formats import Conversation, Message, RowFault

SHORTEST_CHAT = Conversation((Message("user", "a"), Message("assistant", "b")))


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Collect the ids at which generation stops: the model's, the tokenizer's, and the template's turn end.

    They often disagree; whichever of them a model was trained to write has to end its answer.
    """
    assert model.generation_config is not None
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return {int(token) for token in listed if token is not None} | tokenizer_stops(tokenizer)


def tokenizer_stops(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Collect the ids of the end of a text and of the end of a turn in the chat template."""
    end = tokenizer.eos_token_id
    return _turn_end(tokenizer) | ({int(end)} if end is not None else set())


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Give the token that ends an answer in the chat template; none where there is no such token."""
    try:
        encoded = Encoder(tokenizer).encode([ChatRenderer(tokenizer, "assistant").render(SHORTEST_CHAT)])[0]
    except (LorafitError, RowFault):  # no template, or one that does not take such a chat
        return set()
    if isinstance(encoded, RowFault) or not encoded.ends_with_token:
        return set()
    return {int(encoded.tokens[encoded.trained][-1])}
