"""A version from Python: `from tasks.versions import load; model = load("prod")`.

The name is resolved through the registry, its files are pulled if the cache lacks them, and nothing is loaded before
its SHA-256 is that of the version's tag.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.errors import CorruptModel
from tasks.versions import pipeline
from tasks.versions.registry import Registry, Version
from tasks.versions.remote import Cache, digest, pull

if TYPE_CHECKING:
    from torch import nn

WEIGHTS, CARD = "models/classifier.pt", "models/classifier.json"


def load(name: str, tree: Path = Path()) -> nn.Module:
    """The model of a version, by its number or the environment that it serves in, in eval mode with its `.card`.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: its files can't be had whole; nothing was loaded.
    """
    from tasks.learning.card import load_model

    version = Registry(tree).find(name)
    weights, card = files(tree, version)
    model, described = load_model(card, weights)
    model.card = described  # type: ignore[assignment]  # torch types attributes as tensors and modules
    return model.eval()


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
