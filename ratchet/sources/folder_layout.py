"""Which folders of an image folder are splits and which are classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ratchet.errors import CorruptData, SourceMissing
from ratchet.shards.splits import SPLITS, split_of
from ratchet.sources.skipped import Skipped, printable


@dataclass(frozen=True)
class Layout:
    """How the folders of a tree are read."""

    splits: bool  # whether the top folders are splits
    folders: frozenset[tuple[str, ...]]  # the folders of classes: (class,) or (split, class)

    @classmethod
    def of(cls, path: str, names: Sequence[str], skipped: Skipped) -> Layout:
        """Find the only way to read the tree.

        Args:
            path: the source's path, for messages.
            names: the images' paths, relative to it.
            skipped: the skipped files, for messages.

        Raises:
            SourceMissing: no image is in a folder.
            CorruptData: the tree can be read in two ways.
        """
        trails = [PurePosixPath(name).parts[:-1] for name in names]
        top = sorted({trail[0] for trail in trails if trail})
        if not top:
            raise SourceMissing(_nothing(path, names, skipped))
        words = [name for name in top if split_of(name)]
        if not words:
            _refuse_wrapped(path, top, trails)
            _refuse_splits_within(path, trails)
            _refuse_classes_within(path, trails)
            return cls(False, frozenset(trail[:1] for trail in trails if trail))
        _refuse_mixed(path, top, words)
        _refuse_twins(path, words)
        _refuse_without_classes(path, words, trails)
        return cls(True, frozenset(trail[:2] for trail in trails if len(trail) > 1))

    @property
    def depth(self) -> int:
        """The number of folders that name the split and the class."""
        return 2 if self.splits else 1

    def label(self, name: str) -> str | None:
        """The class of an image; None if it is not in the folder of a class."""
        folders = PurePosixPath(name).parts[:-1][: self.depth]
        return folders[-1] if folders in self.folders else None

    def detail(self, folders: tuple[str, ...]) -> dict[str, Any]:
        """The label, and the split if there is one, of the images in a class's folder."""
        label = {"label": folders[-1]}
        return {**label, "split": split_of(folders[0])} if self.splits else label

    def summary(self, count: int) -> str:
        """Such as `12 images in 3 classes, splits train, test`."""
        classes = len({folders[-1] for folders in self.folders})
        text = f"{_counted(count, 'image')} in {_counted(classes, 'class', 'classes')}"
        if not self.splits:
            return text
        present = {split_of(folders[0]) for folders in self.folders}
        return f"{text}, splits {', '.join(split for split in SPLITS if split in present)}"


def _counted(count: int, singular: str, plural: str | None = None) -> str:
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def _listed(names: Iterable[str]) -> str:
    """Up to five names for a message."""
    quoted = [printable(name) for name in names]
    return ", ".join(quoted[:5]) + f" and {len(quoted) - 5} more" * (len(quoted) > 5)


def _refuse_wrapped(path: str, top: Sequence[str], trails: Sequence[tuple[str, ...]]) -> None:
    """Refuse a single folder with subfolders: it may be a class, or contain the data set."""
    nested = sorted({trail[1] for trail in trails if len(trail) > 1})
    if len(top) == 1 and nested:
        raise CorruptData(
            f"ingest.sources: {path} holds the single folder {_listed(top)}, which is either a"
            f" class or the folder around the data set ({_listed(nested)}); set the path to"
            f" {path.rstrip('/')}/{printable(top[0])}, or move its images out of their folders"
        )


def _refuse_splits_within(path: str, trails: Sequence[tuple[str, ...]]) -> None:
    """Refuse `<class>/<split>/`, because the splits would be ignored."""
    within: dict[str, set[str | None]] = {}
    for trail in trails:
        if trail:
            within.setdefault(trail[0], set()).add(split_of(trail[1]) if len(trail) > 1 else None)
    split = sorted(name for name, splits in within.items() if None not in splits)
    if split:
        raise CorruptData(
            f"ingest.sources: {path} can be read in two ways: as classes that contain splits"
            f" (CLASS/SPLIT, in {_listed(split)}), or as classes whose inner folders mean nothing;"
            " arrange it as SPLIT/CLASS to use the splits, or move the images out of the inner"
            " folders"
        )


