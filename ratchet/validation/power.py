"""What the test rows can show, told before any training: how many there will be, and the smallest difference they show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet import tango

CONFIDENCE = 0.95  # of the warning; gate.confidence decides later, and no stage reads it
SENSIBLE = 0.01  # a difference in accuracy that a test set should be able to show


def rows_for_testing(report: Mapping[str, Any], test_fraction: float) -> int:
    """About how many good rows `prepare` takes for testing: those that a source gives, or a share of the others.

    Args:
        report: the content of `reports/validation.json`.
        test_fraction: `prepare.test_fraction`.
    """
    rows: dict[str, int] = {
        split: sum(counts.values()) for split, counts in report.get("classes", {}).items()
    }
    given, undivided = rows.get("test", 0), rows.get("all", 0)
    if not given:
        undivided += rows.get(
            "train", 0
        )  # a source without a test split gives some of its training rows
    return given + round(test_fraction * undivided)


def warnings(report: Mapping[str, Any], test_fraction: float) -> list[str]:
    """A sentence where not even models that never disagree could be shown to be within `SENSIBLE` of each other."""
    rows = rows_for_testing(report, test_fraction)
    smallest = tango.detectable(rows, CONFIDENCE, 0.0)
    if smallest <= SENSIBLE:
        return []
    count = f"{rows:,} test row{'' if rows == 1 else 's'}"
    return [
        f"about {count}: differences in accuracy below {100 * smallest:.1f} points cannot be shown"
        f" at {CONFIDENCE:.0%}; add test rows (prepare.test_fraction), or see gate.on_undecided in"
        " docs/versions.md"
    ]
