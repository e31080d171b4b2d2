"""A version from Python: `from tasks.versions import load; model = load("prod")`.

The name is resolved through the registry, its files are pulled if the cache lacks them, and nothing is loaded before
its SHA-256 is that of the version's tag.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import CorruptModel
from tasks.versions import git, pipeline
from tasks.versions.cache import Cache, digest
from tasks.versions.registry import Registry, Version
from tasks.versions.remote import pull

if TYPE_CHECKING:
    from torch import nn

    from tasks.learning.card import Card

WEIGHTS, CARD = "models/classifier.pt", "models/classifier.json"
MODELS = ("tasks/learning/models.py", "tasks/learning/zoo.py")  # what named architectures are made of


def load(name: str, tree: Path = Path()) -> nn.Module:
    """The model of a version, by its number or the environment that it serves in, in eval mode with its `.card`.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: its files can't be had whole; nothing was loaded.
    """
    model, card = built(tree, Registry(tree).find(name))
    model.card = card  # type: ignore[assignment]  # torch types attributes as tensors and modules
    return model.eval()


def built(tree: Path, version: Version) -> tuple[nn.Module, Card]:
    """The model of a version and its card.

    A class from `custom/` comes from the version's own commit, and so does the code of every other model if it was
    edited since: what lies in the checkout now can't break or change an old version.
    """
    from tasks.learning.card import Card, load_model

    weights, card = files(tree, version)
    described = Card.read(card)
    packages = ["custom"] if str(described.architecture["name"]).startswith("custom.") else []
    if _edited_since(tree, version.commit):
        packages = ["custom", "tasks"]
    if not packages:
        return load_model(card, weights)
    with code_of(tree, version.commit, packages):
        try:
            return importlib.import_module("tasks.learning.card").load_model(card, weights)[0], described
        except Exception as error:  # of classes that the other code defines
            raise CorruptModel(f"{version.name} can't be loaded with the code of its own commit: {error}") from None


def _edited_since(tree: Path, commit: str) -> bool:
    """Does the code that models are built with differ between a commit and the package that runs?"""
    package = Path(__file__).parents[2]
    held = {path: git.read(tree, commit, path) for path in MODELS}
    return any(content is not None and content != (package / path).read_bytes() for path, content in held.items())


@contextmanager
def code_of(tree: Path, commit: str, packages: Sequence[str]) -> Iterator[None]:
    """Let `import` find these packages as a commit holds them, not as they lie in the checkout."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in packages]

    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        held = {name: oid for package in packages for name, oid in git.files(tree, commit, package).items()}
        for name, content in zip(held, git.blobs(tree, list(held.values())), strict=True):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        ours = {name: sys.modules.pop(name) for name in loaded()}
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name in loaded():
                del sys.modules[name]
            sys.modules.update(ours)


def path(name: str, tree: Path = Path()) -> Path:
    """The file with the weights of a version, checked; raises as `load` does. It is DVC's: read it, don't write it."""
    return files(tree, Registry(tree).find(name))[0]


def files(tree: Path, version: Version) -> tuple[Path, Path]:
    """Weights and card of a version in DVC's cache, pulled if they are not there, and checked.

    Raises:
        ObjectsMissing, Unreachable: they can't be had.
        CorruptData, CorruptModel: they are not what the version's tag says.
    """
    held = pipeline.of_commit(tree, version.commit)
    cache = Cache(tree)
    found = []
    for name, key in ((WEIGHTS, "weights_sha256"), (CARD, "card_sha256")):
        output = held.output(name)
        pull(tree, output)
        file, expected = cache.path(output.md5), version.data.get(key)
        if digest(file, "sha256") != expected:
            raise CorruptModel(
                f"{name} of {version.name}: {file} has not the SHA-256 that its tag names ({str(expected)[:12]}); "
                f"it was not loaded; `ratchet verify {version.name}` tells more"
            )
        found.append(file)
    return found[0], found[1]