def _refuse_classes_within(path: str, trails: Sequence[tuple[str, ...]]) -> None:
    """Refuse folders that may be splits or groups: `train_set/<class>/`, or `2020/<class>/`."""
    inner: dict[str, set[str | None]] = {}
    for trail in trails:
        if trail:
            inner.setdefault(trail[0], set()).add(trail[1] if len(trail) > 1 else None)
    groups = {name: folders for name, folders in inner.items() if None not in folders}
    shared = len(groups) == len(inner) and any(
        set.union(*groups.values()) == names for names in groups.values()
    )
    if len(set(map(_split_within, groups)) - {None}) > 1 or (
        shared and max(map(len, groups.values())) > 1
    ):
        folders = sorted({trail[1] for trail in trails if len(trail) > 1})
        raise CorruptData(
            f"ingest.sources: {path} can be read in two ways: as the classes"
            f" {_listed(sorted(inner))}, or as splits or groups ({_listed(sorted(groups))}) that"
            f" hold the classes {_listed(folders)}; move the images out of the inner folders to get"
            " the former, or rename the outer folders to train, val and test to get splits"
        )


def _split_within(name: str) -> str | None:
    """The split in a part of a folder's name: `seg_train`, `test-images`, `train2017`."""
    return next(filter(None, map(split_of, re.findall(r"[^\W\d_]+", name))), None)


def _refuse_mixed(path: str, top: Sequence[str], words: Sequence[str]) -> None:
    others = [name for name in top if name not in words]
    if others:
        raise CorruptData(
            f"ingest.sources: {path} can be read in two ways: as the splits {_listed(words)} beside"
            f" other folders ({_listed(others)}), or as the classes {_listed(top)}; move"
            f" {_listed(others)} out of {path} to get the splits, or rename {_listed(words)} to get"
            " the classes"
        )


def _refuse_twins(path: str, words: Sequence[str]) -> None:
    by_split: dict[str | None, list[str]] = {}
    for word in words:
        by_split.setdefault(split_of(word), []).append(word)
    for split, twins in by_split.items():
        if len(twins) > 1:
            raise CorruptData(
                f"ingest.sources: {path} can be read in two ways: the folders {_listed(twins)} as"
                f" one split ({split}), or as different ones; merge them, or move one out of {path}"
            )


def _refuse_without_classes(
    path: str, words: Sequence[str], trails: Sequence[tuple[str, ...]]
) -> None:
    """Refuse folders that are named like splits but contain no classes, or only splits again."""
    inner: dict[str, set[str]] = {word: set() for word in words}
    for trail in trails:
        if len(trail) > 1:
            inner[trail[0]].add(trail[1])
    bare = [word for word in words if all(map(split_of, inner[word]))]
    if bare:
        raise CorruptData(
            f"ingest.sources: {path} can be read in two ways: as the splits {_listed(words)}, of"
            f" which {_listed(bare)} has no folders of classes, or as classes of these names; sort"
            f" the images of {_listed(bare)} into folders of classes or move it out of {path} to"
            f" get the splits, or rename {_listed(words)} to get the classes"
        )


def _nothing(path: str, names: Sequence[str], skipped: Skipped) -> str:
    if names:
        return (
            f"ingest.sources: the {_counted(len(names), 'image')} at {path} are not in folders; "
            "move each into a folder named after its class"
        )
    reasons = f" ({skipped})" if skipped else ""
    return (
        f"ingest.sources: no image in a class's folder at {path}{reasons}; put images into"
        f" {path}/CLASS/"
    )
