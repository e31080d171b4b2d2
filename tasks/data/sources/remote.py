"""Files behind a URL that fsspec reads, kept in `data/downloads/urls` by their content."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.data.files import writing
from tasks.errors import ParamsError, SourceChanged, SourceMissing, Unreachable

BLOCK = 1 << 20


def is_url(path: str) -> bool:
    return "://" in path


def folder(downloads: Path) -> Path:
    return downloads / "urls"


def local(pinned: dict[str, Any]) -> str:
    return f"{pinned['sha256']}.parquet"


def resolve(url: str, downloads: Path) -> list[dict[str, Any]]:
    """Fetch every file that the URL means (a file, a folder or a pattern) and pin it.

    Raises:
        ParamsError: credentials stand in the URL, or fsspec has no such protocol.
        SourceMissing: there is nothing; Unreachable: the host does not answer, or cut the download.
    """
    with _answering(url) as (system, path):
        if "*" in path or "?" in path:
            found = sorted(system.glob(path))
        elif path.endswith(".parquet") or not system.isdir(path):
            found = [path]
        else:
            found = sorted(name for name in system.find(path) if name.endswith(".parquet"))
        if not found:
            raise SourceMissing(f"ingest.sources: no parquet file at {url}; correct the path")
        base = (
            path.partition("*")[0].rpartition("/")[0]
            if "*" in path
            else path
            if len(found) > 1
            else path.rpartition("/")[0]
        )
        return [{"name": name[len(base) :].lstrip("/"), **_download(system, name, downloads)} for name in found]


def fetch(url: str, pinned: dict[str, Any], downloads: Path) -> None:
    """Have a pinned file here; raises `SourceChanged` if what the URL gives now is another."""
    if (folder(downloads) / local(pinned)).is_file():
        return
    for file in resolve(url, downloads):
        if file == pinned:
            return
    raise SourceChanged(f"{pinned['name']} at {url} is not what source.lock pins; run `ratchet refresh`")


def _download(system: Any, path: str, downloads: Path) -> dict[str, Any]:
    """Stream a file to its place by content; a cut one leaves nothing."""
    digest, size = hashlib.sha256(), 0
    folder(downloads).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder(downloads)) as temporary:
        fetched = Path(temporary) / "fetched"
        with system.open(path, "rb") as source, fetched.open("wb") as target:
            expected = getattr(source, "size", None)
            while block := source.read(BLOCK):
                digest.update(block)
                size += target.write(block)
        if expected not in (None, size):
            raise OSError(f"{size} of {expected} bytes came")
        pinned = {"size": size, "sha256": digest.hexdigest()}
        with writing(folder(downloads) / local(pinned)) as place:
            fetched.replace(place)
    return pinned


@contextmanager
def _answering(url: str) -> Iterator[tuple[Any, str]]:
    from fsspec.core import url_to_fs

    parsed = urlsplit(url)
    if parsed.username or parsed.password:
        raise ParamsError("ingest.sources: take the user and password out of the URL; they belong into the environment")
    try:
        yield url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ParamsError(f"ingest.sources: {url} cannot be read: {error}") from None
    except FileNotFoundError as error:
        missing = error.__cause__ is None or getattr(error.__cause__, "status", None) == 404
        if not (missing or isinstance(error.__cause__, FileNotFoundError)):  # fsspec calls every failure so
            raise Unreachable(f"{url} does not answer: {error.__cause__}; try again") from None
        raise SourceMissing(f"ingest.sources: nothing at {url}; correct the path") from None
    except OSError as error:
        raise Unreachable(f"{url} does not answer: {error}; try again") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "gcsfs", "adlfs"):
            raise Unreachable(f"{url} does not answer: {type(error).__name__}: {error}; try again") from None
        raise
