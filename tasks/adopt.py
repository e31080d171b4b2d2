"""Make a version's state the state of the checked-out branch, by one commit: `ratchet adopt v1.1.0`.

The commit takes params, locks and reports from the version's own commit, and its code on request.
Then the files, data and model in the checkout follow, until `dvc status` is clean. Everything that
can be refused is refused first. From the moment the branch has moved, the same command completes
what was cut off: each file here is the old commit's or the new one's, so nothing can be lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tasks import params, stage
from tasks.errors import ObjectsMissing, ParamsError, VersionError
from tasks.process import RUN_LOCK, STAGE_LOCK, locked
from tasks.versions import branch, layout, pipeline, remote, snapshot, tags
from tasks.versions.branch import Blob, Changes
from tasks.versions.cache import Cache, digest
from tasks.versions.git import git, git_bytes, head, read, resolve
from tasks.versions.registry import Registry, Version

_COMMANDS = "flows"  # no stage reads it, but it calls the code that stages are made of
_LISTED = 5  # paths that a message names


@dataclass(frozen=True)
class Adopted:
    """The branch after it; `changed` is False if there was nothing to do, `rebuilt` are outputs made again."""

    version: str
    branch: str
    commit: str
    changed: bool
    rebuilt: list[str]


@dataclass(frozen=True)
class _Change:
    """What git has to change. Code comes last: until then the command that does this stays usable."""

    state: Changes  # params, locks, reports; with code also dvc.yaml and the files that ignore outputs
    code: Changes

    @property
    def everything(self) -> Changes:
        return {**self.state, **self.code}


def adopt(tree: Path, name: str, code: bool = False) -> Adopted:
    """Commit the state of a version to the branch checked out in `tree`, and check out its data and model.

    Args:
        code: take the code too: the packages that the stages use, and dvc.yaml.

    Raises:
        VersionError: no such version, or a withdrawn one; no branch is checked out; an edit would be
            lost; without `code`, the code here is not the version's.
        ObjectsMissing, CorruptData, Unreachable: its data or model is unavailable or damaged.
        Busy: a run, a stage or another git command works in this checkout.
    """
    version = _usable(Registry(tree).find(name))
    what = f"the checkout {tree.resolve()}"
    with locked(tree / RUN_LOCK, what):
        with locked(tree / STAGE_LOCK, what):
            remote.share_cache(tree)
            ref, old = branch.current(tree), head(tree)
            commits = [old, *_cut_off(tree, version, old, code)]
            change = _change(tree, version, commits, code)
            _refuse(version, _edited_files(tree, version, commits, change))
            if not code:
                _check_code(tree, version, old)
            _refuse(version, _edited_outputs(tree, version))
            layout.fetch(tree, version.commit)
            message = _message(version, code)
            new = branch.commit(tree, old, change.everything, message)
            is_done = new == old and not stage.changes(tree)
            with branch.prepared(tree, change.everything) as area:
                is_done = is_done and not any(area.iterdir())
                with branch.index(tree):
                    branch.move(tree, ref, new, old, message.partition("\n")[0])
                    branch.write_index(tree, change.everything)
                    branch.place(tree, area, change.state)
                lacking = remote.checkout(tree)
                branch.place(tree, area, change.code)
            _remove_temporary_files(tree)
        _rebuild(tree, version, lacking)
    _check_result(tree, version)
    return Adopted(version.name, ref.removeprefix("refs/heads/"), new, not is_done, lacking)


def _usable(version: Version) -> Version:
    if version.withdrawn is not None:
        why = version.withdrawn.data.get("reason") or "no reason was given"
        raise VersionError(
            f"{version.name} is withdrawn ({why}); `ratchet versions` lists the others, and "
            f"`ratchet checkout {version.name} --into DIR` shows it in a folder of its own"
        )
    return version


def _message(version: Version, code: bool) -> str:
    what = "Params, locks, reports and code" if code else "Params, locks and reports"
    return f"Adopt {tags.ARTIFACT} {version.name}\n\n{what} are those of commit {version.commit}.\n"


def _cut_off(tree: Path, version: Version, old: str, code: bool) -> list[str]:
    """The parent of `old` if that is the commit of an earlier call: it may have been cut off, and files of
    the parent are still here then.
    """
    parent = resolve(tree, f"{old}^")
    message = git("log", "-1", "--format=%B", old, cwd=tree)
    return [parent] if parent and message.strip() == _message(version, code).strip() else []


def _change(tree: Path, version: Version, commits: Sequence[str], code: bool) -> _Change:
    """What to do to files that are as in one of `commits`."""
    graphs = [pipeline.listed_paths(tree, commit) for commit in (*commits, version.commit)]
    state = {*snapshot.ALWAYS, *snapshot.GATE}
    packages: set[str] = set()
    for in_git, in_cache, deps in graphs:
        state |= in_git
        if code:
            folders = {str(PurePosixPath(path).parent) for path in in_cache} - {"."}
            state |= {pipeline.PIPELINE, ".dvcignore", *(f"{folder}/.gitignore" for folder in folders)}
            packages |= {_COMMANDS, *(dep.partition("/")[0] for dep in deps)}
    present = {path for path in _files(tree, state) if path not in snapshot.GATE}
    state_change: dict[str, Blob | None] = {**dict.fromkeys(present), **_difference(tree, version, commits, state)}
    code_change = _difference(tree, version, commits, packages)
    return _Change(state_change, {path: code_change[path] for path in code_change.keys() - state_change.keys()})


def _difference(tree: Path, version: Version, commits: Sequence[str], roots: Iterable[str]) -> dict[str, Blob | None]:
    """All files at or below `roots` in the commits or the version, with what they are in the version."""
    roots = list(roots)
    before = {path for commit in commits for path in branch.files(tree, commit, roots)}
    return {**dict.fromkeys(sorted(before)), **branch.files(tree, version.commit, roots)}


def _files(tree: Path, roots: Iterable[str]) -> list[str]:
    """The files in the checkout at or below `roots`."""
    found = [path for root in roots for path in ((tree / root).rglob("*") if (tree / root).is_dir() else [tree / root])]
    names = [path.relative_to(tree) for path in found if path.is_symlink() or path.is_file()]
    return sorted(name.as_posix() for name in names if "__pycache__" not in name.parts)


def _check_code(tree: Path, version: Version, old: str) -> None:
    """Refuse unless the code here is the version's: otherwise DVC would find its outputs out of date."""
    run = pipeline.of_commit(tree, version.commit)
    names = pipeline.differing(tree, old, run.code)
    if read(tree, old, pipeline.PIPELINE) != read(tree, version.commit, pipeline.PIPELINE):
        names = [pipeline.PIPELINE, *names]
    with_code = f"`ratchet adopt {version.name} --code` takes the version's code too"
    if names:
        raise VersionError(
            f"{_listed(names)}: not as in {version.name}, so its data and model would be out of date here; {with_code}"
        )
    edited = pipeline.edited(tree, old, remote.code_hashes(tree))
    if edited:
        raise VersionError(f"{_listed(edited)}: edited and not committed; commit it or run `git stash` first")
    try:
        params.parse(pipeline.params_of(tree, version.commit))
    except ParamsError as error:
        raise ParamsError(f"the code here does not take the params of {version.name}; {with_code}\n{error}") from None


