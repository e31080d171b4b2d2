"""DVC's configuration of a checkout: its remote, its cache, and the verification of downloads."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from typing import Any

from ratchet.errors import VersionError
from ratchet.files import beside
from ratchet.repository import home
from ratchet.store import transport
from ratchet.store.cache import Cache


def has_remote(tree: Path) -> bool:
    """Does this checkout have a default DVC remote?"""
    return bool(_config(tree).get("core", {}).get("remote"))


def share(tree: Path, into: Path) -> None:
    """Let DVC in the worktree `into` use the cache of `tree`.

    It also gets the local settings of the main checkout, which hold credentials.
    """
    remotes = _config(into).get("remote", {})
    settings = _local(home(tree))
    for section in settings.sections:
        remote = re.fullmatch(r"remote [\"'](.*)[\"']", section)
        if remote and remote[1] not in remotes and "url" not in settings[section]:
            # The commit in `into` is older than that remote. DVC refuses a remote without a URL.
            del settings[section]
    settings.setdefault("cache", {})["dir"] = str(Cache(tree).root.resolve())
    _write_local(into, settings)


def share_cache(tree: Path) -> None:
    """Let `dvc` commands in a linked worktree use the cache that `Cache` uses there."""
    root = Cache(tree).root
    if root != (tree / ".dvc" / "cache").resolve() and home(tree) != tree.resolve():
        share(tree, tree)


def hash_downloads(tree: Path) -> None:
    """Let `dvc pull` hash what it downloads: set `verify = true` for each remote.

    This changes the checkout's local settings, for remotes without a setting `verify`.
    """
    if not _without_verify(tree):
        return
    folder = tree / ".dvc" / "tmp"
    folder.mkdir(exist_ok=True)
    with (folder / "ratchet-config.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = _local(tree)
        for name in _without_verify(tree):
            settings.setdefault(f'remote "{name}"', {})["verify"] = "true"
        _write_local(tree, settings)


def _without_verify(tree: Path) -> list[str]:
    """Return the remotes for which neither settings file of the checkout has `verify`."""
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
    from configobj import ConfigObj  # type: ignore[import-untyped]  # DVC's reader, without types

    return ConfigObj(str(file), interpolation=False, encoding="utf-8")


def _write_local(tree: Path, settings: Any) -> None:
    """Replace the tree's `.dvc/config.local`, which git ignores and only its owner can read."""
    local = tree / ".dvc" / "config.local"
    (local.parent / "tmp").mkdir(exist_ok=True)
    with beside(local.parent / "tmp" / local.name) as folder:
        new = folder / local.name
        new.touch(mode=0o600)
        with new.open("wb") as file:
            settings.write(file)
        new.replace(local)


def _config(tree: Path) -> dict[str, Any]:
    from dvc.config import Config, ConfigError

    if not (tree / ".dvc").is_dir():
        raise VersionError(
            f"{tree.resolve()} has no .dvc folder; run this at the root of a Ratchet checkout"
        )
    try:
        return dict(Config(str(tree / ".dvc")))
    except ConfigError as error:
        raise VersionError(f"DVC's configuration cannot be read: {transport.line(error)}") from None
