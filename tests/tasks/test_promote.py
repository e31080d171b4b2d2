from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.errors import CorruptData, NotARepository, ObjectsMissing, VersionError
from ratchet.gate.decisions import Decision
from ratchet.registry import tags
from ratchet.store import pipeline
from tasks.promote import promote, rollback
from tests.helpers.toy import ROOT, Toy, gto_stages


def test_rollback_goes_to_what_served_before_and_further(toy: Toy) -> None:
    for weights in "abc":
        toy.release(weights)
    assert [rollback.fn(toy.tree, "prod", reason="worse").version for _ in range(2)] == [
        "v1.0.1",
        "v1.0.0",
    ]
    with pytest.raises(VersionError, match=r"nothing to roll back to in prod: .* before v1\.0\.0"):
        rollback.fn(toy.tree, "prod")
    assert toy.serves() == "v1.0.0"
    assert gto_stages(toy.tree) == {"prod": "v1.0.0"}
    assert [each.action for each in toy.registry.history("prod")] == ["promote"] * 3 + [
        "rollback"
    ] * 2


def test_rollback_to_a_named_version(toy: Toy) -> None:
    for weights in "abcd":
        toy.release(weights)
    assert rollback.fn(toy.tree, "prod", to="1.0.1").version == "v1.0.1"
    assert rollback.fn(toy.tree, "prod").version == "v1.0.0"
    with pytest.raises(VersionError, match=r"v1\.0\.0 serves in prod already"):
        rollback.fn(toy.tree, "prod", to="v1.0.0")


def test_what_was_rolled_back_is_for_people_only(toy: Toy) -> None:
    for weights in "abc":
        toy.release(weights)
    rollback.fn(toy.tree, "prod", to="v1.0.0")
    registry = toy.registry
    assert [registry.was_rolled_back(f"v1.0.{patch}", "prod") for patch in range(3)] == [
        False,
        True,
        True,
    ]
    with pytest.raises(
        VersionError,
        match=r"v1\.0\.2 was rolled back from prod, so no flow promotes it there again",
    ):
        promote.fn(toy.tree, "v1.0.2", "prod", decision=judged_against("v1.0.0"))
    promote.fn(toy.tree, "v1.0.2", "prod")
    assert not registry.was_rolled_back("v1.0.2", "prod")
    promote.fn(toy.tree, "v1.0.1", "staging", decision=judged_against(None))


def test_no_flow_replaces_a_champion_that_nobody_compared_with(toy: Toy) -> None:
    """Two machines train at once: the second one's model was judged before the first one's went into service."""
    for weights in "ab":
        toy.release(weights)
    last = toy.register("c")
    with pytest.raises(
        VersionError,
        match=r"v1\.0\.1 went into service in prod after v1\.0\.2 was compared with v1\.0\.0",
    ):
        promote.fn(toy.tree, last.name, "prod", decision=judged_against("v1.0.0"))
    assert toy.serves() == "v1.0.1"
    assert (
        promote.fn(toy.tree, last.name, "prod", decision=judged_against("v1.0.1")).version
        == "v1.0.2"
    )


def judged_against(champion: str | None) -> Decision:
    return Decision(
        verdict="promote",
        reason="",
        environment="prod",
        weights_sha256="",
        rows=1,
        accuracy=1.0,
        champion=champion,
    )


def test_promoting_what_serves_writes_nothing(toy: Toy) -> None:
    version = toy.release("a")
    again = promote.fn(toy.tree, version.name, "prod")
    assert again.counter == 1
    assert len(toy.registry.history("prod")) == 1


@pytest.mark.fault(27)
def test_the_counter_decides_not_the_clock(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.release("a")
    now = tags.time.time()
    for hours, weights in ((50, "b"), (-50, "c"), (0, "d")):
        with monkeypatch.context() as patched:
            patched.setattr(tags.time, "time", lambda hours=hours: now + hours * 3600)
            toy.release(weights)
    assert gto_stages(toy.tree) == {"prod": "v1.0.3"}
    rollback.fn(toy.tree, "prod")
    assert toy.serves() == "v1.0.2"
    assert gto_stages(toy.tree) == {"prod": "v1.0.2"}
    dates = [each.date for each in toy.registry.history("prod")]
    assert dates == sorted(set(dates))


def test_unknown_versions_and_environments(toy: Toy) -> None:
    with pytest.raises(
        VersionError,
        match=r"no version v1\.0\.0: there is none yet; `ratchet train` makes the first",
    ):
        promote.fn(toy.tree, "v1.0.0", "prod")
    toy.release("a")
    with pytest.raises(
        VersionError,
        match=r"no version v1\.0\.9; the nearest is v1\.0\.0; `ratchet versions` lists",
    ):
        promote.fn(toy.tree, "v1.0.9", "prod")
    with pytest.raises(
        VersionError, match="nothing serves in staging, so nothing can be rolled back"
    ):
        rollback.fn(toy.tree, "staging")
    for hostile in ("", "-x", "a b", "../x", "$(id)", "prod;", "a\0b", "x" * 10_000, "prod\n"):
        with pytest.raises(VersionError, match="can't name an environment"):
            promote.fn(toy.tree, "v1.0.0", hostile)
        with pytest.raises(VersionError, match="no version"):
            promote.fn(toy.tree, hostile or "-", "staging")


@pytest.mark.fault(26)
def test_no_repository(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.raises(NotARepository, match="is not a git repository"):
        rollback.fn(tmp_path, "prod")


@pytest.mark.fault(6)
def test_a_version_whose_bytes_are_gone_or_changed_is_never_put_into_service(toy: Toy) -> None:
    first = toy.release("a")
    toy.release("b")
    weights = toy.object(
        pipeline.of_commit(toy.tree, first.commit).output("models/classifier.pt").md5
    )
    weights.chmod(0o644)
    weights.write_text("A")
    with pytest.raises(CorruptData, match=r"models/classifier\.pt: .* does not match its hash"):
        rollback.fn(toy.tree, "prod")
    weights.unlink()
    with pytest.raises(
        ObjectsMissing, match=r"models/classifier\.pt: not in DVC's cache, and no DVC remote is set"
    ):
        rollback.fn(toy.tree, "prod")
    assert toy.serves() == "v1.0.1"


def test_rollback_imports_neither_torch_nor_prefect() -> None:
    code = "import sys, tasks.promote; print({'torch', 'prefect', 'pandera', 'polars'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "set()\n"


def test_a_promotion_that_changes_nothing_is_not_announced(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import artifacts, release

    version = toy.register("a")
    events: list[str] = []
    monkeypatch.chdir(toy.tree)
    monkeypatch.setattr(release, "promote", promote.fn)
    monkeypatch.setattr(
        artifacts, "_emit", lambda event, name, **_: events.append(f"{event} {name}")
    )
    first, second = (release.promotion.fn(version.name, "prod") for _ in range(2))
    assert (first.name, second.name) == ("Promoted", "Unchanged")
    assert second.message == "v1.0.0 already serves in prod"
    assert events == ["promoted v1.0.0"]
    assert len(toy.registry.history("prod")) == 1