def _refuse(version: Version, edits: Iterable[str]) -> None:
    names = sorted(edits)
    if names:
        raise VersionError(
            f"{_listed(names)}: not committed and in no version, so adopting {version.name} would lose it; "
            "commit it, or set it aside (`git stash --include-untracked`; move outputs of DVC elsewhere)"
        )


def _edited_files(tree: Path, version: Version, commits: Sequence[str], change: _Change) -> set[str]:
    """Files of git that would be replaced, or read as the version's code, and whose content is in no commit."""
    versions = [other.commit for other in Registry(tree).versions() if other.commit != version.commit]
    contents = {pair for pair in _contents(tree, change) if pair[0] not in snapshot.GATE}
    edits = {path for path, _oid in _unknown(tree, contents, [*commits, version.commit, *versions])}
    return edits | {*_in_the_way(tree, change), *_untracked(tree, change)}


def _contents(tree: Path, change: _Change) -> set[tuple[str, str]]:
    """Path and object id of every file that would be replaced: as it is on disk, and as it is staged."""
    changes = change.everything
    present = [path for path in changes if (tree / path).is_symlink() or (tree / path).is_file()]
    links = [path for path in present if (tree / path).is_symlink()]
    regular = [path for path in present if path not in links]
    listing = "".join(f"{path}\n" for path in regular)
    oids = git("hash-object", "--no-filters", "--stdin-paths", cwd=tree, input=listing).split()
    contents = set(zip(regular, oids, strict=True))
    for path in links:
        target = str((tree / path).readlink())
        contents.add((path, git("hash-object", "--no-filters", "--stdin", cwd=tree, input=target)))
    for entry in _entries(git_bytes("ls-files", "--stage", "-z", cwd=tree)):
        about, path = entry.split("\t", 1)
        if path in changes:
            contents.add((path, about.split()[1]))
    return contents


