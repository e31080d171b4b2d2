"""Which split a row is in: the one that the source gives, or one by a hash of the row, which no other row can change.

The one exception is a row that its class needs in training, see `to_training`.
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
    """The split that a folder's name or a cell means, one of `SPLITS`; None for any other word."""
    return WORDS.get(word.strip().lower())


class Rows(NamedTuple):
    """Some rows of one source."""

    row_ids: Sequence[str]
    labels: Sequence[str]
    given: Sequence[str | None] | None  # the split of each row, where the source names one
    known: Collection[str]  # the splits that the source names at all


def splits(
    row_ids: Sequence[str],
    given: Sequence[str | None] | None,
    known: Collection[str],
    val_fraction: float,
    test_fraction: float,
    moved: Collection[str] = (),
) -> np.ndarray:
    """Index into `SPLITS` per row, int64 (N,).

    Where a source gives a test split, no other row of it is used for testing; likewise for
    validation. `row_ids` are BLAKE2b digests in hex, so parts of them are uniform numbers already.
    Those in `moved` are trained on, unless the source gives them another split.
    """
    uniform = _uniform(row_ids)
    index = np.zeros(len(row_ids), np.int64)
    if "val" not in known:
        index[uniform[:, 1] < val_fraction] = 1
    if "test" not in known:
        index[uniform[:, 0] < test_fraction] = 2
    if moved:
        index[[row_id in moved for row_id in row_ids]] = 0
    for split, name in enumerate(SPLITS[1:], start=1):
        if given is not None:
            index[[value == name for value in given]] = split
    return index


def to_training(parts: Iterable[Rows], val_fraction: float, test_fraction: float) -> frozenset[str]:
    """The row_ids that go to training so that every class has a row there: the lowest of each class that has none.

    So a row moves only where its class had no training row, and goes back once it has another. It
    takes the memory of one row per class.
    """
    trained: set[str] = set()
    lowest: dict[str, str] = {}
    for part in parts:
        index = splits(part.row_ids, part.given, part.known, val_fraction, test_fraction)
        fixed = np.array([value in SPLITS[1:] for value in part.given or ()], bool)
        movable = index != 0 if part.given is None else (index != 0) & ~fixed
        labels, row_ids = np.asarray(part.labels, object), np.asarray(part.row_ids, object)
        trained.update(labels[index == 0])
        for label, row_id in zip(labels[movable], row_ids[movable], strict=True):
            if label not in trained and row_id < lowest.get(label, "~"):
                lowest[label] = row_id
    return frozenset(row_id for label, row_id in lowest.items() if label not in trained)


def _uniform(row_ids: Sequence[str]) -> np.ndarray:
    """float64 (N, 2) in 0..1, from the first 52 bits of each half of the digests."""
    digests = np.frombuffer(bytes.fromhex("".join(row_ids)), ">u8").reshape(-1, 2)
    return (digests >> np.uint64(12)).astype(np.float64) / 2**52
