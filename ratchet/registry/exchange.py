"""Exchange the registry's tags with a git remote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ratchet.errors import VersionError
from ratchet.git import git
from ratchet.git_errors import Rejected
from ratchet.registry import tags
from ratchet.registry.tags import REFS

# The settings of a remote (prune, fetch, mirror) must neither delete nor overwrite a tag.
_FETCH = (
    *("--no-tags", "--no-prune", "--no-prune-tags", "--refmap="),
    *("--no-write-fetch-head", "--no-recurse-submodules"),
)


class Moved(VersionError):
    """A tag of the same name differs between here and the remote."""


def push(tree: Path, remote: str, refspecs: Sequence[str], limit_s: float | None = None) -> None:
    """Push exactly these references, all or none.

    Raises:
        Rejected: the remote has another reference of that name.
        RemoteRefused: the remote does not accept a reference.
        Unreachable: the remote does not respond.
    """
    mirror: list[str] = []
    # git refuses to push single references to a mirror
    if re.fullmatch(r"[\w.-]+", remote):  # a name, not a URL
        mirror = ["-c", f"remote.{remote}.mirror=false"]
    options = ["--quiet", "--porcelain", "--no-follow-tags"]
    if len(refspecs) > 1:
        options.append("--atomic")
    git(*mirror, "push", *options, "--", remote, *refspecs, cwd=tree, limit_s=limit_s)


def fetch(tree: Path, remote: str, limit_s: float | None = None) -> None:
    """Fetch the registry's tags from a git remote. If `remote` is empty, nothing happens.

    Raises:
        Moved: a tag differs between here and the remote; ours stays.
        Unreachable: the remote does not respond.
    """
    if not remote:
        return
    refs = [f"{REFS}{pattern}:{REFS}{pattern}" for pattern in tags.EVERYTHING]
    try:
        fetch_refs(tree, remote, refs, limit_s)
    except Rejected as error:
        raise Moved(
            f"a tag differs here and on {remote}, and tags are never moved ({error}); for details,"
            " run `ratchet verify`"
        ) from None


def fetch_refs(
    tree: Path, remote: str, refspecs: Sequence[str], limit_s: float | None = None
) -> None:
    """Fetch exactly these references, with the errors of `git`."""
    git("fetch", *_FETCH, "--", remote, *refspecs, cwd=tree, limit_s=limit_s)


def listed(tree: Path, remote: str, limit_s: float | None = None) -> dict[str, str]:
    """The registry's tags on a git remote: name to the id of the tag object.

    Raises:
        Unreachable: the remote does not respond.
    """
    command = ("ls-remote", "--tags", "--refs", "--")
    lines = git(*command, remote, f"{tags.ARTIFACT}*", cwd=tree, limit_s=limit_s).splitlines()
    pairs = (line.split(f"\t{REFS}", 1) for line in lines)
    return {name: oid for oid, name in pairs if tags.parse(name)}
