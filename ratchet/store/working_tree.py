"""The files of a checkout that DVC knows: outputs from the cache, and the hashes of code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ratchet.errors import ObjectsMissing, VersionError
from ratchet.store import pipeline, transport
from ratchet.store.cache import Cache
from ratchet.store.repo import closing_repo


def check_out(tree: Path, check: bool = False) -> list[str]:
    """Bring the outputs that `dvc.lock` names into `tree`, as far as the cache has them.

    Args:
        tree: the checkout.
        check: hash every object first. DVC itself trusts read-only objects. The listings of
            folders are always hashed.

    Returns:
        The outputs that the cache lacks.

    Raises:
        CorruptData: an object does not match its hash, or a listing names a path outside its
            folder; nothing was written.
    """
    cache = Cache(tree)
    lacking = []
    present = []
    for output in pipeline.of_tree(tree, complete=False).outputs:
        if not output.cached:
            continue
        if not cache.has(output.md5) or not all(map(cache.has, cache.objects(output))):
            lacking.append(output.path)
            continue
        present.append(output.path)
        if check:
            for md5, what in cache.objects(output).items():
                cache.check(md5, what)
    if present:
        _check_out(tree, present)
    return lacking


def _check_out(tree: Path, outputs: Sequence[str]) -> None:
    from dvc.exceptions import DvcException

    with closing_repo(tree) as repo:
        try:
            repo.checkout(targets=[str(tree.resolve() / path) for path in outputs], force=True)
        except DvcException as error:
            raise ObjectsMissing(
                f"DVC could not check out {', '.join(outputs)} in {tree}: {transport.line(error)}"
            ) from None


def code_hashes(tree: Path) -> dict[str, str]:
    """Return the code deps of dvc.yaml with their current MD5 as DVC computes it.

    The MD5 of a missing dep is "".

    Raises:
        VersionError: DVC cannot read the graph.
    """
    from dvc.dependency import Dependency
    from dvc.exceptions import DvcException

    hashes = {}
    with closing_repo(tree) as repo:
        try:
            stages = repo.index.stages
            outputs = [out.def_path for stage in stages for out in stage.outs]
            deps = [dep for stage in stages for dep in stage.deps if type(dep) is Dependency]
            for dep in {dep.def_path: dep for dep in deps}.values():
                path = dep.def_path
                is_output = any(pipeline.within(path, output) for output in outputs)
                if path != pipeline.SOURCES and not is_output:
                    hashes[path] = dep.get_hash().value if dep.exists else ""
        except DvcException as error:
            raise VersionError(
                f"DVC cannot read {pipeline.PIPELINE} in {tree}: {transport.line(error)}"
            ) from None
    return hashes
