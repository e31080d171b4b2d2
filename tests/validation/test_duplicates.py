"""Rows that occur more than once, over the files of several shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ratchet.validation import duplicates
from ratchet.validation.rules import CODES

A, B, C, D, E = (f"{n:016x}" * 2 for n in (0xFFFF_FFFF_FFFF_FFFF, 0xB, 0xC, 0xD, 0xE))
REASONS = {0: "", **{code: reason for reason, code in CODES.items()}}
Mark = Callable[[list[Path], np.ndarray, np.ndarray], None]


def marked(
    tmp_path: Path,
    mark: Mark,
    column: str,
    rows: list[tuple[str | None, str, str | None]],
    bad: dict[int, str],
) -> list[tuple[str, int]]:
    """The reason of each row and the row that it is like; the rows in files of three."""
    files = []
    for start in range(0, len(rows), 3):
        ids, labels, splits = zip(*rows[start : start + 3], strict=True)
        frame = pl.DataFrame(
            {column: ids, "label": labels, "split": pl.Series(splits, dtype=pl.String)}
        )
        files.append(tmp_path / f"{start}.parquet")
        frame.write_parquet(files[-1])
    codes = np.array([CODES[bad[row]] if row in bad else 0 for row in range(len(rows))], np.uint8)
    like = np.full(len(rows), -1)
    mark(files, codes, like)
    return [
        (REASONS[code], position)
        for code, position in zip(codes.tolist(), like.tolist(), strict=True)
    ]


@pytest.fixture(params=[200_000, 3, 1])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ids at once, or some at a time."""
    monkeypatch.setattr(duplicates, "PART_ROWS", request.param)


GOOD = ("", -1)


@pytest.mark.usefixtures("parts")
def test_images(tmp_path: Path) -> None:
    rows: list[tuple[str | None, str, str | None]] = [
        (A, "x", "train"),  # 0: a copy of 4, which tests
        (B, "x", None),  # 1
        (B, "x", None),  # 2
        (C, "x", "val"),  # 3
        (A, "x", "test"),  # 4
        (C, "x", "val"),  # 5
        (D, "x", "train"),  # 6
        (D, "y", "test"),  # 7
        (E, "x", "train"),  # 8
        (E, "y", "train"),  # 9: bad for another reason
        (A, "x", "val"),  # 10
        (B[:16] + C[16:], "x", None),  # 11: half of one, half of another
        (D, "x", "train"),  # 12
    ]
    assert marked(tmp_path, duplicates.mark_images, "row_id", rows, {9: "image_corrupt"}) == [
        ("leak", 4),
        GOOD,
        ("duplicate", 1),
        GOOD,
        GOOD,
        ("duplicate", 3),
        ("conflict", 7),
        ("conflict", 12),
        GOOD,
        ("image_corrupt", -1),
        ("leak", 4),
        GOOD,
        ("conflict", 7),
    ]


@pytest.mark.usefixtures("parts")
def test_keys(tmp_path: Path) -> None:
    rows: list[tuple[str | None, str, str | None]] = [
        (A, "x", "train"),
        (B, "x", "train"),
        (A, "y", "test"),  # the first stays, whatever the split and the label
        (A, "x", "train"),
        (C, "x", None),
        (C, "x", None),
        (B[:16] + C[16:], "x", None),
    ]
    assert marked(tmp_path, duplicates.mark_keys, "key", rows, {4: "null"}) == [
        GOOD,
        GOOD,
        ("not_unique", 0),
        ("not_unique", 0),
        ("null", -1),
        GOOD,
        GOOD,
    ]
