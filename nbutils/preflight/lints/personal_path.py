"""S5: absolute paths into somebody's home."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from nbutils.preflight.lints.rule import Hit, Rule
from nbutils.preflight.lints.source import Source
from nbutils.preflight.lints.syntax import walk

__all__ = ["RULE"]

_HOME = re.compile(
    r"^(?:/home/|/Users/|[A-Za-z]:[\\/]Users[\\/])([^/\\\s{}<>$*]+)[\\/]\S"
)
# Homes that a platform makes for everybody.
COMMON = {"user", "users", "username", "your_name", "yourname", "name", "you", "me"}
COMMON |= {"jovyan", "ec2-user", "sagemaker-user", "ubuntu", "runner", "Public", "root"}
COMMON |= {"Shared", "vscode", "coder", "studio-lab-user", "xxx", "user_name", "john"}


def _run(source: Source) -> Iterator[Hit]:
    documentation = _docstrings(source.tree)
    for node in walk(source.tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        found = _HOME.match(node.value)
        if found and id(node) not in documentation and found[1] not in COMMON:
            yield Hit(
                line=node.lineno,
                title="a path into one person's home",
                expected="a path below the project, or one given as a parameter",
                actual=repr(node.value[:80]),
                fix="Make it a parameter, or start from Path.home() or the project.",
                severity="warn",
            )


def _docstrings(tree: ast.Module) -> set[int]:
    """Texts that stand alone, as documentation does."""
    return {id(node.value) for node in walk(tree) if isinstance(node, ast.Expr)}


RULE = Rule(
    "S5.personal-path",
    "On any other machine it does not exist.",
    _run,
    ("/home/", "/Users/", "Users\\"),
)
