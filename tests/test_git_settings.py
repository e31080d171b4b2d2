"""Whatever the user's git settings, hooks and environment, and wherever the repository is: the commands
`train --set`, `promote`, `rollback`, `checkout` and `verify` do exactly what they do in a plain
clone.

Public reports of the same faults in other projects: pruned tags sindresorhus/pure#682 and
Carthage/Carthage#1051; hooks that break `git worktree add` git-lfs/git-lfs#2848 and
stablyai/orca#9347; the variables of hooks pre-commit/pre-commit#321 and j178/prek#1815.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import DirtyCode
from ratchet.git import files, git
from ratchet.registry.versions import Registry
from ratchet.repository import home, worktrees
from ratchet.upkeep.checkout import checkout
from ratchet.upkeep.verify import verify
from ratchet.workspace.run_tree import workplace
from tasks.promote import promote, rollback
from tasks.register import register
from tests.helpers.toy import Toy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")

HOOKS = (
    *(
        "applypatch-msg",
        "commit-msg",
        "post-checkout",
        "post-commit",
        "post-index-change",
        "post-merge",
    ),
    *("post-rewrite", "pre-auto-gc", "pre-commit", "pre-merge-commit", "pre-push", "pre-rebase"),
    *("prepare-commit-msg", "reference-transaction"),
)
OTHER = "core.pager=false core.commentChar=@ column.ui=always log.showSignature=true"


class Place:
    """A copy of a toy checkout with two versions, and the settings of its user."""

    def __init__(self, toy: Toy, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.toy = toy
        self.folder = folder
        self.patch = patch

    @property
    def tree(self) -> Path:
        return self.toy.tree

    def configure(self, *settings: str) -> None:
        """Set what the user's `~/.gitconfig` holds, as NAME=VALUE."""
        for setting in settings:
            name, _, value = setting.partition("=")
            subprocess.run(["git", "config", "--global", "--add", name, value], check=True)

    def hook(self, text: str, names: tuple[str, ...] = HOOKS) -> None:
        for name in names:
            file = self.tree / ".git/hooks" / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"#!/bin/sh\n{text}\n")
            file.chmod(0o755)

    def origin(self) -> None:
        """Publish to a git remote that has none of the versions so far."""
        git("init", "--quiet", "--bare", str(self.folder / "origin.git"), cwd=self.folder)
        git("remote", "add", "origin", str(self.folder / "origin.git"), cwd=self.tree)
        self.toy.set("register.push_to", "origin")
        self.toy.commit("Publish versions")

    def move(self, tree: Path) -> None:
        self.toy = Toy(tree)


def plain(place: Place) -> None:
    pass


def prune(place: Place) -> None:
    place.origin()
    place.configure("fetch.prune=true", "fetch.pruneTags=true")


def prune_remote(place: Place) -> None:
    place.origin()
    for name in ("prune", "pruneTags"):
        git("config", f"remote.origin.{name}", "true", cwd=place.tree)


def mirror(place: Place) -> None:
    place.origin()
    git("config", "remote.origin.mirror", "true", cwd=place.tree)
    git("config", "--add", "remote.origin.fetch", "+refs/tags/*:refs/tags/*", cwd=place.tree)


def failing_hooks(place: Place) -> None:
    place.hook("exit 1")


def shared_failing_hooks(place: Place) -> None:
    place.hook("exit 1")
    place.configure(f"core.hooksPath={place.tree / '.git/hooks'}")


def meddling_hooks(place: Place) -> None:
    place.hook("echo meddling >> custom/__init__.py; echo meddling >> params.yaml")


def line_endings(place: Place) -> None:
    place.configure("core.autocrlf=true", "core.safecrlf=true", "core.eol=crlf")


def line_ending_attributes(place: Place) -> None:
    (place.folder / "attributes").write_text("* text eol=crlf\n")
    place.configure(f"core.attributesFile={place.folder / 'attributes'}")


def signing(place: Place) -> None:
    place.origin()
    names = ("commit.gpgSign", "tag.gpgSign", "tag.forceSignAnnotated", "push.gpgSign")
    place.configure(*(f"{name}=true" for name in names), "gpg.program=false")


def output(place: Place) -> None:
    place.configure(*OTHER.split(), "color.ui=always", "core.quotePath=true", "diff.external=false")
    place.configure(
        "diff.noprefix=true", "diff.renames=copies", "status.short=true", "tag.sort=-creatordate"
    )
    place.configure(
        "i18n.commitEncoding=latin1", "i18n.logOutputEncoding=latin1", "core.fsmonitor=false"
    )


