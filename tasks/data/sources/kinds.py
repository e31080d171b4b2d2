"""Sources by type: what they are upstream, and their rows. A type's libraries are imported when it is used."""

from __future__ import annotations

from types import ModuleType
from typing import cast

from tasks.data.sources import remote
from tasks.data.sources.base import Entry, Part, Places, Rows
from tasks.errors import DataError, ParamsError
from tasks.params import Source


def resolve(source: Source, places: Places) -> Entry:
    """What upstream is now, as source.lock pins it.

    Raises:
        SourceMissing, Unreachable, CorruptData: it is unavailable, or not what it should be.
    """
    path = getattr(source, "path", "")
    if remote.is_url(path) and source.type != "parquet":
        raise ParamsError(
            f"ingest.sources: {path} is a URL, but a {source.type} source reads local files only; "
            "download it, or use a parquet source"
        )
    return cast("Entry", _module(source).resolve(source, places))


def parts(source: Source, entry: Entry, places: Places) -> list[Part]:
    return cast("list[Part]", _module(source).parts(source, entry, places))


def read(part: Part) -> Rows:
    """The rows of a part; fetches its pinned files first if they are missing or damaged here.

    Raises:
        SourceMissing, SourceChanged: a file is gone, or is not what source.lock pins.
        Unreachable: the host that has the file does not answer.
    """
    module = _module(part.source)
    fetch = getattr(module, "fetch", None)
    try:
        part.verify()
    except DataError:
        if fetch is None:
            raise
        fetch(part)
        part.verify()
    return cast("Rows", module.read(part))


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
