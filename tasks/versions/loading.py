"""A version from Python: `from tasks.versions import load; model = load("prod")`.

The name is resolved through the registry, its files are pulled if the cache lacks them, and nothing is loaded before
its SHA-256 is that of the version's tag.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.data import custom_code
from tasks.errors import CorruptModel, RatchetError
from tasks.versions import git, pipeline
from tasks.versions.cache import Cache, digest
from tasks.versions.registry import Registry, Version
from tasks.versions.remote import pull

if TYPE_CHECKING:
    from torch import nn

    from tasks.learning.card import Card

WEIGHTS, CARD = "models/classifier.pt", "models/classifier.json"


def load(name: str, tree: Path = Path()) -> nn.Module:
    """The model of a version, by its number or the environment that it serves in, in eval mode with its `.card`.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: its files are unavailable or damaged; nothing was loaded.
    """
    model, card = built(tree, Registry(tree).find(name))
    model.card = card  # type: ignore[assignment]  # torch types attributes as tensors and modules
    return model.eval()


def built(tree: Path, version: Version) -> tuple[nn.Module, Card]:
    """The model of a version and its card: the only way to build one, for `load`, `predict`, `export` and the gate.

    A class from `custom/` comes from the version's own commit, so edits in the checkout cannot break or change an old
    version. Named models come from the installed code: a named architecture never changes.
    """
    from tasks.learning.card import load_model

    weights, card = files(tree, version)
    try:
        return load_model(card, weights, package=package(tree, version, card))
    except RatchetError:
        raise
    except Exception as error:  # whatever the code in custom/ raises
        raise CorruptModel(
            f"{version.name} cannot be built with the custom/ of its own commit {version.commit[:12]}: {error}"
        ) from error


def package(tree: Path, version: Version, card: Path) -> str:
    """The name under which the version's own `custom/` is imported; `custom` if its model is not from there."""
    from tasks.learning.card import Card

    return _package(tree.resolve(), version.commit) if Card.read(card).is_custom else custom_code.PACKAGE


@lru_cache(maxsize=16)
def _package(tree: Path, commit: str) -> str:
    blobs = git.files(tree, commit, custom_code.PACKAGE)
    if not blobs:
        raise CorruptModel(f"its model is a class in custom/, but commit {commit[:12]} has no such folder")
    contents = git.blobs(tree, list(blobs.values()))
    names = [name.removeprefix(f"{custom_code.PACKAGE}/") for name in blobs]
    return custom_code.unpacked(dict(zip(names, contents, strict=True)))


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
