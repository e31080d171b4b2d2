"""Bring the checked-out branch to the state of a version with one commit: `ratchet adopt v1.1.0`.

The commit takes the params, locks and reports from the version's commit, and its code on request.
Then the files, data and model in the checkout are updated, until `dvc status` is clean.

All checks come first. If the command is interrupted later, running it again completes it: each file
here is that of the old commit or of the new one, so nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ratchet import locks, out_of_date, params
from ratchet.errors import ObjectsMissing, ParamsError, VersionError
from ratchet.git import git, head, read, resolve
from ratchet.locks import locked
from ratchet.registry import snapshot, tags
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.store import config, dirty, pipeline, remote, working_tree
from ratchet.workspace import branch, edits, version_tree
from ratchet.workspace.branch import Blob, Changes

# No stage reads these packages, but they call the code of the stages.
_COMMANDS = ("cli", "flows", "service")
_LISTED = 5  # paths that a message names


@dataclass(frozen=True)
class Adopted:
    """The state of the branch afterwards."""

    version: str
    branch: str
    commit: str
    changed: bool  # False if there was nothing to do
    rebuilt: list[str]  # outputs that their stages made again


@dataclass(frozen=True)
class _Change:
    """What git has to change. Code changes last, so that this program stays usable until then."""

    state: Changes  # params, locks, reports; with code also dvc.yaml and the ignore files
    code: Changes

    @property
    def everything(self) -> Changes:
        """All changes."""
        return {**self.state, **self.code}


def adopt(tree: Path, name: str, code: bool = False) -> Adopted:
    """Commit a version's state to the branch checked out in `tree`; check out its data and model.

    Args:
        tree: the checkout.
        name: the version.
        code: take the code too, that is, the packages that the stages use, and dvc.yaml.

    Raises:
        VersionError: there is no such version, or it is withdrawn; no branch is checked out; an
            edit would be lost; or, without `code`, the code here is not the version's.
        ParamsError: without `code`, the code here does not accept the version's params.
        ObjectsMissing, CorruptData, Unreachable: its data or model is unavailable or damaged.
        Busy: a run, a stage or another git command is running in this checkout.
    """
    version = _usable(Registry(tree).find(name))
    what = f"the checkout {tree.resolve()}"
    with locked(tree / locks.RUN, what):
        with locked(tree / locks.STAGE, what):
            config.share_cache(tree)
            ref, old = branch.current(tree), head(tree)
            change = _checked(tree, version, old, code)
            message = _message(version, code)
            new, is_done, lacking = _switch(tree, version, ref, old, change, message)
        _rebuild(tree, version, lacking)
        _check_result(tree, version)
    return Adopted(version.name, ref.removeprefix("refs/heads/"), new, not is_done, lacking)


def _usable(version: Version) -> Version:
    if version.withdrawn is not None:
        why = version.withdrawn.data.get("reason") or "no reason was given"
        raise VersionError(
            f"{version.name} is withdrawn ({why}); `ratchet versions` lists the others, and"
            f" `ratchet checkout {version.name} --into DIR` checks it out into a folder of its own"
        )
    return version


def _message(version: Version, code: bool) -> str:
    what = "Params, locks, reports and code" if code else "Params, locks and reports"
    subject = f"Adopt {tags.ARTIFACT} {version.name}"
    return f"{subject}\n\n{what} are those of commit {version.commit}.\n"


# ── what can be refused ─────────────────────────────────────────────────────────────────────────


def _checked(tree: Path, version: Version, old: str, code: bool) -> _Change:
    """The changes, after all checks; raises what `adopt` raises."""
    commits = [old, *_interrupted(tree, version, old, code)]
    change = _change(tree, version, commits, code)
    others = [other.commit for other in Registry(tree).versions() if other != version]
    likely = [*commits, version.commit, *others]
    lost = edits.files(tree, change.everything, likely, exempt=snapshot.GATE)
    packages = {path.partition("/")[0] for path in change.code}
    _refuse(version, lost | edits.untracked(tree, packages, change.code))
    if not code:
        _check_code(tree, version, old)
    outputs = pipeline.of_commit(tree, version.commit).outputs
    _refuse(version, edits.outputs(tree, outputs, out_of_date.changes(tree)))
    version_tree.fetch(tree, version.commit)
    return change


def _interrupted(tree: Path, version: Version, old: str, code: bool) -> list[str]:
    """The parent of `old`, if `old` is the commit of an earlier call for the same version.

    If that call was interrupted, files of the parent may still be here.
    """
    parent = resolve(tree, f"{old}^")
    message = git("log", "-1", "--format=%B", old, cwd=tree)
    return [parent] if parent and message.strip() == _message(version, code).strip() else []


def _change(tree: Path, version: Version, commits: Sequence[str], code: bool) -> _Change:
    """The changes to files that are as in one of `commits`."""
    roots = {*snapshot.ALWAYS, *snapshot.GATE}
    packages: set[str] = set()
    for commit in (*commits, version.commit):
        in_git, in_cache, deps = pipeline.listed_paths(tree, commit)
        roots |= in_git
        if code:
            folders = {str(PurePosixPath(path).parent) for path in in_cache} - {"."}
            roots |= {pipeline.PIPELINE, ".dvcignore"}
            roots |= {f"{folder}/.gitignore" for folder in folders}
            packages |= {*_COMMANDS, *(dep.partition("/")[0] for dep in deps)}
    # a report that the version lacks has to go, because it would make the folder differ
    state = dict.fromkeys(set(edits.present(tree, roots)) - set(snapshot.GATE))
    state |= _difference(tree, version, commits, roots)
    program = _difference(tree, version, commits, packages)
    return _Change(state, {path: blob for path, blob in program.items() if path not in state})


def _difference(
    tree: Path, version: Version, commits: Sequence[str], roots: Iterable[str]
) -> dict[str, Blob | None]:
    """The files at or below `roots` in the commits or the version, as they are in the version."""
    roots = list(roots)
    before = {path for commit in commits for path in branch.files(tree, commit, roots)}
    return {**dict.fromkeys(sorted(before)), **branch.files(tree, version.commit, roots)}


def _refuse(version: Version, lost: Iterable[str]) -> None:
    names = sorted(lost)
    if names:
        raise VersionError(
            f"{_listed(names)}: not committed and in no version, so adopting {version.name} would"
            " lose it; commit it, or set it aside (run `git stash --include-untracked`; move"
            " outputs of DVC elsewhere)"
        )


def _check_code(tree: Path, version: Version, old: str) -> None:
    """Raise unless the code here is the version's: DVC would find its outputs out of date."""
    with_code = f"`ratchet adopt {version.name} --code` takes the version's code too"
    names = dirty.differing(tree, old, pipeline.of_commit(tree, version.commit).code)
    graphs = {read(tree, commit, pipeline.PIPELINE) for commit in (old, version.commit)}
    if len(graphs) > 1:
        names = [pipeline.PIPELINE, *names]
    if names:
        raise VersionError(
            f"{_listed(names)}: not as in {version.name}, so its data and model would be out of"
            f" date here; {with_code}"
        )
    edited = dirty.edited(tree, old, working_tree.code_hashes(tree))
    if edited:
        raise VersionError(
            f"{_listed(edited)}: edited and not committed; commit it, or run `git stash` first"
        )
    try:
        params.parse(pipeline.params_of(tree, version.commit))
    except ParamsError as error:
        message = f"the code here does not accept the params of {version.name}; {with_code}"
        raise ParamsError(f"{message}\n{error}") from None


