"""The objects of versions on the DVC remote.

Each step is verified: a push ends with a listing of the remote, and downloaded objects are hashed.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.errors import CorruptData, ObjectsMissing, Unreachable
from ratchet.files import writing
from ratchet.store import transport
from ratchet.store.cache import CHUNK, Cache
from ratchet.store.config import has_remote, hash_downloads
from ratchet.store.pipeline import Output
from ratchet.store.repo import closing_repo

if TYPE_CHECKING:
    from dvc.repo import Repo

TEMPORARY = re.compile(r"\.[\w-]{22}\.tmp")  # a file that DVC writes before it renames it


def push(tree: Path, outputs: Sequence[Output]) -> int:
    """Push the objects of outputs that the default DVC remote lacks, then check that it has all.

    Returns:
        The number of objects of the outputs on the remote; 0 without a remote.

    Raises:
        ObjectsMissing: neither the cache nor the remote has an object, or the remote still lacks
            one after the push.
        CorruptData: an object to be pushed does not match its hash.
        Unreachable: the remote does not respond.
    """
    if not has_remote(tree):
        return 0
    cache = Cache(tree)
    hash_downloads(tree)
    with opened(tree) as repo:
        objects: dict[str, str] = {}  # MD5: what it is
        for output in outputs:
            if output.pushed:
                if output.is_folder and not cache.has(output.md5):
                    _fetch_listing(repo, cache, output.md5, output.path)
                objects |= cache.objects(output)
        lacking = missing(repo, objects)
        for md5 in sorted(lacking):
            cache.check(md5, objects[md5])
        _transfer(repo, lacking, to_remote=True)
        if lacking:
            lacking = missing(repo, objects)
    if lacking:
        names = ", ".join(sorted(objects[md5] for md5 in lacking)[:3])
        raise ObjectsMissing(
            f"the DVC remote lacks {len(lacking)} objects after the push ({names}); push again"
        )
    return len(objects)


def check_present(tree: Path, outputs: Sequence[Output]) -> None:
    """Check that the cache or the remote has every object that a version needs.

    Raises:
        ObjectsMissing: there is no remote, and the cache lacks an object.
    """
    cache = Cache(tree)
    if has_remote(tree):  # `push` has checked the remote
        return
    for output in outputs:
        if not output.pushed:
            continue
        objects = cache.objects(output)
        lacking = sorted(what for md5, what in objects.items() if not cache.has(md5))
        if lacking:
            names = ", ".join(lacking[:3])
            raise ObjectsMissing(f"{names}: not in DVC's cache; `dvc commit`, then run this again")


def pull(tree: Path, output: Output) -> None:
    """Fetch the objects of an output that the cache lacks from the remote, and hash all.

    Raises:
        ObjectsMissing: neither the cache nor a remote has an object.
        CorruptData: an object does not match its hash.
        Unreachable: the remote does not respond.
    """
    cache = Cache(tree)
    pull_listing(tree, output)
    objects = cache.objects(output)
    lacking = {md5: what for md5, what in objects.items() if not cache.has(md5)}
    if lacking:
        _fetch(tree, lacking)
    for md5, what in objects.items():
        cache.check(md5, what)


def pull_listing(tree: Path, output: Output) -> None:
    """Fetch an output as `pull` does, but only the listing of a folder, and without hashing."""
    if not Cache(tree).has(output.md5):
        _fetch(tree, {output.md5: output.path})


def _fetch(tree: Path, objects: dict[str, str]) -> None:
    what = ", ".join(sorted(objects.values())[:3])
    if not has_remote(tree):
        raise ObjectsMissing(
            f"{what}: not in DVC's cache, and no DVC remote is set; `dvc remote add -d NAME URL`"
        )
    hash_downloads(tree)
    with opened(tree) as repo:
        lacking = missing(repo, objects)
        if lacking:
            names = ", ".join(sorted(objects[md5] for md5 in lacking)[:3])
            _check_answers(repo, min(lacking))
            raise ObjectsMissing(
                f"{names}: neither in DVC's cache nor on its remote;"
                " for details, run `ratchet verify --all`"
            )
        for md5 in filter(_is_listing, objects):
            _fetch_listing(repo, Cache(tree), md5, objects[md5])
        _transfer(repo, [md5 for md5 in objects if not _is_listing(md5)], to_remote=False)


def _is_listing(md5: str) -> bool:
    return md5.endswith(".dir")


def _fetch_listing(repo: Repo, cache: Cache, md5: str, what: str) -> None:
    """Copy a folder's listing into the cache, hashed first; DVC would read it unhashed."""
    with writing(cache.path(md5)) as file:
        file.write_bytes(content(repo, md5, what))
        file.chmod(0o444)


