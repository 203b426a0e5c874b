"""The laws of the layout: who imports whom, how large things are, what is public."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbutils

SRC = Path(next(iter(nbutils.__path__)))
FILES = sorted(SRC.rglob("*.py"))
MODULES = [path.relative_to(SRC.parent).as_posix() for path in FILES]

LAYERS = (
    "errors / config environment / data monitor / train checkpoint tracking recipes"
    " / preflight / running / coordinator / launch / ui cli testing"
)
LAYER = {name: i for i, row in enumerate(LAYERS.split("/")) for name in row.split()}
# Seams below their own package.
LOWERED = {
    "launch.background": 5,
    "launch.context": 1,
    "tracking.tracker": 2,
    "train.callback": 2,
}

FRONT_END = {"ipywidgets", "IPython"}
OPTIONAL = {
    "timm",
    "wandb",
    "torch_geometric",
    "bitsandbytes",
    "papermill",
    "nbclient",
    "onnx",
    "onnxruntime",
    "tensorboard",
}
# Modules that are an optional package's adapter as a whole; loaded inside functions.
ADAPTERS = {"nbutils.launch.engine"}
LIGHT_PACKAGES = {"config", "environment"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_CLASS_LINES = 200
MAX_PUBLIC_METHODS = 12
# A definition with this in a comment above it, and a reason behind it, may be larger.
EXCUSE = "# Over the cap: "
MAX_FILE_LINES_OF = {"nbutils/__init__.py": 60, "nbutils/coordinator.py": 250}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def layer_of(module: str) -> int:
    """Layer of ``train.loop``; an unknown package is a ``KeyError``, not a guess."""
    parts = module.split(".")
    return LOWERED.get(".".join(parts[:2]), LAYER[parts[0]])


def imports(node: ast.AST) -> Iterator[str]:
    """Dotted names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""


def illegal_imports(src: Path) -> Iterator[str]:
    """Imports between packages that do not go strictly down."""
    for path in sorted(src.glob("*/**/*.py")) + sorted(src.glob("[!_]*.py")):
        importer = ".".join(path.relative_to(src).with_suffix("").parts)
        for node in ast.walk(tree(path)):
            ours = (n for n in imports(node) if n.startswith("nbutils."))
            for target in (name.removeprefix("nbutils.") for name in ours):
                same_package = target.split(".")[0] == importer.split(".")[0]
                if not same_package and layer_of(target) >= layer_of(importer):
                    yield f"{importer} -> {target}"


def eager_imports(module: ast.Module) -> set[str]:
    """Dotted names of the modules that importing a module loads."""
    found: set[str] = set()
    stack: list[ast.AST] = [module]
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack.extend(node.orelse)
            continue
        found.update(imports(node))
        stack.extend(ast.iter_child_nodes(node))
    return found


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Lines of a definition without its docstring."""
    doc = ast.get_docstring(node, clean=False)
    size = (node.end_lineno or node.lineno) - node.lineno + 1
    return size - (doc.count("\n") + 1 if doc else 0)


def oversized(path: Path) -> Iterator[str]:
    """Definitions above their cap that give no reason."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(tree(path)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        if lines[first - 2].strip().startswith(EXCUSE):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if code_lines(node) > MAX_FUNCTION_LINES:
                yield f"{node.name}: {code_lines(node)} lines > {MAX_FUNCTION_LINES}"
        elif isinstance(node, ast.ClassDef):
            if code_lines(node) > MAX_CLASS_LINES:
                yield f"{node.name}: {code_lines(node)} lines > {MAX_CLASS_LINES}"
            methods = [
                item.name
                for item in node.body
                if isinstance(item, ast.FunctionDef)
                and not item.name.startswith("_")
                and "property" not in "".join(map(ast.dump, item.decorator_list))
            ]
            if len(methods) > MAX_PUBLIC_METHODS:
                yield f"{node.name}: {len(methods)} public methods"


def unlisted_imports(path: Path) -> Iterator[str]:
    """Names that a module takes from another package without their being public."""
    package = path.relative_to(SRC).parts[0]
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        parts = node.module.split(".")
        if parts[0] != "nbutils" or len(parts) < 2 or parts[1] == package:
            continue
        names = listed(tree(file_of(parts[1:]))) or set()
        for alias in node.names:
            is_module = file_of([*parts[1:], alias.name]).exists()
            if alias.name not in names and not is_module:
                yield f"{node.module}.{alias.name}"


def file_of(parts: list[str]) -> Path:
    """The file of a dotted module below the package."""
    path = SRC.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def listed(module: ast.Module) -> set[str] | None:
    """Names in a literal ``__all__``; none where there is none."""
    for node in module.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
            try:
                return set(ast.literal_eval(node.value))
            except ValueError:
                return None
    return None


def test_layers_imports_go_strictly_down():
    assert list(illegal_imports(SRC)) == []


def test_layers_law_sees_an_upward_import(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text("from nbutils.train.loop import fit\n")
    (tmp_path / "data" / "b.py").write_text("from nbutils.errors import ConfigError\n")
    assert list(illegal_imports(tmp_path)) == ["data.a -> train.loop"]


def test_front_end_is_imported_in_ui_alone():
    offenders = [
        name
        for name, path in zip(MODULES, FILES, strict=True)
        if not name.startswith("nbutils/ui/")
        for node in ast.walk(tree(path))
        if FRONT_END & {target.split(".")[0] for target in imports(node)}
    ]
    assert offenders == []


@pytest.mark.parametrize("name", MODULES)
def test_module_optional_packages_are_imported_inside_functions(name):
    loaded = eager_imports(tree(SRC.parent / name))
    assert {full for full in loaded if full in ADAPTERS} == set()
    if name.removesuffix(".py").replace("/", ".") not in ADAPTERS:
        assert {full.split(".")[0] for full in loaded} & OPTIONAL == set()


def test_light_packages_do_not_load_torch():
    offenders = [
        name
        for name, path in zip(MODULES, FILES, strict=True)
        if path.relative_to(SRC).parts[0] in LIGHT_PACKAGES
        if "torch" in {full.split(".")[0] for full in eager_imports(tree(path))}
    ]
    assert offenders == []


@pytest.mark.parametrize("name", MODULES)
def test_module_sizes_stay_below_their_caps(name):
    path = SRC.parent / name
    num_lines = path.read_text(encoding="utf-8").count("\n")
    assert num_lines <= MAX_FILE_LINES_OF.get(name, MAX_FILE_LINES)
    assert list(oversized(path)) == []


@pytest.mark.parametrize("name", MODULES)
def test_module_listed_names_are_defined_there(name):
    if name.endswith("__main__.py"):
        return
    names = listed(tree(SRC.parent / name))
    if names is None:
        assert name.endswith("__init__.py"), "add __all__"
        return
    dotted = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = importlib.import_module(dotted)
    assert [item for item in sorted(names) if not hasattr(module, item)] == []
    assert not [item for item in names if item.startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_module_takes_only_public_names_from_other_packages(name):
    assert list(unlisted_imports(SRC.parent / name)) == []


def test_public_names_all_resolve():
    missing = [name for name in nbutils.__all__ if not hasattr(nbutils, name)]
    assert missing == []
