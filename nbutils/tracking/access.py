"""How W&B is reached: online with a key, else offline; never with a question."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from nbutils.environment.secrets import Secret, find_secret

__all__ = ["HOW_TO_GO_ONLINE", "Access", "choose_access", "unreachable"]

HOW_TO_GO_ONLINE = "set WANDB_API_KEY (from wandb.ai/authorize) or run `wandb login`"
_PROBE_TIMEOUT_S = 8.0
_OFFLINE = ("offline", "dryrun")


@dataclass(frozen=True, slots=True)
class Access:
    """``online``, ``offline`` or ``disabled``, why, and the key for the first.

    ``needs_key``: it is offline for want of a key.
    """

    mode: str
    reason: str
    key: Secret = field(default_factory=Secret)
    needs_key: bool = False


def choose_access(wanted: str = "auto") -> Access:
    """How to run W&B here; never asks for a key.

    The setting ``wandb_mode`` goes before the variable ``WANDB_MODE``, and that before
    what the keys found suggest: from the argument, the environment, the platform's
    vault or a netrc file, in this order.

    Args:
        wanted: The setting ``wandb_mode``.
    """
    if wanted == "auto":
        asked = os.environ.get("WANDB_MODE", "").strip().lower()
        why = f"WANDB_MODE is {asked!r}"
    else:
        asked, why = wanted, f"wandb_mode is {wanted!r}"
    if asked in _OFFLINE:
        return Access("offline", why)
    if asked == "disabled":
        return Access("disabled", why)
    if os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return Access("online", "WANDB_IDENTITY_TOKEN_FILE is set")
    key = find_secret("WANDB_API_KEY")
    if key:
        return Access("online", f"the key of {key.source}", key)
    more = f"; {key.why_not}" if key.why_not else ""
    return Access("offline", f"no key was found{more}", needs_key=True)


def unreachable(url: str, timeout_s: float = _PROBE_TIMEOUT_S) -> str:
    """Why a server gives no answer; empty if it gives one, whatever it says.

    W&B itself tries for minutes, and holds the run's id meanwhile. Certificates are for
    W&B to judge: it may know more of them than Python does.

    Example:
        >>> unreachable("http://127.0.0.1:9")[:26]
        'no answer from 127.0.0.1:9'
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return f"{url} is no address of a server"
    host = parts.netloc.rpartition("@")[2]
    bare = f"{parts.scheme}://{host}{parts.path}"
    try:
        with urllib.request.urlopen(bare, timeout=timeout_s):  # noqa: S310 (checked)
            return ""
    except urllib.error.HTTPError as answer:
        answer.close()
        return ""
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return ""
        text = getattr(reason, "strerror", None) or reason or type(error).__name__
        return f"no answer from {host} ({text})"
