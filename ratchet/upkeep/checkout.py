"""Check a version out as it was: code, params, locks, data and model, in a worktree of its own.

`dvc repro` finds everything up to date there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import VersionError
from ratchet.registry.versions import Registry
from ratchet.workspace import version_tree


@dataclass(frozen=True)
class CheckedOut:
    """Where a version is checked out."""

    version: str
    into: str
    to_make: list[str]  # outputs that have to be made again, because they are never pushed


def checkout(tree: Path, name: str, into: Path) -> CheckedOut:
    """Check a version out into the new folder `into`, sharing the cache of this checkout.

    Every object is hashed first.

    Raises:
        VersionError: there is no such version, or `into` exists already.
        ObjectsMissing, CorruptData, Unreachable: its objects are unavailable or damaged. `into` is
            removed again.
    """
    version = Registry(tree).find(name)
    if into.exists():
        raise VersionError(
            f"{into} exists already; name a new folder, or remove this one with"
            f" `git worktree remove {into}`"
        )
    return CheckedOut(version.name, str(into), version_tree.lay_out(tree, version, into))
