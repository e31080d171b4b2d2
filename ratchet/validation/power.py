"""Warn before training if the test split is too small to show a sensible difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet import tango

CONFIDENCE = 0.95  # of this warning; the gate uses gate.confidence, which no stage reads
SENSIBLE = 0.01  # a difference in accuracy that a test set should be able to show


def rows_for_testing(report: Mapping[str, Any], test_fraction: float) -> int:
    """Estimate how many good rows `prepare` uses for testing.

    These are the rows of the source's test split, and a share of the rows without a split.

    Args:
        report: the content of `reports/validation.json`.
        test_fraction: `prepare.test_fraction`.
    """
    rows: dict[str, int] = {
        split: sum(counts.values()) for split, counts in report.get("classes", {}).items()
    }
    test_rows, undivided = rows.get("test", 0), rows.get("all", 0)
    if not test_rows:  # without a test split, a share of the training rows is used for testing
        undivided += rows.get("train", 0)
    return test_rows + round(test_fraction * undivided)


def warnings(report: Mapping[str, Any], test_fraction: float) -> list[str]:
    """Warn if the test rows cannot show that two models differ by less than `SENSIBLE`.

    The check assumes that the models never disagree, which needs the fewest rows.
    """
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
