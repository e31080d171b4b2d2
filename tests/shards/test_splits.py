"""Splits: the words for them, the hash, and one training row for every class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.dataset.spec import Spec
from ratchet.errors import ValidationFailed
from ratchet.shards.splits import SPLITS, Rows, split_of, splits, to_training
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate

pytest_plugins = ["tests.helpers.data_fixtures"]

FRACTIONS = (0.1, 0.15)


def ids(count: int, start: int = 0) -> list[str]:
    return [
        hashlib.blake2b(str(row).encode(), digest_size=16).hexdigest()
        for row in range(start, start + count)
    ]


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("TRAIN", "train"),
        ("val", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("dev", "val"),
        ("test", "test"),
        ("testing", "test"),
        (" Eval ", "test"),
        ("fold1", None),
        ("0", None),
        ("", None),
        ("trainval", None),
        ("holdout", None),
    ],
)
def test_words_for_a_split(word: str, split: str | None) -> None:
    assert split_of(word) == split


def test_the_hash_is_two_halves_of_the_id() -> None:
    row_ids = ids(5000)
    expected = []
    for row_id in row_ids:
        to_test, to_val = int(row_id[:13], 16) / 16**13, int(row_id[16:29], 16) / 16**13
        expected.append(2 if to_test < FRACTIONS[1] else 1 if to_val < FRACTIONS[0] else 0)
    assert splits(row_ids, None, (), *FRACTIONS).tolist() == expected
    assert 600 < expected.count(2) < 900 and 330 < expected.count(1) < 530


@pytest.mark.parametrize(
    ("classes", "rows"),
    [(2, 1), (60, 1), (60, 2), (40, 3), (30, 4), (500, 2), (3, 1000)],
)
def test_every_class_has_a_training_row_and_no_other_row_moves(classes: int, rows: int) -> None:
    row_ids = ids(classes * rows, start=classes)
    labels = [f"class {row % classes}" for row in range(classes * rows)]
    before = splits(row_ids, None, (), *FRACTIONS)
    moved = to_training([Rows(row_ids, labels, None, ())], *FRACTIONS)
    after = splits(row_ids, None, (), *FRACTIONS, moved)
    assert {label for label, split in zip(labels, after, strict=True) if split == 0} == {*labels}
    lacking = {*labels} - {label for label, split in zip(labels, before, strict=True) if split == 0}
    assert len(moved) == len(lacking) == (before != after).sum()


def test_the_order_and_the_batches_of_rows_change_nothing() -> None:
    row_ids, labels = ids(120), [str(row % 90) for row in range(120)]
    whole = to_training([Rows(row_ids, labels, None, ())], *FRACTIONS)
    parts = [Rows(row_ids[at : at + 7], labels[at : at + 7], None, ()) for at in range(0, 120, 7)]
    assert whole == to_training(reversed(parts), *FRACTIONS) != frozenset()


def test_a_row_that_the_source_puts_elsewhere_never_moves() -> None:
    row_ids = ids(40)
    given: list[str | None] = ["test"] * 20 + ["train"] * 20
    labels = ["only in test"] * 20 + ["b"] * 20
    assert to_training([Rows(row_ids, labels, given, ("test", "train"))], *FRACTIONS) == frozenset()


def test_a_fraction_is_the_share_below_it() -> None:
    """A row whose hash is the fraction itself is on the other side."""
    quarter, below = "4000000000000" + "000", "3ffffffffffff" + "000"
    row_ids = [first + second for first in (quarter, below) for second in (quarter, below)]
    assert splits(row_ids, None, (), 0.25, 0.25).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("fixed", ["val", "test"])
def test_of_a_class_without_training_rows_one_that_the_source_leaves_open_moves(fixed: str) -> None:
    """The lowest row is the source's own; of the others one is for validation, by its hash."""
    own, lower, higher = "00" * 16, "80" * 8 + "01" * 8, "90" * 8 + "01" * 8
    rows = Rows([own, higher, lower], ["a"] * 3, [fixed, None, None], ("train",))
    assert to_training([rows], *FRACTIONS) == {lower}
    moved = splits(rows.row_ids, rows.splits, rows.source_splits, *FRACTIONS, {own, lower})
    assert moved.tolist() == [SPLITS.index(fixed), 1, 0]


def test_without_a_word_for_a_row_the_splits_that_the_source_names_get_none_of_it() -> None:
    row_ids = ids(400)
    for known in ((), ("val",), ("test",), ("val", "test")):
        index = splits(row_ids, None, known, *FRACTIONS)
        assert {SPLITS[split] for split in index.tolist()} == {*SPLITS} - {*known}


