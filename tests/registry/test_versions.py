from __future__ import annotations

from pathlib import Path

import pytest

from ratchet.errors import RemoteRefused, VersionError
from ratchet.git import git
from ratchet.git_errors import Rejected
from ratchet.registry import exchange, tags
from ratchet.registry.tags import Name, Number
from ratchet.upkeep.withdraw import expire, reinstate, withdraw
from tasks.promote import promote, rollback
from tests.helpers.toy import Toy, tool


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("classifier@v1.4.0", Name(Number(1, 4, 0), None, False, None)),
        ("classifier@v1.4.0!", Name(Number(1, 4, 0), None, True, None)),
        ("classifier@v1.4.0!#9", Name(Number(1, 4, 0), None, True, 9)),
        ("classifier#prod#7", Name(None, "prod", False, 7)),
        ("classifier#prod!#8", Name(None, "prod", True, 8)),
        ("classifier#big-prod_2#12", Name(None, "big-prod_2", False, 12)),
        ("classifier@v01.4.0", None),
        ("classifier@v1.4", None),
        ("classifier#-x#1", None),
        ("other@v1.0.0", None),
        ("v1.0.0", None),
        ("classifier@v1.4.0\n", None),
        ("classifier@v١.4.0", None),
    ],
)
def test_the_grammar(name: str, read: Name | None) -> None:
    assert tags.parse(name) == read


def test_the_grammar_is_gtos() -> None:
    from gto.tag import parse_name

    for name in (
        "classifier@v1.4.0",
        "classifier@v1.4.0!",
        "classifier#prod#7",
        "classifier#prod!#8",
    ):
        theirs, ours = parse_name(name), tags.parse(name)
        assert ours is not None
        assert theirs.get("version") == (str(ours.number) if ours.number else None)
        assert (theirs.get("stage"), theirs.get("counter")) == (ours.environment, ours.counter)


def test_finding_a_version(toy: Toy) -> None:
    toy.release("a")
    toy.release("b", environment="staging")
    registry = toy.registry
    names = ("v1.0.0", "1.0.0", "classifier@v1.0.0", "prod", "staging")
    assert [registry.find(name).name for name in names] == ["v1.0.0"] * 4 + ["v1.0.1"]
    assert registry.environments() == {"prod": "v1.0.0", "staging": "v1.0.1"}
    assert [version.name for version in registry.versions()] == ["v1.0.1", "v1.0.0"]
    with pytest.raises(VersionError, match=r"no version prd; the nearest is prod"):
        registry.find("prd")


def test_what_gto_wrote_is_read_too(toy: Toy) -> None:
    toy.release("a")
    second = toy.register("b")
    tool("gto", "assign", "classifier", "--version", second.name, "--stage", "prod", cwd=toy.tree)
    assert toy.serves() == second.name
    entry = toy.registry.assignment("prod")
    assert entry is not None
    assert (entry.action, entry.under, entry.version) == ("promote", 1, second.name)
    tool("gto", "deprecate", "classifier", second.name, "prod", cwd=toy.tree)
    assert toy.serves() is None
    toy.release("c")
    assert toy.serves() == "v1.0.2"


@pytest.mark.fault(28)
def test_a_version_tag_moved_by_hand_is_noticed(toy: Toy) -> None:
    toy.release("a")
    git("tag", "--force", "-a", "-m", "moved", "classifier@v1.0.0", "HEAD", cwd=toy.tree)
    with pytest.raises(VersionError, match="the tag of that version is on another commit now"):
        toy.registry.serving("prod")


def test_a_lightweight_tag_is_no_version(toy: Toy) -> None:
    git("tag", "classifier@v3.0.0", cwd=toy.tree)
    assert toy.registry.versions() == []


def test_a_tag_is_never_moved(toy: Toy) -> None:
    first, second = (toy.release(weights).tag for weights in "ab")
    tags.write(toy.tree, first.name, first.oid)  # it is there already
    with pytest.raises(Rejected):
        tags.write(toy.tree, first.name, second.oid)
    assert git("rev-parse", f"refs/tags/{first.name}", cwd=toy.tree) == first.oid


def test_every_change_has_a_number_of_its_own(toy: Toy) -> None:
    """Assignments of all environments and repeated withdrawals share one counter; it only grows."""
    for weights in "abc":
        toy.release(weights)
    promote.fn(toy.tree, "v1.0.0", "staging")
    withdraw(toy.tree, "v1.0.1", "leaks")
    reinstate(toy.tree, "v1.0.1", "it did not")
    withdraw(toy.tree, "v1.0.1", "it did")
    expire(toy.tree, "v1.0.1", "old")
    rollback.fn(toy.tree, "prod")
    names = tags.names(toy.tree, "*")
    counters = sorted(int(name.rpartition("#")[2]) for name in names if "#" in name)
    assert counters == list(range(1, len(counters) + 1))
    assert sorted(name for name in names if "!" in name) == [
        "classifier@v1.0.1!", "classifier@v1.0.1!#5", "classifier@v1.0.1!#6", "classifier@v1.0.1!#7",
    ]  # fmt: skip
    assert [each.tag.parsed.counter for each in toy.registry.history("prod")] == [1, 2, 3, 8]


def test_several_tags_are_pushed_together_or_not_at_all(toy: Toy, tmp_path: Path) -> None:
    git("init", "--quiet", "--bare", str(tmp_path / "origin.git"), cwd=tmp_path)
    for weights in "ab":
        toy.release(weights)
    hook = tmp_path / "origin.git/hooks/update"
    hook.write_text('#!/bin/sh\ncase "$1" in *v1.0.1) exit 1;; esac\n')
    hook.chmod(0o755)
    refspecs = [f"refs/tags/classifier@{name}" for name in ("v1.0.0", "v1.0.1")]
    with pytest.raises(RemoteRefused):
        exchange.push(toy.tree, str(tmp_path / "origin.git"), refspecs)
    assert exchange.listed(toy.tree, str(tmp_path / "origin.git")) == {}
    hook.unlink()
    exchange.push(toy.tree, str(tmp_path / "origin.git"), refspecs)
    assert set(exchange.listed(toy.tree, str(tmp_path / "origin.git"))) == {
        "classifier@v1.0.0",
        "classifier@v1.0.1",
    }
