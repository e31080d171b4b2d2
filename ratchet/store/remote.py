"""The bytes of a version: in DVC's cache and on its remote. Nothing is believed: pushes are confirmed by listing,
objects are hashed before they are used, listings of folders are checked before anything is checked
out.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.errors import CorruptData, ObjectsMissing, Unreachable, VersionError
from ratchet.files import beside, writing
from ratchet.locks import heal_rwlock
from ratchet.repository import home
from ratchet.store import pipeline, transport
from ratchet.store.cache import CHUNK, Cache
from ratchet.store.pipeline import Output

if TYPE_CHECKING:
    from dvc.repo import Repo

TEMPORARY = re.compile(r"\.[\w-]{22}\.tmp")  # a file that DVC writes before it renames it


def push(tree: Path, outputs: Sequence[Output]) -> int:
    """Push what the default DVC remote (if there is one) lacks of the outputs, then confirm each object by listing.

    Returns:
        How many objects the remote now holds for certain; 0 without a remote.

    Raises:
        ObjectsMissing: neither the cache nor the remote has an object, or the remote still lacks
        one after the push.
        CorruptData: an object to be pushed does not match its hash.
        Unreachable: the remote does not answer.
    """
    if not configured(tree):
        return 0
    cache = Cache(tree)
    hash_downloads(tree)
    with opened(tree) as repo:
        objects: dict[str, str] = {}
        for output in outputs:
            if output.pushed:
                if output.is_folder and not cache.has(output.md5):
                    _fetch_listing(repo, cache, output.md5, output.path)
                objects |= cache.objects(output)
        lacking = missing(repo, objects)
        for md5 in sorted(lacking):
            cache.check(md5, objects[md5])
        _transfer(repo, lacking, to_remote=True)
        still = missing(repo, objects) if lacking else set()
    if still:
        names = ", ".join(sorted(objects[md5] for md5 in still)[:3])
        raise ObjectsMissing(
            f"the DVC remote lacks {len(still)} objects after the push ({names}); push again"
        )
    return len(objects)


def check_present(tree: Path, outputs: Sequence[Output]) -> None:
    """Check that the cache or the remote has every object that a version needs.

    Raises:
        ObjectsMissing: there is no remote, and the cache lacks one.
    """
    cache = Cache(tree)
    if configured(tree):  # `push` has confirmed them there
        return
    for output in outputs:
        if output.pushed:
            lacking = sorted(
                what for md5, what in cache.objects(output).items() if not cache.has(md5)
            )
            if lacking:
                raise ObjectsMissing(
                    f"{', '.join(lacking[:3])}: not in DVC's cache; `dvc commit`, then run this"
                    " again"
                )


def pull(tree: Path, output: Output) -> None:
    """Bring an output's objects from the remote where the cache lacks them; all are hashed.

    Raises:
        ObjectsMissing: neither the cache nor a remote has one of them.
        CorruptData: one of them does not match its hash.
        Unreachable: the remote does not answer.
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
    """As `pull`, but of a folder its listing alone, unhashed."""
    if not Cache(tree).has(output.md5):
        _fetch(tree, {output.md5: output.path})


def configured(tree: Path) -> bool:
    """Has this checkout a default DVC remote?"""
    return bool(_config(tree).get("core", {}).get("remote"))


def _fetch(tree: Path, objects: dict[str, str]) -> None:
    what = ", ".join(sorted(objects.values())[:3])
    if not configured(tree):
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
                f"{names}: neither in DVC's cache nor on its remote; `ratchet verify --all` tells"
                " more"
            )
        for md5 in filter(_is_listing, objects):
            _fetch_listing(repo, Cache(tree), md5, objects[md5])
        _transfer(repo, [md5 for md5 in objects if not _is_listing(md5)], to_remote=False)


def _is_listing(md5: str) -> bool:
    return md5.endswith(".dir")


def _fetch_listing(repo: Repo, cache: Cache, md5: str, what: str) -> None:
    """Copy a folder's listing into the cache; DVC would read it before hashing it."""
    with writing(cache.path(md5)) as file:
        file.write_bytes(content(repo, md5, what))
        file.chmod(0o444)


