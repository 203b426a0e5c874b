"""Credentials: whether they are present, where, and, for who must log in, their value.

The order is: handed in (:func:`use_secret`), environment, the platform's vault, then
the file of a login. Nothing here asks for a key on its own account.

A vault is read at most once in a process, in the main thread, and only by
:func:`find_secret`; :func:`secret_source`, which describes a machine, opens none.
Colab's opens a dialog for consent on first access, so it is read only where somebody
is there to answer (never under Run All without a front end, nor in CI), and a refusal
counts until the process ends. Kaggle's asks nothing.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nbutils.environment.platform import current_platform
from nbutils.errors import EnvironmentProblem

__all__ = ["SECRETS", "Secret", "find_secret", "secret_source", "use_secret"]

# Secret -> environment variables that hold it.
SECRETS: dict[str, tuple[str, ...]] = {
    "WANDB_API_KEY": ("WANDB_API_KEY",),
    "HF_TOKEN": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
}
WANDB_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")


@dataclass(frozen=True, slots=True)
class Secret:
    """A credential; its value is never shown.

    Args:
        value: What it is; empty where there is none.
        source: Where it was found.
        why_not: What stood in the way, where there is none.
    """

    value: str = field(default="", repr=False)
    source: str = ""
    why_not: str = ""

    def __bool__(self) -> bool:
        return bool(self.value)


_given: dict[str, Secret] = {}
_from_vault: dict[str, Secret] = {}


def use_secret(name: str, value: str) -> None:
    """Keep a credential in memory for this process; it goes before all other places.

    An empty ``value`` forgets it.

    Raises:
        EnvironmentProblem: No such credential.
    """
    if name not in SECRETS:
        raise EnvironmentProblem(
            f"{name!r} is no credential that is used here; expected one of "
            f"{', '.join(SECRETS)}. Check the name."
        )
    _given.pop(name, None)
    if value.strip():
        _given[name] = Secret(value.strip(), "what was handed in")


def find_secret(
    name: str, environ: Mapping[str, str] | None = None, home: Path | None = None
) -> Secret:
    """The credential from the first place that has it; empty, with a reason, if none.

    Args:
        name: A key of ``SECRETS``.
        environ: Environment variables; this process's by default.
        home: Home folder; the user's by default.

    Example:
        >>> find_secret("HF_TOKEN", {"HF_TOKEN": "hf_0123"}, Path("/nowhere"))
        Secret(source='environment variable HF_TOKEN', why_not='')
    """
    environ = os.environ if environ is None else environ
    home = Path.home() if home is None else home
    if name in _given:
        return _given[name]
    for variable in SECRETS[name]:
        if value := environ.get(variable, "").strip():
            return Secret(value, f"environment variable {variable}")
    vault = _vault(name)
    if vault:
        return vault
    try:
        found = _file_secret(name, environ, home)
    except EnvironmentProblem as problem:
        return Secret(why_not=str(problem))
    return found if found or found.why_not else vault


def secret_source(
    name: str, environ: Mapping[str, str] | None = None, home: Path | None = None
) -> str:
    """Where a secret was found: a variable's or file's name; empty when absent.

    No vault is opened: one that asks for consent would hold up Run All.

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
    return _file_secret(name, environ, home).source


def _vault(name: str) -> Secret:
    """What the platform's vault says; what it gave, or refused, is remembered."""
    if name in _from_vault:
        return _from_vault[name]
    platform = current_platform()
    if platform.name not in ("colab", "kaggle"):
        return Secret()
    if threading.current_thread() is not threading.main_thread():
        return Secret(why_not="the platform's secrets open in the main thread only")
    if platform.name == "kaggle":
        return _remember(name, _ask_kaggle(name))
    if platform.is_headless:
        why_not = "Colab's secrets ask for consent, and nobody is there to answer"
        return Secret(why_not=why_not)
    return _remember(name, _ask_colab(name))


def _remember(name: str, answer: Secret) -> Secret:
    if answer or "no secret" not in answer.why_not:  # one may yet be added
        _from_vault[name] = answer
    return answer


def _ask_colab(name: str) -> Secret:
    try:
        userdata: Any = importlib.import_module("google.colab.userdata")
        value = str(userdata.get(name) or "")
    except Exception as error:  # its own classes, none of which can be imported here
        kind = type(error).__name__
        reasons = {
            "SecretNotFoundError": f"Colab has no secret named {name}",
            "NotebookAccessError": "this notebook may not read Colab's secret "
            f"{name}: switch it on under the key icon, then restart the session",
        }
        return Secret(why_not=reasons.get(kind, f"Colab's secrets gave a {kind}"))
    return Secret(value.strip(), f"Colab's secret {name}")


def _ask_kaggle(name: str) -> Secret:
    try:
        client: Any = importlib.import_module("kaggle_secrets").UserSecretsClient()
        value = str(client.get_secret(name) or "")
    except Exception as error:  # its own classes, and those of the network
        kind = type(error).__name__
        return Secret(
            why_not=f"Kaggle has no secret {name} for this notebook ({kind}): attach "
            "it under Add-ons, Secrets, with the internet switched on"
        )
    return Secret(value.strip(), f"Kaggle's secret {name}")


def _file_secret(name: str, environ: Mapping[str, str], home: Path) -> Secret:
    if name == "WANDB_API_KEY":
        return _netrc_secret(environ, home)
    return _token_file(environ, home)


def _netrc_secret(environ: Mapping[str, str], home: Path) -> Secret:
    """The key in the netrc file, if it knows a W&B host."""
    base = urlsplit(environ.get("WANDB_BASE_URL", "")).hostname
    is_own = base and base not in WANDB_HOSTS  # never hand it the key of another host
    hosts = (base,) if is_own else WANDB_HOSTS
    listed = environ.get("NETRC")
    paths = [Path(listed)] if listed else [home / ".netrc", home / "_netrc"]
    for path in filter(Path.is_file, paths):
        try:
            entries = netrc(path).hosts
        except (NetrcParseError, OSError) as error:
            raise EnvironmentProblem(_unreadable(path, error)) from None
        for host in hosts:
            key = entries[host][2] if host in entries else None
            if key:
                return Secret(key, str(path))
    return Secret()


def _unreadable(path: Path, error: NetrcParseError | OSError) -> str:
    """What is wrong with a netrc file; never the parser's text, it quotes the file."""
    line = f" at line {error.lineno}" if isinstance(error, NetrcParseError) else ""
    return (
        f"{path} cannot be read{line}; expected entries of the form "
        "'machine HOST login user password KEY' in a file of your own. "
        "Correct or remove it, or set WANDB_API_KEY instead."
    )


def _token_file(environ: Mapping[str, str], home: Path) -> Secret:
    """The token in the file that ``hf auth login`` writes, if there is one."""
    hf_home = Path(environ.get("HF_HOME", home / ".cache" / "huggingface"))
    path = Path(environ.get("HF_TOKEN_PATH", hf_home / "token"))
    if not path.is_file() or not path.stat().st_size:
        return Secret()
    try:
        return Secret(path.read_text(encoding="utf-8").strip(), str(path))
    except (OSError, UnicodeDecodeError):
        return Secret("", str(path), f"{path} cannot be read")
