"""What `dvc.yaml` and `dvc.lock` say together: outputs, their hashes and the code behind them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ratchet.errors import VersionError
from ratchet.git import read

PIPELINE, LOCK = "dvc.yaml", "dvc.lock"
SOURCES, PARAMS = "source.lock", "params.yaml"
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Output:
    """One output of a stage."""

    path: str
    md5: str  # ends with ".dir" for a folder
    size: int  # bytes
    stage: str
    cached: bool  # True: DVC keeps it; False: git keeps it
    pushed: bool  # to the DVC remote

    @property
    def is_folder(self) -> bool:
        """Is this output a folder?"""
        return self.md5.endswith(".dir")


@dataclass(frozen=True)
class Pipeline:
    """The graph with the hashes of one run."""

    outputs: tuple[Output, ...]
    inputs: dict[str, str]  # MD5 by path of the deps that no stage makes: code and `source.lock`
    params: dict[str, dict[str, Any]]  # by stage

    def output(self, path: str) -> Output:
        """Return the output with this path; raise `VersionError` if the graph has none."""
        for output in self.outputs:
            if output.path == path:
                return output
        raise VersionError(f"{PIPELINE} has no output {path}; a version needs it")

    @property
    def code(self) -> dict[str, str]:
        """Return the MD5 of the code deps by path."""
        return {path: md5 for path, md5 in self.inputs.items() if path != SOURCES}


def params_of(tree: Path, commit: str = "") -> dict[str, Any]:
    """Return all of `params.yaml`, including the sections that no stage lists.

    Args:
        tree: the checkout.
        commit: the commit to read; by default the file in the checkout.

    Raises:
        VersionError: the file is missing or not valid YAML.
    """
    content = read(tree, commit, PARAMS) if commit else _file(tree / PARAMS)
    return _yaml(content, PARAMS, f"commit {commit[:12]}" if commit else str(tree))


def listed_sections(tree: Path, commit: str) -> frozenset[str]:
    """Return the sections of params.yaml that a stage lists in the dvc.yaml of a commit.

    Only these can change an output.
    """
    graph = _yaml(read(tree, commit, PIPELINE), PIPELINE, f"commit {commit[:12]}")
    keys = [
        key
        for stage in _mapping(graph.get("stages")).values()
        for key in _mapping(stage).get("params") or ()
    ]
    return frozenset(key.split(".")[0] for key in keys if isinstance(key, str))


def listed_paths(tree: Path, commit: str) -> tuple[set[str], set[str], set[str]]:
    """Return what the dvc.yaml of a commit lists.

    Returns:
        The outputs that git keeps, the outputs that DVC keeps, and the code.
    """
    graph = _yaml(read(tree, commit, PIPELINE), PIPELINE, f"commit {commit[:12]}")
    in_git: set[str] = set()
    in_cache: set[str] = set()
    deps: set[str] = set()
    for stage in map(_mapping, _mapping(graph.get("stages")).values()):
        deps |= {str(dep) for dep in stage.get("deps", [])}
        for path, flags in _flags(stage).items():
            (in_cache if flags.get("cache", True) else in_git).add(path)
    outputs = in_git | in_cache
    code = {dep for dep in deps - {SOURCES} if not any(within(dep, output) for output in outputs)}
    return in_git, in_cache, code


def of_tree(tree: Path, complete: bool = True) -> Pipeline:
    """Return the pipeline of a checkout; see `parse`."""
    return parse(_file(tree / PIPELINE), _file(tree / LOCK), str(tree), complete)


def of_commit(tree: Path, commit: str, complete: bool = True) -> Pipeline:
    """Return the pipeline of a commit; see `parse`."""
    graph, lock = read(tree, commit, PIPELINE), read(tree, commit, LOCK)
    return parse(graph, lock, f"commit {commit[:12]}", complete)


def parse(
    pipeline: bytes | None, lock: bytes | None, where: str, complete: bool = True
) -> Pipeline:
    """Read both files.

    Args:
        pipeline: the content of `dvc.yaml`; None if it is missing.
        lock: the content of `dvc.lock`; None if it is missing.
        where: where the files are, for messages.
        complete: check that `dvc.lock` has each stage, dep and output of `dvc.yaml`: a truncated
            file often is valid YAML. False accepts stages that have not run.

    Raises:
        VersionError: a file is missing or not valid YAML, or `dvc.lock` is incomplete.
    """
    graph = _yaml(pipeline, PIPELINE, where)
    locked = _yaml(lock, LOCK, where)
    outputs: list[Output] = []
    deps: dict[str, str] = {}
    params: dict[str, dict[str, Any]] = {}
    for stage, content in _mapping(graph.get("stages")).items():
        definition = _mapping(content)
        entry = _mapping(_mapping(locked.get("stages")).get(stage))
        if complete:
            _check_complete(stage, definition, entry, where)
        outputs += _outputs(stage, definition, entry)
        deps |= _hashes("deps", [str(dep) for dep in definition.get("deps", [])], entry)
        params[stage] = _mapping(_mapping(entry.get("params")).get(PARAMS))
    inputs = {
        path: md5
        for path, md5 in deps.items()
        if not any(within(path, output.path) for output in outputs)
    }
    return Pipeline(tuple(outputs), inputs, params)


def _outputs(
    stage: str, definition: Mapping[str, Any], entry: Mapping[str, Any]
) -> Iterator[Output]:
    """Yield the outputs of a stage, as far as its entry in `dvc.lock` has them."""
    flags = _flags(definition)
    sizes: dict[Any, Any] = {
        out.get("path"): out.get("size") for out in _mappings(entry.get("outs"))
    }
    for path, md5 in _hashes("outs", list(flags), entry).items():
        cached = flags[path].get("cache", True)
        pushed = cached and flags[path].get("push", True)
        yield Output(path, md5, sizes[path], stage, cached, pushed)


def _flags(definition: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the outputs of a stage in `dvc.yaml` with their flags, such as `cache: false`."""
    flags: dict[str, Mapping[str, Any]] = {}
    for kind in ("outs", "metrics", "plots"):
        for entry in definition.get(kind, []):
            if isinstance(entry, dict):
                flags |= {str(path): options or {} for path, options in entry.items()}
            else:
                flags[str(entry)] = {}
    return flags


