"""Push versions: their objects to the DVC remote, then their tags to a git remote.

The tags follow once a listing of the DVC remote confirms the objects. Each step is safe to repeat.
A tag on the git remote is never moved: if it differs from ours, that is an error. Params:
`register`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import Busy, RemoteRefused, VersionError
from ratchet.git_errors import Rejected
from ratchet.params import Params
from ratchet.registry import exchange, pending, publication, tags
from ratchet.registry.versions import Registry
from ratchet.repository import locked
from ratchet.store import config, pipeline, remote

_BATCH = 500  # references in one push
_TRIES = 20


@dataclass(frozen=True)
class Pushed:
    """The result of a push."""

    versions: list[str]  # the DVC remote has all their objects
    objects: int  # how many objects were sent
    tags: list[str]  # those that were new on the git remote


def push(params: Params, tree: Path, name: str | None = None, to: str = "") -> Pushed:
    """Push a version, or all of them, with their assignments.

    Args:
        params: the params of the checkout.
        tree: the checkout.
        name: a version; None for every version that is not expired.
        to: the git remote for the tags; by default `register.push_to`. If that is empty too, no tag
            is pushed.

    Raises:
        ObjectsMissing, CorruptData: an object is missing or damaged. No tag was pushed.
        VersionError: a tag differs on the git remote.
        RemoteRefused: the git remote does not accept a tag.
        Unreachable: a remote does not respond.
    """
    to = to or params.register.push_to
    if to.startswith("-"):
        raise VersionError(f"{to!r} is not a git remote; `git remote` lists the remotes")
    waiting = {tag.name for tag in pending.read(tree)}
    if to and to == params.register.push_to:
        problem = publication.sync(tree, to)
        if problem:
            raise RemoteRefused(problem)
    registry = Registry(tree)
    if name:
        chosen = [registry.find(name)]
    else:
        chosen = [version for version in registry.versions() if not version.expired]
    if not to and not config.has_remote(tree):
        raise VersionError(
            "there is nowhere to push to; run `dvc remote add -d NAME URL`, or set register.push_to"
        )
    if to:
        _unmoved(tree, to)  # before the upload, which may take hours
    # no lock: versions are immutable, and a rollback must not wait for an upload
    objects = sum(
        remote.push(tree, pipeline.of_commit(tree, version.commit).outputs) for version in chosen
    )
    commits = {version.commit for version in chosen}
    sent = _push_tags(tree, to, None if name is None else commits) if to else []
    arrived = sorted(waiting - {tag.name for tag in pending.read(tree)})
    return Pushed([version.name for version in chosen], objects, [*arrived, *sent])


def _push_tags(tree: Path, to: str, commits: set[str] | None) -> list[str]:
    """Push the tags that the git remote lacks, versions first.

    Pending tags are left out, because a rollback that is under way may take its tag back.

    Args:
        tree: the checkout.
        to: the git remote.
        commits: the commits of the tags; None for all tags.

    Returns:
        The names of the tags that were pushed.
    """
    pushed: list[str] = []
    for attempt in range(_TRIES):
        there = _unmoved(tree, to)
        with locked(tree):
            waiting = {tag.name for tag in pending.read(tree)}
            ours = [
                tag
                for tag in tags.read(tree, *tags.EVERYTHING)
                if tag.name not in {*there, *waiting}
            ]
        new = [tag for tag in ours if commits is None or tag.commit in commits]
        new.sort(key=lambda tag: (tag.parsed.number is None, tag.parsed.cancels, tag.date))
        try:
            for start in range(0, len(new), _BATCH):
                batch = new[start : start + _BATCH]
                exchange.push(tree, to, [f"{tag.oid}:{tags.REFS}{tag.name}" for tag in batch])
                pushed += [tag.name for tag in batch]
            break
        except Rejected:  # another command pushed some of them meanwhile
            if attempt == _TRIES - 1:
                raise
    return pushed


def _unmoved(tree: Path, to: str) -> dict[str, str]:
    """The registry's tags on the git remote, after a check that none differs from ours.

    Raises:
        VersionError: a tag differs.
        Busy: the tags on the remote keep changing.
    """
    before: set[tuple[str, str, str]] = set()
    for _ in range(_TRIES):
        there = exchange.listed(tree, to)
        differing, _ = publication.differences(tree, there)
        if not differing:
            return there
        moved = sorted(name for name, *_ in differing & before)
        if moved:
            differ = "differs" if len(moved) == 1 else "differ"
            raise VersionError(
                f"{', '.join(moved[:3])} {differ} on {to}: moved by hand, here or there; for"
                " details, run `ratchet verify --all`"
            )
        before = differing  # seen once, it may be a rollback that is being taken back
    raise Busy(f"the tags on {to} keep changing; run the command again")
