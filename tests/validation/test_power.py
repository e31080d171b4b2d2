"""What the test rows can show, told before any training."""

from __future__ import annotations

import pytest

from ratchet.validation import power


def report(**rows: int) -> dict[str, dict[str, dict[str, int]]]:
    """Good rows of two classes by split; "all" are those whose source gives no split."""
    return {
        "classes": {
            split: {"cat": count // 2, "dog": count - count // 2} for split, count in rows.items()
        }
    }


@pytest.mark.parametrize(
    ("rows", "test_fraction", "expected"),
    [
        ({"all": 534}, 0.15, 80),
        ({"all": 534}, 0.0, 0),
        ({"train": 400, "test": 80}, 0.15, 80),  # the source's own test split
        ({"train": 400, "val": 50}, 0.15, 60),  # it gives none: some of the training rows
        ({"train": 400, "test": 80, "all": 100}, 0.15, 95),  # one source with splits, one without
        ({"test": 80}, 0.5, 80),
        ({"all": 1}, 0.15, 0),
        ({}, 0.15, 0),
        ({"all": 2}, 0.5, 1),
        ({"train": 2}, 0.5, 1),
    ],
)
def test_how_many_test_rows_there_will_be(
    rows: dict[str, int], test_fraction: float, expected: int
) -> None:
    assert power.rows_for_testing(report(**rows), test_fraction) == expected
    assert power.rows_for_testing({}, test_fraction) == 0


@pytest.mark.parametrize(
    ("rows", "points"),
    [(30, 8.3), (57, 4.5), (80, 3.3), (143, 1.9), (267, 1.0), (268, None), (10_000, None)],
)
def test_a_warning_states_the_smallest_difference(rows: int, points: float | None) -> None:
    warnings = power.warnings(report(train=1000, test=rows), 0.15)
    if points is None:
        assert warnings == []
    else:
        assert warnings == [
            f"about {rows} test rows: differences in accuracy below {points} points cannot be shown at 95%; add test "
            "rows (prepare.test_fraction), or see gate.on_undecided in docs/versions.md"
        ]


def test_without_test_rows_nothing_can_be_shown() -> None:
    assert (
        "about 0 test rows: differences in accuracy below 100.0 points"
        in power.warnings(report(all=10), 0.0)[0]
    )
