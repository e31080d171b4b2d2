"""Files that a source skips, counted by reason, with an example of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import starmap

from ratchet.sources.base import Places


@dataclass
class Skipped:
    """The names of skipped files, by reason."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Record a skipped file."""
        self.names.setdefault(reason, []).append(name)

    def __len__(self) -> int:
        return sum(map(len, self.names.values()))

    def __str__(self) -> str:
        """Such as `skipped 3: 2 suffix (notes.txt, ...), 1 link (out.png)`.

        Empty if there are none.
        """
        if not self.names:
            return ""
        counts = starmap(self._counted, sorted(self.names.items()))
        return f"skipped {len(self):,}: {', '.join(counts)}"

    @staticmethod
    def _counted(reason: str, names: list[str]) -> str:
        example = printable(min(names))
        return f"{len(names):,} {reason} ({example}{', ...' if len(names) > 1 else ''})"


def printable(name: str) -> str:
    """Escape what cannot be printed in a file's name: control characters and invalid UTF-8."""
    escaped = (
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in name
    )
    return "".join(escaped)


def note_skipped(places: Places, path: str, names: Sequence[str]) -> None:
    """Note which files of a folder are skipped: all except `names`, which `matching` returned."""
    root = places.find(path)
    if not root.is_dir():
        return
    read, skipped = set(names), Skipped()
    for file in root.rglob("*"):
        name = file.relative_to(root).as_posix()
        if name not in read and not file.is_dir():
            skipped.add("hidden" if file.name.startswith(".") else "suffix", name)
    if skipped:
        places.notes.append(f"{path}: {skipped}")
