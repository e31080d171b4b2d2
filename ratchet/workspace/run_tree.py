"""Where a run works: the checkout itself, or a git worktree of its own (the run's tree).

A run's tree is at the commit that is fixed when the run starts, and it shares the DVC cache of the
main checkout. It starts with the locks and outputs of the newest version, so that DVC skips what is
up to date. The main checkout does not change.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet import locks, params, repository
from ratchet.errors import Busy, DirtyCode, PassingFault, RatchetError, VersionError
from ratchet.git import files, git, head, read, resolve
from ratchet.locks import locked
from ratchet.overrides import lasting, replaced
from ratchet.registry import publication
from ratchet.registry.versions import Registry
from ratchet.repository import home
from ratchet.store import config, dirty, pipeline, working_tree

FOLDER = ".runs"
KEPT = 5  # trees of failed runs, and reports of finished ones
LAID_OVER = ("source.lock", "dvc.lock", "reports")  # from the newest version


@dataclass(frozen=True)
class Place:
    """Where a run works."""

    tree: Path
    base: str  # the parent of its version's commit
    reports: Path  # where its reports are once it has ended
    settings: Mapping[str, Any]  # values that replace those in params.yaml
    unused: tuple[str, ...] = ()  # edited files of the checkout, which this run does not use
    removed: tuple[str, ...] = ()  # trees of killed runs that were removed


def _sync(tree: Path) -> None:
    publication.sync(tree, params.load(tree).register.push_to)


@contextlib.contextmanager
def workplace(
    checkout: Path,
    settings: Mapping[str, Any] | None,
    revision: str = "HEAD",
    sync: Callable[[Path], None] = _sync,
) -> Iterator[Place]:
    """Provide the place where a run works: the checkout, or a tree of its own.

    A run's tree is removed when the run succeeds. Those of the last five failed runs are kept.

    Args:
        checkout: the main checkout.
        settings: values that replace those in params.yaml of the run's tree; None to work in the
            checkout itself.
        revision: the commit of the run's tree.
        sync: exchanges the registry's tags with the git remote. It is called only if the params
            name a remote.

    Yields:
        The place, locked for this run.

    Raises:
        Busy: another run works in this checkout.
        DirtyCode: code in this checkout was edited and not committed, or git's attributes change
            it.
        ParamsError: a setting names a key that params.yaml lacks, or has an invalid value.
        NotARepository: this is not a git repository, or it has no commit.
        VersionError: there is no such revision.
        Unreachable: the git remote that `register.push_to` names does not respond.
    """
    runs = home(checkout) / FOLDER
    removed = _remove_killed(runs, checkout)
    if settings is None:
        with _in_checkout(checkout, removed, sync) as place:
            yield place
        return
    base = _commit(checkout, settings, revision)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    unused = tuple(edits(checkout, base)) if revision == "HEAD" else ()
    place = Place(runs / name, base, runs / "reports" / name, settings, unused, removed)
    with locked(place.tree.with_suffix(".lock"), f"the run's tree {place.tree}"):
        try:
            _set_up(checkout, place, sync)
            yield place
        except PassingFault:  # its tree does not explain the fault
            drop(checkout, place.tree)
            raise
        except BaseException:
            _release(place.tree)
            _drop_all_but(KEPT, runs, checkout)
            raise
        if _keep_reports(place):
            drop(checkout, place.tree)
        else:
            _release(place.tree)


@contextlib.contextmanager
def _in_checkout(
    checkout: Path, removed: tuple[str, ...], sync: Callable[[Path], None]
) -> Iterator[Place]:
    base = check(checkout, None)
    if params.load(checkout).register.push_to:
        sync(checkout)
    config.share_cache(checkout)
    with locked(checkout / locks.RUN, f"the checkout {checkout.resolve()}"):
        yield Place(checkout, base, checkout / "reports", {}, removed=removed)


def _set_up(checkout: Path, place: Place, sync: Callable[[Path], None]) -> None:
    """Make the run's tree, with its settings and the outputs of the newest version."""
    repository.add_worktree(checkout, place.tree, place.base)
    config.share(checkout, place.tree)
    _check_out_as_committed(place)
    file = place.tree / params.FILE
    file.write_text(replaced(file.read_text(encoding="utf-8"), place.settings), encoding="utf-8")
    if params.load(place.tree).register.push_to:
        sync(place.tree)
    _lay_over_newest(place.tree)


