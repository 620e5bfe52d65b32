"""The shapes of access tokens and keys, so that none is kept in a recipe, printed or logged."""

import re
from collections.abc import Iterator

_SHAPES = (
    r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}",  # Hugging Face
    r"\bsk-(?:(?:proj|ant|or|svcacct|admin)-[A-Za-z0-9_-]{16,}|[A-Za-z0-9]{16,})",  # OpenAI, Anthropic
    r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",  # AWS
    r"\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}",
    r"\bglpat-[A-Za-z0-9_-]{16,}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\bAIza[A-Za-z0-9_-]{30,}",  # Google
    r"\beyJ[A-Za-z0-9_-]{10,500}\.eyJ[A-Za-z0-9_-]{10,}",  # JSON web token; bounded, so that no text is slow
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    r"(?<=://)[^\s/:@]{1,200}:[^\s/@]{1,200}(?=@)",  # user:password in an address
)
_SECRET = re.compile("|".join(_SHAPES))


def find_secrets(text: str) -> Iterator[int]:
    """Give the offset of every part of the text that has the shape of a secret."""
    return (match.start() for match in _SECRET.finditer(text))


def redacted(text: str) -> str:
    """Give the text with every secret replaced; what is shown or logged goes through here."""
    return _SECRET.sub("[secret]", text)
