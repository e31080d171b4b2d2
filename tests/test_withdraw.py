from __future__ import annotations

import json

import pytest

from tasks.errors import VersionError
from tasks.promote import promote, rollback
from tasks.withdraw import expire, withdraw
from tests.versions.toy import Toy, gto_stages, tool


def test_a_withdrawn_version_can_serve_nowhere(toy: Toy) -> None:
    for weights in "abc":
        toy.release(weights)
    with pytest.raises(VersionError, match=r"v1\.0\.2 serves in prod, .*`ratchet rollback --environment prod` first"):
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
