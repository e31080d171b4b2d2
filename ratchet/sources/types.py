"""Pin and read sources of all types.

The libraries of a type are only imported when it is used.
"""

from __future__ import annotations

from types import ModuleType
from typing import cast

from ratchet.errors import DataError, ParamsError
from ratchet.source_params import Source
from ratchet.sources import urls
from ratchet.sources.base import Entry, Part, Places, Rows


def resolve(source: Source, places: Places) -> Entry:
    """Pin the current upstream data, for source.lock.

    Raises:
        ParamsError: the params of the source are wrong.
        SourceMissing: the data do not exist.
        Unreachable: the host does not respond.
        CorruptData: the data cannot be read.
    """
    path = getattr(source, "path", "")
    if urls.is_url(path) and source.type != "parquet":
        raise ParamsError(
            f"ingest.sources: {path} is a URL, but a {source.type} source reads local files only; "
            "download it, or use a parquet source"
        )
    return cast("Entry", _module(source).resolve(source, places))


def parts(source: Source, entry: Entry, places: Places) -> list[Part]:
    """List the parts of a source that can be read separately, in a fixed order."""
    return cast("list[Part]", _module(source).parts(source, entry, places))


def read(part: Part) -> Rows:
    """Read the rows of a part. Pinned files that are missing or damaged are fetched first.

    Raises:
        SourceMissing: a file is missing.
        SourceChanged: a file is not what source.lock pins.
        Unreachable: the host does not respond.
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
            from ratchet.sources import torchvision_sets

            return torchvision_sets
        case "parquet":
            from ratchet.sources import parquet_files

            return parquet_files
        case "huggingface":
            from ratchet.sources import huggingface

            return huggingface
        case "imagefolder":
            from ratchet.sources import imagefolder

            return imagefolder
        case "csv":
            from ratchet.sources import csv_files

            return csv_files
        case "custom":
            from ratchet.sources import custom

            return custom
