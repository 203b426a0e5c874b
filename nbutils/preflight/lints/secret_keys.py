"""S5: keys in the source, in a magic or in a saved output; they are never shown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source

__all__ = ["RULE", "redact"]

PATTERNS = {
    "a Hugging Face token": r"\bhf_[A-Za-z]{30,40}\b|\bhf_[A-Za-z0-9]{30,40}\b",
    "an OpenAI or Anthropic key": r"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,}",
    "an AWS key id": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{40,}\b",
    "a Google API key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Slack token": r"\bxox[abprs]-[0-9A-Za-z-]{20,}\b",
    "a W&B key": r"\bwandb_v1_\w{40,}\b",
    "a private key": r"-----BEGIN (?:RSA |EC |OPENSSH )?PRIVATE KEY-----",
}
# 40 hex digits are a W&B key only next to its name: commits look the same.
_NAMED = re.compile(
    r"(?:wandb|WANDB|api_?key|API_?KEY)[^\n]{0,60}?(?<![0-9a-fA-F/])([0-9a-f]{40})"
    r"(?![0-9a-fA-F])"
)
_ANY = [(what, re.compile(pattern)) for what, pattern in PATTERNS.items()]
_NOT_REAL = re.compile(r"EXAMPLE|example|xxxx|XXXX|1234567890|your|YOUR|\.\.\.")
MIN_DIFFERENT = 9


def redact(text: str) -> str:
    """The text with every key in it replaced by its kind.

    Example:
        >>> redact("key = 'AKIAABCDEFGHIJKLMNOP'")
        "key = '<an AWS key id>'"
    """
    text = _NAMED.sub(lambda m: m[0].replace(m[1], "<a W&B key>"), text)
    for what, pattern in _ANY:
        text = pattern.sub(f"<{what}>", text)
    return text


def _run(source: Source) -> Iterator[Hit]:
    for cell in source.cells:
        for number, line in enumerate(cell.raw.split("\n")):
            for what in _kinds(line):
                yield _hit(cell.first_line + number, what, "the source")
        for what in dict.fromkeys(_kinds(cell.output)):
            yield _hit(cell.first_line, what, "the saved output of the cell")


def _kinds(text: str) -> Iterator[str]:
    for what, pattern in _ANY:
        if any(_is_real(found[0]) for found in pattern.finditer(text)):
            yield what
    if any(_is_real(found[1]) for found in _NAMED.finditer(text)):
        yield "a W&B key"


def _is_real(text: str) -> bool:
    """Placeholders repeat a letter or say what they are; keys have digits or length."""
    if text.startswith("-----"):
        return True
    body = text.rpartition("_")[2] if text.startswith("hf_") else text
    has_digit = any(letter.isdigit() for letter in body) or text.startswith("hf_")
    is_varied = len(set(body)) >= MIN_DIFFERENT
    return has_digit and is_varied and not _NOT_REAL.search(text)


def _hit(line: int, what: str, where: str) -> Hit:
    return Hit(
        line=line,
        title=f"{what} stands in {where}",
        expected="keys in the environment or a vault, read when they are needed",
        actual=f"{what}, which is not repeated here",
        fix="Revoke it now, it may be in the history; then read it from the "
        "environment and clear the output.",
    )


RULE = Rule(
    "S5.secret",
    "A notebook is shared, exported and published with everything in it.",
    _run,
)