def hook_environment(place: Place) -> None:
    other = place.folder / "other"
    git("init", "--quiet", str(other), cwd=place.folder)
    for name, value in {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / "index",
        "GIT_OBJECT_DIRECTORY": other / ".git/objects",
        "GIT_COMMON_DIR": other / ".git",
        "GIT_PREFIX": "custom/",
        "GIT_AUTHOR_DATE": "2001-01-01T00:00:00Z",
        "GIT_TRACE": "1",
        "GIT_CONFIG_PARAMETERS": "'core.bare=true'",
    }.items():
        place.patch.setenv(name, str(value))


def worktree(place: Place) -> None:
    git("worktree", "add", "--quiet", str(place.folder / "linked"), cwd=place.tree)
    place.move(place.folder / "linked")


def separate_git_dir(place: Place) -> None:
    git("init", "--quiet", "--separate-git-dir", str(place.folder / "repository"), cwd=place.tree)


def bare(place: Place) -> None:
    git(
        "clone",
        "--quiet",
        "--bare",
        str(place.tree),
        str(place.folder / "bare.git"),
        cwd=place.folder,
    )
    git(
        "worktree",
        "add",
        "--quiet",
        str(place.folder / "main"),
        "main",
        cwd=place.folder / "bare.git",
    )
    shutil.copytree(place.tree / ".dvc/cache", place.folder / "main/.dvc/cache")
    place.move(place.folder / "main")


def shallow(place: Place) -> None:
    target = place.folder / "shallow"
    url = place.tree.as_uri()
    git("clone", "--quiet", "--depth=1", url, str(target), cwd=place.folder)
    git("fetch", "--quiet", "--depth=2", "--tags", cwd=target)
    git("remote", "remove", "origin", cwd=target)
    shutil.copytree(place.tree / ".dvc/cache", target / ".dvc/cache")
    place.move(target)


def sparse(place: Place) -> None:
    git("config", "extensions.worktreeConfig", "true", cwd=place.tree)
    git("sparse-checkout", "set", "--no-cone", "/*", "!/README.md", cwd=place.tree)


def reftable(place: Place) -> None:
    try:
        git("refs", "migrate", "--ref-format=reftable", cwd=place.tree)
    except Exception as error:
        pytest.skip(f"this git has no reftable: {error}")


def no_tags_folder(place: Place) -> None:
    git("pack-refs", "--all", cwd=place.tree)
    shutil.rmtree(place.tree / ".git/refs/tags")


def latin_tag(place: Place) -> None:
    message = "Gr\u00fc\u00dfe".encode("latin1")
    file = place.folder / "message"
    file.write_bytes(message)
    git(
        "tag",
        "--annotate",
        "--cleanup=verbatim",
        "--file",
        str(file),
        "classifier@v0.0.1!",
        "HEAD",
        cwd=place.tree,
    )


def odd_path(place: Place) -> None:
    target = place.folder / "Übung mit Leerzeichen's"
    shutil.move(place.tree, target)
    place.move(target)


def symlink(place: Place) -> None:
    (place.folder / "link").symlink_to(place.tree)
    place.move(place.folder / "link")


def environment_settings(place: Place) -> None:
    settings = {
        "fetch.prune": "true",
        "core.autocrlf": "true",
        "core.hooksPath": "/nowhere",
        "core.fileMode": "false",
    }
    place.patch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (name, value) in enumerate(settings.items()):
        place.patch.setenv(f"GIT_CONFIG_KEY_{number}", name)
        place.patch.setenv(f"GIT_CONFIG_VALUE_{number}", value)


def replaced_commit(place: Place) -> None:
    commits = (git("rev-parse", revision, cwd=place.tree) for revision in ("HEAD", "HEAD~1"))
    subprocess.run(["git", "replace", *commits], cwd=place.tree, check=True)


def confusing_names(place: Place) -> None:
    for kind, name in (
        ("branch", "classifier@v1.0.0"),
        ("tag", "HEAD"),
        ("tag", "main"),
        ("branch", "v1.0.0"),
    ):
        git(kind, name, "HEAD~1", cwd=place.tree)


def everything_ignored(place: Place) -> None:
    (place.tree / ".git/info/exclude").write_text("*\n")


