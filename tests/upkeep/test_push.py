from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ratchet.errors import RemoteRefused, Unreachable, VersionError
from ratchet.git import git
from ratchet.registry import tags
from ratchet.upkeep.push import push
from tasks.promote import promote, rollback
from tests.helpers.toy import Toy


@pytest.fixture
def origin(toy: Toy, tmp_path: Path) -> Path:
    """A bare repository that `toy` and its clones push to."""
    git(
        "init",
        "--quiet",
        "--bare",
        "--initial-branch=main",
        str(tmp_path / "origin.git"),
        cwd=tmp_path,
    )
    git("remote", "add", "origin", str(tmp_path / "origin.git"), cwd=toy.tree)
    toy.remote(tmp_path / "store")
    git("push", "--quiet", "origin", "main", cwd=toy.tree)
    return tmp_path / "origin.git"


def clone(toy: Toy, tree: Path) -> Toy:
    git("clone", "--quiet", str(tree.parent / "origin.git"), str(tree), cwd=tree.parent)
    return Toy(tree)


def tags_of(tree: Path) -> list[str]:
    return git(
        "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/tags", cwd=tree
    ).splitlines()


def test_publishing_later(toy: Toy, origin: Path, tmp_path: Path) -> None:
    toy.release("a")
    toy.release("b")
    shutil.rmtree(tmp_path / "store")
    done = push(toy.params, toy.tree, "v1.0.0", "origin")
    assert (done.versions, done.objects, done.tags) == (
        ["v1.0.0"],
        6,
        ["classifier@v1.0.0", "classifier#prod#1"],
    )
    assert push(toy.params, toy.tree, None, "origin").tags == [
        "classifier@v1.0.1",
        "classifier#prod#2",
    ]
    assert push(toy.params, toy.tree, None, "origin").tags == []
    assert tags_of(origin) == tags_of(toy.tree)
    other = clone(toy, tmp_path / "other")
    promote.fn(other.tree, "v1.0.0", "prod")
    assert other.serves() == "v1.0.0"


def test_a_tag_moved_by_hand_is_not_pushed_over(toy: Toy, origin: Path) -> None:
    toy.release("a")
    push(toy.params, toy.tree, None, "origin")
    git("tag", "--force", "-a", "-m", "moved", "classifier@v1.0.0", "HEAD", cwd=toy.tree)
    with pytest.raises(VersionError, match=r"classifier@v1\.0\.0 differs on origin: moved by hand"):
        push(toy.params, toy.tree, None, "origin")
    toy.set("register.push_to", "origin")
    with pytest.raises(
        VersionError, match="a tag differs here and on origin, and tags are never moved"
    ):
        promote.fn(toy.tree, "v1.0.0", "staging")


@pytest.mark.fault(9)
def test_two_machines_never_share_a_number(toy: Toy, origin: Path, tmp_path: Path) -> None:
    toy.set("register.push_to", "origin")
    toy.commit("Publish")
    git("push", "--quiet", "origin", "main", cwd=toy.tree)
    other = clone(toy, tmp_path / "other")
    assert toy.release("a").name == "v1.0.0"
    assert other.release("b").name == "v1.0.1"
    assert toy.release("c").name == "v1.0.2"
    rollback.fn(other.tree, "prod")
    assert other.serves() == "v1.0.1"
    assert tags_of(origin) == tags_of(other.tree)


@pytest.mark.fault(9)
def test_a_refused_push_leaves_no_phantom(toy: Toy, origin: Path) -> None:
    toy.set("register.push_to", "origin")
    hook = origin / "hooks/update"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(RemoteRefused, match=r"does not accept the tag: .*\(hook declined\)"):
        toy.release("a")
    assert tags_of(toy.tree) == []
    hook.unlink()
    assert toy.release("a").name == "v1.0.0"
    assert tags_of(origin) == tags_of(toy.tree)


def test_a_git_remote_that_is_gone(toy: Toy, origin: Path) -> None:
    toy.set("register.push_to", "origin")
    shutil.move(origin, origin.with_name("moved"))
    with pytest.raises(Unreachable, match="git fetch got no answer from the remote"):
        toy.release("a")
    assert tags_of(toy.tree) == []
    shutil.move(origin.with_name("moved"), origin)
    toy.release("a")


@pytest.mark.fault(2)
def test_killed_between_push_and_the_local_tag(
    toy: Toy, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.set("register.push_to", "origin")
    real = git

    def dies(*arguments: str, **options: object) -> str:
        if arguments[0] == "update-ref":
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tags, "git", dies)
        toy.release("a")
    assert tags_of(toy.tree) == []
    assert toy.release("a").name == "v1.0.0"
    assert tags_of(origin) == tags_of(toy.tree)
    assert len(tags_of(origin)) == 2
