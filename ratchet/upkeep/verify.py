"""Check that versions are intact: their tags, their commits, their objects, and that they load.

This fetches new tags and changes nothing else: objects that the cache lacks are read on the remote.
Every fault is one finding, which names the next command. A fault does not stop the other checks.
Params: `register`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Set
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet import params
from ratchet.errors import ObjectsMissing, RatchetError, VersionError
from ratchet.gate import decisions
from ratchet.git import git, read, resolve
from ratchet.registry import exchange, history, loading, pending, tags
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.repository import remove_worktree
from ratchet.store import config, dirty, pipeline, remote
from ratchet.store.cache import Cache, listing
from ratchet.store.pipeline import Output, Pipeline
from ratchet.store.repo import closing_repo
from ratchet.workspace import version_tree

if TYPE_CHECKING:
    from dvc.repo import Repo


_AGAIN = "; no tag is ever moved or deleted: `git fetch --tags --force` brings the remote's back"


@dataclass(frozen=True)
class Finding:
    """One fault of a version or an environment."""

    version: str
    what: str  # the tag, file or object
    message: str


def verify(tree: Path, name: str | None = None, read_remote: bool = True) -> list[Finding]:
    """All faults of a version, or of every version and environment.

    Args:
        tree: the checkout.
        name: a version or an environment; None for everything. For expired versions, only the tag
            is checked.
        read_remote: read every object on the remote, instead of only listing it.

    Raises:
        VersionError: there is no such version.
        Unreachable: the remote does not respond.
    """
    push_to = params.load(tree).register.push_to
    with suppress(VersionError):  # a tag that differs there becomes a finding below
        exchange.fetch(tree, push_to)
    registry = Registry(tree)
    versions = [registry.find(name)] if name else registry.versions()
    findings: list[Finding] = [] if name else [*_environments(registry), *_counters(tree)]
    if push_to:
        findings += _on_git_remote(
            tree, push_to, {version.commit for version in versions} if name else None
        )
    with closing_repo(tree) if config.has_remote(tree) else nullcontext() as repo:
        for version in versions:
            faults = list(_tag(tree, version))
            if not faults and not version.expired:
                faults = list(_objects(tree, version, repo, read_remote))
            if not faults and not version.expired:
                faults = list(_loads(tree, version, repo))
            findings += faults
    return findings


def rerun(tree: Path, name: str) -> list[Finding]:
    """Make a version again from its sources, and compare the hash of every output.

    This runs in a worktree of its own and takes as long as the original run. On another kind of
    machine, the weights can differ in their last bits.

    Raises:
        VersionError: there is no such version.
        ObjectsMissing, CorruptData, Unreachable: its objects are unavailable or damaged.
    """
    version = Registry(tree).find(name)
    with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
        place = Path(folder) / "rerun"
        version_tree.lay_out(tree, version, place)
        try:
            version_tree.rerun(place)
        except ObjectsMissing as error:
            return [Finding(version.name, pipeline.LOCK, str(error))]
        finally:
            remove_worktree(tree, place)
    return []


def _environments(registry: Registry) -> Iterator[Finding]:
    commits = {version.name: version.commit for version in registry.versions()}
    for environment in sorted(registry.all_environments()):
        for entry in registry.history(environment):
            if commits.get(entry.version) != entry.tag.commit:
                yield Finding(
                    entry.version,
                    entry.tag.name,
                    f"puts {entry.version} into {environment}, but that version's tag is not on the"
                    f" same commit{_AGAIN}",
                )


def _counters(tree: Path) -> Iterator[Finding]:
    """Find missing numbers: assignments and later withdrawals count from 1 without a gap."""
    parsed = map(tags.parse, tags.names(tree, *tags.EVERYTHING))
    counters = {name.counter for name in parsed if name and name.counter}
    for missing in sorted(set(range(1, max(counters, default=0))) - counters):
        yield Finding(
            "",
            f"{tags.ARTIFACT}#...#{missing}",
            f"no tag has the number {missing}, but later tags exist{_AGAIN}",
        )


def _on_git_remote(tree: Path, remote: str, commits: Set[str] | None) -> Iterator[Finding]:
    """Compare the tags on these commits (None for all tags) with those on the git remote."""
    there = exchange.listed(tree, remote)
    waiting = {(tag.name, tag.oid) for tag in pending.read(tree)}
    for tag in tags.read(tree, *tags.EVERYTHING):
        if (commits is None or tag.commit in commits) and there.get(tag.name) != tag.oid:
            version = str(tag.data.get("version") or tag.parsed.number or "")
            if (tag.name, tag.oid) in waiting:
                message = f"is not pushed to {remote} yet; `ratchet push` pushes it"
                if tag.name in there:
                    message += ", under the next free number, since another machine used this one"
            elif tag.name in there:
                message = f"differs on {remote}: moved or made again by hand{_AGAIN}"
            else:
                message = f"{remote} lacks it; `ratchet push --all` sends it"
            yield Finding(version, tag.name, message)


def _tag(tree: Path, version: Version) -> Iterator[Finding]:
    """Check that a version's tag was made for its name and its commit."""
    tag = version.tag
    header = git("cat-file", "tag", tag.oid, cwd=tree).split("\n\n", 1)[0]
    if f"\ntag {tag.name}\n" not in header:
        yield Finding(version.name, tag.name, f"the tag object was made for another name{_AGAIN}")
    if "weights_sha256" not in tag.data:
        yield Finding(
            version.name,
            tag.name,
            f"its message has no JSON block: made by hand, not by registration{_AGAIN}",
        )
        return
    if resolve(tree, f"{version.commit}^") != tag.data.get("base"):
        yield Finding(
            version.name, tag.name, f"its commit is not the child of {tag.data.get('base')}{_AGAIN}"
        )
    try:
        contents = pipeline.of_commit(tree, version.commit)
    except RatchetError as error:
        yield Finding(version.name, pipeline.LOCK, str(error))
        return
    if {output.path: output.md5 for output in contents.outputs} != tag.data.get("hashes"):
        yield Finding(
            version.name, tag.name, f"its message names other outputs than its commit holds{_AGAIN}"
        )
    if not _same_metrics(version, history.metrics(tree, version)):
        yield Finding(
            version.name, tag.name, f"its message names other metrics than its commit holds{_AGAIN}"
        )
    if not _same_gate(version, read(tree, version.commit, decisions.FILE)):
        yield Finding(
            version.name,
            tag.name,
            f"its message names another gate decision than its commit holds{_AGAIN}",
        )
    yield from _in_git(tree, version, contents)