def _unknown(tree: Path, contents: set[tuple[str, str]], commits: Sequence[str]) -> set[tuple[str, str]]:
    """Those of `contents` that none of the commits has at the same path; asks one commit after another."""
    for commit in commits:
        if not contents:
            break
        paths = sorted({path for path, _oid in contents})
        names = "".join(f"{commit}:{path}\n" for path in paths)
        answers = git("cat-file", "--batch-check=%(objectname)", cwd=tree, input=names).split("\n")
        contents = contents - set(zip(paths, answers, strict=True))
    return contents


def _in_the_way(tree: Path, change: _Change) -> Iterator[str]:
    """Files where a folder has to be, and folders where a file has to be."""
    changes = change.everything
    for path, blob in changes.items():
        if blob is None:
            continue
        if (tree / path).is_dir() and not (tree / path).is_symlink():
            yield from (file for file in _files(tree, [path]) if file not in changes)
        for parent in map(str, PurePosixPath(path).parents):
            if (tree / parent).is_file() and parent not in changes:
                yield parent


def _untracked(tree: Path, change: _Change) -> Iterator[str]:
    """Files in the packages of the code that git does not know: DVC would see them as code of the version."""
    packages = sorted({path.partition("/")[0] for path in change.code})
    if packages:
        options = ("--others", "--exclude-standard", "-z")
        listing = _entries(git_bytes("ls-files", *options, "--", *packages, cwd=tree))
        yield from (path for path in listing if path not in change.code)


def _edited_outputs(tree: Path, version: Version) -> Iterator[str]:
    """Files of outputs that would be replaced and that DVC's cache lacks; what is never pushed can be rebuilt."""
    cache = Cache(tree)
    as_locked = _outputs_as_locked(tree)
    for output in pipeline.of_commit(tree, version.commit).outputs:
        if output.pushed and output.path not in as_locked:
            files = [path for path in _files(tree, [output.path]) if not remote.TEMPORARY.fullmatch(Path(path).name)]
            yield from (path for path in files if not cache.has(digest(tree / path, "md5")))


def _outputs_as_locked(tree: Path) -> set[str]:
    """The outputs in the checkout that are as its dvc.lock has them, and in the cache."""
    if not (tree / pipeline.LOCK).is_file():
        return set()
    entries = [entry for entries in stage.changes(tree).values() for entry in entries if isinstance(entry, dict)]
    changed = {path for entry in entries for path in entry.get("changed outs", {})}
    return {output.path for output in pipeline.of_tree(tree, whole=False).outputs} - changed


def _remove_temporary_files(tree: Path) -> None:
    """Remove what DVC left beside an output when it was killed; inside a folder, its checkout does that."""
    parents = {(tree / output.path).parent for output in pipeline.of_tree(tree).outputs}
    for file in [file for parent in parents for file in parent.glob(".*.tmp")]:
        if remote.TEMPORARY.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _rebuild(tree: Path, version: Version, lacking: Sequence[str]) -> None:
    """Run the stages whose outputs the cache lacks: those outputs are never pushed."""
    stages: dict[str, None] = {}
    for output in pipeline.of_commit(tree, version.commit).outputs:
        if output.path in lacking and output.pushed:
            raise ObjectsMissing(f"{output.path} of {version.name} left DVC's cache meanwhile; run the command again")
        if output.path in lacking:
            stages[output.stage] = None
    if stages:
        layout.repro(tree, "--single-item", *stages)


def _check_result(tree: Path, version: Version) -> None:
    stages = {output.stage for output in pipeline.of_commit(tree, version.commit).outputs}
    left = sorted(stages & stage.changes(tree).keys())
    if left:
        raise VersionError(
            f"the branch has the state of {version.name}, but DVC still finds {_listed(left)} out of date here; "
            "`dvc status` says what differs"
        )


def _entries(listing: bytes) -> list[str]:
    return [entry for entry in os.fsdecode(listing).split("\0") if entry]


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(paths[:_LISTED]) + more
