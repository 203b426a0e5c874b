"""What can go wrong on the way to the Hub: package, token, network, refusal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nbutils.environment.secrets import SECRETS, secret_source
from nbutils.errors import EnvironmentProblem

__all__ = ["explained", "find_token", "import_hub"]

_MAX_REASON = 300
_TOKENS = "https://huggingface.co/settings/tokens"


def import_hub() -> Any:
    """The package ``huggingface_hub``.

    Raises:
        EnvironmentProblem: It is absent.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise EnvironmentProblem(
            f"publishing needs a package that is absent ({error}). Install it: "
            "pip install huggingface_hub"
        ) from error
    return huggingface_hub


def find_token(given: str | None) -> tuple[str, str]:
    """A token and where it was found; asks nobody.

    Vaults that ask for consent (Colab) are not opened.

    Raises:
        EnvironmentProblem: There is none.
    """
    if given:
        return given, "the argument token="
    for variable in SECRETS["HF_TOKEN"]:
        if found := os.environ.get(variable, "").strip():
            return found, f"environment variable {variable}"
    if place := secret_source("HF_TOKEN"):
        from huggingface_hub import get_token  # renews a login that has run out

        if found := get_token():
            return found, place
    raise EnvironmentProblem(
        "no token for the Hugging Face Hub was found; publishing needs one with write "
        f"access. Make it at {_TOKENS}, then set HF_TOKEN or run 'hf auth login'; in "
        "Colab pass token=userdata.get('HF_TOKEN')."
    )


@contextmanager
def explained(
    repo_id: str, folder: Path, token_source: str, *, is_private: bool
) -> Iterator[None]:
    """Turn what the Hub's client raises into one sentence; the folder stays.

    Raises:
        EnvironmentProblem: The Hub was not reached, or it refused.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # The client's transport was requests, httpx and others: whichever it is, the
    # base of its errors is a base of this one.
    network: Any = (OSError, RuntimeError, ValueError, *HfHubHTTPError.__bases__)
    later = f"hf upload {repo_id} {folder} ." + (" --private" if is_private else "")
    kept = f"Nothing is lost: the upload is prepared in {folder}"
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
            raise ConnectionError("HF_HUB_OFFLINE is set")
        yield
    except network as error:
        if isinstance(error, EnvironmentProblem) or _is_ours(error):
            raise
        reason = _reason(error, repo_id, token_source)
        raise EnvironmentProblem(f"{reason} {kept}; later: {later}") from error


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith("nbutils.")


def _reason(error: BaseException, repo_id: str, token_source: str) -> str:
    """What happened and what to do, by the status that the Hub gave."""
    status, said = _answer(error)
    if status == 401:
        return (
            f"the Hub does not know the token (from {token_source}): it is wrong, has "
            f"expired or was revoked. Make one with write access at {_TOKENS}."
        )
    if status == 403:
        owner = repo_id.split("/")[0]
        return (
            f"the token (from {token_source}) may not write to {repo_id}{said}. It "
            f"needs write access to what belongs to '{owner}': check the owner's name "
            "and the token's permissions."
        )
    if status == 404:
        return (
            f"the Hub knows no {repo_id}, or no such revision in it{said}. Check both "
            "names, and that the token may see a private repository."
        )
    if status in (409, 412):
        return (
            f"someone else changed {repo_id} at the same time, or its name is "
            f"taken{said}. Call publish_to_hub again."
        )
    if status is not None:
        return f"the Hub answered with status {status}{said}. Try again later."
    return (
        f"the upload did not get through ({_first_line(_root_of(error))}). Check the "
        "network, HF_HUB_OFFLINE and HF_ENDPOINT, then call publish_to_hub again."
    )


def _answer(error: BaseException | None) -> tuple[int | None, str]:
    """The status of an answer in a chain of errors, and what the server said."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            said = getattr(error, "server_message", None)
            return int(status), f" ({_shortened(str(said))})" if said else ""
        error = error.__cause__ or error.__context__
    return None, ""


def _root_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {_shortened(str(error))}"


def _shortened(text: str) -> str:
    line = (text.strip().splitlines() or [""])[0].rstrip(".")
    return line[:_MAX_REASON]
