"""Publish what was registered: objects to the DVC remote, confirmed by listing, then the tags to a git remote.

Each step is safe to repeat. A tag is never moved on the other side: one that differs there is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import RemoteRefused, VersionError
from tasks.params import Params
from tasks.versions import pipeline, publication, remote, tags
from tasks.versions.registry import Registry

_BATCH = 500  # references in one push


@dataclass(frozen=True)
class Pushed:
    """What one push came to: versions whose objects the remote holds for certain, and tags that were new there."""

    versions: list[str]
    objects: int
    tags: list[str]


def push(params: Params, tree: Path, name: str | None = None, to: str = "") -> Pushed:
    """Publish a version, or all of them, with their assignments.

    Args:
        name: a version; None: every one that is not expired.
        to: the git remote for the tags; empty: `register.push_to`, and if that is empty too, no tag leaves this machine.

    Raises:
        ObjectsMissing, CorruptData: an object is missing or damaged; no tag was pushed.
        VersionError: a tag differs on the git remote.
        RemoteRefused: the git remote does not accept a tag.
        Unreachable: a remote does not respond.
    """
    to = to or params.register.push_to
    if to.startswith("-"):
        raise VersionError(f"{to!r} is not a git remote; `git remote` lists the remotes")
    waiting = {tag.name for tag in publication.pending(tree)}
    if to and to == params.register.push_to:
        problem = publication.sync(tree, to)
        if problem:
            raise RemoteRefused(problem)
    registry = Registry(tree)
    chosen = [registry.find(name)] if name else [version for version in registry.versions() if not version.expired]
    if not to and not remote.configured(tree):
        raise VersionError("there is nowhere to push to: `dvc remote add -d NAME URL` or set register.push_to")
    there = _unmoved(tree, to) if to else {}
    # no lock: versions are immutable, and a rollback must not wait for an upload
    objects = sum(remote.push(tree, pipeline.of_commit(tree, version.commit).outputs) for version in chosen)
    commits = {version.commit for version in chosen}
    sent = _push_tags(tree, to, there, commits, everything=name is None) if to else []
    arrived = sorted(waiting - {tag.name for tag in publication.pending(tree)})
    return Pushed([version.name for version in chosen], objects, [*arrived, *sent])


def _push_tags(tree: Path, to: str, there: dict[str, str], commits: set[str], everything: bool) -> list[str]:
    """Push the tags on `commits` that the git remote lacks, versions first; returns their names."""
    ours = {tag.name: tag for tag in tags.read(tree, *tags.EVERYTHING)}
    wanted = [name for name, tag in ours.items() if name not in there and (everything or tag.commit in commits)]
    wanted.sort(key=lambda name: (ours[name].parsed.number is None, ours[name].parsed.cancels, ours[name].date))
    for start in range(0, len(wanted), _BATCH):
        batch = [f"refs/tags/{name}" for name in wanted[start : start + _BATCH]]
        tags.push(tree, to, batch)
    return wanted


def _unmoved(tree: Path, to: str) -> dict[str, str]:
    """The registry's tags on the git remote, once none is known to differ from ours."""
    there = tags.listed(tree, to)
    moved = sorted(tag.name for tag in tags.read(tree, *tags.EVERYTHING) if there.get(tag.name, tag.oid) != tag.oid)
    if moved:
        differ = f"{', '.join(moved[:3])} differ{'s' if len(moved) == 1 else ''}"
        raise VersionError(f"{differ} on {to}: moved by hand, here or there; `ratchet verify --all` tells which")
    return there
