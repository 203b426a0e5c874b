"""Calls the hooks that callbacks override, in order, and says who failed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from nbutils.data.loader import add_context
from nbutils.errors import ConfigError
from nbutils.train.callback import Callback

__all__ = ["Notifier"]

HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class Notifier:
    """Hooks resolved once, when the callbacks are attached.

    Raises:
        ConfigError: A callback has a public method ``on_…`` that is no hook.
    """

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._hooks: dict[str, list[Any]] = {name: [] for name in HOOKS}
        problems = [text for callback in callbacks for text in _typos(callback)]
        if problems:
            raise ConfigError(problems)
        for callback in callbacks:
            for name in HOOKS:
                hook = getattr(callback, name, None)
                default = getattr(Callback, name)
                if hook is not None and getattr(hook, "__func__", hook) is not default:
                    self._hooks[name].append(hook)

    def __call__(self, event: str, state: Any) -> None:
        for hook in self._hooks[event]:
            try:
                hook(state)
            except Exception as error:
                _annotate(error, hook, event, state)
                raise

    def finish(self, state: Any) -> None:
        """Fire ``on_fit_end`` for everyone; the first failure raises afterwards."""
        failures: list[Exception] = []
        for hook in self._hooks["on_fit_end"]:
            try:
                hook(state)
            except Exception as error:
                _annotate(error, hook, "on_fit_end", state)
                failures.append(error)
        if failures:
            raise failures[0]


def _typos(callback: Any) -> list[str]:
    names = [name for name in dir(callback) if name.startswith("on_")]
    strangers = [name for name in names if name not in HOOKS]
    texts = []
    for name in strangers:
        near = difflib.get_close_matches(name, HOOKS, 1)
        hint = f"did you mean {near[0]}?" if near else f"hooks are {', '.join(HOOKS)}."
        texts.append(f"{type(callback).__name__}.{name} is not a hook; {hint}")
    return texts


def _annotate(error: Exception, hook: Any, event: str, state: Any) -> None:
    owner = type(getattr(hook, "__self__", hook)).__name__
    add_context(error, f"in {owner}.{event} at step {state.step}")
