"""S5: a downloaded file that is unpickled, which may run any code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import (
    argument,
    calls,
    dotted,
    last,
    literal,
    scopes,
    walk,
)

__all__ = ["RULE"]

FETCHED = {"hf_hub_download", "snapshot_download", "cached_download", "urlretrieve"}
FETCHED |= {"download_url", "cached_file", "download_file", "wget", "gdown"}
READERS = {"torch.load", "pickle.load", "joblib.load", "dill.load", "pd.read_pickle"}


def _run(source: Source) -> Iterator[Hit]:
    for scope in scopes(source.tree):
        fetched = _fetched(scope)
        for call in calls(scope.body):
            name = dotted(call.func)
            given = call.args[0] if call.args else None
            if name not in READERS or given is None or not _is_foreign(given, fetched):
                continue
            safe = literal(argument(call, "weights_only"))
            if safe is True:
                continue
            yield Hit(
                line=call.lineno,
                title=f"{name} unpickles a downloaded file",
                expected="weights_only=True, or safetensors",
                actual=ast.unparse(call)[:100],
                fix="Pass weights_only=True; convert once to safetensors if it fails.",
                severity="warn",
            )


def _fetched(scope: ast.AST) -> set[str]:
    """Names bound to the path of a download."""
    return {
        dotted(target)
        for node in walk(scope)
        if isinstance(node, ast.Assign) and last(node.value) in FETCHED
        for target in node.targets
    }


def _is_foreign(node: ast.expr, fetched: set[str]) -> bool:
    names = {dotted(part) for part in walk(node)} - {""}
    called = {last(part) for part in walk(node) if isinstance(part, ast.Call)}
    return bool(names & fetched or called & FETCHED)


RULE = Rule(
    "S5.foreign-load",
    "A pickle from somebody else is a program from somebody else.",
    _run,
    ("load",),
)
