"""Files behind a URL that fsspec reads, stored in `data/downloads/urls` by their content.

`refresh` skips a download if the server's validator, such as an ETag, has not changed since.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from ratchet.errors import ParamsError, RatchetError, SourceChanged, SourceMissing, Unreachable
from ratchet.files import beside, write_json

BLOCK = 1 << 20  # bytes
SUFFIX = ".parquet"
RESERVED = "%/:?#[]@!$&'()*+,;=~"  # characters that a URL may hold unquoted
CHECKSUMS = ("ETag", "Content-MD5", "Digest", "md5Hash", "crc32c", "etag")  # as fsspec names them
SETTLED_S = 60.0  # a file modified more recently than this may change again with the same date
LIBRARIES = ("aiohttp", "botocore", "gcsfs", "adlfs", "google", "azure")  # errors: unreachable
BUSY = (408, 425, 429)  # HTTP statuses from 400 to 499 that are temporary


def is_url(path: str) -> bool:
    """Whether a path of the params is a URL."""
    return "://" in path


def shown(url: str) -> str:
    """The URL without its query, which may be a signature."""
    return f"{url.partition('?')[0]}?…" if _is_http(url) and "?" in url else url


def folder(downloads: Path) -> Path:
    """The folder of the downloaded files."""
    return downloads / "urls"


def local(pinned: dict[str, Any]) -> str:
    """The name of a downloaded file."""
    return f"{pinned['sha256']}.parquet"


def resolve(url: str, downloads: Path) -> tuple[list[dict[str, Any]], str]:
    """Pin every file that the URL means: a file, a folder or a pattern.

    Returns:
        The pins, and a sentence about what was downloaded.

    Raises:
        ParamsError: the URL contains credentials, or fsspec does not know its protocol.
        SourceMissing: there are no files.
        Unreachable: the host does not respond, or the download was interrupted.
    """
    with _place(url) as place:
        paths, others = place.paths()
        if not paths:
            raise SourceMissing(
                f"ingest.sources: no parquet file at {shown(url)}; correct the path"
            )
        files, skipped = [], 0
        for path in paths:
            pinned = _unchanged(place, path, downloads)
            skipped += pinned is not None
            pinned = pinned or _download(place, path, downloads)
            files.append({"name": place.name(path), **pinned})
    note = f"{shown(url)}: {len(paths) - skipped:,} of {len(paths):,} files downloaded"
    if skipped:
        note += f", {skipped:,} not downloaded again because the server reports no change"
    if others:
        note += f"; {len(others):,} other files skipped ({place.name(others[0])}, say)"
    return files, note


def fetch(url: str, name: str, pinned: dict[str, Any], downloads: Path) -> None:
    """Download the file with this name.

    Raises:
        SourceChanged: the file is not the pinned one.
    """
    with _place(url) as place:
        downloaded = _download(place, place.path(name), downloads)
    if downloaded["sha256"] != pinned["sha256"]:
        raise SourceChanged(
            f"{name} at {shown(url)} is not what source.lock pins: expected SHA-256 "
            f"{pinned['sha256'][:12]}…, found {downloaded['sha256'][:12]}…; run `ratchet refresh`"
            " to pin the new one"
        )


@dataclass(frozen=True)
class _Place:
    """What a URL means, in fsspec's terms; files have names relative to `base`."""

    system: Any
    target: str  # a file, a folder or a pattern; without the protocol, except for HTTP
    http: bool
    wildcard: int  # index of the first wildcard in `target`; -1: there is none

    @property
    def base(self) -> str:
        """The last folder above the first wildcard."""
        if self.wildcard >= 0:
            return self.target[: self.wildcard].rpartition("/")[0]
        return self.target.rstrip("/")

    def paths(self) -> tuple[list[str], list[str]]:
        """The files to read, and the other files there, which are skipped."""
        if self.wildcard >= 0:
            return self._sorted(self._matches())
        plain = self._plain(self.target)
        file = self.http and (plain.endswith(SUFFIX) or "?" in self.target)
        if file or not self.system.isdir(self.target):
            return [self.target], []
        return self._sorted(set(self.system.find(self.target)))

    def name(self, path: str) -> str:
        """A file's name in source.lock: never empty, and percent-decoded."""
        rest = path[len(self.base) :].lstrip("/")
        if path == self.target:
            rest = self._plain(path).rstrip("/").rpartition("/")[2]
        return unquote(rest) if self.http else rest

    def path(self, name: str) -> str:
        """The inverse of `name`."""
        if self.wildcard < 0 and name == self.name(self.target):
            return self.target
        return f"{self.base}/{quote(name, safe=RESERVED) if self.http else name}"

    def _matches(self) -> set[str]:
        """The files that match the pattern, or are in a folder that matches."""
        paths: set[str] = set()
        for path, info in self.system.glob(self.target, detail=True).items():
            paths |= set(self.system.find(path)) if info["type"] == "directory" else {path}
        return paths

    def _sorted(self, paths: set[str]) -> tuple[list[str], list[str]]:
        """Separate parquet files from others, such as those that Spark hides (`_temporary/`)."""
        inside = sorted(
            path
            for path in paths
            # A link with a query only sorts a listing.
            if path.startswith(f"{self.base}/") and path == self._plain(path)
        )
        chosen = [path for path in inside if path.endswith(SUFFIX) and not _hidden(self.name(path))]
        return chosen, [path for path in inside if path not in set(chosen)]

    def _plain(self, path: str) -> str:
        return path.partition("?")[0] if self.http else path


