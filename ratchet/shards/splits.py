"""Which split a row is in: the one that its source defines, or one by a hash of the row.

The hash makes the split of a row independent of all other rows. The only exception is a row that
its class needs for training, see `to_training`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "val", "test")
WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


def split_of(word: str) -> str | None:
    """The split that a folder's name or a cell names, one of `SPLITS`; None for other words."""
    return WORDS.get(word.strip().lower())


class Rows(NamedTuple):
    """A batch of rows of one source, as far as their split depends on them."""

    row_ids: Sequence[str]
    labels: Sequence[str]
    splits: Sequence[str | None] | None  # the split of each row; None: the source defines none
    source_splits: Collection[str]  # the splits that the source defines for any of its rows


def splits(
    row_ids: Sequence[str],
    row_splits: Sequence[str | None] | None,
    source_splits: Collection[str],
    val_fraction: float,
    test_fraction: float,
    moved: Collection[str] = (),
) -> np.ndarray:
    """Return the index into `SPLITS` of each row, int64 (N,).

    If a source defines a test split, none of its other rows is used for testing. The same holds
    for validation.

    Args:
        row_ids: BLAKE2b digests in hex, so parts of them are uniform numbers already.
        row_splits: the split of each row where the source defines it.
        source_splits: the splits that the source defines for any of its rows.
        val_fraction: share of the other rows that is used for validation, 0 to 1.
        test_fraction: share of the other rows that is used for testing, 0 to 1.
        moved: row_ids to train on, unless the source defines another split for them.
    """
    uniform = _uniform(row_ids)
    index = np.zeros(len(row_ids), np.int64)
    if "val" not in source_splits:
        index[uniform[:, 1] < val_fraction] = 1
    if "test" not in source_splits:
        index[uniform[:, 0] < test_fraction] = 2
    if moved:
        index[[row_id in moved for row_id in row_ids]] = 0
    for split, name in enumerate(SPLITS[1:], start=1):
        if row_splits is not None:
            index[[value == name for value in row_splits]] = split
    return index


def to_training(parts: Iterable[Rows], val_fraction: float, test_fraction: float) -> frozenset[str]:
    """Choose the row_ids that move to training so that every class has a row there.

    A class without a training row gets its lowest row_id that may move. So a row moves only if its
    class has no training row, and it moves back once the class has another. This takes the memory
    of one row per class.
    """
    trained: set[str] = set()
    lowest: dict[str, str] = {}
    for part in parts:
        index = splits(part.row_ids, part.splits, part.source_splits, val_fraction, test_fraction)
        movable = index != 0
        if part.splits is not None:
            movable &= ~np.array([value in SPLITS[1:] for value in part.splits], bool)
        labels, row_ids = np.asarray(part.labels, object), np.asarray(part.row_ids, object)
        trained.update(labels[index == 0])
        for label, row_id in zip(labels[movable], row_ids[movable], strict=True):
            if label not in trained and row_id < lowest.get(label, "~"):
                lowest[label] = row_id
    return frozenset(row_id for label, row_id in lowest.items() if label not in trained)


def _uniform(row_ids: Sequence[str]) -> np.ndarray:
    """Two uniform numbers per row, float64 (N, 2) in 0..1.

    They are the first 52 bits of each half of the digests.
    """
    digests = np.frombuffer(bytes.fromhex("".join(row_ids)), ">u8").reshape(-1, 2)
    return (digests >> np.uint64(12)).astype(np.float64) / 2**52
