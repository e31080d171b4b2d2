"""Load a version in Python: `from ratchet import load; model = load("prod")`.

The registry resolves the name. The version's files are pulled if the cache lacks them, and their
SHA-256 is compared with the version's tag before anything is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet import custom_code, git
from ratchet.errors import CorruptModel, RatchetError
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.store import pipeline
from ratchet.store.cache import Cache, digest
from ratchet.store.remote import pull

if TYPE_CHECKING:
    from torch import nn

    from ratchet.models.card import Card

WEIGHTS, CARD = "models/classifier.pt", "models/classifier.json"


def load(name: str, tree: Path = Path()) -> nn.Module:
    """Load the model of a version, in eval mode and with its `.card`.

    Args:
        name: a version, or an environment that it serves in.
        tree: the checkout; by default the current folder.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: its files are unavailable or damaged. Nothing was
            loaded.
    """
    model, card = built(tree, Registry(tree).find(name))
    model.card = card  # type: ignore[assignment]  # torch types attributes as tensors and modules
    return model.eval()


def built(tree: Path, version: Version) -> tuple[nn.Module, Card]:
    """Build the model of a version, for `load`, `predict`, `export` and the gate alike.

    A class from `custom/` comes from the version's own commit, so edits in the checkout cannot
    break or change an old version. Named models come from the installed code, because a named
    architecture never changes.

    Returns:
        The model and its card.

    Raises:
        ObjectsMissing, CorruptData, CorruptModel: its files are unavailable or damaged.
    """
    return built_from(tree, version, *files(tree, version))


def built_from(tree: Path, version: Version, weights: Path, card: Path) -> tuple[nn.Module, Card]:
    """Build the model of a version from copies of its files, after a check of their SHA-256.

    Raises:
        CorruptModel: the files are not the version's, or its model cannot be built.
    """
    from ratchet.models.card import load_model

    _check(version, weights, card)
    try:
        return load_model(card, weights, package=package(tree, version, card))
    except RatchetError:
        raise
    except Exception as error:  # whatever the code in custom/ raises
        raise CorruptModel(
            f"{version.name} cannot be built with the custom/ of its own commit"
            f" {version.commit[:12]}: {error}"
        ) from error


def package(tree: Path, version: Version, card: Path) -> str:
    """The name under which the version's own `custom/` is imported.

    It is `custom` if the version's model is not a class in `custom/`.
    """
    from ratchet.models.card import Card

    if not Card.read(card).is_custom:
        return custom_code.PACKAGE
    return _package(tree.resolve(), version.commit)


@lru_cache(maxsize=16)
def _package(tree: Path, commit: str) -> str:
    blobs = git.files(tree, commit, custom_code.PACKAGE)
    if not blobs:
        raise CorruptModel(
            f"the model is a class in custom/, but commit {commit[:12]} has no such folder"
        )
    contents = git.blobs(tree, list(blobs.values()))
    names = [name.removeprefix(f"{custom_code.PACKAGE}/") for name in blobs]
    return custom_code.unpacked(dict(zip(names, contents, strict=True)))


def path(name: str, tree: Path = Path()) -> Path:
    """The file with the weights of a version, after a check of its SHA-256.

    The file belongs to DVC's cache, so do not write to it.

    Args:
        name: a version, or an environment that it serves in.
        tree: the checkout; by default the current folder.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, CorruptModel: its files are unavailable or damaged.
    """
    return files(tree, Registry(tree).find(name))[0]


def files(tree: Path, version: Version) -> tuple[Path, Path]:
    """The weights and the card of a version in DVC's cache, pulled if they are not there.

    Raises:
        ObjectsMissing, Unreachable: they are unavailable.
        CorruptData, CorruptModel: their hashes are not those in the version's tag.
    """
    contents = pipeline.of_commit(tree, version.commit)
    outputs = [contents.output(name) for name in (WEIGHTS, CARD)]
    for output in outputs:
        pull(tree, output)
    weights, card = [Cache(tree).path(output.md5) for output in outputs]
    _check(version, weights, card)
    return weights, card


def _check(version: Version, weights: Path, card: Path) -> None:
    """Raise `CorruptModel` unless the SHA-256 of both files are those in the version's tag."""
    for file, name, key in ((weights, WEIGHTS, "weights_sha256"), (card, CARD, "card_sha256")):
        expected = version.data.get(key)
        if digest(file, "sha256") != expected:
            raise CorruptModel(
                f"{name} of {version.name}: the SHA-256 of {file} is not the one in its tag"
                f" ({str(expected)[:12]}), so it was not loaded; for details, run `ratchet verify"
                f" {version.name}`"
            )