def _transfer(repo: Repo, objects: Iterable[str], to_remote: bool) -> None:
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    here, there = repo.cache.local, _objects(repo)
    source, target = (here, there) if to_remote else (there, here)
    # folders last: one that is there says that its files are
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
    """What stopped a transfer, which DVC only logs: a full disk would look like missing objects."""
    failures: list[BaseException] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            # what is missing is found by asking for it afterwards
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
    """Those that the remote does not hold, by asking it for each."""
    wanted = set(objects)
    with transport.explained():
        return wanted - set(_objects(repo).oids_exist(sorted(wanted)))


def _check_answers(repo: Repo, md5: str) -> None:
    """Tell a remote that lacks an object from one that is gone: DVC reports both as "not there"."""
    odb = _objects(repo)
    _check_folder(odb)
    try:
        with odb.fs.open(odb.oid_to_path(md5), "rb") as stream:
            stream.read(1)
    except FileNotFoundError as error:
        if isinstance(
            error.__cause__, OSError
        ):  # fsspec's HTTP says "not found" of a host that refuses
            raise transport.unreachable(error.__cause__) from None


def _check_folder(odb: Any) -> None:
    """Raise `Unreachable` if the remote is a folder that does not exist."""
    if odb.fs.protocol == "local" and not Path(odb.path).exists():
        raise Unreachable(
            f"the DVC remote {odb.path} is not there; mount it, or see `dvc remote list`"
        )


def delete(repo: Repo, objects: Iterable[str]) -> None:
    """Delete objects from the remote, the listings of folders first."""
    odb = _objects(repo)
    for md5 in sorted(objects, key=lambda md5: not md5.endswith(".dir")):
        odb.delete(md5)


