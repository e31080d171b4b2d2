"""The data against those of the newest version (fault 16)."""

from __future__ import annotations

import json
import re

import pytest

from tasks import params
from tasks.compare_data import REPORT, compare_data
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


def test_the_same_data_say_nothing(copy: Checkout) -> None:
    assert compare_data.fn(params.load(copy.path), copy.path) == ()


def test_half_the_rows_gone_stop_the_run(copy: Checkout) -> None:
    shrunk(copy, 0.4)
    rows = json.loads((copy.path / REPORT).read_text())["rows"]["out"]
    message = f"against v1.0.0: {rows} good rows are left of"
    with pytest.raises(ValidationFailed, match=re.escape(message)):
        compare_data.fn(params.load(copy.path), copy.path)
    copy.set(max_shrink="0.7")
    compare_data.fn(params.load(copy.path), copy.path)


def test_a_class_that_is_gone_stops_the_run(copy: Checkout) -> None:
    shrunk(copy, 1, "Coat")
    with pytest.raises(ValidationFailed, match=r"class Coat is gone since the last version; .*--set gate.max_shrink=1"):
        compare_data.fn(params.load(copy.path), copy.path)


def test_without_a_version_there_is_nothing_to_compare(copy: Checkout) -> None:
    copy.git("tag", "--delete", *copy.git("tag").split())
    assert compare_data.fn(params.load(copy.path), copy.path) == ()
