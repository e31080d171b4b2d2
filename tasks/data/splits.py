"""Which split a row is in: what the source says, or else a hash of the row, which no other row can change."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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


def splits(
    row_ids: Sequence[str],
    given: Sequence[str | None] | None,
    known: Collection[str],
    val_fraction: float,
    test_fraction: float,
) -> np.ndarray:
    """Index into `SPLITS` per row, int64 (N,).

    `known` are the splits that the rows' source gives at all: where it gives a test split, no other row of it is taken
    for testing. `row_ids` are BLAKE2b digests in hex, so parts of them are uniform numbers already.
    """
    to_test, to_val = _uniform(row_ids, 0), _uniform(row_ids, 16)
    found = np.zeros(len(row_ids), np.int64)
    if "val" not in known:
        found[to_val < val_fraction] = 1
    if "test" not in known:
        found[to_test < test_fraction] = 2
    for index, name in enumerate(SPLITS[1:], start=1):
        if given is not None:
            found[[value == name for value in given]] = index
    return found


def _uniform(row_ids: Sequence[str], start: int) -> np.ndarray:
    """float64 (N,) in 0..1, from 52 bits of each digest."""
    return np.array([int(row_id[start : start + 13], 16) for row_id in row_ids], np.float64) / 16**13
