"""Import classes from a folder `custom/`: that of a tree, or that of an older version.

Python has one module per name. So any `custom/` other than the one on Python's path is imported as
`ratchet_custom_<hash of its files>`. Inside that package, `import custom.x` and `from custom.x
import y` find the package's own modules, both at the top of a module and in a function. Nothing in
`sys.modules` is replaced, so threads can load different versions at the same time.
`importlib.import_module("custom.x")` cannot be redirected, so a module that calls it is refused.
"""

from __future__ import annotations

import atexit
import builtins
import hashlib
import importlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "custom"
_PREFIX = "ratchet_custom_"
_BY_NAME = re.compile(rb"""(import_module|__import__)\(\s*["']custom\b""")
_folders: dict[str, Path] = {}  # folders of the packages that are imported under another name


def imported(tree: Path, module: str) -> ModuleType:
    """Import the module `custom.…` of `tree`, or of Python's path if `tree` has no `custom/`.

    Raises:
        Exception: whatever the import raises.
    """
    folder = tree / PACKAGE
    if folder.is_dir() and folder.resolve() not in _importable():
        return importlib.import_module(package(folder) + module.removeprefix(PACKAGE))
    return importlib.import_module(module)


def package(folder: Path) -> str:
    """Make the `custom/` in `folder` importable beside any other, and return its package name.

    The folder must not be deleted.
    """
    name = _PREFIX + digest(folder)
    if name not in _folders or not _folders[name].is_dir():
        _folders[name] = folder.resolve()
        importlib.invalidate_caches()
    if _FINDER not in sys.meta_path:
        # Python's own finder comes later: it would find the modules by their package's path.
        sys.meta_path.insert(0, _FINDER)
    return name


def unpacked(content: Mapping[str, bytes]) -> str:
    """Do the same as `package` for file contents, given by their path in `custom/`.

    The files are written to a temporary folder, which is deleted when the process ends.

    Raises:
        ValueError: a path leads out of the folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="ratchet-custom-"))
    atexit.register(_remove, folder, os.getpid())
    for name, data in content.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name} is outside of custom/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return package(folder)


def packed(package: str) -> dict[str, bytes]:
    """The contents of a package's files, by their path in `custom/`."""
    folder = folder_of(package)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files(folder)}


def folder_of(package: str) -> Path:
    """The folder of a package: `custom`, or a name that `package` returned."""
    return _folders[package] if package in _folders else _importable()[0]


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a fork
        shutil.rmtree(folder, ignore_errors=True)


def files(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder, in a fixed order, except those in `__pycache__`."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def digest(folder: Path) -> str:
    """Hash the names and contents of all files in a folder, except those in `__pycache__`.

    A missing folder has the same hash as an empty one.
    """
    content_hash = hashlib.blake2b(digest_size=16)
    for file in files(folder):
        name = file.relative_to(folder).as_posix()
        content_hash.update(f"{name}\0{file.stat().st_size}\0".encode())
        content_hash.update(file.read_bytes())
    return content_hash.hexdigest()


def _importable() -> list[Path]:
    """The folders of the `custom` package on Python's path."""
    try:
        custom = importlib.import_module(PACKAGE)
    except ImportError:
        return []
    return [Path(place).resolve() for place in custom.__path__]


class _Finder(MetaPathFinder):
    """Finds the modules of the packages in `_folders`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        top, *rest = fullname.split(".")
        if top not in _folders:
            return None
        place = _folders[top].joinpath(*rest)
        if place.is_dir():
            return self._of_folder(fullname, place)
        file = place.with_name(f"{place.name}.py")
        if not file.is_file():
            return None
        return spec_from_file_location(fullname, file, loader=_Loader(fullname, str(file)))

    def _of_folder(self, fullname: str, place: Path) -> ModuleSpec | None:
        file, inside = place / "__init__.py", [str(place)]
        if file.is_file():
            loader = _Loader(fullname, str(file))
            return spec_from_file_location(
                fullname, file, loader=loader, submodule_search_locations=inside
            )
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = inside
        return spec


class _Loader(SourceFileLoader):
    """Runs a module with an `import` that looks for `custom` in the module's own package."""

    def exec_module(self, module: ModuleType) -> None:
        if _BY_NAME.search(Path(self.path).read_bytes()):
            raise ImportError(
                f"{self.path} imports a module of custom/ by a string; write an import statement"
            )
        top = module.__name__.partition(".")[0]
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": partial(_import, top)}
        super().exec_module(module)


def _import(
    top: str,
    name: str,
    globals: Mapping[str, Any] | None = None,
    locals: Mapping[str, Any] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    if level == 0 and (name == PACKAGE or name.startswith(f"{PACKAGE}.")):
        name = top + name.removeprefix(PACKAGE)
    return builtins.__import__(name, globals, locals, fromlist or (), level)


_FINDER = _Finder()