def _same_gate(version: Version, committed: bytes | None) -> bool:
    """Whether the tag and the commit have the same decision. An old commit has no decision."""
    if committed is None:
        return True
    decision = json.loads(committed)
    decision.pop("format", None)
    return bool(decision == version.data.get("gate"))


def _same_metrics(version: Version, committed: dict[str, Any]) -> bool:
    """Whether the metrics in the tag are those of the commit, which may have more."""
    metrics = dict(version.metrics)
    intervals = metrics.pop("intervals", {})
    committed_intervals = committed.get("intervals", {})
    return metrics.items() <= committed.items() and all(
        committed_intervals.get(key) == bounds for key, bounds in intervals.items()
    )


def _in_git(tree: Path, version: Version, contents: Pipeline) -> Iterator[Finding]:
    """Check the outputs that git keeps."""
    hashes = {output.path: output.md5 for output in contents.outputs if not output.cached}
    for path in dirty.differing(tree, version.commit, hashes):
        yield Finding(
            version.name,
            path,
            f"in commit {version.commit[:12]} it is not what dvc.lock there names",
        )


def _objects(
    tree: Path, version: Version, repo: Repo | None, read_remote: bool
) -> Iterator[Finding]:
    """Check that every pushed object is on the remote, or in the cache if there is no remote.

    A damaged object is a fault in either place.
    """
    cache = Cache(tree)
    for output in pipeline.of_commit(tree, version.commit).outputs:
        if not output.cached:
            continue
        try:
            objects = _named_by(cache, output, repo if output.pushed else None)
        except RatchetError as error:
            if output.pushed or cache.has(output.md5):
                yield Finding(version.name, output.path, str(error))
            continue
        for md5, what in objects.items():
            yield from _in_cache(cache, version, md5, what, needed=output.pushed and repo is None)
        if repo is not None and output.pushed:
            yield from _on_remote(repo, version, objects, read_remote)


def _named_by(cache: Cache, output: Output, repo: Repo | None) -> dict[str, str]:
    """All objects of an output, as `Cache.objects` returns them.

    A listing that the cache lacks is read on the remote.
    """
    if repo is None or not output.is_folder or cache.has(output.md5):
        return cache.objects(output)
    files = listing(remote.content(repo, output.md5, output.path), output.path)
    return {output.md5: output.path} | {md5: f"{output.path}/{name}" for name, md5 in files.items()}


def _in_cache(
    cache: Cache, version: Version, md5: str, what: str, needed: bool
) -> Iterator[Finding]:
    if not cache.has(md5) and not needed:
        return
    try:
        cache.check(md5, what)
    except RatchetError as error:
        yield Finding(version.name, what, str(error))


def _on_remote(
    repo: Repo, version: Version, objects: dict[str, str], read_remote: bool
) -> Iterator[Finding]:
    lacking = remote.missing(repo, objects)
    for md5 in sorted(lacking):
        yield Finding(
            version.name,
            objects[md5],
            f"the DVC remote lacks {md5}; `ratchet push {version.name}` sends it",
        )
    for md5 in sorted(objects.keys() - lacking) if read_remote else ():
        if remote.remote_digest(repo, md5) != md5.removesuffix(".dir"):
            message = (
                f"{md5} on the DVC remote does not match its hash; delete it there, then `ratchet"
                f" push {version.name}`"
            )
            yield Finding(version.name, objects[md5], message)


def _loads(tree: Path, version: Version, repo: Repo | None) -> Iterator[Finding]:
    """Check that the model loads, once every hash is known to be right."""
    cache, pipeline_of_version = Cache(tree), pipeline.of_commit(tree, version.commit)
    outputs = [pipeline_of_version.output(name) for name in (loading.WEIGHTS, loading.CARD)]
    try:
        with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
            weights, card = (_file(cache, output, repo, Path(folder)) for output in outputs)
            loading.built_from(tree, version, weights, card)
    except RatchetError as error:
        yield Finding(version.name, loading.WEIGHTS, str(error))


def _file(cache: Cache, output: Output, repo: Repo | None, folder: Path) -> Path:
    """An output that is one file: the one in the cache, or a copy in `folder` from the remote."""
    if repo is None or cache.has(output.md5):
        return cache.check(output.md5, output.path)
    copy = folder / output.md5
    copy.write_bytes(remote.content(repo, output.md5, output.path))
    return copy
