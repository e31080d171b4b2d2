from __future__ import annotations

import json

import pytest

from ratchet.errors import VersionError
from ratchet.registry import history
from ratchet.upkeep.verify import verify
from ratchet.upkeep.withdraw import expire, reinstate, withdraw
from tasks.gate import gate
from tasks.promote import promote, rollback
from tests.helpers.real import lay
from tests.helpers.toy import Toy, gto_stages, tool


def test_a_withdrawn_version_can_serve_nowhere(toy: Toy) -> None:
    for weights in "abc":
        toy.release(weights)
    with pytest.raises(
        VersionError,
        match=r"v1\.0\.2 serves in prod, .*`ratchet rollback --environment prod` first",
    ):
        withdraw(toy.tree, "v1.0.2", "leaks")
    assert withdraw(toy.tree, "v1.0.1", "leaks").withdrawn
    assert len(withdraw(toy.tree, "v1.0.1", "again").tag.name) and len(toy.registry.versions()) == 3
    with pytest.raises(VersionError, match=r"v1\.0\.1 is withdrawn \(leaks\)"):
        promote.fn(toy.tree, "v1.0.1", "staging")
    assert rollback.fn(toy.tree, "prod").version == "v1.0.0"
    assert gto_stages(toy.tree) == {"prod": "v1.0.0"}
    shown = json.loads(tool("gto", "show", "classifier", "--json", cwd=toy.tree))
    assert [each["version"] for each in shown] == ["v1.0.2", "v1.0.0"]


def test_expiring_what_was_withdrawn(toy: Toy) -> None:
    toy.release("a")
    toy.register("b")
    withdraw(toy.tree, "v1.0.1", "leaks")
    version = expire(toy.tree, "v1.0.1", "no longer needed")
    assert version.expired
    assert version.withdrawn is not None
    assert version.withdrawn.data["reason"] == "leaks"
    assert gto_stages(toy.tree) == {"prod": "v1.0.0"}
    assert toy.release("c").name == "v1.0.2"


def test_a_withdrawn_version_is_reinstated_with_a_reason(toy: Toy) -> None:
    first = toy.release("a")
    toy.release("b")
    withdraw(toy.tree, first.name, "leaks")
    with pytest.raises(VersionError, match="a reason is needed"):
        reinstate(toy.tree, first.name, " ")
    done = reinstate(toy.tree, first.name, "it did not leak")
    assert (done.withdrawn, done.changed) == (None, True)
    assert not reinstate(toy.tree, first.name, "again").changed
    assert [tag.data["reason"] for tag in done.cancels] == ["leaks", "it did not leak"]
    assert rollback.fn(toy.tree, "prod").version == first.name
    promote.fn(toy.tree, "v1.0.1", "prod")

    assert withdraw(toy.tree, first.name, "it did leak").withdrawn
    with pytest.raises(
        VersionError, match=r"is withdrawn \(it did leak\).*`ratchet reinstate v1\.0\.0 --reason"
    ):
        promote.fn(toy.tree, first.name, "prod")
    shown = history.show(toy.tree, first.name)
    assert [change["action"] for change in shown.changes] == ["withdraw", "reinstate", "withdraw"]
    assert [
        finding
        for finding in verify(toy.tree)
        if "does not hold the card of a model" not in finding.message
    ] == []
    assert gto_stages(toy.tree) == {"prod": "v1.0.1"}


def test_an_expired_version_is_not_reinstated_but_its_weights_may_be_registered_again(
    toy: Toy,
) -> None:
    toy.register("a")
    toy.release("b")
    expire(toy.tree, "v1.0.0", "old")
    with pytest.raises(VersionError, match=r"v1\.0\.0 is expired, so its objects may be gone"):
        reinstate(toy.tree, "v1.0.0", "needed")
    assert toy.release("a").name == "v1.0.2"
    assert toy.serves() == "v1.0.2"


def test_a_run_with_the_weights_of_a_withdrawn_version_says_what_to_do(toy: Toy) -> None:
    lay(toy, 0.2)
    version = toy.register("a")
    toy.release("b")
    withdraw(toy.tree, version.name, "leaks")
    toy.run("a")
    decision = gate.fn(toy.params, toy.tree, "prod")
    assert decision.verdict == "known"
    for words in (
        "v1.0.0, which is withdrawn (leaks)",
        "`ratchet reinstate v1.0.0 --reason",
        "another seed",
    ):
        assert words in decision.reason
