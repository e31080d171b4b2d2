"""The data against those of the newest version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ratchet.errors import ObjectsMissing, ValidationFailed
from ratchet.upkeep.withdraw import expire
from ratchet.validation import histogram
from tasks.check_data import DRIFT, REPORT, DataCheck, check_data
from tests.helpers.toy import GRAPH, Toy

VALIDATE = f"""\
  validate:
    cmd: python -m code.validate
    deps: [data/raw]
    params: [validate]
    outs: [{REPORT}]
artifacts:"""
CLASSES = {"cat": 4000, "dog": 4000}
Report = dict[str, Any]


def report(classes: dict[str, int] = CLASSES, age: float = 40, out: int | None = None) -> Report:
    """A validation report of good rows by class, whose feature `age` has this mean."""
    rows = sum(classes.values())
    values = np.random.default_rng(0).normal(age, 10, 1000)
    bins = {str(index): count for index, count in histogram.count(values).items()}
    return {
        "rows": {"in": rows, "out": rows if out is None else out, "quarantined": 0},
        "classes": {"all": classes},
        "sizes": {},
        "modes": {},
        "numbers": {"age": {"null": 0, "bins": bins}},
    }


def lay(toy: Toy, content: Report) -> None:
    toy.write({REPORT: json.dumps(content)})


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A checkout that keeps reports of its data, with version v1.0.0."""
    toy = Toy.make(tmp_path / "checkout")
    toy.write({"dvc.yaml": GRAPH.replace("artifacts:", VALIDATE)})
    toy.commit("Validate")
    lay(toy, report())
    toy.register("a")
    return toy


@pytest.fixture
def check(toy: Toy) -> Callable[..., DataCheck]:
    def run(content: Report, **gate: Any) -> DataCheck:
        lay(toy, content)
        for key, value in gate.items():
            toy.set(f"gate.{key}", value)
        return check_data.fn(toy.params, toy.tree)

    return run


Check = Callable[..., DataCheck]


def drifted(toy: Toy) -> Report:
    content: Report = json.loads((toy.tree / DRIFT).read_text())
    return content


def test_the_same_data_say_nothing(toy: Toy, check: Check) -> None:
    assert check(report()) == DataCheck("v1.0.0", [], None)
    assert drifted(toy) == {"format": 1, "against": "v1.0.0", "changes": [], "few_rows": None}


def test_what_changed_is_reported_with_the_version(toy: Toy, check: Check) -> None:
    found = check(report({**CLASSES, "newt": 90}, age=50))
    assert found.changes[:2] == ["8,090 good rows, 8,000 before", "class newt is new"]
    assert [change.partition(":")[0] for change in found.changes[2:]] == ["age"]
    assert found.lines == tuple(f"since v1.0.0: {change}" for change in found.changes)
    content = drifted(toy)
    assert content["changes"] == found.changes
    assert (content["rows"], content["gone"], content["new"], content["faults"]) == (
        [8000, 8090],
        [],
        ["newt"],
        [],
    )
    assert {test["name"] for test in content["tests"]} == {"classes", "age"}
    assert "changed" not in content


@pytest.mark.fault(16)
def test_too_few_rows_stop_the_run_after_the_report(toy: Toy, check: Check) -> None:
    fault = "3,999 good rows are left of 8,000; gate.max_shrink allows a loss of 50%"
    assert check(report(out=4000)).changes == ["4,000 good rows, 8,000 before"]
    with pytest.raises(ValidationFailed) as caught:
        check(report(out=3999))
    assert str(caught.value).startswith(
        f"against v1.0.0: {fault}; see {toy.tree}/reports/validation.html and fix the"
    )
    assert str(caught.value).endswith(
        "accept this change for one run with `ratchet train --set gate.max_shrink=1`"
    )
    assert drifted(toy)["faults"] == [fault]
    assert check(report(out=3999), max_shrink=0.7).changes == ["3,999 good rows, 8,000 before"]


@pytest.mark.fault(16)
def test_a_class_that_is_gone_stops_the_run_unless_it_is_accepted(toy: Toy, check: Check) -> None:
    with pytest.raises(
        ValidationFailed, match=r"^against v1\.0\.0: class dog is gone since the last version; see"
    ):
        check(report({"cat": 8000}))
    found = check(report({"cat": 8000}), max_shrink=1)
    assert [change.partition(",")[0] for change in found.changes] == [
        "class dog is gone",
        "classes: another distribution",
    ]
    assert (drifted(toy)["faults"], drifted(toy)["gone"]) == ([], ["dog"])


def test_the_newest_version_counts_that_has_its_objects(toy: Toy, check: Check) -> None:
    lay(toy, report(out=7000))
    toy.register("b")
    assert check(report(out=6000)).lines == ("since v1.0.1: 6,000 good rows, 7,000 before",)
    expire(toy.tree, "v1.0.1")
    assert check(report(out=6000)).lines == ("since v1.0.0: 6,000 good rows, 8,000 before",)
    expire(toy.tree, "v1.0.0")
    assert check(report(out=6000)) == DataCheck(None, [], None)


def test_a_report_that_is_gone_here_and_has_no_remote_is_named(toy: Toy, check: Check) -> None:
    shutil.rmtree(toy.tree / ".dvc/cache")
    assert check(report()).changes == []  # the same file needs no comparison
    with pytest.raises(ObjectsMissing, match=REPORT):
        check(report(age=50))


def test_a_report_comes_from_the_remote(toy: Toy, check: Check, tmp_path: Path) -> None:
    toy.remote(tmp_path / "store")
    toy.register("b")
    shutil.rmtree(toy.tree / ".dvc/cache")
    assert check(report(out=7000)).changes == ["7,000 good rows, 8,000 before"]


def test_few_test_rows_are_told_with_the_param_that_decides(toy: Toy, check: Check) -> None:
    few = report({"cat": 300, "dog": 234})
    toy.set("prepare.test_fraction", 0.15)
    gate = {
        "margin": 0.005,
        "on_undecided": "estimate",
        "max_shrink": 1,
        "confidence": 0.95,
        "rule": "no_worse",
    }
    found = check(few, **gate)
    assert found.few_rows == (
        "about 80 test rows show differences of 0.0327 or more at 95% and cannot decide on gate.margin 0.005, which takes "
        "at least 539; gate.on_undecided: estimate decides"
    )
    assert found.lines[-1] == drifted(toy)["few_rows"] == found.few_rows
    assert check(few, rule="better").few_rows is None
    assert check(few, rule="no_worse", margin=0.05).few_rows is None
    assert check(few, margin=0.0).few_rows == (
        "about 80 test rows show differences of 0.0327 or more at 95% and cannot decide on gate.margin 0.0; "
        "gate.on_undecided: estimate decides"
    )


def test_without_a_version_there_is_nothing_to_compare(tmp_path: Path) -> None:
    toy = Toy.make(tmp_path / "new")
    lay(toy, report())
    assert check_data.fn(toy.params, toy.tree) == DataCheck(None, [], None)
    assert drifted(toy) == {"format": 1, "against": None, "changes": [], "few_rows": None}
