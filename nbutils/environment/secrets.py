"""Whether credentials are present, and where; never what they are.

Vaults that ask for consent (Colab) are not opened: a question would hold up Run All.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from nbutils.errors import EnvironmentProblem

__all__ = ["SECRETS", "secret_source"]

# Secret -> environment variables that hold it.
SECRETS: dict[str, tuple[str, ...]] = {
    "WANDB_API_KEY": ("WANDB_API_KEY",),
    "HF_TOKEN": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
}
WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")


def secret_source(
    name: str, environ: Mapping[str, str] | None = None, home: Path | None = None
) -> str:
    """Where a secret was found: a variable's or file's name; empty when absent.

    Args:
        name: A key of ``SECRETS``.
        environ: Environment variables; this process's by default.
        home: Home folder; the user's by default.

    Raises:
        EnvironmentProblem: A netrc file cannot be read.

    Example:
        >>> secret_source("HF_TOKEN", {"HF_TOKEN": "hf_..."}, Path("/nowhere"))
        'environment variable HF_TOKEN'
    """
    environ = os.environ if environ is None else environ
    home = Path.home() if home is None else home
    for variable in SECRETS[name]:
        if environ.get(variable, "").strip():
            return f"environment variable {variable}"
    if name == "WANDB_API_KEY":
        return _netrc_source(environ, home)
    return _token_file(environ, home)


def _netrc_source(environ: Mapping[str, str], home: Path) -> str:
    """The netrc file, if it knows a W&B host."""
    base = urlsplit(environ.get("WANDB_BASE_URL", "")).hostname
    hosts = (base, *WANDB_HOSTS) if base else WANDB_HOSTS
    listed = environ.get("NETRC")
    paths = [Path(listed)] if listed else [home / ".netrc", home / "_netrc"]
    for path in filter(Path.is_file, paths):
        try:
            entries = netrc(path).hosts
        except (NetrcParseError, OSError) as error:
            raise EnvironmentProblem(_unreadable(path, error)) from None
        if any(host in entries for host in hosts):
            return str(path)
    return ""


def _unreadable(path: Path, error: NetrcParseError | OSError) -> str:
    """What is wrong with a netrc file; never the parser's text, it quotes the file."""
    line = f" at line {error.lineno}" if isinstance(error, NetrcParseError) else ""
    return (
        f"{path} cannot be read{line}; expected entries of the form "
        "'machine HOST login user password KEY' in a file of your own. "
        "Correct or remove it, or set WANDB_API_KEY instead."
    )


def _token_file(environ: Mapping[str, str], home: Path) -> str:
    """The file that ``hf auth login`` writes, if there is one."""
    hf_home = Path(environ.get("HF_HOME", home / ".cache" / "huggingface"))
    path = Path(environ.get("HF_TOKEN_PATH", hf_home / "token"))
    return str(path) if path.is_file() and path.stat().st_size else ""
