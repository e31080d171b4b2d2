"""What changed between two versions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ratchet.validation import histogram
from ratchet.validation.drift import categories, drift, kolmogorov_smirnov


def report(classes, values):
    bins = {str(index): count for index, count in histogram.count(values).items()}
    rows = sum(classes.values())
    return {
        "rows": {"in": rows, "out": rows, "quarantined": 0},
        "classes": {"train": classes},
        "sizes": {},
        "modes": {},
        "numbers": {"age": {"null": 0, "bins": bins}},
    }


def normal(mean, count=1000, seed=0):
    return np.random.default_rng(seed).normal(mean, 10, count)


BEFORE = report({"cat": 500, "dog": 500}, normal(40, seed=1))


def compared(after):
    return drift(BEFORE, after, max_shrink=0.5, alpha=0.01, distance=0.05)


def test_the_same_distribution_is_no_change():
    found = compared(report({"cat": 510, "dog": 490}, normal(40)))
    assert not found.faults and not found.sentences and found.rows == (1000, 1000)


def test_a_shift_of_values_or_classes_is_named():
    found = compared(report({"cat": 800, "dog": 200, "newt": 5}, normal(50)))
    assert found.new == ("newt",) and not found.faults
    assert [line.split(":")[0] for line in found.changed] == ["classes", "age"]
    assert found.sentences[:2] == ("1,005 good rows, 1,000 before", "class newt is new")


@pytest.mark.fault(16)
def test_a_class_gone_and_half_the_rows_gone():
    found = compared(report({"cat": 400}, normal(40, 400)))
    assert found.faults == (
        "class dog is gone since the last version",
        "400 good rows are left of 1,000; gate.max_shrink allows a loss of 50%",
    )
    accepted = drift(BEFORE, report({"cat": 400}, normal(40, 400)), 1.0, 0.01, 0.05)
    assert not accepted.faults and accepted.sentences[:2] == (
        "400 good rows, 1,000 before",
        "class dog is gone",
    )


def test_many_classes_are_one_sentence():
    found = compared(report(dict.fromkeys("abcdefgh", 100), normal(40, 800)))
    assert found.sentences[1:3] == (
        "2 classes are gone: cat, dog",
        "8 classes are new: a, b, c, d, e and 3 more",
    )


@pytest.mark.parametrize("lacking", ["rows", "classes", "sizes", "modes", "numbers"])
def test_what_an_older_report_lacks_is_not_compared(lacking):
    old = {key: value for key, value in BEFORE.items() if key != lacking}
    found = drift(old, BEFORE, max_shrink=0.5, alpha=0.01, distance=0.05)
    assert not found.faults
    assert set(found.sentences) <= {"2 classes are new: cat, dog", "age is new"}


def test_a_column_that_came_or_went_is_named():
    after = report({"cat": 500, "dog": 500}, normal(40))
    after["numbers"]["height"] = after["numbers"].pop("age")
    assert compared(after).sentences == ("age is gone", "height is new")


@pytest.mark.parametrize(("left", "faults"), [(500, 0), (499, 1)])
def test_half_of_the_rows_may_go_and_no_more(left, faults):
    after = report({"cat": 500, "dog": 500}, normal(40))
    after["rows"]["out"] = left
    assert len(compared(after).faults) == faults
    assert compared(after).sentences[0] == f"{left:,} good rows, 1,000 before"


def test_a_change_is_reported_only_if_it_is_certain_and_large():
    def changed(cats, alpha, distance):
        after = report({"cat": cats, "dog": 1000 - cats}, normal(40, seed=1))
        found = drift(BEFORE, after, 0.5, alpha, distance)
        assert [test.name for test in found.tests] == ["classes", "age"]
        return found.changed, found.tests[0]

    (line,), test = changed(600, 0.01, 0.05)
    assert line == f"classes: another distribution, distance 0.100, p {test.p_value:.1e}"
    assert test.distance == pytest.approx(0.1)
    assert changed(600, 0.01, 0.11)[0] == ()  # certain, but small
    assert changed(600, 2 * test.p_value * 1.01, 0.05)[0] != ()  # alpha is shared by the two tests
    assert changed(600, 2 * test.p_value * 0.99, 0.05)[0] == ()


def test_sizes_and_modes_of_images_are_compared_where_both_have_them():
    before = {**BEFORE, "sizes": {"8x8": 1000}, "modes": {"L": 1000}}
    after = {**before, "sizes": {"8x8": 500, "9x9": 500}, "modes": {"L": 500, "RGB": 500}}
    found = drift(before, after, 0.5, 0.01, 0.05)
    assert [test.name for test in found.tests] == ["classes", "sizes", "modes", "age"]
    assert [line.partition(":")[0] for line in found.changed] == ["sizes", "modes"]
    for lacking in ("sizes", "modes"):
        old = drift({**before, lacking: {}}, after, 0.5, 0.01, 0.05)
        assert lacking not in {test.name for test in old.tests}


def test_classes_are_those_of_all_splits():
    after = report({"cat": 400, "dog": 400}, normal(40, seed=1))
    after["classes"]["test"] = {"cat": 100, "dog": 100}
    found = compared(after | {"rows": {"out": 1000}})
    assert found.sentences == () and found.tests[0].distance == 0


def test_a_distribution_of_nothing_is_not_compared():
    full, empty = {"1": 5, "2": 5}, {"1": 0}
    for test in (kolmogorov_smirnov, categories):
        for pair in ((full, empty), (empty, full)):
            assert (test("x", *pair).distance, test("x", *pair).p_value) == (0, 1)
    assert categories("x", {"1": 5}, {"1": 9}).p_value == 1


def test_bins_are_compared_in_the_order_of_their_numbers():
    before, after = {"-9": 5, "2": 5, "10": 5}, {"-9": 5, "2": 0, "10": 10}
    assert kolmogorov_smirnov("x", before, after).distance == pytest.approx(1 / 3)
    assert kolmogorov_smirnov("x", before, {"-9": 5, "10": 5, "2": 5}).distance == 0


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2])
def test_the_tests_agree_with_scipy(shift):
    a, b = normal(40), normal(40 + 10 * shift, 800, seed=1)
    own = kolmogorov_smirnov(
        "x", *({str(k): n for k, n in histogram.count(v).items()} for v in (a, b))
    )
    other = stats.ks_2samp(a, b, method="asymp")
    assert own.distance <= other.statistic and own.distance == pytest.approx(
        other.statistic, abs=0.03
    )
    table = np.array([[300, 500, 200], [300 + 200 * shift, 500, 200 - 200 * shift]])
    found = categories("c", *({str(i): int(n) for i, n in enumerate(row)} for row in table))
    assert found.p_value == pytest.approx(
        stats.chi2_contingency(table.astype(int)).pvalue, abs=0.005
    )


def test_bins_add_up_and_keep_the_order():
    values = np.array([-5.0, -0.1, 0.0, 1e-30, 3.0, 3.1, 1e6, np.nan, np.inf])
    bins = histogram.count(values)
    assert sum(bins.values()) == 7 and bins[0] == 2
    assert histogram.count(values[:4]) + histogram.count(values[4:]) == bins
    assert histogram.quantiles(bins, (0.0, 0.5, 1.0)) == [
        pytest.approx(-5, rel=0.1),
        0.0,
        pytest.approx(1e6, rel=0.1),
    ]
