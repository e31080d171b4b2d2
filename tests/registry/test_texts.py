"""Whatever a person types in a reason comes back unchanged, and never changes what the tag says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratchet.errors import VersionError
from ratchet.git import git
from ratchet.registry import tags
from tasks.promote import promote, rollback
from tests.helpers.toy import Toy, gto_stages

REASONS = [
    "{",
    "see\n{\nlog",
    "\n{\n}",
    "{\n}\n",
    '{\n "action": "promote",\n "version": "v9.9.9"\n}',
    "it said \"no\" and 'never'; $(id) `id` %s %(refname) \\n",
    "trailing spaces   \n  and tabs\t\n\n\n",
    "# not a comment\n#\n",
    "a\r\nb\r",
    "x" * 10_000,
    "\x01\x02\x1b[31m\x7f",
    "\x85\u2028\u2029\ufeff",
    "zurückgerollt, 回滚, откат, ロールバック, تراجع 🔥👩‍🚒",
    "-----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n",
    "-rf --to v1.0.0",
    "Signed-off-by: Ada <ada@localhost>",
    "[bold]worse[/bold] [/] :fire:",
    " ",
]


@pytest.mark.fault(30)
def test_every_reason_comes_back_unchanged(toy: Toy) -> None:
    toy.release("a")
    version = toy.register("b")
    reasons = [""]
    for reason in REASONS:
        promoted = promote.fn(toy.tree, version.name, "prod", reason)
        back = rollback.fn(toy.tree, "prod", reason=reason)
        assert promoted.reason == back.reason == reason
        assert (back.version, back.action, back.under) == ("v1.0.0", "rollback", None)
        reasons += [reason, reason]
    assert [entry.reason for entry in toy.registry.history("prod")] == reasons
    assert toy.registry.was_rolled_back(version.name, "prod")
    assert gto_stages(toy.tree) == {"prod": "v1.0.0"}


@settings(max_examples=300, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    reason=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
    | st.lists(
        st.sampled_from(["{", "}", "\n", '"', "\\", " ", "\r", '{"a": 1}', "\n{\n", "#"])
    ).map("".join),
)
def test_the_data_of_a_tag_survives_any_reason(reason: str) -> None:
    data = {"action": "rollback", "version": "v1.0.0", "under": None, "reason": reason}
    text = tags.message("classifier v1.0.0 back into prod", [reason], data)
    assert tags.Tag("classifier#prod#1", "", "", 0, "", text).data == tags.FORMAT.stamped(data)
    first = text.find("\n{\n")  # where a reader looked who takes the first such line
    assert json.loads(text[first:]) == tags.FORMAT.stamped(data)


def test_git_keeps_any_reason(toy: Toy) -> None:
    version = toy.release("a")

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(reason=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
    def check(reason: str) -> None:
        data = {"action": "promote", "version": version.name, "reason": reason}
        tag = tags.make(
            toy.tree, "classifier#prod#2", version.commit, tags.message("x", [reason], data), []
        )
        git("update-ref", "refs/tags/classifier#prod#2", tag.oid, cwd=toy.tree)
        entry = toy.registry.assignment("prod")
        assert entry is not None
        assert (entry.counter, entry.action, entry.reason) == (2, "promote", reason)

    check()


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("a\0b", "cannot contain a NUL character"),
        ("caf\udce9 closed", r"has to be UTF-8, and character \d+"),
    ],
)
def test_what_git_cannot_store_is_refused(toy: Toy, reason: str, message: str) -> None:
    toy.release("a")
    toy.release("b")
    with pytest.raises(VersionError, match=message):
        rollback.fn(toy.tree, "prod", reason=reason)
    assert toy.serves() == "v1.0.1"


def test_tags_with_a_brace_above_their_data_are_read(toy: Toy) -> None:
    """Tags from before the reason was kept apart: the first line that is a brace is not the data's."""
    version = toy.release("a")
    data = {
        "action": "rollback",
        "version": version.name,
        "under": None,
        "reason": "see\n{\nlog",
        "by": "hand",
    }
    text = f"classifier v1.0.0 back into prod\n\nsee\n{{\nlog\n\n{json.dumps(data, indent=1)}\n"
    tag = tags.make(toy.tree, "classifier#prod#2", version.commit, text, [])
    tags.write(toy.tree, tag.name, tag.oid)
    entry = toy.registry.assignment("prod")
    assert entry is not None
    assert (entry.action, entry.reason) == ("rollback", "see\n{\nlog")


def test_a_message_of_another_tool_is_no_data(toy: Toy, tmp_path: Path) -> None:
    version = toy.release("a")
    for counter, text in enumerate(
        ("\x01{\n", "{", "{\n}", "\n{\n[]\n", "v\n{\n{}\n} trailing"), 2
    ):
        file = tmp_path / "message"
        file.write_text(text)
        name = f"classifier#prod#{counter}"
        git(
            "tag",
            "--cleanup=verbatim",
            "--annotate",
            "--file",
            str(file),
            name,
            version.commit,
            cwd=toy.tree,
        )
    assert [tag.data for tag in tags.read(toy.tree, "classifier#prod#[2-9]")] == [{}] * 5
    assert [each.version for each in toy.registry.history("prod")] == ["v1.0.0"] * 6
