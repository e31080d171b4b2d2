"""Why a stage is out of date: what DVC says has changed, in words."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet import locks
from ratchet.errors import Busy, StageFailed
from ratchet.repository import home

GRAPH = "dvc.yaml"
LOCK = "dvc.lock"


def why(tree: Path, name: str) -> list[str]:
    """Return why the stage is out of date in `tree`; takes about 0.02 s.

    Returns:
        One reason per entry; empty if the stage is up to date.

    Raises:
        Busy: another DVC command holds the repository's lock.
        StageFailed: DVC cannot read the graph.
    """
    return _explained(tree, name, changes(tree).get(name, []))


def why_in_flow(tree: Path, name: str, flow_run: str) -> list[str]:
    """Return what `why` returns, but ask DVC only once per flow run, for all stages.

    `forget` makes the next call ask again.
    """
    return _explained(tree, name, _changes_in_flow(tree.resolve(), flow_run).get(name, []))


def forget() -> None:
    """Forget what DVC said to `why_in_flow`, because a stage has run since."""
    _changes_in_flow.cache_clear()


@functools.lru_cache(maxsize=1)
def _changes_in_flow(tree: Path, _flow_run: str) -> dict[str, list[Any]]:
    return changes(tree)


def changes(tree: Path) -> dict[str, list[Any]]:
    """Return what DVC says has changed, for each stage that is out of date.

    Raises:
        Busy: another DVC command holds the repository's lock.
        StageFailed: DVC cannot read the graph.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    try:
        with open_repo(tree) as repo:
            # the keys are "path of dvc.yaml:stage", or the name of the stage alone
            status: dict[str, list[Any]] = repo.status()
            return {address.rpartition(":")[2]: entries for address, entries in status.items()}
    except LockError as error:
        raise Busy(f"DVC's lock in {tree.resolve()}: {error}") from None
    except DvcException as error:
        raise StageFailed(f"DVC cannot read the graph in {tree.resolve()}: {error}") from None


def open_repo(tree: Path) -> Any:
    """Open DVC's repository in `tree` with its own site cache.

    The shared site cache is writable for all users and holds pickles.
    """
    preload(tree)
    from dvc.repo import Repo

    locks.heal_rwlock(tree)
    return Repo(str(tree))


def preload(tree: Path) -> None:
    """Import DVC, so that a command can do so while it waits for a server."""
    os.environ.setdefault("DVC_SITE_CACHE_DIR", str(home(tree) / ".dvc/tmp/site"))
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    import dvc.exceptions
    import dvc.lock
    import dvc.repo  # noqa: F401


def graph(tree: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of `dvc.yaml` by name."""
    stages: dict[str, dict[str, Any]] = _yaml(tree / GRAPH)["stages"]
    return stages


def _explained(tree: Path, name: str, entries: list[Any]) -> list[str]:
    """Put what DVC says about a stage in words."""
    if not entries:
        return []
    locked = _yaml(tree / LOCK).get("stages", {}).get(name)
    if locked is None:
        return ["it has not run here before"]
    return [reason for entry in entries for reason in _reasons(entry, tree, locked)]


def _reasons(
    entry: str | Mapping[str, Mapping[str, Any]], tree: Path, locked: Mapping[str, Any]
) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    for kind, changed in entry.items():
        what = "input" if kind == "changed deps" else "output"
        for path, change in changed.items():
            if isinstance(change, str):
                yield f"{what} {path}: {change}"
                continue
            now, then = _yaml(tree / path), locked.get("params", {}).get(path, {})
            for section in change:
                yield from _differences(section, then.get(section), now.get(section))


def _differences(key: str, then: Any, now: Any) -> Iterator[str]:
    """Yield `param train.epochs: 8 → 3` for each value below `key` that differs."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted(then.keys() | now.keys()):
            yield from _differences(f"{key}.{name}", then.get(name), now.get(name))
    elif then != now:
        yield f"param {key}: {then} → {now}"


def _yaml(file: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML

    if not file.exists():
        return {}
    yaml = YAML(typ="safe", pure=True)
    content: dict[str, Any] = yaml.load(file.read_text(encoding="utf-8")) or {}
    return content
