"""What will cause trouble later, though no row is bad because of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from ratchet.params import PrepareParams, ValidateParams, Warn
from ratchet.validation import image_statistics, power
from ratchet.validation.histogram import added

# Class names that may mean "missing".
ABSENT = ("na", "n/a", "nan", "null", "none", "nil", "?", "-", "#n/a", "<na>")


EXACT = 2**53  # float64 holds every whole number up to here


MANY = 20  # more distinct numbers than this may be a quantity


MOSTLY = 0.9  # share of numbers among the values of a quantity; the others may mean "missing"


NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


UNITS = re.compile(r"[\s,'%$€£¥]")  # characters that may be part of a number


SHOWN = 5  # names in a warning


def warnings(params: ValidateParams, prepare: PrepareParams, report: dict[str, Any]) -> list[str]:
    """List what will cause trouble later but does not stop the run, one sentence each."""
    total = added(list(report["classes"].values()))
    return [
        *_quarantine_warnings(params.warn, report),
        *_class_warnings(params.warn, total),
        *_rare_warnings(prepare, report),
        *image_statistics.warnings(prepare, report),
        *(power.warnings(report, prepare.test_fraction) if total else []),
        *([] if report["sizes"] else _feature_warnings(report["numbers"])),
    ]


def _quarantine_warnings(warn: Warn, report: dict[str, Any]) -> list[str]:
    rows, messages = report["rows"]["in"], []
    for reason, count in sorted(report["reasons"].items()):
        name = reason if reason in ("duplicate", "leak", "conflict") else "other"
        level = getattr(warn, name)
        if count > level * rows:
            messages.append(
                f"{count:,} rows ({count / rows:.2%}) are set aside as {reason};"
                f" validate.warn.{name} is {level}"
            )
    return messages


def _class_warnings(warn: Warn, total: Mapping[str, int]) -> list[str]:
    """Warn of very different sizes, and of names that may mean the same class or no class."""
    messages = []
    if total and max(total.values()) > warn.imbalance * min(total.values()):
        large, small = max(total, key=total.__getitem__), min(total, key=total.__getitem__)
        messages.append(
            f"{large} has {total[large]:,} rows, {small} {total[small]:,}; validate.warn.imbalance"
            f" is {warn.imbalance}"
        )
    alike: dict[str, list[str]] = {}
    for name in sorted(total):
        alike.setdefault(_seen(name), []).append(name)
    for group in alike.values():
        if len(group) > 1:
            names = ", ".join(map(ascii, group))
            messages.append(
                f"the classes {names} differ only in case, spaces or characters that look alike; "
                "if they are one class, rename them"
            )
    absent = [name for name in sorted(total) if name.strip().casefold() in ABSENT]
    if absent:
        names = ", ".join(map(repr, absent))
        messages.append(
            f"the class {names} is named like a missing value; if it means one, leave those labels"
            " empty in the source"
        )
    return messages


def _seen(name: str) -> str:
    """A class name as it looks: without case, invisible characters or compatibility variants."""
    normal = unicodedata.normalize("NFKC", name)
    visible = "".join(char for char in normal if unicodedata.category(char) != "Cf")
    return " ".join(visible.split()).casefold()


def _rare_warnings(prepare: PrepareParams, report: dict[str, Any]) -> list[str]:
    """Warn of classes with fewer rows than there are splits."""
    splits = 1 + (prepare.val_fraction > 0) + (prepare.test_fraction > 0)
    if set(report["classes"]) != {"all"}:  # the source defines splits
        return []
    rare = [name for name, rows in sorted(report["classes"]["all"].items()) if rows < splits]
    if not rare:
        return []
    shown = ", ".join(rare[:SHOWN])
    if len(rare) > SHOWN:
        shown += f" and {len(rare) - SHOWN:,} more"
    return [
        f"{len(rare):,} of {len(report['classes']['all']):,} classes have fewer than {splits} rows,"
        f" too few for one in each split: {shown}; validation and test will lack some of them"
    ]


def _feature_warnings(numbers: Mapping[str, dict[str, Any]]) -> list[str]:
    messages = []
    finite = {name: facts for name, facts in numbers.items() if facts["min"] is not None}
    empty = [name for name in numbers if name not in finite]
    constant = [name for name, facts in finite.items() if facts["min"] == facts["max"]]
    large = [name for name, facts in finite.items() if _beyond_exact(facts)]
    if empty:
        messages.append(
            f"no row has a value of the feature {', '.join(empty)}; leave it out of the source's"
            " features"
        )
    if constant:
        messages.append(
            f"the feature {', '.join(constant)} has the same value in every row, so no model can"
            " use it"
        )
    if large:
        messages.append(
            f"the feature {', '.join(large)} has values beyond 2**53, where float64 no longer holds"
            " every whole number: neighbouring integers become equal; if they are identifiers,"
            " leave them out"
        )
    return messages


def _beyond_exact(facts: Mapping[str, float]) -> bool:
    """Whether there may be values that an int64 or uint64 holds exactly, but a float64 does not."""
    return any(EXACT < abs(facts[end]) <= 2**64 for end in ("min", "max"))


def is_quantity(total: Mapping[str, int]) -> bool:
    """Whether the classes look like the values of a regression target."""
    numbers = [name for name in total if NUMBER.fullmatch(UNITS.sub("", name))]
    once = sum(total[name] == 1 for name in numbers)
    return len(numbers) > MANY and once * 3 > len(numbers) and len(numbers) >= MOSTLY * len(total)