def _download(place: _Place, path: str, downloads: Path) -> dict[str, Any]:
    """Stream a file to its place by content; an interrupted download leaves nothing."""
    digest, size = hashlib.sha256(), 0
    info = place.system.info(path)
    started = time.time()
    folder(downloads).mkdir(parents=True, exist_ok=True)
    with beside(folder(downloads) / "download") as temporary:
        fetched = temporary / "file"
        options = {"block_size": 0} if place.http else {}  # one request, so one version of the file
        with place.system.open(path, "rb", **options) as source, fetched.open("wb") as target:
            while block := source.read(BLOCK):
                digest.update(block)
                size += target.write(block)
        if info.get("size") not in (None, size):
            raise Unreachable(
                f"{place.name(path)}: the download ended after {size:,} of {info['size']:,} bytes;"
                " try again"
            )
        pinned = {"size": size, "sha256": digest.hexdigest()}
        fetched.replace(folder(downloads) / local(pinned))
    if validator := _validator(info, started):
        write_json(_record(place, path, downloads), {"validator": validator, **pinned})
    return pinned


def _unchanged(place: _Place, path: str, downloads: Path) -> dict[str, Any] | None:
    """The pin of an earlier download, if the server reports that the file has not changed."""
    try:
        record = json.loads(_record(place, path, downloads).read_text(encoding="utf-8"))
        pinned = {"size": int(record["size"]), "sha256": str(record["sha256"])}
        stored = (folder(downloads) / local(pinned)).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    now = _validator(place.system.info(path), time.time())
    return pinned if now and now == record.get("validator") and stored == pinned["size"] else None


def _record(place: _Place, path: str, downloads: Path) -> Path:
    """Where the validator of a file is stored."""
    protocol = place.system.protocol
    name = json.dumps([protocol, place._plain(path)], default=str)
    return downloads / "validators" / f"{hashlib.sha256(name.encode()).hexdigest()}.json"


def _validator(info: dict[str, Any], now: float) -> str | None:
    """What changes whenever the bytes do: a strong ETag, a checksum, or an old date and a size."""
    size = info.get("size")
    for key in CHECKSUMS:
        value = info.get(key)
        if isinstance(value, str) and value and not value.startswith("W/"):
            return f"{key} {value}, {size} bytes"
    try:
        modified = parsedate_to_datetime(info["Last-Modified"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
    if size is None or now - modified < SETTLED_S:
        return None
    return f"Last-Modified {info['Last-Modified']}, {size} bytes"


# ── errors ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _place(url: str) -> Iterator[_Place]:
    """Open the URL, and turn the exceptions of fsspec and its libraries into Ratchet's."""
    try:
        yield _opened(url)
    except RatchetError:
        raise
    except (ImportError, ValueError) as error:
        raise ParamsError(
            f"ingest.sources: {shown(url)} cannot be read: {_masked(error, url)}"
        ) from None
    except FileNotFoundError as error:  # fsspec raises this for every HTTP failure, with its cause
        raise _missing(url, error.__cause__ or error) from None
    except PermissionError as error:
        raise SourceMissing(
            f"ingest.sources: {shown(url)} may not be read: {_masked(error, url)}; check the path"
            " and the credentials"
        ) from None
    except Exception as error:
        library = type(error).__module__.partition(".")[0] in LIBRARIES
        if not isinstance(error, OSError) and not library:
            raise
        raise _missing(url, error) from None


def _missing(url: str, cause: BaseException) -> RatchetError:
    status = getattr(cause, "status", None)
    if isinstance(cause, FileNotFoundError) or status in (404, 410):
        return SourceMissing(f"ingest.sources: nothing at {shown(url)}; correct the path")
    text = f"{type(cause).__name__}: {_masked(cause, url)}"
    if isinstance(status, int) and 400 <= status < 500 and status not in BUSY:
        return SourceMissing(
            f"ingest.sources: {shown(url)} was refused: {text}; check the path and the credentials"
        )
    return Unreachable(f"{shown(url)} does not answer: {text}; try again")


def _masked(error: BaseException, url: str) -> str:
    query = url.partition("?")[2] if _is_http(url) else ""
    text = " ".join(str(error).split())
    return text.replace(query, "…") if query else text


def _opened(url: str) -> _Place:
    from fsspec.core import url_to_fs

    parsed = urlsplit(url)
    if parsed.username or parsed.password:
        raise ParamsError(
            "ingest.sources: a URL holds a user or password; put them into the environment instead"
        )
    http = _is_http(url)
    options: dict[str, Any] = {}
    if http:
        if parsed.query.endswith(SUFFIX) and "=" not in parsed.query:
            raise ParamsError(
                f"ingest.sources: in {url} the ? may mean any character or start the query; in an "
                "HTTP URL it starts the query, so write * or [0-9] for a pattern"
            )
        url = quote(url, safe=RESERVED)
        proxies = {"trust_env": not _loopback(parsed.hostname or "")}
        options = {"encoded": True, "client_kwargs": proxies}
    system, target = url_to_fs(url, **options)
    system.invalidate_cache()
    first = _wildcard(target.partition("?")[0], "*[") if http else _wildcard(target, "*?[")
    if first >= 0 and http and parsed.query:
        raise ParamsError(
            f"ingest.sources: {shown(url)} has both a pattern and a query; name a single file, or"
            " leave the query out"
        )
    if first >= 0 and "*" not in target and system.isfile(target):
        first = -1  # a file whose name contains ? or [
    return _Place(system, target, http, first)


def _hidden(name: str) -> bool:
    """Whether Spark skips the file: a part begins with "." or "_" and is not a partition."""
    parts = name.split("/")
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def _wildcard(text: str, characters: str) -> int:
    return min((text.find(c) for c in characters if c in text), default=-1)


def _is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _loopback(host: str) -> bool:
    """Whether the host is this machine, which a proxy cannot reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