def held_by(
    tree, labels: Sequence[str], configured, split: Sequence[str | None] | None = None
) -> Spec:
    """What `prepare` makes of rows with these labels."""
    (tree / "data/incoming").mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(size=len(labels))
    columns = {"x": values, "label": list(labels), **({"part": split} if split else {})}
    pq.write_table(pa.table(columns), tree / "data/incoming/a.parquet")
    source = {"type": "parquet", "path": "data/incoming", "label": "label", "features": ["x"]}
    params = configured({**source, "split": "part"} if split else source)
    for stage in (refresh, ingest, validate, prepare):
        stage.fn(params, tree)
    return Spec.read(tree / "data/prepared/spec.json")


@pytest.mark.parametrize(("classes", "rows"), [(2, 1), (3, 2), (60, 2), (20, 3)])
def test_small_classes_prepare(tree, configured, classes: int, rows: int) -> None:
    labels = [f"class {row % classes}" for row in range(classes * rows)]
    spec = held_by(tree, labels, configured)
    assert len(spec.classes) == classes and sum(spec.counts.values()) == classes * rows
    targets = np.load(tree / "data/prepared/train/targets.npy")
    assert {*targets.tolist()} == {*range(classes)}


def test_a_class_of_a_given_test_split_without_training_rows_is_an_error(tree, configured) -> None:
    split = ["train"] * 4 + ["test"] * 2
    with pytest.raises(ValidationFailed, match=r"class newt is in the source's test split"):
        held_by(tree, ["cat", "dog", "cat", "dog", "newt", "cat"], configured, split)


def test_a_column_gives_the_split_in_the_usual_words(tree, configured) -> None:
    words = ["Train", "training", "valid", "VALIDATION", "test", "eval", None, ""] * 10
    spec = held_by(tree, ["cat", "dog"] * 40, configured, words)
    assert (spec.counts["val"], spec.counts["test"]) == (20, 20) and spec.counts["train"] == 40


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["val"] * 4 + ["test"] * 6, "4 rows for val and 6 rows for test"),
        (["val"] * 10, "10 rows for val"),
        (["test"] * 10, "10 rows for test"),
    ],
)
def test_a_source_without_training_rows_is_an_error(tree, configured, words, rows) -> None:
    message = f"the source marks {rows}; mark some of them as train"
    with pytest.raises(ValidationFailed, match=message):
        held_by(tree, ["cat", "dog"] * 5, configured, words)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("name", "words", "noticed"),
    [
        ("split", ["train", "test"], True),
        ("Split", ["train"], True),
        ("data_split", ["Train", "VALIDATION"], True),
        ("dataset", ["test"], True),
        ("anything", ["training", "dev"], True),
        ("anything", ["train", "", "test"], True),
        ("anything", ["test"], False),  # no split's name, and the same word in every row
        ("split", ["train", "other"], False),
        ("anything", ["1", "0"], False),
    ],
)
def test_a_column_that_looks_like_a_split_is_noticed(
    tree, configured, capsys, kind, name, words, noticed
) -> None:
    table = pa.table({"x": np.arange(60.0), "label": ["a", "b"] * 30, name: (words * 60)[:60]})
    (tree / "data/incoming").mkdir(parents=True)
    if kind == "csv":
        table.to_pandas().to_csv(tree / "data/incoming/a.csv", index=False)
    else:
        pq.write_table(table, tree / "data/incoming/a.parquet")
    params = configured(
        {"type": kind, "path": "data/incoming", "label": "label", "features": ["x"]}
    )
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    message = f"a.{kind} has a column {name} with names of splits, which is not used as the split"
    assert (message in capsys.readouterr().out) is noticed


def test_an_unknown_word_is_a_bad_row(tree, configured) -> None:
    words = ["train"] * 49 + ["fold1"]
    held_by(tree, ["cat", "dog"] * 25, configured, words)
    (row,) = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    assert (row["reason"], row["detail"]) == ("split_unknown", "split is fold1")
    assert row["source"] == "a.parquet, row 49"


def test_a_single_class_is_an_error(tree, configured) -> None:
    with pytest.raises(
        ValidationFailed, match=r"all 5 good rows have the class cat in label; a classifier needs"
    ):
        held_by(tree, ["cat"] * 5, configured)


def test_split_names_are_in_one_order() -> None:
    assert SPLITS == ("train", "val", "test")
