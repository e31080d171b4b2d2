"""The files of an input to predictions: which there are, and which the version can use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ratchet import images
from ratchet.dataset.spec import Spec
from ratchet.errors import SourceMissing
from ratchet.prediction.unlabeled_hub import ADDRESS
from ratchet.sources import parquet_files

TABLES = (".csv", ".parquet")


def files_of(tree: Path, source: str) -> tuple[list[Path], Path | None]:
    """List the files of `source` in order; also return `source` itself if it is a folder.

    Args:
        tree: the checkout.
        source: a file, folder or glob, relative to `tree`.

    Raises:
        SourceMissing: there is no such file.
    """
    place = tree / source
    if place.is_dir():
        files = [path for path in sorted(place.rglob("*")) if not path.is_dir()]
        return [path for path in files if path != place / ".gitkeep"], place
    if place.is_file():
        return [place], None
    files = sorted(path for path in _matches(tree, source) if path.is_file())
    if not files:
        raise SourceMissing(
            f"there is no file at {source}; "
            "name a CSV or parquet file, an image, a folder or glob of them, or "
            f"{ADDRESS}OWNER/NAME for a data set of the Hub"
        )
    return files, None


def _matches(tree: Path, pattern: str) -> Iterator[Path]:
    root = Path(pattern).anchor
    with contextlib.suppress(ValueError):  # glob refuses the pattern, which then matches nothing
        yield from (Path(root) if root else tree).glob(pattern.removeprefix(root))


def why_unusable(file: Path, folder: Path | None, spec: Spec, is_only: bool) -> str:
    """Return why a file is skipped, or "" if the version can use it.

    Args:
        file: a file of the input.
        folder: the folder that the input is, if it is one.
        spec: the spec of the version's inputs.
        is_only: whether the input is this file alone.
    """
    below = file.relative_to(folder).parts if folder else (file.name,)
    suffix = file.suffix.lower()
    if folder and any(part.startswith(".") for part in below):
        return "hidden"
    if folder and suffix == ".parquet" and parquet_files.is_skipped("/".join(below)):
        return "written for other programs"  # _delta_log/ and the like
    if suffix in TABLES:
        if spec.kind == "image" and suffix == ".csv":
            return suffix
        if folder and not file.resolve().is_relative_to(folder.resolve()):
            return "linked from outside the folder"
        return "empty" if not is_only and file.stat().st_size == 0 else ""
    image_suffixes = images.suffixes() | images.HEIC_SUFFIXES
    if spec.kind == "image" and (suffix in image_suffixes or (is_only and not suffix)):
        return ""
    return suffix or "without a suffix"


def requirement(spec: Spec) -> str:
    """Describe the files that the version takes, for messages."""
    if spec.kind == "image":
        return "the version takes image files, or parquet files with a column of images"
    names = ", ".join(spec.features or ())
    return f"the version takes CSV or parquet files with the columns {names}"


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Describe skipped files, like "skipped 3 files: 2 .txt, 1 hidden"; "" if there are none.

    Args:
        skipped: number of files per reason.
    """
    if not skipped:
        return ""
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    total = sum(skipped.values())
    return f"skipped {total} file{'s' if total > 1 else ''}: {counts}"


def name(tree: Path, file: Path) -> str:
    """Return the name of a file in predictions, with bytes that are not UTF-8 escaped.

    It is relative to the checkout `tree` if the file is inside, and otherwise absolute.
    """
    path = str(file.absolute())
    if file.absolute().is_relative_to(tree.absolute()):
        path = os.path.relpath(file, tree)
    return os.fsencode(path).decode("utf-8", "backslashreplace")
