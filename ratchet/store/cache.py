"""DVC's cache on this disk, read without DVC: importing that costs 0.2 s, which a rollback would feel.

Objects are hashed before they are used, and the listing of a folder is checked before anything is
laid out by it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path, PurePosixPath

from ratchet.errors import CorruptData, ObjectsMissing, VersionError
from ratchet.repository import home
from ratchet.store.pipeline import Output

CHUNK = 1 << 20  # bytes read at once
_MD5 = re.compile(r"[0-9a-f]{32}")


class Cache:
    """DVC's cache on this disk, read without DVC."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.root = _root(tree)

    def path(self, md5: str) -> Path:
        """Where the object lies, or would lie."""
        return self.root / "files" / "md5" / md5[:2] / md5[2:]

    def has(self, md5: str) -> bool:
        return self.path(md5).is_file()

    def check(self, md5: str, what: str) -> Path:
        """The object's path once its content was hashed.

        Raises:
            ObjectsMissing: it is not in the cache.
            CorruptData: its content is not what its name says.
        """
        file = self.path(md5)
        if not file.is_file():
            raise ObjectsMissing(
                f"{what} is not in DVC's cache ({file}); `dvc fetch` or `ratchet verify` tells more"
            )
        if digest(file, "md5") != md5.removesuffix(".dir"):
            raise CorruptData(
                f"{what}: {file} does not match its hash; remove that file, then pull it again"
            )
        return file

    def listing(self, md5: str, what: str) -> dict[str, str]:
        """The files of a folder: relative path to MD5, hashed and checked.

        Raises as `check` does.
        """
        return listing(self.check(md5, what).read_bytes(), what)

    def objects(self, output: Output) -> dict[str, str]:
        """All objects of an output: their MD5 and what they are; a folder's listing comes first."""
        found = {output.md5: output.path}
        if output.is_folder:
            files = self.listing(output.md5, output.path)
            found |= {md5: f"{output.path}/{name}" for name, md5 in files.items()}
        return found


def listing(content: bytes, what: str) -> dict[str, str]:
    """Read DVC's listing of a folder: relative path to MD5.

    Raises:
        CorruptData: a path in it would leave the folder, or it is not a listing.
    """
    try:
        read = json.loads(content)
        entries = [(str(entry["relpath"]), str(entry["md5"])) for entry in read]
        if not isinstance(read, list):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise CorruptData(
            f"{what}: its listing is not one that DVC writes; `ratchet verify`"
        ) from None
    for name, md5 in entries:
        parts = PurePosixPath(name).parts
        odd = (
            not parts
            or name.startswith("/")
            or ".." in parts
            or ".git" in parts
            or "\0" in name
            or "\\" in name
        )
        if odd or str(PurePosixPath(name)) != name or not _MD5.fullmatch(md5):
            raise CorruptData(
                f"{what}: its listing names {name!r}, which is not a path inside it; nothing was"
                " written"
            )
    return dict(entries)


def digest(file: Path, algorithm: str) -> str:
    """Hexadecimal hash of a file, read in pieces."""
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()


def _root(tree: Path) -> Path:
    """The folder that DVC's settings name: the checkout's, local ones first, then the user's.

    Where none does, a linked worktree without a cache of its own uses the main checkout's.
    """
    folder = tree / ".dvc"
    if not folder.is_dir():
        raise VersionError(
            f"{tree.resolve()} has no .dvc folder; run this at the root of a Ratchet checkout"
        )
    for file in (folder / "config.local", folder / "config"):
        named = _named(file)
        if named:
            return (folder / Path(named).expanduser()).resolve()
    if any((place / "config").exists() for place in _elsewhere()):
        from dvc.config import Config

        return Path(Config(str(folder))["cache"].get("dir") or folder / "cache").resolve()
    own = folder / "cache"
    return (own if own.is_dir() else home(tree) / ".dvc" / "cache").resolve()


def _named(file: Path) -> str | None:
    from configobj import ConfigObj, ConfigObjError  # type: ignore[import-untyped]  # DVC's reader

    if not file.is_file():
        return None
    try:
        settings = ConfigObj(str(file), interpolation=False, encoding="utf-8")
    except (ConfigObjError, UnicodeDecodeError) as error:
        raise VersionError(
            f"{file} can't be read: {error}; for details, run `dvc config --list`"
        ) from None
    named = settings.get("cache", {}).get("dir")
    return None if named is None else str(named)


def _elsewhere() -> list[Path]:
    """Where DVC looks for settings of the user and of the machine."""
    from platformdirs import site_config_dir, user_config_dir

    return [
        Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user_config_dir("dvc", "iterative")),
        Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or site_config_dir("dvc", "iterative")),
    ]
