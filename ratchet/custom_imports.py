"""What `custom/` imports, read without running it: code outside a stage's deps would change unnoticed, so it is refused.

Sources are in `custom/sources/`, a dep of `ingest`; models are in `custom/models/`, a dep of
`train` and `evaluate`. So an edited model does not read the data again, and an edited source does
not train by itself.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, cast

from ratchet import yaml_file
from ratchet.errors import ParamsError
from ratchet.params import Params
from ratchet.source_params import CustomSource

BY_NAME = {"import_module", "__import__"}
BY_PATH = {
    "spec_from_file_location",
    "run_path",
    "run_module",
    "SourceFileLoader",
    "addsitedir",
    "resolve_name",
}


@dataclass(frozen=True)
class Room:
    """A part of `custom/`, and the stages that have it as a dep."""

    folder: str
    stages: tuple[str, ...]

    @property
    def always(self) -> set[str]:
        return {self.folder, "custom/__init__.py"}


SOURCES = Room("custom/sources", ("ingest",))
MODELS = Room("custom/models", ("train", "evaluate"))


def check_sources(tree: Path, params: Params) -> None:
    """Raises `ParamsError` if a custom source is elsewhere, or imports code that `ingest` does not depend on."""
    for number, source in enumerate(params.ingest.sources):
        if isinstance(source, CustomSource):
            _check(tree, f"ingest.sources.{number}.source", source.source, SOURCES)


def check_model(tree: Path, params: Params) -> None:
    """Raises `ParamsError` if a custom model is elsewhere, or imports code that `train` does not depend on."""
    if ":" in params.model.name:
        _check(tree, "model.name", params.model.name, MODELS)


def _check(tree: Path, key: str, name: str, room: Room) -> None:
    module, _, attribute = name.partition(":")
    home = room.folder.replace("/", ".")
    if not module.startswith(f"{home}."):
        last = module.rpartition(".")[2]
        raise ParamsError(
            f"{key}: {name} is not in {room.folder}/; move the module there, with what it imports"
            " from custom/, and "
            f'write "{home}.{last}:{attribute}"'
        )
    closure = _Closure(tree, room)
    if not closure.has(module):
        path = module.replace(".", "/")
        raise ParamsError(
            f"{key}: {name} does not exist: there is no {path}.py; create it, or correct the name"
        )
    closure.follow(module)


class _Closure:
    """The modules of the repository that one module imports, directly or through others."""

    def __init__(self, tree: Path, room: Room) -> None:
        self._tree, self._room = tree, room
        self._deps = _deps(tree, room)

    def has(self, module: str) -> bool:
        """A tree without a `custom/` uses the one that Python finds."""
        return not (self._tree / "custom").is_dir() or any(
            name == module for name, _ in self._files(module)
        )

    def follow(self, module: str) -> None:
        waiting, seen = [*self._files(module)], set()
        while waiting:
            name, file = waiting.pop()
            if file in seen or file.suffix != ".py":
                continue
            seen.add(file)
            for imported, line in _imports(name, file, self._tree):
                for found, path in self._files(imported):
                    if self._refuse_outside(file, line, found, path):
                        waiting.append((found, path))

    def _files(self, module: str) -> Iterator[tuple[str, Path]]:
        """The files of a module and of the packages around it, as far as they belong to the repository."""
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            name, place = ".".join(parts[:count]), self._tree.joinpath(*parts[:count])
            for suffix in all_suffixes():
                for file in (place / f"__init__{suffix}", place.with_name(f"{place.name}{suffix}")):
                    if file.is_file():
                        yield name, file
        if not self._tree.joinpath(parts[0]).exists() and parts[0] not in sys.stdlib_module_names:
            yield from self._installed_from_here(parts[0])

    def _installed_from_here(self, module: str) -> Iterator[tuple[str, Path]]:
        """A package that Python finds inside the repository, as after `pip install -e src`."""
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            return
        file = (
            None
            if spec is None or not spec.has_location or spec.origin is None
            else Path(spec.origin)
        )
        if (
            file is not None
            and file.is_relative_to(self._tree.resolve())
            and "site-packages" not in file.parts
        ):
            yield module, file

    def _refuse_outside(self, importer: Path, line: int, name: str, file: Path) -> bool:
        """Raise `ParamsError` for a file that is not a dep.

        Return whether its own imports have to be read too.
        """
        path = _shown(file, self._tree)
        own = path.startswith(
            ("tasks/", "ratchet/")
        )  # a test checks that dvc.yaml lists what these import
        if own and file.stem == "__init__":
            return False
        kept = (
            path.startswith(("custom/", "tasks/", "ratchet/")) or self._room == SOURCES
        )  # by a version, which needs its model
        if kept and any(path == dep or path.startswith(f"{dep}/") for dep in self._deps):
            return not own
        raise ParamsError(
            f"{_shown(importer, self._tree)}, line {line}: imports {name} ({path}), which is not a"
            f" dep of {' and '.join(self._room.stages)}, so a change in it would go unnoticed; move"
            f" it to {self._room.folder}/"
            + (
                f", or add {path} to the deps of ingest in dvc.yaml"
                if self._room == SOURCES
                else ""
            )
        )


def _deps(tree: Path, room: Room) -> set[str]:
    """What all stages of the room have as deps."""
    file = tree / "dvc.yaml"
    if not file.is_file():
        return room.always
    graph = cast("dict[str, Any]", yaml_file.read(file))
    stages = graph["stages"]
    deps = [set(stages[stage]["deps"]) for stage in room.stages if stage in stages]
    return room.always.union(set.intersection(*deps) if deps else ())


def _imports(module: str, file: Path, tree: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, at its top or in a function, with the line.

    Raises:
        ParamsError: it imports in a way that cannot be followed.
    """
    try:
        parsed = _RunTime().visit(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):
        return  # its import says more
    package = module if file.stem == "__init__" else module.rpartition(".")[0]
    called = {id(node.func) for node in ast.walk(parsed) if isinstance(node, ast.Call)}
    for node in ast.walk(parsed):
        line = getattr(node, "lineno", 0)
        if name := _by_path(node) or ("" if id(node) in called else _renamed(node)):
            raise ParamsError(
                f"{_shown(file, tree)}, line {line}: {name} loads code in a way that Ratchet cannot"
                " follow, so a change in that code would go unnoticed; write an import statement"
            )
        if isinstance(node, ast.Import):
            yield from ((alias.name, line) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield from ((f"{base}.{alias.name}", line) for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in BY_NAME:
            yield _literal(node, package, file, tree), line


def _literal(node: ast.Call, package: str, file: Path, tree: Path) -> str:
    """The module that `import_module("…")` names."""
    first = node.args[0] if node.args else None
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        name = _absolute(first.value, package)
        if name.partition(".")[0] != "custom":
            return name
    raise ParamsError(
        f"{_shown(file, tree)}, line {node.lineno}: imports a module by {ast.unparse(node)}, which"
        " Ratchet cannot follow; write an import statement"
    )


def _by_path(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute) and node.attr == "path" and _name(node.value) == "sys":
        return "sys.path"
    if isinstance(node, ast.ImportFrom):
        names = {"path"} if node.module == "sys" else BY_PATH
        return next(
            (f"{node.module}.{alias.name}" for alias in node.names if alias.name in names), ""
        )
    if isinstance(node, ast.Call):
        name = _name(node.func)
        in_place = isinstance(node.func, ast.Name) and name in (
            "eval",
            "compile",
        )  # not model.eval(), torch.compile()
        return name if in_place or name in {*BY_PATH, "exec"} else ""
    return ""


def _renamed(node: ast.AST) -> str:
    """`import_module` under another name, whose calls cannot be told from others."""
    if isinstance(node, ast.ImportFrom):
        return next(
            (alias.name for alias in node.names if alias.name in BY_NAME and alias.asname), ""
        )
    return _name(node) if _name(node) in BY_NAME else ""


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _absolute(name: str, package: str) -> str:
    try:
        return resolve_name(name, package)
    except ImportError:  # beyond the top package; its import says so
        return name.lstrip(".")


def _shown(file: Path, tree: Path) -> str:
    if not file.is_relative_to(tree):  # found by Python, not by its place in the tree
        file, tree = file.resolve(), tree.resolve()
    return file.relative_to(tree).as_posix()


class _RunTime(ast.NodeTransformer):
    """Takes out what only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse or ast.Pass() if _name(node.test) == "TYPE_CHECKING" else node
