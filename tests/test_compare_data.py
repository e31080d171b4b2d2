"""The data against those of the newest version (fault 16)."""

from __future__ import annotations

import json
import re

import pytest

from tasks import params
from tasks.compare_data import DRIFT, REPORT, DataCheck, compare_data
from tasks.errors import ValidationFailed
from tests.conftest import Checkout


def shrunk(copy: Checkout, share: float, gone: str | None = None) -> None:
    """Make the validation report tell of fewer good rows, or of a class less."""
    file = copy.path / REPORT
    report = json.loads(file.read_text())
    report["rows"]["out"] = int(report["rows"]["out"] * share)
    for counts in report["classes"].values():
        counts.pop(gone, None)
    file.unlink()
    file.write_text(json.dumps(report))


def check(copy: Checkout) -> DataCheck:
    return compare_data.fn(params.load(copy.path), copy.path)


def test_the_same_data_say_nothing(copy: Checkout) -> None:
    found = check(copy)
    assert (found.against, found.changes) == ("v1.0.0", ())
    assert json.loads((copy.path / DRIFT).read_text())["changes"] == []


def test_half_the_rows_gone_stop_the_run(copy: Checkout) -> None:
    shrunk(copy, 0.4)
    rows = json.loads((copy.path / REPORT).read_text())["rows"]["out"]
    message = f"against v1.0.0: {rows} good rows are left of"
    with pytest.raises(ValidationFailed, match=re.escape(message)):
        compare_data.fn(params.load(copy.path), copy.path)
    (fault,) = json.loads((copy.path / DRIFT).read_text())["faults"]
    assert fault.startswith(message.removeprefix("against v1.0.0: "))
    copy.set(max_shrink="0.7")
    assert f"{rows:,} good rows, " in check(copy).changes[0]


def test_a_class_that_is_gone_stops_the_run(copy: Checkout) -> None:
    shrunk(copy, 1, "Coat")
    with pytest.raises(ValidationFailed, match=r"class Coat is gone since the last version; .*--set gate.max_shrink=1"):
        compare_data.fn(params.load(copy.path), copy.path)


def test_without_the_refusal_everything_is_still_reported(copy: Checkout) -> None:
    shrunk(copy, 0.2, "Coat")
    copy.set(max_shrink="1")
    found = check(copy)
    assert [change.partition(",")[0] for change in found.changes][1:2] == ["class Coat is gone"]
    assert json.loads((copy.path / DRIFT).read_text())["faults"] == []
    assert all(line.startswith("since v1.0.0: ") for line in found.lines[: len(found.changes)])


def test_few_test_rows_are_told_with_the_param_that_decides(copy: Checkout) -> None:
    report = json.loads((copy.path / REPORT).read_text())
    report["classes"] = {"all": {"cat": 300, "dog": 234}}
    (copy.path / REPORT).unlink()
    (copy.path / REPORT).write_text(json.dumps(report))
    copy.git("tag", "--delete", *copy.git("tag").split())
    copy.set(test_fraction="0.15", margin="0.005", on_undecided="estimate")
    assert check(copy).few_rows == (
        "about 80 test rows show differences of 0.0327 or more at 95% and cannot decide on gate.margin 0.005, which takes "
        "at least 539; gate.on_undecided: estimate decides"
    )
    copy.set(margin="0.05")
    assert check(copy).few_rows is None


def test_without_a_version_there_is_nothing_to_compare(copy: Checkout) -> None:
    copy.git("tag", "--delete", *copy.git("tag").split())
    assert (check(copy).against, check(copy).changes) == (None, ())
