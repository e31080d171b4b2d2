"""Check what `custom/` imports, without running it.

Code outside a stage's deps could change without the stage running again, so importing it is
refused. Sources are in `custom/sources/`, a dep of `ingest`. Models are in `custom/models/`, a dep
of `train` and `evaluate`. So editing a model does not read the data again, and editing a source
does not by itself train a model.
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
    """A folder in `custom/`, and the stages that have it as a dep."""

    folder: str
    stages: tuple[str, ...]

    @property
    def always(self) -> set[str]:
        """Paths that the stages depend on even if there is no `dvc.yaml`."""
        return {self.folder, "custom/__init__.py"}


SOURCES = Room("custom/sources", ("ingest",))
MODELS = Room("custom/models", ("train", "evaluate"))


def check_sources(tree: Path, params: Params) -> None:
    """Check where custom sources are and what they import.

    Raises:
        ParamsError: a custom source is outside `custom/sources/`, or imports code that `ingest`
            does not depend on.
    """
    for number, source in enumerate(params.ingest.sources):
        if isinstance(source, CustomSource):
            _check(tree, f"ingest.sources.{number}.source", source.source, SOURCES)


def check_model(tree: Path, params: Params) -> None:
    """Check where a custom model is and what it imports.

    Raises:
        ParamsError: the model is outside `custom/models/`, or imports code that `train` and
            `evaluate` do not depend on.
    """
    if ":" in params.model.name:
        _check(tree, "model.name", params.model.name, MODELS)


def _check(tree: Path, key: str, name: str, room: Room) -> None:
    module, _, attribute = name.partition(":")
    home = room.folder.replace("/", ".")
    if not module.startswith(f"{home}."):
        last = module.rpartition(".")[2]
        raise ParamsError(
            f"{key}: {name} is not in {room.folder}/; move the module there, with what it imports"
            f' from custom/, and write "{home}.{last}:{attribute}"'
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
        """Whether the module exists. A tree without a `custom/` uses the one on Python's path."""
        if not (self._tree / "custom").is_dir():
            return True
        return any(name == module for name, _ in self._files(module))

    def follow(self, module: str) -> None:
        """Check the imports of `module`, and of every module that it imports.

        Raises:
            ParamsError: a module is not a dep of the room's stages, or an import cannot be
                followed.
        """
        waiting, seen = [*self._files(module)], set()
        while waiting:
            name, file = waiting.pop()
            if file in seen or file.suffix != ".py":
                continue
            seen.add(file)
            for imported, line in _imports(name, file, self._tree):
                for imported_name, path in self._files(imported):
                    if self._refuse_outside(file, line, imported_name, path):
                        waiting.append((imported_name, path))

    def _files(self, module: str) -> Iterator[tuple[str, Path]]:
        """Yield the files of a module and its parent packages that are in the repository."""
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
        """Yield a package that Python finds in the repository, as after `pip install -e src`."""
        try:
            spec = find_spec(module)
        except (ImportError, ValueError):
            return
        if spec is None or not spec.has_location or spec.origin is None:
            return
        file = Path(spec.origin)
        if file.is_relative_to(self._tree.resolve()) and "site-packages" not in file.parts:
            yield module, file

    def _refuse_outside(self, importer: Path, line: int, name: str, file: Path) -> bool:
        """Refuse a file that is not a dep; return whether its own imports must be checked too."""
        path = _shown(file, self._tree)
        # Ratchet's own imports need no check here: a test checks that dvc.yaml lists them.
        own = path.startswith(("tasks/", "ratchet/"))
        if own and file.stem == "__init__":
            return False
        # A version stores `custom/` beside its model, but no other code of the user.
        allowed = own or path.startswith("custom/") or self._room == SOURCES
        if allowed and any(path == dep or path.startswith(f"{dep}/") for dep in self._deps):
            return not own
        advice = f"move it to {self._room.folder}/"
        if self._room == SOURCES:
            advice += f", or add {path} to the deps of ingest in dvc.yaml"
        raise ParamsError(
            f"{_shown(importer, self._tree)}, line {line}: imports {name} ({path}), which is not a"
            f" dep of {' and '.join(self._room.stages)}, so a change in it would go unnoticed;"
            f" {advice}"
        )


def _deps(tree: Path, room: Room) -> set[str]:
    """The deps that all stages of the room have in common."""
    file = tree / "dvc.yaml"
    if not file.is_file():
        return room.always
    graph = cast("dict[str, Any]", yaml_file.read(file))
    stages = graph["stages"]
    deps = [set(stages[stage]["deps"]) for stage in room.stages if stage in stages]
    return room.always.union(set.intersection(*deps) if deps else ())


def _imports(module: str, file: Path, tree: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports, at its top or in a function, with the line.

    Raises:
        ParamsError: an import cannot be followed.
    """
    try:
        parsed = _RunTime().visit(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):
        return  # importing it reports the error in full
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
        for alias in node.names:
            if alias.name in names:
                return f"{node.module}.{alias.name}"
    if isinstance(node, ast.Call):
        name = _name(node.func)
        # model.eval() and torch.compile() are harmless.
        builtin = isinstance(node.func, ast.Name) and name in ("eval", "compile")
        if builtin or name in {*BY_PATH, "exec"}:
            return name
    return ""


def _renamed(node: ast.AST) -> str:
    """`import_module` under another name, whose calls look like those of any function."""
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            if alias.name in BY_NAME and alias.asname:
                return alias.name
        return ""
    return _name(node) if _name(node) in BY_NAME else ""


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _absolute(name: str, package: str) -> str:
    try:
        return resolve_name(name, package)
    except ImportError:  # beyond the top package; importing it reports that
        return name.lstrip(".")


def _shown(file: Path, tree: Path) -> str:
    if not file.is_relative_to(tree):  # Python found it by another path, such as a link
        file, tree = file.resolve(), tree.resolve()
    return file.relative_to(tree).as_posix()


class _RunTime(ast.NodeTransformer):
    """Removes the imports that only a type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse or ast.Pass() if _name(node.test) == "TYPE_CHECKING" else node
