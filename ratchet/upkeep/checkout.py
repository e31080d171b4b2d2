"""A version as it was: code, params, locks, data and model in a worktree of its own, where `dvc repro` has nothing to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import VersionError
from ratchet.registry.versions import Registry
from ratchet.workspace import version_tree


@dataclass(frozen=True)
class CheckedOut:
    """Where a version lies now, and which outputs have to be made again (those that are never pushed)."""

    version: str
    into: str
    to_make: list[str]


def checkout(tree: Path, name: str, into: Path) -> CheckedOut:
    """Lay a version out in the new folder `into`, sharing the cache of this checkout.

    Every object is hashed first.

    Raises:
        VersionError: there is no such version, or something lies at `into` already.
        ObjectsMissing, CorruptData, Unreachable: its objects can't be had whole; `into` is gone
            again.
    """
    version = Registry(tree).find(name)
    if into.exists():
        raise VersionError(
            f"{into} is there already; name a new folder, or remove it: `git worktree remove"
            f" {into}`"
        )
    return CheckedOut(version.name, str(into), version_tree.lay_out(tree, version, into))
