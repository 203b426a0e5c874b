"""Read code without running it, and tell what would go wrong in it."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

from nbutils.errors import ConfigError
from nbutils.preflight.check import SEVERITIES, Finding
from nbutils.preflight.lints.catalogue import RULES
from nbutils.preflight.lints.report import LintReport
from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.secret_keys import redact
from nbutils.preflight.lints.source import Source, read_source

__all__ = ["ALLOW", "lint", "lint_source"]

ALLOW = "# nbutils: allow "
"""A line with this and the rule's id is as it is on purpose."""

SKIPPED = {"__pycache__", "node_modules", "build", "dist", "site-packages", "venv"}
SUFFIXES = (".py", ".ipynb")


def lint(target: str | Path) -> LintReport:
    """Judge a script, a notebook, or all of them in a folder or package.

    Args:
        target: A path, or the name of a package that can be imported; it is found,
            not imported.

    Raises:
        ConfigError: There is no such file, folder or package.
    """
    start = time.perf_counter()
    root = _found(target)
    files = [root] if root.is_file() else list(_files(root))
    findings: list[Finding] = []
    for path in files:
        findings += lint_source(read_source(path))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return LintReport(str(target), findings, len(files), time.perf_counter() - start)


def lint_source(source: Source) -> list[Finding]:
    """The findings of all rules about one file, in the order of its lines."""
    rules = [rule for rule in RULES if _may_apply(rule, source)]
    hits = [(hit, rule) for rule in rules for hit in rule.run(source)]
    hits.sort(key=lambda pair: pair[0].line)
    return [
        _finding(hit, rule, source)
        for hit, rule in dict.fromkeys(hits)
        if not _is_allowed(rule, source.line(hit.line))
    ]


def _may_apply(rule: Rule, source: Source) -> bool:
    return not rule.hints or any(hint in source.text for hint in rule.hints)


def _is_allowed(rule: Rule, line: str) -> bool:
    return rule.id in line.partition(ALLOW)[2]


def _finding(hit: Hit, rule: Rule, source: Source) -> Finding:
    place = source.place(hit.line)
    return Finding(
        id=rule.id,
        severity=hit.severity,
        title=redact(f"{place}: {hit.title}"),
        expected=redact(hit.expected),
        actual=redact(hit.actual),
        why=rule.why,
        fix=redact(hit.fix),
        details=(
            ("at", place),
            ("file", str(source.path)),
            ("code", redact(source.line(hit.line))),
        ),
    )


def _found(target: str | Path) -> Path:
    path = Path(target)
    if path.is_dir() or (path.is_file() and path.suffix in SUFFIXES):
        return path
    name = str(target)
    if not path.exists() and name.isidentifier():
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or []) if spec else []
        if places:
            return Path(places[0])
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            return Path(spec.origin)
    raise ConfigError(
        [
            f"{target} cannot be linted; give a .py file, a notebook, a folder or the "
            "name of an installed package."
        ]
    )


def _files(root: Path) -> Iterator[Path]:
    """Scripts and notebooks below a folder; no caches, builds or environments."""
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        is_left_out = any(p in SKIPPED or p.startswith(".") for p in parts)
        if path.suffix in SUFFIXES and not is_left_out and path.is_file():
            yield path
