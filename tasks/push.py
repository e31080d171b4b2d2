"""Publish what was registered: objects to the DVC remote, confirmed by listing, then the tags to a git remote.

Each step is safe to repeat. A tag is never moved on the other side: one that differs there is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.errors import VersionError
from tasks.params import Params
from tasks.versions import pipeline, remote, tags
from tasks.versions.registry import Registry
from tasks.versions.repository import locked

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
        ObjectsMissing, CorruptData: an object can't be had whole; no tag was pushed.
        VersionError: a tag differs on the git remote.
        Unreachable: a remote does not answer.
    """
    to = to or params.register.push_to
    if to.startswith("-"):
        raise VersionError(f"{to!r} is no git remote; `git remote` lists those that there are")
    with locked(tree):
        registry = Registry(tree)
        chosen = [registry.find(name)] if name else [each for each in registry.versions() if not each.expired]
        if not to and not remote.configured(tree):
            raise VersionError("there is nowhere to push to: `dvc remote add -d NAME URL` or set register.push_to")
        there = _unmoved(tree, to) if to else {}
        objects = sum(remote.push(tree, pipeline.of_commit(tree, each.commit).outputs) for each in chosen)
        sent = _push_tags(tree, to, there, {each.commit for each in chosen}, everything=name is None) if to else []
        return Pushed([each.name for each in chosen], objects, sent)


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
