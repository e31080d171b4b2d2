"""What changed between the validation reports of two versions: rows, classes, and distributions by two-sample tests.

Pure functions of two contents of `reports/validation.json`: a stage knows no versions, a step of
the flow does.
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
    """One distribution, before and after."""

    name: str
    distance: (
        float  # 0 (the same) to 1: Kolmogorov-Smirnov's for numbers, total variation for categories
    )
    p_value: float  # the chance of a distance at least as large if nothing had changed


@dataclass(frozen=True)
class Drift:
    """What changed; `faults` are reasons to stop. Every sentence reads by itself."""

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
    """Compare two reports. What an older Ratchet did not write is not compared.

    Args:
        max_shrink: share of the good rows that may be gone, 0 to 1; 1: nothing is a fault, a class
        that is gone neither.
        alpha: of all tests together (Bonferroni), 0 to 1.
        distance: smaller changes are not reported, however certain they are, 0 to 1.
    """
    old, new = _labels(before), _labels(after)
    rows = _good_rows(before, old), _good_rows(after, new)
    gone, come = tuple(sorted(old.keys() - new.keys())), tuple(sorted(new.keys() - old.keys()))
    faults = (
        [f"class {', '.join(gone)} is gone since the last version"]
        if gone and max_shrink < 1
        else []
    )
    if rows[1] < (1 - max_shrink) * rows[0]:
        faults.append(
            f"{rows[1]:,} good rows are left of {rows[0]:,}; gate.max_shrink allows to lose"
            f" {max_shrink:.0%}"
        )
    tests = [categories("classes", old, new)]
    tests += [
        categories(name, before[name], after[name])
        for name in ("sizes", "modes")
        if before.get(name) and after.get(name)
    ]
    was, now = before.get("numbers", {}), after.get("numbers", {})
    tests += [
        kolmogorov_smirnov(name, was[name]["bins"], now[name]["bins"])
        for name in sorted(was.keys() & now.keys())
        if "bins" in was[name] and "bins" in now[name]
    ]
    changed = [f"{name} is gone" for name in sorted(was.keys() - now.keys())]
    changed += [f"{name} is new" for name in sorted(now.keys() - was.keys())]
    changed += [
        f"{test.name}: another distribution, distance {test.distance:.3f}, p {test.p_value:.1e}"
        for test in tests
        if test.p_value < alpha / len(tests) and test.distance > distance
    ]
    return Drift(rows, gone, come, tuple(tests), tuple(faults), tuple(changed))


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


def _aligned(
    before: Mapping[str, int], after: Mapping[str, int], keys: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        np.array([counts.get(key, 0) for key in keys], np.float64) for counts in (before, after)
    )  # type: ignore[return-value]
