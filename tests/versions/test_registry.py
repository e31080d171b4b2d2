from __future__ import annotations

import pytest

from tasks.errors import VersionError
from tasks.versions import tags
from tasks.versions.git import git
from tasks.versions.tags import Name, Number
from tests.versions.toy import Toy, tool


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

    for name in ("classifier@v1.4.0", "classifier@v1.4.0!", "classifier#prod#7", "classifier#prod!#8"):
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


def test_a_version_tag_moved_by_hand_is_noticed(toy: Toy) -> None:
    toy.release("a")
    git("tag", "--force", "-a", "-m", "moved", "classifier@v1.0.0", "HEAD", cwd=toy.tree)
    with pytest.raises(VersionError, match="the tag of that version is on another commit now"):
        toy.registry.serving("prod")


def test_a_lightweight_tag_is_no_version(toy: Toy) -> None:
    git("tag", "classifier@v3.0.0", cwd=toy.tree)
    assert toy.registry.versions() == []
