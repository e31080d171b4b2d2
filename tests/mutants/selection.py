"""Which mutants belong to a group, and which test files to a module."""

from __future__ import annotations

import ast
import functools
import random
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.mutants import mistakes
from tests.mutants.mistakes import Mutant

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).with_name("mutants.toml")
CODE = ("cli", "flows", "tasks", "service", "ratchet")  # those that exist
NEAREST = 5  # test files of a module: those that import it and the fewest other modules
PLANTED = "planted"


@functools.cache
def config() -> dict[str, Any]:
    """The content of `mutants.toml`."""
    return tomllib.loads(CONFIG.read_text(encoding="utf-8"))


def mutants(group: str) -> list[Mutant]:
    """All mutants of a group, a folder or a module."""
    if group == PLANTED:
        return _planted()
    return [mutant for path in _modules(group) for mutant in mistakes.mutants(path, source(path))]


def sample(mutants: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    return random.Random(seed).sample(mutants, min(size, len(mutants)))


def source(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def reason(mutant: Mutant) -> str:
    """Why nobody needs to notice this mutant, as `mutants.toml` says; empty if it does not."""
    if not mutant.way:
        return ""
    key = (mutant.function, *mutant.statements(source(mutant.path)))
    for entry in config().get("harmless", []):
        if (entry["function"], entry["old"], entry["new"]) == key:
            return str(entry["reason"])
    return ""


def tests_of(path: str) -> list[str]:
    """The test files of a module: of its name, the nearest that import it, and by hand in its groups."""
    module = _dotted(path)
    importers = [test for test, names in _imports().items() if module in names]
    of_its_name = [test for test in _imports() if Path(test).stem == f"test_{Path(path).stem}"]
    nearest = sorted(importers, key=lambda test: (len(_imports()[test]), test))[:NEAREST]
    groups = config()["groups"].values()
    by_hand = [test for group in groups if path in group["modules"] for test in group["tests"]]
    return list(dict.fromkeys([*of_its_name, *nearest, *by_hand]))


def _modules(group: str) -> list[str]:
    groups = config()["groups"]
    files: list[Path] = []
    for name in groups[group]["modules"] if group in groups else [group]:
        place = ROOT / name
        files += [place] if place.suffix == ".py" else sorted(place.rglob("*.py"))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        known = ", ".join([*groups, PLANTED])
        sys.exit(
            f"{', '.join(missing) or group} does not exist; name a folder, a module, or one of {known}"
        )
    return [file.relative_to(ROOT).as_posix() for file in files]


def _planted() -> list[Mutant]:
    """The mistakes planted by hand, each at the only place of its old text."""
    sources = {path: source(path) for path in _code()}
    results, stale = [], []
    for entry in config()[PLANTED]:
        old, name = entry["old"], entry["name"]
        places = [path for path, text in sources.items() for _ in range(text.count(old))]
        if len(places) == 1:
            results.append(
                mistakes.hand_written(places[0], sources[places[0]], old, entry["new"], name)
            )
        else:
            stale.append(f"{name} ({len(places)} places)")
    if stale:
        sys.exit(f"{CONFIG}: the old text must be in one place; correct {', '.join(stale)}")
    return results


def _code() -> list[str]:
    files = [file for folder in CODE for file in sorted((ROOT / folder).rglob("*.py"))]
    return [file.relative_to(ROOT).as_posix() for file in files]


def _dotted(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@functools.cache
def _imports() -> dict[str, set[str]]:
    """The modules that each test file imports, or names in a text such as "python -m tasks.train"."""
    known = {_dotted(path) for path in _code()}
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return {file.relative_to(ROOT).as_posix(): _names(file) & known for file in files}


def _names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                names.update(alias.name for alias in node.names)
            case ast.ImportFrom(module=str() as module):
                names.update([module, *(f"{module}.{alias.name}" for alias in node.names)])
            case ast.Constant(value=str() as text):
                names.update(text.split())
    return names
