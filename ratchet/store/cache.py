"""DVC's cache on this disk, read without importing DVC, which would slow a rollback by 0.2 s.

Objects are hashed before they are used, and the listing of a folder is checked before it is used to
check out files.
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
    """DVC's cache on this disk.

    Args:
        tree: the checkout that uses the cache.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.root = _root(tree)

    def path(self, md5: str) -> Path:
        """Return where the object is, or would be."""
        return self.root / "files" / "md5" / md5[:2] / md5[2:]

    def has(self, md5: str) -> bool:
        """Does the cache have this object?"""
        return self.path(md5).is_file()

    def check(self, md5: str, what: str) -> Path:
        """Hash the object and return its path.

        Args:
            md5: the MD5 of the object.
            what: what the object is, for messages.

        Raises:
            ObjectsMissing: it is not in the cache.
            CorruptData: its content does not match its hash.
        """
        file = self.path(md5)
        if not file.is_file():
            raise ObjectsMissing(
                f"{what} is not in DVC's cache ({file}); run `dvc fetch` or `ratchet verify`"
            )
        if digest(file, "md5") != md5.removesuffix(".dir"):
            raise CorruptData(
                f"{what}: {file} does not match its hash; remove that file, then pull it again"
            )
        return file

    def listing(self, md5: str, what: str) -> dict[str, str]:
        """Return the MD5 of the files of a folder by relative path, after hashing the listing.

        Raises:
            ObjectsMissing: the listing is not in the cache.
            CorruptData: the listing does not match its hash, or is not safe to use.
        """
        return listing(self.check(md5, what).read_bytes(), what)

    def objects(self, output: Output) -> dict[str, str]:
        """Return the paths of all objects of an output by MD5, starting with a folder's listing."""
        paths = {output.md5: output.path}
        if output.is_folder:
            files = self.listing(output.md5, output.path)
            paths |= {md5: f"{output.path}/{name}" for name, md5 in files.items()}
        return paths


def listing(content: bytes, what: str) -> dict[str, str]:
    """Read DVC's listing of a folder.

    Returns:
        The MD5 of the files by relative path.

    Raises:
        CorruptData: it is not a listing, or a path in it would leave the folder.
    """
    try:
        items = json.loads(content)
        entries = [(str(item["relpath"]), str(item["md5"])) for item in items]
        if not isinstance(items, list):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise CorruptData(
            f"{what}: its listing is not one that DVC writes; run `ratchet verify`"
        ) from None
    for name, md5 in entries:
        parts = PurePosixPath(name).parts
        is_unsafe = (
            not parts
            or name.startswith("/")
            or ".." in parts
            or ".git" in parts
            or "\0" in name
            or "\\" in name
        )
        if is_unsafe or str(PurePosixPath(name)) != name or not _MD5.fullmatch(md5):
            raise CorruptData(
                f"{what}: its listing names {name!r}, which is not a path inside it;"
                " nothing was written"
            )
    return dict(entries)


def digest(file: Path, algorithm: str) -> str:
    """Return the hexadecimal hash of a file."""
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as stream:
        while piece := stream.read(CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()


def _root(tree: Path) -> Path:
    """Return the folder of the cache that DVC's settings name.

    The local settings of the checkout come first, then its shared settings, then those of the user.
    If none names a folder, a linked worktree without its own cache uses the main checkout's.
    """
    folder = tree / ".dvc"
    if not folder.is_dir():
        raise VersionError(
            f"{tree.resolve()} has no .dvc folder; run this at the root of a Ratchet checkout"
        )
    for file in (folder / "config.local", folder / "config"):
        name = _cache_dir(file)
        if name:
            return (folder / Path(name).expanduser()).resolve()
    if any((place / "config").exists() for place in _user_settings()):
        from dvc.config import Config

        return Path(Config(str(folder))["cache"].get("dir") or folder / "cache").resolve()
    own = folder / "cache"
    return (own if own.is_dir() else home(tree) / ".dvc" / "cache").resolve()


def _cache_dir(file: Path) -> str | None:
    """Return the folder of the cache that a settings file of DVC names, if any."""
    from configobj import ConfigObj, ConfigObjError  # type: ignore[import-untyped]  # DVC's reader

    if not file.is_file():
        return None
    try:
        settings = ConfigObj(str(file), interpolation=False, encoding="utf-8")
    except (ConfigObjError, UnicodeDecodeError) as error:
        raise VersionError(
            f"{file} cannot be read: {error}; for details, run `dvc config --list`"
        ) from None
    name = settings.get("cache", {}).get("dir")
    return None if name is None else str(name)


def _user_settings() -> list[Path]:
    """Return the folders where DVC looks for settings of the user and of the machine."""
    from platformdirs import site_config_dir, user_config_dir

    return [
        Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user_config_dir("dvc", "iterative")),
        Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or site_config_dir("dvc", "iterative")),
    ]
