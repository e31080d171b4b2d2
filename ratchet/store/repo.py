"""DVC's repository of a checkout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.locks import heal_rwlock
from ratchet.store.cache import Cache

if TYPE_CHECKING:
    from dvc.repo import Repo


@contextmanager
def closing_repo(tree: Path) -> Iterator[Repo]:
    """Open DVC's repository, and close it after the block.

    Its site cache is in the checkout: the shared one is writable for all users and holds pickles.
    """
    repo = _open(tree)
    try:
        yield repo
    finally:
        repo.close()


def _open(tree: Path) -> Repo:
    from dvc.repo import Repo

    heal_rwlock(tree)
    site = tree.resolve() / ".dvc" / "tmp" / "site"
    settings = {
        "core": {"site_cache_dir": str(site)},
        "cache": {"dir": str(Cache(tree).root)},
    }
    return Repo(str(tree), config=settings)