# ── the change ──────────────────────────────────────────────────────────────────────────────────


def _switch(
    tree: Path, version: Version, ref: str, old: str, change: _Change, message: str
) -> tuple[str, bool, list[str]]:
    """Commit, then update the checkout, code last.

    Returns:
        The branch's commit, whether there was nothing to do, and the outputs that DVC's cache
        lacks.
    """
    new = branch.commit(tree, old, change.everything, message)
    is_done = new == old and not out_of_date.changes(tree)
    with branch.prepared(tree, change.everything) as area:
        is_done = is_done and not any(area.iterdir())
        with branch.index(tree):
            branch.move(tree, ref, new, old, message.partition("\n")[0])
            branch.write_index(tree, change.everything)
            branch.place(tree, area, change.state)
        lacking = working_tree.check_out(tree)
        _remove_temporary_files(tree, version)
        branch.place(tree, area, change.code)
    return new, is_done, lacking


def _remove_temporary_files(tree: Path, version: Version) -> None:
    """Remove what a killed DVC left beside an output. Inside a folder, its own checkout does it."""
    outputs = pipeline.of_commit(tree, version.commit).outputs
    for folder in {(tree / output.path).parent for output in outputs}:
        for file in list(folder.glob(".*.tmp")):
            if remote.TEMPORARY.fullmatch(file.name):
                file.unlink(missing_ok=True)


def _rebuild(tree: Path, version: Version, lacking: Sequence[str]) -> None:
    """Run the stages whose outputs the cache lacks, because they are never pushed."""
    stages: dict[str, None] = {}
    for output in pipeline.of_commit(tree, version.commit).outputs:
        if output.path in lacking:
            stages[output.stage] = None
            if output.pushed:
                raise ObjectsMissing(
                    f"{output.path} of {version.name} was deleted from DVC's cache meanwhile; run"
                    " this command again"
                )
    if stages:
        version_tree.repro(tree, "--single-item", *stages)


def _check_result(tree: Path, version: Version) -> None:
    stages = {output.stage for output in pipeline.of_commit(tree, version.commit).outputs}
    left = sorted(stages & out_of_date.changes(tree).keys())
    if left:
        raise VersionError(
            f"the branch has the state of {version.name}, but DVC finds {_listed(left)} out of date"
            " here; for details, run `dvc status`"
        )


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(paths[:_LISTED]) + more
