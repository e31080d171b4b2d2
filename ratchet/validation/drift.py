"""Compare the validation reports of two versions: rows, classes, and distributions.

Distributions are compared by two-sample tests. The functions are pure: they take the content of two
`reports/validation.json`. A step of the flow calls them, because stages know nothing of versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SHOWN = 5  # classes named in a sentence


@dataclass(frozen=True)
class Test:
    """The comparison of one distribution, before and after."""

    name: str
    # 0 (equal) to 1: the Kolmogorov-Smirnov distance of numbers, total variation of categories
    distance: float
    p_value: float  # probability of a distance at least as large if nothing had changed


@dataclass(frozen=True)
class Drift:
    """What changed; `faults` are reasons to stop. Every entry is a complete sentence."""

    rows: tuple[int, int]  # good rows before and after
    gone: tuple[str, ...]  # classes
    new: tuple[str, ...]
    tests: tuple[Test, ...]
    faults: tuple[str, ...]
    changed: tuple[str, ...]  # distributions that differ beyond chance and beyond `distance`

    @property
    def sentences(self) -> tuple[str, ...]:
        """Everything that changed, whether it stops the run or not."""
        before, after = self.rows
        rows = [f"{after:,} good rows, {before:,} before"] if before != after else []
        classes = [_listed(self.gone, "gone")] if self.gone else []
        classes += [_listed(self.new, "new")] if self.new else []
        return (*rows, *classes, *self.changed)


def drift(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    max_shrink: float,
    alpha: float,
    distance: float,
) -> Drift:
    """Compare two reports, as far as both contain the facts.

    Args:
        before: the content of the last version's `reports/validation.json`.
        after: the content of this run's `reports/validation.json`.
        max_shrink: largest share of the good rows that may be lost, 0 to 1. At 1 nothing is a
            fault, not even a lost class.
        alpha: significance level of all tests together (Bonferroni), 0 to 1.
        distance: smaller changes are not reported, however certain they are, 0 to 1.
    """
    old, new = _labels(before), _labels(after)
    rows = _good_rows(before, old), _good_rows(after, new)
    gone_classes = tuple(sorted(old.keys() - new.keys()))
    new_classes = tuple(sorted(new.keys() - old.keys()))
    faults = []
    if gone_classes and max_shrink < 1:
        faults.append(f"class {', '.join(gone_classes)} is gone since the last version")
    if rows[1] < (1 - max_shrink) * rows[0]:
        faults.append(
            f"{rows[1]:,} good rows are left of {rows[0]:,}; gate.max_shrink allows a loss of"
            f" {max_shrink:.0%}"
        )
    tests = _tests(before, after)
    old_numbers, new_numbers = before.get("numbers", {}), after.get("numbers", {})
    changed = [f"{name} is gone" for name in sorted(old_numbers.keys() - new_numbers.keys())]
    changed += [f"{name} is new" for name in sorted(new_numbers.keys() - old_numbers.keys())]
    changed += [
        f"{test.name}: another distribution, distance {test.distance:.3f}, p {test.p_value:.1e}"
        for test in tests
        if test.p_value < alpha / len(tests) and test.distance > distance
    ]
    return Drift(rows, gone_classes, new_classes, tuple(tests), tuple(faults), tuple(changed))


def _tests(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Test]:
    """Compare the distributions that both reports contain."""
    tests = [categories("classes", _labels(before), _labels(after))]
    tests += [
        categories(name, before[name], after[name])
        for name in ("sizes", "modes")
        if before.get(name) and after.get(name)
    ]
    old, new = before.get("numbers", {}), after.get("numbers", {})
    tests += [
        kolmogorov_smirnov(name, old[name]["bins"], new[name]["bins"])
        for name in sorted(old.keys() & new.keys())
        if "bins" in old[name] and "bins" in new[name]
    ]
    return tests


def _listed(names: Sequence[str], what: str) -> str:
    """`class cat is new`, or `12 classes are new: ant, bee, cat, dog, eel and 7 more`."""
    if len(names) == 1:
        return f"class {names[0]} is {what}"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} classes are {what}: {', '.join(names[:SHOWN])}{more}"


def _good_rows(report: Mapping[str, Any], labels: Mapping[str, int]) -> int:
    return int(report.get("rows", {}).get("out", sum(labels.values())))


def _labels(report: Mapping[str, Any]) -> dict[str, int]:
    """Good rows per class over all splits."""
    total: dict[str, int] = {}
    for counts in report.get("classes", {}).values():
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


def kolmogorov_smirnov(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> Test:
    """Run the two-sample Kolmogorov-Smirnov test on counts in equal bins.

    The bins make the test conservative, because ties only make the distance smaller. The p-value is
    the asymptotic one, with the correction of Stephens (1970).
    """
    keys = sorted(before.keys() | after.keys(), key=int)
    a, b = _aligned(before, keys), _aligned(after, keys)
    if not a.sum() or not b.sum():
        return Test(name, 0.0, 1.0)
    distance = float(np.abs(np.cumsum(a) / a.sum() - np.cumsum(b) / b.sum()).max())
    size = math.sqrt(a.sum() * b.sum() / (a.sum() + b.sum()))
    root = (size + 0.12 + 0.11 / size) * distance  # Stephens 1970
    terms = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * root) ** 2) for k in range(1, 101))
    return Test(name, distance, min(1.0, max(0.0, terms)) if root > 0.2 else 1.0)


def categories(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> Test:
    """Run Pearson's chi-squared test of homogeneity on counts by category.

    The p-value comes from the cube-root approximation of Wilson and Hilferty (1931). The distance
    is the total variation.
    """
    keys = sorted(before.keys() | after.keys())
    a, b = _aligned(before, keys), _aligned(after, keys)
    degrees = len(a) - 1
    if degrees < 1 or not a.sum() or not b.sum():
        return Test(name, 0.0, 1.0)
    shares = a / a.sum(), b / b.sum()
    pooled = (a + b) / (a + b).sum()
    square = sum(
        float((((part - part.sum() * pooled) ** 2) / (part.sum() * pooled)).sum())
        for part in (a, b)
    )
    spread = 2 / (9 * degrees)
    z = ((square / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return Test(
        name, float(np.abs(shares[0] - shares[1]).sum() / 2), math.erfc(z / math.sqrt(2)) / 2
    )


def _aligned(counts: Mapping[str, int], keys: Sequence[str]) -> np.ndarray:
    """The counts in the order of `keys`, float64 (K,)."""
    return np.array([counts.get(key, 0) for key in keys], np.float64)