def _hashes(kind: str, paths: list[str], entry: Mapping[str, Any]) -> dict[str, str]:
    """Return the MD5 of `paths` in an entry of `dvc.lock`.

    It leaves out truncated items, which lack their size or the end of their MD5.
    """
    md5s = {
        item.get("path"): str(item.get("md5"))
        for item in _mappings(entry.get(kind))
        if isinstance(item.get("size"), int)
    }
    return {path: md5s[path] for path in paths if _MD5.fullmatch(md5s.get(path, ""))}


def _check_complete(
    stage: str, definition: Mapping[str, Any], entry: Mapping[str, Any], where: str
) -> None:
    """Raise `VersionError` if the entry of a stage in `dvc.lock` lacks something."""
    if entry:
        deps = [str(dep) for dep in definition.get("deps", [])]
        outs = list(_flags(definition))
        lacking = [path for path in deps if path not in _hashes("deps", deps, entry)]
        lacking += [path for path in outs if path not in _hashes("outs", outs, entry)]
        if definition.get("params") and not entry.get("params"):
            lacking.append("the params")
    else:
        lacking = ["everything"]
    if lacking:
        raise VersionError(
            f"{LOCK} in {where} lacks {', '.join(lacking)} of stage {stage};"
            " `dvc repro` writes the complete file"
        )


def within(path: str, folder: str) -> bool:
    """Is `path` the folder or below it?"""
    return path == folder or path.startswith(f"{folder}/")


def _yaml(content: bytes | None, name: str, where: str) -> dict[str, Any]:
    if content is None:
        raise VersionError(
            f"{where} has no {name}; `dvc repro` writes {LOCK}, and {PIPELINE} belongs to the code"
        )
    try:
        return _parsed(content)
    except (YAMLError, UnicodeDecodeError) as error:
        raise VersionError(
            f"{name} in {where} is not valid YAML 1.2: {' '.join(str(error).split())}"
        ) from None


@functools.lru_cache(maxsize=64)
def _parsed(content: bytes) -> dict[str, Any]:
    """Parse YAML 1.2; callers must not change the result.

    It is cached because versions share most of their files, and parsing one takes 30 ms.
    """
    return _mapping(YAML(typ="safe", pure=True).load(content.decode()))


def _mappings(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _file(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
