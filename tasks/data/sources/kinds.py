"""Sources by type: what they are upstream, and their rows. A type's libraries are imported when it is used."""

from __future__ import annotations

from types import ModuleType
from typing import cast

from tasks.data.sources.base import Entry, Part, Places, Rows
from tasks.params import Source


def resolve(source: Source, places: Places) -> Entry:
    """What upstream is now, as source.lock pins it; raises `SourceMissing`, `Unreachable` or `CorruptData`."""
    return cast("Entry", {"type": source.type, **_module(source).resolve(source, places)})


def parts(source: Source, entry: Entry, places: Places) -> list[Part]:
    return cast("list[Part]", _module(source).parts(source, entry, places))


def read(part: Part) -> Rows:
    """The rows of a part whose files are what source.lock pins, else raises `SourceChanged`."""
    part.verify()
    return cast("Rows", _module(part.source).read(part))


def _module(source: Source) -> ModuleType:
    match source.type:
        case "torchvision":
            from tasks.data.sources import vision

            return vision
        case "parquet":
            from tasks.data.sources import parquet_files

            return parquet_files
        case "huggingface":
            from tasks.data.sources import hub

            return hub
        case "imagefolder":
            from tasks.data.sources import folders

            return folders
        case "csv":
            from tasks.data.sources import csv_files

            return csv_files
        case "custom":
            from tasks.data.sources import customs

            return customs
