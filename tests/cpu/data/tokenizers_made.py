"""Small tokenizers of the three kinds that models have, and the chat templates whose habits are traps."""

from collections.abc import Callable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXT = ["Once upon a time there was a cat.\n\nThe cat was on the mat : yes.\n"] * 20


def _wrapped(tokenizer: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    wrapped.chat_template = template
    return wrapped


def byte_level(template: str | None = None) -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3, Qwen: bytes, split into words by a pattern; any text comes back exactly."""
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?\w+| ?[^\s\w]+|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return _wrapped(tokenizer, template)


def sentence_piece(template: str | None = None) -> PreTrainedTokenizerFast:
    """As Llama 2 and Mistral: a space of its own before every piece of text, bytes for what it does not know."""
    characters = sorted({*"".join(TEXT).replace(" ", "▁").replace("\n", ""), "▁"})
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *characters, "▁c", "▁ca", "▁cat"]
    merges = [("▁", "c"), ("▁c", "a"), ("▁ca", "t")]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(tokenizer, template)


def space_merging(template: str | None = None) -> PreTrainedTokenizerFast:
    """As TinyStories' own: tokens that run across spaces, and characters that it does not have."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.decoder = decoders.Fuse()
    return _wrapped(tokenizer, template)


Expected = Callable[[Sequence[str]], list[str]]  # the answers -> what is trained of each

IM_START, END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def _ended(end: str = END, before: str = "") -> Expected:
    return lambda answers: [before + answer + end for answer in answers]


def _last_differs(before: str, end: str = END, last_end: str = END) -> Expected:
    return lambda answers: [*(answer + end for answer in answers[:-1]), before + answers[-1] + last_end]


def _trimmed(end: str, before: str = "") -> Expected:
    return lambda answers: [before + answer.strip() + end for answer in answers]


EXACT: dict[str, tuple[str, Expected]] = {
    "chatml": (CHATML, _ended()),
    # Qwen3: thinking only in the last answer, so that a growing prefix is not one
    "thinks last": (
        "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
        "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}"
        "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _ASK,
        _last_differs("<think>\n\n</think>\n\n"),
    ),
    # Qwen3.5: the question for an answer already opens the thinking
    "asks to think": (
        "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
        "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}"
        "{% else %}" + _TURN + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
        _last_differs("\n</think>\n\n"),
    ),
    # Phi-3: an end-of-text token after the last turn, which ends with a token of its own
    "end of text last": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        _ended(),
    ),
    # Hammer: asks for an answer whether told to or not
    "always asks": (
        "{% for m in messages %}" + _TURN + "{% endfor %}{{ '<|im_start|>assistant\n' }}",
        _ended(),
    ),
    # Llama 3: trims
    "trims": (
        "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n\n' + m.content | trim + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}",
        _trimmed(END),
    ),
    # Mistral: the answer begins with a space; the system text is put into the last question
    "moves the system": (
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
        "{% set last = turns | selectattr('role', 'equalto', 'user') | list | last %}"
        "{{ bos_token }}{% for m in turns %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + (system + '\n\n' if system and m is sameas last else '') + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}",
        _trimmed("</s>", " "),
    ),
    # gpt-oss: the last turn ends otherwise than those before it
    "ends otherwise last": (
        "{% for m in messages %}{% set end = '</s>' if loop.last and not add_generation_prompt else '<|im_end|>' %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + end }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        _last_differs("", END, "</s>"),
    ),
    # TRL's training templates: marks, here around the header too and with the newline after the end
    "marks": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>\n' }}{% endgeneration %}"
        "{% else %}" + _TURN + "{% endif %}{% endfor %}" + _ASK,
        _ended(),
    ),
    # DeepSeek-Coder: words around the turns, a token at the end
    "words": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n' }}"
        "{% elif m.role == 'assistant' %}{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}",
        _ended("\n<|EOT|>"),
    ),
}

EXACT |= {
    # Qwen1.5: the last turn is left open
    "leaves the last turn open": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{% if not loop.last or add_generation_prompt %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}" + _ASK,
        _ended(),
    ),
    # Hermes 2 Pro: cannot do without a list of tools
    "wants tools": ("{% for tool in tools.copy() %}{{ tool }}{% endfor %}" + CHATML, _ended()),
}

REFUSED: dict[str, tuple[str, str]] = {
    "has no ends": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '\n' }}{% endfor %}" + _ASK,
        "does not end an answer",
    ),
    "ends the last turn only": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{{ 'assistant: ' if add_generation_prompt else eos_token }}",
        "does not end an answer",
    ),
    "ends with words only": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        "does not end an answer",
    ),
    "leaves out the question": (
        "{% for m in messages %}{% if m.role != 'user' %}" + _TURN + "{% endif %}{% endfor %}" + _ASK,
        "leaves out the user's text",
    ),
    "writes the question twice": (
        "{% for m in messages %}{% if m.role == 'user' %}" + _TURN + "{% endif %}" + _TURN + "{% endfor %}" + _ASK,
        "2 times",
    ),
    # DeepSeek-R1: asks with a text that no answer follows
    "asks otherwise than it writes": (
        "{% for m in messages %}" + _TURN + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}",
        "asks for an answer",
    ),
    "turns the answer around": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | reverse + '<|im_end|>\n' }}"
        "{% endfor %}" + _ASK,
        "leaves out",
    ),
    "changes letters of the answer": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | replace('e', '3') + '<|im_end|>\n' }}"
        "{% endfor %}" + _ASK,
        "cannot be followed",
    ),
    "writes history otherwise when it asks": (
        "{% if add_generation_prompt %}{{ '<|im_start|>system\nanswer<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}" + _TURN + "{% endfor %}" + _ASK,
        "before the last answer differently",
    ),
}

FAILING: dict[str, tuple[str, str]] = {
    "refuses": ("{{ raise_exception('no thanks') }}", "no thanks"),
    "adds a number to a text": ("{{ messages[0].content + 1 }}", "can only concatenate"),
    "asks for what is not there": ("{{ messages[0].name.first }}", "has no attribute"),
    "divides by zero": ("{{ 1 / 0 }}", "division by zero"),
    "raises a power": ("{{ 10 ** 100000 }}", "too large"),
    "multiplies": (
        "{% set n = namespace(i=7) %}{% for i in range(60) %}{% set n.i = n.i * n.i %}{% endfor %}{{ n.i }}",
        "too large",
    ),
    "calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "counts too far": ("{% for i in range(10 ** 9) %}a{% endfor %}", "Range too big"),
}

BOMBS: dict[str, tuple[str, str]] = {
    "writes too much": ("{{ 'a' * 10 ** 7 }}", "characters"),
    "repeats without end": ("{{ 'a' * 10 ** 11 }}", "repeats something"),
    "grows": (
        "{% set n = namespace(t='aaaaaaaa') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
        "too much memory",
    ),
    "is wide": ("{{ 'a' | center(10 ** 11) }}", "too much memory"),
    "writes on and on": (
        "{% for i in range(99999) %}{% for j in range(99999) %}aaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
        "did not end",
    ),
    "does not end": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% if i * j < 0 %}a{% endif %}{% endfor %}{% endfor %}",
        "did not end",
    ),
}