def remote_digest(repo: Repo, md5: str) -> str:
    """MD5 of the content that the remote has for an object."""
    odb = _objects(repo)
    hasher = hashlib.md5(usedforsecurity=False)
    with transport.explained(), odb.fs.open(odb.oid_to_path(md5), "rb") as stream:
        while piece := stream.read(CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()


def content(repo: Repo, md5: str, what: str) -> bytes:
    """The content that the remote has for an object, hashed.

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
            f"{what}: {md5} on the DVC remote does not match its hash; delete it there, then push"
            " again"
        )
    return data


@contextmanager
def opened(tree: Path) -> Iterator[Repo]:
    """DVC's repository, for talking to its remote; raises what `transport.explained` does."""
    with closing_repo(tree) as repo, transport.explained():
        yield repo


@contextmanager
def closing_repo(tree: Path) -> Iterator[Repo]:
    """DVC's repository; errors in the block stay as they are."""
    repo = _repo(tree)
    try:
        yield repo
    finally:
        repo.close()


def _objects(repo: Repo) -> Any:
    """The objects on the remote.

    Of a folder, DVC hashes what is not read-only when it is asked whether it exists, and deletes
    it if it is damaged. A question must not change the remote, so this asks for existence alone.
    """
    odb = repo.cloud.get_remote_odb()
    if odb.fs.protocol != "local":
        return odb

    def oids_exist(oids: Iterable[str], *_: Any, **__: Any) -> list[str]:
        return [md5 for md5 in oids if odb.fs.exists(odb.oid_to_path(md5))]

    odb.oids_exist = oids_exist
    return odb


def _repo(tree: Path) -> Repo:
    """DVC's repository with a site cache of its own: the shared one is world-writable and holds pickles."""
    from dvc.repo import Repo

    heal_rwlock(tree)
    site = tree.resolve() / ".dvc" / "tmp" / "site"
    settings = {
        "core": {"site_cache_dir": str(site)},
        "cache": {"dir": str(Cache(tree).root)},
    }
    return Repo(str(tree), config=settings)


def _config(tree: Path) -> dict[str, Any]:
    from dvc.config import Config, ConfigError

    if not (tree / ".dvc").is_dir():
        raise VersionError(
            f"{tree.resolve()} has no .dvc folder; run this at the root of a Ratchet checkout"
        )
    try:
        return dict(Config(str(tree / ".dvc")))
    except ConfigError as error:
        raise VersionError(f"DVC's configuration can't be read: {transport.line(error)}") from None


def checkout(tree: Path, check: bool = False) -> list[str]:
    """Bring the outputs that `dvc.lock` names into `tree` from the cache, as far as the cache has them.

    Args:
        check: hash every object first (DVC itself trusts what is read-only); the listings of
            folders always are.

    Returns:
        The outputs that the cache lacks.

    Raises:
        CorruptData: an object does not match its hash, or a listing names a path outside its
            folder; nothing was written.
    """
    cache = Cache(tree)
    lacking = []
    found: list[str] = []
    for output in pipeline.of_tree(tree, whole=False).outputs:
        if not output.cached:
            continue
        if not cache.has(output.md5) or not all(map(cache.has, cache.objects(output))):
            lacking.append(output.path)
            continue
        found.append(output.path)
        for md5, what in cache.objects(output).items() if check else ():
            cache.check(md5, what)
    if found:
        _lay_out(tree, found)
    return lacking


def _lay_out(tree: Path, outputs: Sequence[str]) -> None:
    from dvc.exceptions import DvcException

    repo = _repo(tree)
    try:
        repo.checkout(targets=[str(tree.resolve() / path) for path in outputs], force=True)
    except DvcException as error:
        raise ObjectsMissing(
            f"DVC could not lay out {', '.join(outputs)} in {tree}: {transport.line(error)}"
        ) from None
    finally:
        repo.close()


def share(tree: Path, into: Path) -> None:
    """Let DVC in the worktree `into` use the cache of `tree`, with the main checkout's local settings (credentials)."""
    known = _config(into).get("remote", {})
    held = _local(home(tree))
    for name in held.sections:
        remote = re.fullmatch(r"remote [\"'](.*)[\"']", name)
        if remote and remote[1] not in known and "url" not in held[name]:
            del held[
                name
            ]  # what `into` holds is older than that remote, and half a remote is an error of DVC's
    held.setdefault("cache", {})["dir"] = str(Cache(tree).root.resolve())
    _write_local(into, held)


def share_cache(tree: Path) -> None:
    """Have plain DVC in a linked worktree use the cache that `Cache` uses there."""
    root = Cache(tree).root
    if root != (tree / ".dvc" / "cache").resolve() and home(tree) != tree.resolve():
        share(tree, tree)


def code_hashes(tree: Path) -> dict[str, str]:
    """The code deps of dvc.yaml with the MD5 that DVC gives to each now; "" where it is missing.

    Raises:
        VersionError: DVC cannot read the graph.
    """
    from dvc.dependency import Dependency
    from dvc.exceptions import DvcException

    repo = _repo(tree)
    try:
        stages = repo.index.stages
        outputs = [out.def_path for stage in stages for out in stage.outs]
        deps = {
            dep.def_path: dep for stage in stages for dep in stage.deps if type(dep) is Dependency
        }
        code = [path for path in deps if path != pipeline.SOURCES]
        return {
            path: deps[path].get_hash().value if deps[path].exists else ""
            for path in code
            if not any(pipeline.within(path, output) for output in outputs)
        }
    except DvcException as error:
        raise VersionError(
            f"DVC cannot read {pipeline.PIPELINE} in {tree}: {transport.line(error)}"
        ) from None
    finally:
        repo.close()


def hash_downloads(tree: Path) -> None:
    """Have plain `dvc pull` hash what it downloads: set `verify = true` for each remote.

    It is set in the checkout's own settings, and only where no setting decides it.
    """
    if not _undecided(tree):
        return
    folder = tree / ".dvc" / "tmp"
    folder.mkdir(exist_ok=True)
    with (folder / "ratchet-config.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = _local(tree)
        for name in _undecided(tree):
            settings.setdefault(f'remote "{name}"', {})["verify"] = "true"
        _write_local(tree, settings)


def _undecided(tree: Path) -> list[str]:
    """Remotes for which neither settings file of the checkout has `verify` (DVC fills in its default)."""
    files = [_settings(tree / ".dvc" / name) for name in ("config", "config.local")]
    remotes = _config(tree).get("remote", {})
    return [
        name
        for name in remotes
        if not any("verify" in file.get(f'remote "{name}"', {}) for file in files)
    ]


def _local(tree: Path) -> Any:
    return _settings(tree / ".dvc" / "config.local")


def _settings(file: Path) -> Any:
    from configobj import ConfigObj  # type: ignore[import-untyped]  # DVC's own reader

    return ConfigObj(str(file), interpolation=False, encoding="utf-8")


def _write_local(tree: Path, held: Any) -> None:
    """Replace the tree's `.dvc/config.local`, which git ignores and only its owner may read."""
    local = tree / ".dvc" / "config.local"
    (local.parent / "tmp").mkdir(exist_ok=True)
    with beside(local.parent / "tmp" / local.name) as folder:
        new = folder / local.name
        new.touch(mode=0o600)
        with new.open("wb") as file:
            held.write(file)
        new.replace(local)
