"""The byte-level BPE tokenizer: trained on the corpus, written in the transformers layout."""

from itertools import chain, islice
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from scripts.tiny.corpus import ASSISTANT, BOS, END, PAD, SYSTEM, USER, documents
from scripts.tiny.words import pool

SPECIAL_TOKENS = (BOS, PAD, END, SYSTEM, USER, ASSISTANT)
TRAINING_DOCUMENTS = 30_000
CLOSED_CLASS = pool(
    """a all and are above ask average below biggest columns count different distinct do each every find
    for give greater has have highest how in is largest less list lowest many maximum mean minimum
    more number of once or over row rows say show smaller smallest sum summed table text than that
    the there to total under values what where which whose with write you"""
)
# Counted this often on top of the corpus, each closed-class word ends up as one token.
CLOSED_CLASS_LINES = 3_000
CLOSED_CLASS_LINE = " ".join([*CLOSED_CLASS, *(word.capitalize() for word in CLOSED_CLASS), ""])
# Only these words, SQL keywords and punctuation keep the space that follows them. Every other word is
# cut free of its spaces, so a name reads the same in `price INTEGER` and in `MAX(price)`: a model this
# small copies it far more surely.
PIECES = Regex(
    rf"(?:{CLOSED_CLASS_LINE.strip().replace(' ', '|')}) "
    r"|\p{Lu}{2,} |[^\p{L}\p{N}\s]+ ?|\p{L}+|\p{N}|\s"
)
CHAT_TEMPLATE = (
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "{%- if message.role == 'assistant' -%}\n"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- message.content + '<|end|>' -}}{%- endgeneration -%}\n"
    "{%- else -%}\n"
    "{{- '<|' + message.role + '|>' + message.content + '<|end|>' -}}\n"
    "{%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}\n"
)


def train(seed: int, vocabulary: int) -> Tokenizer:
    """Byte-level BPE over the corpus; the markers are taken out first, as they are whole tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(PIECES, behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = map(_without_markers, islice(documents(seed), TRAINING_DOCUMENTS))
    tokenizer.train_from_iterator(chain(texts, [CLOSED_CLASS_LINE] * CLOSED_CLASS_LINES), trainer)
    return tokenizer


def _without_markers(text: str) -> str:
    for marker in SPECIAL_TOKENS:
        text = text.replace(marker, "\n")
    return text


def save(tokenizer: Tokenizer, folder: Path, max_length_tokens: int) -> None:
    """Write the files that AutoTokenizer loads."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=max_length_tokens,
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.save_pretrained(str(folder))