def check(checkout: Path, settings: Mapping[str, Any] | None, revision: str = "HEAD") -> str:
    """Check whether a run could start; arguments as for `workplace`.

    Returns:
        The commit that the run would start from.

    Raises:
        DirtyCode: the checkout has edits that the run would not use, or that no version could name.
        ParamsError, NotARepository, VersionError: as for `workplace`.
    """
    if settings is None:
        base = head(checkout)
        params.load(checkout)
        changed = dirty.edited(checkout, base, working_tree.code_hashes(checkout))
        dirty.refuse_dirty(checkout, changed, base)
        return base
    base = _commit(checkout, settings, revision)
    unused = edits(checkout, base)
    if unused == [params.FILE]:
        raise DirtyCode(
            f"{params.FILE} is edited and not committed, and a run with --set or --params would use"
            f" the one of commit {base[:12]}; commit it (`git commit {params.FILE}`), or run"
            " `ratchet train` without these options to use it as it is"
        )
    dirty.refuse_dirty(checkout, unused, base)
    return base


def edits(checkout: Path, commit: str) -> list[str]:
    """The files in `checkout` that differ from `commit`: params.yaml, dvc.yaml, the stages' code.

    A run in a tree of its own does not use these edits.
    """
    try:
        changed = dirty.edited(checkout, commit, working_tree.code_hashes(checkout))
    except RatchetError:  # DVC cannot read a dvc.yaml that is half edited
        changed = [pipeline.PIPELINE]
    file = checkout / params.FILE
    if not file.is_file() or file.read_bytes() != read(checkout, commit, params.FILE):
        changed.append(params.FILE)
    return changed


def _commit(checkout: Path, settings: Mapping[str, Any], revision: str) -> str:
    """The commit of `revision`, after a check that its params.yaml accepts the settings."""
    repository.check_worktrees(checkout)
    commit = resolve(checkout, f"{revision}^{{commit}}")
    if commit is None and revision == "HEAD":
        commit = head(checkout)
    if commit is None:
        raise VersionError(
            f"{checkout.resolve()} has no commit {revision!r}; `git log --all --oneline` lists all"
        )
    text = (read(checkout, commit, params.FILE) or b"").decode()
    replaced(text, settings)
    # the params.yaml of its version
    replaced(text, lasting(settings, pipeline.listed_sections(checkout, commit)))
    return commit


def _check_out_as_committed(place: Place) -> None:
    """Raise `DirtyCode` if git wrote code with other bytes than those in the commit.

    No version could name such code.
    """
    changed = dirty.edited(place.tree, place.base, working_tree.code_hashes(place.tree))
    if changed:
        raise DirtyCode(
            f"git checks out {', '.join(changed)} with other bytes than commit {place.base[:12]}"
            " holds; remove the attributes that cause it (eol, text, ident, filter,"
            " working-tree-encoding) from .gitattributes or .git/info/attributes"
        )


def _keep_reports(place: Place) -> bool:
    """Copy the reports of a successful run out of its tree.

    If that fails, the tree has to stay, but the run is still a success.

    Returns:
        Whether the reports were copied.
    """
    try:
        place.reports.parent.mkdir(exist_ok=True)
        shutil.copytree(place.tree / "reports", place.reports)
    except OSError as error:
        shutil.rmtree(place.reports, ignore_errors=True)
        print(
            f"ratchet: the reports of this run are in {place.tree}/reports; copying them failed:"
            f" {error}",
            file=sys.stderr,
        )
        return False
    for old in sorted(place.reports.parent.iterdir())[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return True


def drop(checkout: Path, tree: Path) -> None:
    """Remove a run's tree as far as possible. A failure here does not change the run's result."""
    with contextlib.suppress(OSError, RatchetError):
        repository.remove_worktree(checkout, tree)
    _release(tree)


def _release(tree: Path) -> None:
    """Remove the lock file: a tree without one belongs to a run that ended by itself."""
    tree.with_suffix(".lock").unlink(missing_ok=True)


def _remove_killed(runs: Path, checkout: Path) -> tuple[str, ...]:
    """Remove the trees of killed runs: their lock files exist, and no process holds them."""
    removed = []
    for lock in runs.glob("*.lock"):
        tree = lock.with_suffix("")
        with contextlib.suppress(Busy, FileNotFoundError), locked(lock, tree.name, 0, create=False):
            was_there = tree.exists()
            drop(checkout, tree)
            if was_there and not tree.exists():
                removed.append(f"{FOLDER}/{tree.name}")
    return tuple(removed)


def _drop_all_but(count: int, runs: Path, checkout: Path) -> None:
    """Remove the oldest trees of failed runs. Active runs have a lock file."""
    trees = [tree for tree in runs.iterdir() if (tree / ".git").is_file()]
    failed = sorted(tree for tree in trees if not tree.with_suffix(".lock").exists())
    for tree in failed[:-count]:
        drop(checkout, tree)


def _lay_over_newest(tree: Path) -> None:
    """Bring the locks, reports and outputs of the newest version into a run's tree."""
    versions = Registry(tree).versions()
    if not versions:
        return
    commit = versions[0].commit
    present = [path for path in LAID_OVER if files(tree, commit, path)]
    git("restore", "--source", commit, "--worktree", "--", *present, cwd=tree)
    working_tree.check_out(tree)
