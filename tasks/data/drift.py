"""What changed between the validation reports of two versions: rows, classes, and distributions by two-sample tests.

Pure functions of two contents of `reports/validation.json`: a stage knows no versions, a step of the flow does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Test:
    """One distribution, before and after."""

    name: str
    distance: float  # 0 (the same) to 1: Kolmogorov-Smirnov's for numbers, total variation for categories
    p_value: float  # the chance of a distance at least as large if nothing had changed


@dataclass(frozen=True)
class Drift:
    rows: tuple[int, int]  # good rows before and after
    gone: tuple[str, ...]  # classes
    new: tuple[str, ...]
    tests: tuple[Test, ...]
    faults: tuple[str, ...]  # reasons to stop, a sentence each
    changed: tuple[str, ...]  # distributions that differ beyond chance and beyond `distance`, a sentence each


def drift(
    before: Mapping[str, Any], after: Mapping[str, Any], max_shrink: float, alpha: float, distance: float
) -> Drift:
    """Compare two reports.

    Args:
        max_shrink: share of the good rows that may be gone, 0 to 1.
        alpha: of all tests together (Bonferroni), 0 to 1.
        distance: smaller changes are not worth a word, however certain they are, 0 to 1.
    """
    rows = before["rows"]["out"], after["rows"]["out"]
    old, new = _labels(before), _labels(after)
    gone, come = tuple(sorted(old.keys() - new.keys())), tuple(sorted(new.keys() - old.keys()))
    faults = [f"class {', '.join(gone)} is gone since the last version"] if gone else []
    if rows[1] < (1 - max_shrink) * rows[0]:
        faults.append(f"{rows[1]:,} good rows are left of {rows[0]:,}; gate.max_shrink allows to lose {max_shrink:.0%}")
    tests = [categories("classes", old, new)]
    tests += [
        categories(name, before[name], after[name]) for name in ("sizes", "modes") if before[name] and after[name]
    ]
    numbers = sorted(before["numbers"].keys() & after["numbers"].keys())
    tests += [
        kolmogorov_smirnov(name, before["numbers"][name]["bins"], after["numbers"][name]["bins"]) for name in numbers
    ]
    missing = sorted(before["numbers"].keys() ^ after["numbers"].keys())
    changed = [f"{name} is in one of the two only" for name in missing]
    changed += [
        f"{test.name}: distance {test.distance:.3f}, p {test.p_value:.1e}"
        for test in tests
        if test.p_value < alpha / len(tests) and test.distance > distance
    ]
    return Drift(rows, gone, come, tuple(tests), tuple(faults), tuple(changed))


def _labels(report: Mapping[str, Any]) -> dict[str, int]:
    """Good rows per class over all splits."""
    total: dict[str, int] = {}
    for counts in report["classes"].values():
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


def kolmogorov_smirnov(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> Test:
    """Kolmogorov-Smirnov on equal bins (conservative: ties only make the distance smaller), with its asymptotic p."""
    a, b = _aligned(before, after, sorted(before.keys() | after.keys(), key=int))
    if not a.sum() or not b.sum():
        return Test(name, 0.0, 1.0)
    distance = float(np.abs(np.cumsum(a) / a.sum() - np.cumsum(b) / b.sum()).max())
    size = math.sqrt(a.sum() * b.sum() / (a.sum() + b.sum()))
    root = (size + 0.12 + 0.11 / size) * distance  # Stephens 1970
    terms = 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * root) ** 2) for k in range(1, 101))
    return Test(name, distance, min(1.0, max(0.0, terms)) if root > 0.2 else 1.0)


def categories(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> Test:
    """Pearson's test of homogeneity; its p by Wilson and Hilferty's cube root (1931)."""
    a, b = _aligned(before, after, sorted(before.keys() | after.keys()))
    shares = a / a.sum(), b / b.sum()
    degrees = len(a) - 1
    if degrees < 1:
        return Test(name, 0.0, 1.0)
    pooled = (a + b) / (a + b).sum()
    square = sum(float((((part - part.sum() * pooled) ** 2) / (part.sum() * pooled)).sum()) for part in (a, b))
    spread = 2 / (9 * degrees)
    z = ((square / degrees) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return Test(name, float(np.abs(shares[0] - shares[1]).sum() / 2), math.erfc(z / math.sqrt(2)) / 2)


def _aligned(before: Mapping[str, int], after: Mapping[str, int], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array([counts.get(key, 0) for key in keys], np.float64) for counts in (before, after))  # type: ignore[return-value]
