"""The decision of the gate, as `reports/gate.json` and a version's tag record it.

`judgement.py` and `policy.py` decide.
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

# worse: a loss is shown at gate.confidence, but equally good models sometimes lose as much by bad
# luck. undecided: neither a loss nor its absence is shown. Only "promote" changes what serves.
Verdict = Literal["promote", "refuse", "worse", "undecided", "known"]
FILE = "reports/gate.json"
# 2: the verdict "worse"; in 1 it was "refuse"
FORMAT = Format("a decision of the gate", 2, "run `python -m tasks.gate prod`", VersionError)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the gate decided, and the numbers behind it.

    `champion`, `best` and `version` are version names. `rows` and `accuracy` are the run's own,
    from `evaluate`. The figures of the comparison are over `compared` rows, in the metric that
    `metric` names. `low` and `high` are one-sided bounds of the difference (challenger less
    champion) at `confidence`.
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
    # test rows that one of the models was trained on, or whose class the champion lacks
    excluded: int | None = None
    champion_score: float | None = None
    challenger_score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    # the smallest difference that the compared rows can show at `confidence`
    detectable: float | None = None
    p: float | None = None  # one-sided, McNemar's test: a gain this large by chance alone
    luck: float | None = None  # one-sided: a loss in `metric` this large by chance alone
    slices: Sequence[Sequence[Any]] = ()  # see `judgement.Slice`
    best: str | None = None
    best_difference: float | None = None
    new_contract: Sequence[str] = ()  # what differs from the champion's contract

    @property
    def registers(self) -> bool:
        """Whether the challenger becomes a version."""
        return self.verdict == "promote" and self.version is None

    @property
    def promotes(self) -> bool:
        """Whether the challenger, or the version that it already is, goes into service."""
        return self.verdict == "promote"

    def to_dict(self) -> dict[str, Any]:
        """The fields as `reports/gate.json` records them, with floats rounded to six digits."""
        return {key: _plain(value) for key, value in asdict(self).items()}


REQUIRED = required(Decision)


def write(decision: Decision, tree: Path) -> None:
    """Write `reports/gate.json` in one step."""
    write_json(tree / FILE, FORMAT.stamped(decision.to_dict()))


def read(tree: Path) -> Decision:
    """Read `reports/gate.json`, also that of an older Ratchet.

    Missing figures become None; unknown ones are ignored.

    Raises:
        VersionError: the file is missing, or does not contain a decision.
    """
    file = tree / FILE
    try:
        content = FORMAT.require(json.loads(file.read_text(encoding="utf-8")), REQUIRED, file)
        values = known(Decision, content)
        return Decision(**{name: _frozen(value) for name, value in values.items()})
    except FileNotFoundError:
        raise VersionError(
            f"{file} is missing; write it with `python -m tasks.gate prod`"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise VersionError(
            f"{file} does not hold a decision of the gate ({error}); write it again with"
            " `python -m tasks.gate prod`"
        ) from None


def _plain(value: Any) -> Any:
    """A value for JSON: floats rounded to six digits, lists instead of tuples."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _frozen(value: Any) -> Any:
    """The inverse of `_plain`: tuples instead of lists."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
