"""Where a run works: the checkout itself, or a git worktree of its own (the run's tree) that nobody else touches.

A run's tree stands at the commit fixed when the run starts, shares the main checkout's DVC cache, and begins with the newest
version's locks and outputs, so that what is up to date is found so. The main checkout does not move.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import params
from tasks.errors import VersionError
from tasks.overrides import lasting, replaced
from tasks.process import locked
from tasks.versions import pipeline, remote, tags, whole
from tasks.versions.git import common_dir, files, git, head, read, resolve
from tasks.versions.registry import Registry

FOLDER = ".runs"
KEPT = 5  # trees of failed runs, and reports of ended ones
LAID_OVER = ("source.lock", "dvc.lock", "reports")  # from the newest version


@dataclass(frozen=True)
class Place:
    """Where a run works."""

    tree: Path
    base: str  # the commit that its version will have as parent
    reports: Path  # where its reports are once it has ended
    settings: Mapping[str, Any]  # values that replaced those in params.yaml


@contextlib.contextmanager
def workplace(checkout: Path, settings: Mapping[str, Any] | None, revision: str = "HEAD") -> Iterator[Place]:
    """The checkout (`settings` is None), or a run's tree of `revision` with these values in its params.yaml.

    A run's tree is removed when the run ends well; after a failure the last five are kept.

    Raises:
        Busy: another run works in this checkout.
        DirtyCode: code in this checkout was edited and not committed.
        ParamsError: a key that params.yaml does not have, or a value that it may not have.
        NotARepository: no git repository, or no commit in it.
        VersionError: there is no such revision.
        Unreachable: the git remote that `register.push_to` names does not answer.
    """
    base = check(checkout, settings, revision)
    tags.fetch(checkout, params.load(checkout).register.push_to)
    if settings is None:
        with locked(checkout / ".dvc/tmp/ratchet-run.lock", f"the checkout {checkout.resolve()}"):
            yield Place(checkout, base, checkout / "reports", {})
        return
    runs = common_dir(checkout).parent / FOLDER
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    place = Place(runs / name, base, runs / "reports" / name, settings)
    git("worktree", "add", "--quiet", "--detach", str(place.tree), place.base, cwd=checkout)
    with locked(place.tree.with_suffix(".lock"), f"the run's tree {place.tree}"):
        try:
            remote.share(common_dir(checkout).parent, place.tree)
            _lay_over_newest(place.tree)
            file = place.tree / params.FILE
            file.write_text(replaced(file.read_text(encoding="utf-8"), settings), encoding="utf-8")
            yield place
        except BaseException:
            _drop_all_but(KEPT, runs, checkout)
            raise
        place.reports.parent.mkdir(exist_ok=True)
        shutil.copytree(place.tree / "reports", place.reports)
        drop(place.tree)
        for old in sorted(place.reports.parent.iterdir())[:-KEPT]:
            shutil.rmtree(old)


def _refuse_edits(tree: Path, base: str) -> None:
    """Raise `DirtyCode` if code that a stage runs is not as commit `base` holds it: no version could name it."""
    from ruamel.yaml import YAML

    graph = YAML(typ="safe", pure=True).load((tree / "dvc.yaml").read_text(encoding="utf-8"))
    deps = {dep for stage in graph["stages"].values() for dep in stage["deps"]}
    code = sorted({"dvc.yaml", *(dep for dep in deps if dep.endswith((".py", ".html")) or dep.startswith("custom"))})
    changed = git("diff", "--name-only", base, "--", *code, cwd=tree).splitlines()
    new = git("ls-files", "--others", "--exclude-standard", "--", *code, cwd=tree).splitlines()
    pipeline.refuse_dirty([*changed, *new], base)


def check(checkout: Path, settings: Mapping[str, Any] | None, revision: str = "HEAD") -> str:
    """The commit that such a run would start from; raises what `workplace` raises, before anything is started."""
    newest = head(checkout)
    if settings is None:
        whole.recover(checkout)
        params.load(checkout)
        _refuse_edits(checkout, newest)
        return newest
    commit = resolve(checkout, f"{revision}^{{commit}}")
    if commit is None:
        raise VersionError(f"{revision!r} is no commit of {checkout.resolve()}; `git log --all --oneline` lists them")
    text = (read(checkout, commit, params.FILE) or b"").decode()
    replaced(text, settings)
    replaced(text, lasting(settings, pipeline.listed_sections(checkout, commit)))  # what its version will hold
    return commit


def drop(tree: Path) -> None:
    """Remove a run's tree."""
    git("worktree", "remove", "--force", str(tree), cwd=common_dir(tree).parent)
    tree.with_suffix(".lock").unlink(missing_ok=True)


def _drop_all_but(kept: int, runs: Path, checkout: Path) -> None:
    """Remove the oldest trees of runs that ended; one that still runs holds its lock."""
    trees = sorted(tree for tree in runs.iterdir() if tree.is_dir() and (tree / ".git").is_file())
    for tree in trees[:-kept]:
        with contextlib.suppress(Exception), locked(tree.with_suffix(".lock"), str(tree)):
            drop(tree)
    git("worktree", "prune", cwd=checkout)


def _lay_over_newest(tree: Path) -> None:
    versions = Registry(tree).versions()
    if not versions:
        return
    commit = versions[0].commit
    held = [path for path in LAID_OVER if files(tree, commit, path)]
    git("restore", "--source", commit, "--worktree", "--", *held, cwd=tree)
    remote.checkout(tree)
