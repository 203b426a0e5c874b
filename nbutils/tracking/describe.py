"""A run as a service lists it: a flat config, and a summary; without any secret."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from typing import Any

from nbutils.monitor.record import RunRecord
from nbutils.monitor.redact import HIDDEN, redact
from nbutils.monitor.rundir import RunDirectory

__all__ = [
    "build_wandb_config",
    "clean_arguments",
    "clean_text",
    "model_facts",
    "run_summary",
    "without_secrets",
]

_SECRET_KEY = re.compile(
    r"(?i)(^|_)(api_?key|access_?key|token|secret|password|passwd|credentials?)(_|$)"
)
# A signature or a key inside an address, as in ?sig=… of a signed URL.
_SECRET_PART = re.compile(
    r"(?i)([?&;](?:[\w.-]*(?:sig|signature|token|key|secret|password|credential))=)"
    r"[^&;\s<>\"']+"
)
_VOCABULARY = ("vocab_size", "num_embeddings", "n_vocab")
_LENGTH = ("max_seq_len", "max_position_embeddings", "n_positions", "block_size")


def build_wandb_config(
    config: Any,
    task: Any = None,
    *,
    model: Any = None,
    model_type: str = "",
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config of a W&B run: flat, plain values, nothing secret.

    Every setting under its own name, those that other projects know by another name
    under that one too (``learning_rate``, ``max_grad_norm``, ``random_seed``,
    ``gradient_accumulation_steps``, ``mixed_precision``), and what the model is.

    Args:
        config: The run's config.
        task: What is trained; its name, data fingerprint and model are told.
        model: The model, where there is no task.
        model_type: What :func:`nbutils.detect_model_type` says.
        facts: What is known of a run under way: ``device``, ``precision`` and the
            like; they go before what the config only asks for.
    """
    section, found = config.train, dict(facts or {})
    precision = found.pop("precision", None) or config.precision.precision
    values: dict[str, Any] = {
        **config.leaves(),
        "learning_rate": config.optim.lr,
        "max_grad_norm": config.guard.clip_norm,
        "random_seed": section.seed,
        "gradient_accumulation_steps": section.accumulation,
        "recipe": config.recipe,
        "config_hash": config.hash,
        "nbutils_version": _version("nbutils"),
        "torch_version": _version("torch"),
        **found,
        "precision": config.precision.precision,
        "mixed_precision": precision,
        "amp_enabled": precision in ("bf16", "fp16"),
    }
    model = task.model if model is None and task is not None else model
    if model is not None:
        values.update(model_facts(model, model_type))
    if task is not None:
        values.update(task=task.name, task_fingerprint=task.fingerprint())
    return without_secrets(values)


def model_facts(model: Any, model_type: str = "") -> dict[str, Any]:
    """What a model is, in a few plain values; what it does not tell is left out.

    Example:
        >>> from torch import nn
        >>> model_facts(nn.Linear(2, 2), "custom")["total_params"]
        6
    """
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters() if _is_known(p)]
    total = sum(size for size, _ in sizes)
    found: dict[str, Any] = {
        "model_type": model_type or None,
        "model_class": type(model).__name__,
        "total_params": total,
        "trainable_params": sum(size for size, is_trained in sizes if is_trained),
        "total_params_millions": round(total / 1e6, 3),
        "vocab_size": _told(model, _VOCABULARY) or _largest_table(model),
        "max_seq_len": _told(model, _LENGTH),
    }
    return {name: value for name, value in found.items() if value is not None}


def run_summary(directory: RunDirectory) -> dict[str, Any]:
    """How a run stands, from its directory: status, best, verdict, test metrics."""
    run = directory.read_json("run.json") or {}
    best = run.get("best") or RunRecord.read(directory.path).best
    model = run.get("model") or {}
    found: dict[str, Any] = {
        "status": run.get("status"),
        "stop_reason": run.get("stop_reason"),
        "steps": run.get("step"),
        "epochs": run.get("epoch"),
        "refused_updates": run.get("skipped"),
        "seconds": run.get("seconds"),
        "best_metric": best.get("metric"),
        "best_value": best.get("value"),
        "best_step": best.get("step"),
        "best_epoch": best.get("epoch"),
        "verdict": _verdict(run.get("verdict")),
        "task_fingerprint": run.get("task_fingerprint"),
        **{name: model.get(name) for name in ("total_params", "trainable_params")},
        **_test_metrics(run.get("test_metrics") or {}),
    }
    known = {name: value for name, value in found.items() if value is not None}
    return without_secrets(known)


def without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values in which keys, tokens and passwords are replaced, at any depth.

    Example:
        >>> without_secrets({"mirror": "s3://me:pw@host/a", "api_key": 7})
        {'mirror': 's3://me:[redacted]@host/a', 'api_key': '[redacted]'}
    """
    return {
        str(name): HIDDEN
        if value is not None and _names_secret(str(name))
        else _clean(value)
        for name, value in values.items()
    }


def clean_arguments(words: Sequence[str]) -> list[str]:
    """The words of a command line, those that follow ``--token`` and the like replaced.

    Example:
        >>> clean_arguments(["--hf-token", "abc", "--api-key=abc", "--epochs", "3"])
        ['--hf-token', '[redacted]', '--api-key=[redacted]', '--epochs', '3']
    """
    cleaned: list[str] = []
    is_secret = False
    for word in words:
        option, sign, _ = word.partition("=")
        names_one = option.startswith("-") and _names_secret(option)
        if names_one and sign:
            cleaned.append(f"{option}={HIDDEN}")
        else:
            cleaned.append(HIDDEN if is_secret else clean_text(word))
        is_secret = names_one and not sign
    return cleaned


def _names_secret(name: str) -> bool:
    return _SECRET_KEY.search(name.strip("-").replace("-", "_")) is not None


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_secrets(value)
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return clean_text(str(value))


def clean_text(text: str) -> str:
    """A text in which keys, tokens and passwords are replaced, also in addresses.

    Example:
        >>> clean_text("s3://me:pw@host/a?sig=Zm9v&v=1")
        's3://me:[redacted]@host/a?sig=[redacted]&v=1'
    """
    return redact(_SECRET_PART.sub(rf"\1{HIDDEN}", text))


def _verdict(verdict: Any) -> str | None:
    """A verdict in a few words, with the checks that failed."""
    if not isinstance(verdict, Mapping):
        return None
    failed = [i for i, kind in (verdict.get("ids") or {}).items() if kind == "fail"]
    word = "passed" if verdict.get("passed") else f"failed: {', '.join(failed)}"
    return f"{word} ({verdict.get('depth')})"


def _test_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"test/{name.removeprefix('test_')}": float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _is_known(parameter: Any) -> bool:
    """Whether a parameter has a shape; a lazy one gets it from its first batch."""
    from torch.nn.parameter import is_lazy

    return not is_lazy(parameter)


def _told(model: Any, names: tuple[str, ...]) -> int | None:
    """A whole number that the model, or its own config, has under one of ``names``."""
    config = getattr(model, "config", None)
    for holder in (config, model):
        for name in names:
            is_mapping = isinstance(holder, Mapping)
            value = holder.get(name) if is_mapping else getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _largest_table(model: Any) -> int | None:
    """Rows of the largest token embedding, if the model has any."""
    from torch import nn

    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    return max(tables, default=None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
