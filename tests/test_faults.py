"""Every fault of docs/reliability.md has a test that injects it, and the index of them is up to date."""

from __future__ import annotations

from tests import faults


def test_every_fault_has_a_test_and_every_mark_a_fault() -> None:
    promised = faults.promised()
    assert list(promised) == list(range(1, len(promised) + 1))
    assert len(promised) >= 43
    assert {number for test in faults.marked() for number in test.faults} == set(promised)


def test_the_index_is_up_to_date() -> None:
    assert faults.INDEX.read_text() == faults.table(), "run `python -m tests.faults`"
