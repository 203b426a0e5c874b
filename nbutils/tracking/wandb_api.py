"""The one place that calls the package wandb: its run, its histograms, its tables."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from typing import Any

from nbutils.errors import EnvironmentProblem
from nbutils.monitor.redact import HIDDEN, redact
from nbutils.tracking.access import Access, unreachable
from nbutils.tracking.describe import clean_arguments

__all__ = ["example_page", "histogram", "import_wandb", "open_run"]

_INIT_TIMEOUT_S = 20.0
_FINISH_TIMEOUT_S = 60.0
_DEFAULT_URL = "https://api.wandb.ai"
_MAX_EXAMPLES = 64
_MAX_BINS = 512
_MAX_TEXT = 300


def import_wandb() -> Any:
    """The package.

    Raises:
        EnvironmentProblem: It is not there, or cannot be loaded.
    """
    try:
        return importlib.import_module("wandb")
    except Exception as error:  # a broken installation raises anything
        raise EnvironmentProblem(
            "tracker='wandb' needs the package wandb, which cannot be imported: "
            f"{error}. Install it with: pip install wandb, or set tracker='none'."
        ) from error


def open_run(
    owner: Any, values: dict[str, Any], access: Access, *, falls_back: bool = True
) -> tuple[Any, Access]:
    """The W&B run, as ``access`` says, else offline; and how it was reached.

    Args:
        owner: The tracker: its id, config, directory and link.
        values: The W&B config.
        access: Online or offline.
        falls_back: Go offline where going online fails.

    Raises:
        EnvironmentProblem: It cannot be opened at all.
    """
    wandb = import_wandb()
    reason = ""
    if access.mode == "online":
        reason = unreachable(_base_url(wandb))
        if not reason:
            try:
                return _init(wandb, owner, values, access), access
            except Exception as error:
                reason = _without_key(f"{type(error).__name__}: {error}", access)
        if not falls_back:
            raise EnvironmentProblem(
                f"W&B cannot be reached: {reason}. Check the network, WANDB_BASE_URL "
                "and the key, then try again."
            )
        access = Access("offline", f"going online failed ({reason})")
    try:
        return _init(wandb, owner, values, access), access
    except Exception as error:
        text = _without_key(f"{type(error).__name__}: {error}", access)
        raise EnvironmentProblem(
            f"W&B could not start ({'; '.join(filter(None, [reason, text]))}). The run "
            f"goes on without it; later, nbutils sync {owner.directory.path} sends all"
        ) from None


def histogram(found: Any) -> Any:
    """Bins as W&B draws them; more than it takes are merged in pairs."""
    import numpy as np

    wandb = import_wandb()
    counts, edges = np.asarray(found.counts), np.asarray(found.edges)
    while len(counts) > _MAX_BINS:
        if len(counts) % 2:
            counts = np.append(counts, 0.0)
            edges = np.append(edges, edges[-1])
        counts, edges = counts.reshape(-1, 2).sum(1), edges[::2]
    return wandb.Histogram(np_histogram=(counts, edges))


def example_page(event: Mapping[str, Any]) -> Any:
    """Best and worst examples of one event as a table; none without any."""
    rows = [
        {"which": which, **(item if isinstance(item, Mapping) else {"example": item})}
        for which in ("best", "worst")
        for item in list(event.get(which) or [])[:_MAX_EXAMPLES]
    ]
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[row.get(name, "") for name in names] for row in rows]
    cells = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    title = f"Best and worst samples at step {event.get('step')}"
    return import_wandb().Html(
        f"<p>{escape(title)}</p><table><tr>{head}</tr>{cells}</table>", inject=False
    )


def _init(wandb: Any, owner: Any, values: dict[str, Any], access: Access) -> Any:
    section = owner.config.tracking
    with _discreet(wandb):
        run = wandb.init(
            project=section.project,
            name=section.run_name or owner.directory.path.name,
            id=owner.id,
            resume="allow" if access.mode == "online" else None,  # offline has none
            dir=os.environ.get("WANDB_DIR") or str(owner.directory.path),
            config=values,
            mode=access.mode,
            group=section.group,
            tags=list(section.tags) or None,
            notes=section.notes,
            job_type=section.job_type,
            allow_val_change=True,  # a resume may run longer, or elsewhere
            reinit="create_new",  # a run of the user's own stays as it is
            settings=_settings(wandb, owner, access),
        )
    run.define_metric("step", hidden=True)
    run.define_metric("*", step_metric="step")
    return run


def _settings(wandb: Any, owner: Any, access: Access) -> Any:
    def stop() -> None:
        owner.link.request_stop("stopped from the W&B page")

    wanted: dict[str, Any] = {
        "silent": True,
        "console": "off",
        "save_code": False,
        "disable_code": True,
        "init_timeout": _INIT_TIMEOUT_S,
        "finish_timeout": _FINISH_TIMEOUT_S,
        "finish_timeout_raises": True,
        "stop_fn": stop,  # else W&B interrupts the process
    }
    if access.key:
        wanted["api_key"] = access.key.value
    known = getattr(wandb.Settings, "model_fields", wanted)
    return wandb.Settings(**{name: wanted[name] for name in wanted if name in known})


def _base_url(wandb: Any) -> str:
    """The server of this session: of the environment, or of W&B's own settings."""
    if url := os.environ.get("WANDB_BASE_URL"):
        return url
    settings = getattr(wandb.setup(), "settings", None)
    return str(getattr(settings, "base_url", None) or _DEFAULT_URL)


def _without_key(text: str, access: Access) -> str:
    key = access.key.value
    return redact(text.replace(key, HIDDEN) if key else text)


def _cell(value: object) -> str:
    return f"<td>{escape(str(value)[:_MAX_TEXT])}</td>"


@contextmanager
def _discreet(wandb: Any) -> Iterator[None]:
    """While W&B starts: no lines about logging in, no secret of the command line.

    What fails still raises.
    """
    wandb.setup()  # else it switches its lines on again
    term: Any = getattr(getattr(wandb, "errors", None), "term", object())
    was_silent, words = getattr(term, "_silent", None), sys.argv
    sys.argv = [*words[:1], *clean_arguments(words[1:])]  # it notes them down
    if was_silent is not None:
        term._silent = True
    try:
        yield
    finally:
        sys.argv = words
        if was_silent is not None:
            term._silent = was_silent