ROWS = (
    *(
        prune,
        prune_remote,
        failing_hooks,
        meddling_hooks,
        line_endings,
        signing,
        output,
        hook_environment,
    ),
    *(worktree, separate_git_dir, bare, shallow, reftable, no_tags_folder, latin_tag, odd_path),
)
LONG = (
    *(mirror, shared_failing_hooks, line_ending_attributes, sparse, symlink, environment_settings),
    *(replaced_commit, confusing_names, everything_ignored),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = Toy.make(tmp_path_factory.mktemp("template") / "checkout")
    toy.release("a")
    toy.set("train.epochs", 5)
    toy.commit("Train longer")
    toy.release("b")
    return toy


def results(place: Place) -> dict[str, Any]:
    """What the five commands leave, without ids and times."""
    tree = place.tree
    with workplace(tree, {"train.epochs": "9"}) as run:
        toy = Toy(run.tree)
        sha256 = toy.run("c")
        version = register.fn(toy.params, run.tree, toy.decide(sha256), run.base, run.settings)
        promote.fn(run.tree, version.name, "prod")
    registry = Registry(tree)
    served = [str(place.toy.serves())]
    promote.fn(tree, "v1.0.0", "prod")
    served.append(str(place.toy.serves()))
    rollback.fn(tree, "prod")
    served.append(str(place.toy.serves()))
    into = place.folder / "into"
    checkout(tree, "v1.0.0", into)
    left = sorted(path for path in (home(tree) / ".runs").iterdir() if path.name != "reports")
    contents = files(tree, version.commit, ".")
    # an origin that is new lacks the tags from before it
    faults = [
        fault
        for fault in verify(tree)
        if fault.version.startswith("v") and "origin" not in fault.message
    ]
    return {
        "versions": [each.name for each in registry.versions()],
        "served": served,
        "history": [(each.version, each.action) for each in registry.history("prod")],
        "contents": {path: oid for path, oid in contents.items() if path != "params.yaml"},
        "checked out": {
            name: (into / name).read_bytes()
            for name in ("models/classifier.pt", "code/train.py", "source.lock")
        },
        "faults": sorted({(fault.version, fault.what) for fault in faults}),
        "left": left,
        "trees": len(worktrees(tree)) - len({tree.resolve(), home(tree)}),  # the one of `checkout`
    }


@pytest.fixture
def place(template: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    shutil.copytree(template.tree, tmp_path / "checkout", symlinks=True)
    (tmp_path / "gitconfig").write_text(
        '[protocol "file"]\n\tallow = always\n[user]\n\tname = Ada\n\temail = a@b.c\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    return Place(Toy(tmp_path / "checkout"), tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def expected(template: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(template.tree, folder / "checkout", symlinks=True)
    return results(Place(Toy(folder / "checkout"), folder, pytest.MonkeyPatch()))


def test_plain_clone(expected: dict[str, Any]) -> None:
    assert len(expected["versions"]) == 3
    assert expected["served"] == [expected["versions"][0], "v1.0.0", expected["versions"][0]]
    assert expected["left"] == []
    assert expected["trees"] == 1


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    "row",
    [*ROWS, *(pytest.param(row, marks=pytest.mark.long) for row in LONG)],
    ids=lambda row: row.__name__,
)
def test_same_results_as_in_a_plain_clone(
    row: Callable[[Place], None], place: Place, expected: dict[str, Any]
) -> None:
    row(place)
    assert results(place) == expected


@pytest.mark.parametrize("attributes", ["* text eol=crlf", "*.py text eol=crlf", "*.py ident"])
@pytest.mark.parametrize("where", [".git/info/attributes", ".gitattributes"])
def test_attributes_that_change_the_code_are_refused_before_anything_runs(
    place: Place, attributes: str, where: str
) -> None:
    (place.tree / where).parent.mkdir(exist_ok=True)
    (place.tree / "code/train.py").write_text("# $Id$\n")
    place.toy.commit("Name the file")
    (place.tree / where).write_text(f"{attributes}\n")
    if where == ".gitattributes":
        place.toy.commit("Add attributes")
    with (
        pytest.raises(
            DirtyCode,
            match=r"^git checks out code/.* with other bytes than commit \w+ holds; remove the",
        ),
        workplace(place.tree, {"train.epochs": "9"}),
    ):
        pytest.fail("the run started")
