"""The gate: may a challenger take the champion's place? Pure functions of the answers both gave to the same rows.

Everything here is arithmetic on NumPy arrays; who scored the rows is no concern of it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

from tasks.errors import VersionError
from tasks.params import GateParams

Verdict = Literal["promote", "refuse", "undecided", "known"]
FILE = "reports/gate.json"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate decided and the numbers behind it; `reports/gate.json` holds the same.

    `champion` and `version` are version names; accuracies are shares of `rows`; `low` and `high` bound the difference
    (challenger less champion) at `confidence`, each from one side.
    """

    verdict: Verdict
    reason: str
    environment: str
    weights_sha256: str
    rows: int
    accuracy: float
    champion: str | None = None
    champion_accuracy: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    version: str | None = None

    @property
    def registers(self) -> bool:
        """Does the challenger become a version?"""
        return self.verdict == "promote" and self.version is None

    @property
    def promotes(self) -> bool:
        """Does the challenger (or the version that it already is) go into service?"""
        return self.verdict == "promote"

    def to_dict(self) -> dict[str, Any]:
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


def write(decision: Decision, tree: Path) -> None:
    """Write `reports/gate.json`, whole or not at all."""
    file = tree / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(decision.to_dict(), indent=2, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def read(tree: Path) -> Decision:
    """Read `reports/gate.json`; raises `VersionError` where it is missing or no decision."""
    file = tree / FILE
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        return Decision(**{field.name: held[field.name] for field in fields(Decision)})
    except FileNotFoundError:
        raise VersionError(f"{file} is missing; `python -m tasks.compare prod` writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise VersionError(f"{file} is no decision of the gate ({error}); `python -m tasks.compare prod`") from None


def first(params: GateParams, accuracy: float) -> tuple[Verdict, str]:
    """Where nothing serves yet, the accuracy alone decides."""
    if accuracy >= params.min_accuracy:
        return "promote", f"first in service: accuracy {accuracy:.4f} reaches gate.min_accuracy {params.min_accuracy}"
    return "refuse", f"accuracy {accuracy:.4f} is below gate.min_accuracy {params.min_accuracy}"


def decide(params: GateParams, lost: int, won: int, rows: int) -> tuple[Verdict, str, float, float]:
    """Is the challenger better, or no worse than `gate.margin`, at `gate.confidence`?

    Args:
        lost: rows that only the champion got right.
        won: rows that only the challenger got right.
        rows: all rows that both answered.

    Returns:
        The verdict, the reason, and the bounds of the difference in accuracy, each from one side.
    """
    low, high = bounds(lost, won, rows, params.confidence)
    difference = (won - lost) / rows
    said = (
        f"accuracy {difference:+.4f} against the champion's on the same {rows:,} rows, "
        f"from {low:+.4f} to {high:+.4f} at {params.confidence:.0%}"
    )
    if low > 0:
        return "promote", f"better: {said}", low, high
    if low >= -params.margin:
        return "promote", f"no worse than the margin of {params.margin}: {said}", low, high
    if high < 0:
        return "refuse", f"worse: {said}", low, high
    return "undecided", f"too few rows to tell, with a margin of {params.margin}: {said}", low, high


def bounds(lost: int, won: int, rows: int, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper confidence bounds of a paired difference of proportions, `(won - lost) / rows`.

    Tango's score interval (Statistics in Medicine 17, 1998): right for few rows and for no disagreement at all, where
    a bootstrap would call any difference certain.
    """
    z = NormalDist().inv_cdf(confidence)
    seen = (won - lost) / rows
    # score() falls as the difference supposed grows; it crosses +z at the lower bound and -z at the upper
    low = _crossing(lambda delta: _score(lost, won, rows, delta) - z, -1.0, seen)
    high = _crossing(lambda delta: _score(lost, won, rows, delta) + z, seen, 1.0)
    return low, high


def _score(lost: int, won: int, rows: int, delta: float) -> float:
    """Tango's test statistic of the hypothesis that the difference is `delta`."""
    a = 2.0 * rows
    b = -(won + lost) + (2 * rows - (won - lost)) * delta
    c = -lost * delta * (1 - delta)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = rows * (2 * q + delta * (1 - delta))
    excess = won - lost - rows * delta
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between `low` and `high`."""
    for _ in range(60):
        middle = (low + high) / 2
        if function(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
