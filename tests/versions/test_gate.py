from __future__ import annotations

from pathlib import Path

import pytest

from tasks.errors import VersionError
from tasks.params import GateParams
from tasks.versions import gate
from tasks.versions.gate import Decision

PARAMS = GateParams(min_accuracy=0.8, margin=0.005, confidence=0.95)


def test_the_first_version_passes_on_accuracy_alone() -> None:
    assert gate.first(PARAMS, 0.8)[0] == "promote"
    assert gate.first(PARAMS, 0.7999) == ("refuse", "accuracy 0.7999 is below gate.min_accuracy 0.8")


@pytest.mark.parametrize(
    ("lost", "won", "rows", "verdict"),
    [
        (100, 200, 10_000, "promote"),  # better by a point
        (300, 300, 10_000, "promote"),  # as good
        (0, 0, 10_000, "promote"),  # the same answers
        (300, 200, 10_000, "refuse"),  # worse by a point
        (290, 260, 10_000, "undecided"),
        (0, 0, 5, "undecided"),  # too few rows, though nothing differs
        (0, 2, 5, "undecided"),
        (5, 0, 5, "refuse"),
    ],
)
def test_verdicts(lost: int, won: int, rows: int, verdict: str) -> None:
    said, reason, low, high = gate.decide(PARAMS, lost, won, rows)
    assert said == verdict, reason
    assert low <= (won - lost) / rows <= high


def test_the_bounds_are_tangos() -> None:
    from statistics import NormalDist

    for lost, won, rows in ((4, 9, 50), (0, 3, 20), (30, 10, 400)):
        low, high = gate.bounds(lost, won, rows, 0.975)
        z = NormalDist().inv_cdf(0.975)
        assert gate._score(lost, won, rows, low) == pytest.approx(z, abs=1e-4)
        assert gate._score(lost, won, rows, high) == pytest.approx(-z, abs=1e-4)


def test_a_decision_is_written_and_read(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match=r"gate\.json is missing; `python -m tasks\.compare prod` writes it"):
        gate.read(tmp_path)
    decision = Decision(
        verdict="refuse", reason="worse", environment="prod", weights_sha256="0" * 64, rows=10, accuracy=0.5
    )
    gate.write(decision, tmp_path)
    assert gate.read(tmp_path) == decision
    (tmp_path / gate.FILE).write_text('{"verdict": "promote"}')
    with pytest.raises(VersionError, match="is no decision of the gate"):
        gate.read(tmp_path)