def _transfer(repo: Repo, objects: Iterable[str], to_remote: bool) -> None:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    here, there = repo.cache.local, _objects(repo)
    source, target = (here, there) if to_remote else (there, here)
    # Listings of folders go last, because DVC takes one as a sign that its files are there too.
    for folders in (False, True):
        ids = {HashInfo("md5", md5) for md5 in objects if _is_listing(md5) == folders}
        if ids:
            with _failures() as failures:
                try:
                    transfer(
                        source, target, ids, verify=not to_remote, shallow=True, cache_odb=here
                    )
                except FileNotFoundError:
                    _check_folder(there)
                    raise
            if failures:
                raise failures[0]


@contextmanager
def _failures() -> Iterator[list[BaseException]]:
    """Collect the errors of a transfer, which DVC only logs.

    Without them a full disk would look like missing objects.
    """
    failures: list[BaseException] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            # `missing` finds missing objects afterwards
            if error is not None and not isinstance(error, FileNotFoundError):
                failures.append(error)

    handler = Collect(logging.ERROR)
    logger = logging.getLogger("dvc_data.hashfile.transfer")
    logger.addHandler(handler)
    try:
        yield failures
    finally:
        logger.removeHandler(handler)


def missing(repo: Repo, objects: Iterable[str]) -> set[str]:
    """Return the objects that the remote lacks; it is asked for each."""
    md5s = set(objects)
    with transport.explained():
        return md5s - set(_objects(repo).oids_exist(sorted(md5s)))


def _check_answers(repo: Repo, md5: str) -> None:
    """Raise `Unreachable` if the remote does not respond; DVC reports that as a missing object."""
    odb = _objects(repo)
    _check_folder(odb)
    try:
        with odb.fs.open(odb.oid_to_path(md5), "rb") as stream:
            stream.read(1)
    except FileNotFoundError as error:
        # fsspec raises this also for an HTTP server that refuses the connection
        if isinstance(error.__cause__, OSError):
            raise transport.unreachable(error.__cause__) from None


def _check_folder(odb: Any) -> None:
    """Raise `Unreachable` if the remote is a folder that does not exist."""
    if odb.fs.protocol == "local" and not Path(odb.path).exists():
        raise Unreachable(
            f"the DVC remote {odb.path} does not exist; mount it, or see `dvc remote list`"
        )


def delete(repo: Repo, objects: Iterable[str]) -> None:
    """Delete objects from the remote, starting with the listings of folders."""
    odb = _objects(repo)
    for md5 in sorted(objects, key=lambda md5: not md5.endswith(".dir")):
        odb.delete(md5)


def remote_digest(repo: Repo, md5: str) -> str:
    """Return the MD5 of the content that the remote has for an object."""
    odb = _objects(repo)
    hasher = hashlib.md5(usedforsecurity=False)
    with transport.explained(), odb.fs.open(odb.oid_to_path(md5), "rb") as stream:
        while piece := stream.read(CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()


def content(repo: Repo, md5: str, what: str) -> bytes:
    """Return the content that the remote has for an object, after hashing it.

    Raises:
        ObjectsMissing: the remote does not have it.
        CorruptData: its content does not match its hash.
    """
    odb = _objects(repo)
    try:
        with transport.explained(), odb.fs.open(odb.oid_to_path(md5), "rb") as stream:
            data = bytes(stream.read())
    except FileNotFoundError:
        _check_answers(repo, md5)
        raise ObjectsMissing(
            f"{what}: the DVC remote lacks {md5}; `ratchet push --all` sends it"
        ) from None
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5.removesuffix(".dir"):
        raise CorruptData(
            f"{what}: {md5} on the DVC remote does not match its hash;"
            " delete it there, then push again"
        )
    return data


@contextmanager
def opened(tree: Path) -> Iterator[Repo]:
    """Open DVC's repository to use its remote; raise errors as `transport.explained` does."""
    with closing_repo(tree) as repo, transport.explained():
        yield repo


def _objects(repo: Repo) -> Any:
    """Return DVC's database of the objects on the remote.

    If the remote is a folder, DVC's test for existence hashes objects that are not read-only, and
    deletes damaged ones. A test must not change the remote, so this one only tests for existence.
    """
    odb = repo.cloud.get_remote_odb()
    if odb.fs.protocol != "local":
        return odb

    def oids_exist(oids: Iterable[str], *_: Any, **__: Any) -> list[str]:
        return [md5 for md5 in oids if odb.fs.exists(odb.oid_to_path(md5))]

    odb.oids_exist = oids_exist
    return odb
