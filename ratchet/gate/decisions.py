"""What the gate decided, as `reports/gate.json` and a version's tag hold it.

`judgement.py` decides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ratchet.errors import VersionError
from ratchet.files import write_json
from ratchet.formats import Format, known, required

# worse: a loss is shown at gate.confidence, but equally good models lose as much by bad luck now
# and then. undecided: neither a loss nor its absence is shown. Only "promote" ever changes what
# serves.
Verdict = Literal["promote", "refuse", "worse", "undecided", "known"]
FILE = "reports/gate.json"
# 2: the verdict "worse"; in 1 it was "refuse"
FORMAT = Format("a decision of the gate", 2, "run `python -m tasks.gate prod`", VersionError)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate decided and the numbers behind it; `reports/gate.json` holds the same.

    `champion`, `best` and `version` are version names. `rows` and `accuracy` are the run's own,
    from `evaluate`; the figures of the comparison are of `compared` rows, in the metric that
    `metric` names, and `low` and `high` bound the difference (challenger less champion) at
    `confidence`, each from one side.
    """

    verdict: Verdict
    reason: str
    environment: str
    weights_sha256: str
    rows: int
    accuracy: float
    version: str | None = None
    champion: str | None = None
    metric: str | None = None
    compared: int | None = None
    excluded: int | None = (
        None  # test rows that a model was trained on, or of a class that the champion lacks
    )
    champion_score: float | None = None
    challenger_score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    detectable: float | None = (
        None  # the smallest difference that the compared rows can show at `confidence`
    )
    p: float | None = None  # McNemar's, one-sided: as many rows won by chance alone
    luck: float | None = None  # as many lost by chance alone; of `metric`
    slices: Sequence[Sequence[Any]] = ()  # see `judgement.Slice`
    best: str | None = None
    best_difference: float | None = None
    new_contract: Sequence[str] = ()  # what differs from the champion's contract

    @property
    def registers(self) -> bool:
        """Does the challenger become a version?"""
        return self.verdict == "promote" and self.version is None

    @property
    def promotes(self) -> bool:
        """Does the challenger (or the version that it already is) go into service?"""
        return self.verdict == "promote"

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in asdict(self).items()}


REQUIRED = required(Decision)


def write(decision: Decision, tree: Path) -> None:
    """Write `reports/gate.json`, whole or not at all."""
    write_json(tree / FILE, FORMAT.stamped(decision.to_dict()))


def read(tree: Path) -> Decision:
    """Read `reports/gate.json`, as an older Ratchet wrote it too: missing figures are None, unknown ones are ignored.

    Raises:
        VersionError: it is missing, or does not hold a decision.
    """
    file = tree / FILE
    try:
        content = FORMAT.require(json.loads(file.read_text(encoding="utf-8")), REQUIRED, file)
        values = known(Decision, content)
        return Decision(**{name: _frozen(value) for name, value in values.items()})
    except FileNotFoundError:
        raise VersionError(f"{file} is missing; `python -m tasks.gate prod` writes it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise VersionError(
            f"{file} does not hold a decision of the gate ({error}); `python -m tasks.gate prod`"
            " writes it"
        ) from None


def _plain(value: Any) -> Any:
    """As JSON holds it: floats rounded to six digits, lists for tuples."""
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
