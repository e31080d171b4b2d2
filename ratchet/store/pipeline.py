"""What `dvc.yaml` and `dvc.lock` say together: outputs, their hashes, and the code that made them."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ratchet.errors import DirtyCode, VersionError
from ratchet.git import blobs, files, read

PIPELINE, LOCK = "dvc.yaml", "dvc.lock"
SOURCES, PARAMS = "source.lock", "params.yaml"
_LISTED = 5  # paths that a message names
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Output:
    """One output of a stage: `md5` ends with ".dir" for a folder.

    `cached`: DVC keeps it, else git does.
    """

    path: str
    md5: str
    size: int
    stage: str
    cached: bool
    pushed: bool

    @property
    def is_folder(self) -> bool:
        return self.md5.endswith(".dir")


@dataclass(frozen=True)
class Pipeline:
    """The graph with the hashes of one run.

    `inputs` are the deps that no stage makes: code, and `source.lock`.
    """

    outputs: tuple[Output, ...]
    inputs: dict[str, str]
    params: dict[str, dict[str, Any]]

    def output(self, path: str) -> Output:
        """Raises `VersionError` where the graph makes no such file."""
        for output in self.outputs:
            if output.path == path:
                return output
        raise VersionError(f"{PIPELINE} has no output {path}; a version needs it")

    @property
    def code(self) -> dict[str, str]:
        """The code deps and their MD5."""
        return {path: md5 for path, md5 in self.inputs.items() if path != SOURCES}


def params_of(tree: Path, commit: str = "") -> dict[str, Any]:
    """All of `params.yaml`, the sections that no stage lists too: of a commit, or as it lies in the checkout `tree`.

    Raises:
        VersionError: it is missing or no YAML.
    """
    content = read(tree, commit, PARAMS) if commit else _file(tree / PARAMS)
    return _yaml(content, PARAMS, f"commit {commit[:12]}" if commit else str(tree))


def listed_sections(tree: Path, commit: str) -> frozenset[str]:
    """The sections of params.yaml that a stage lists, so that they can change an output: by the dvc.yaml of a commit."""
    graph = _yaml(read(tree, commit, PIPELINE), PIPELINE, f"commit {commit[:12]}")
    keys = [
        key
        for stage in _mapping(graph.get("stages")).values()
        for key in _mapping(stage).get("params") or ()
    ]
    return frozenset(key.split(".")[0] for key in keys if isinstance(key, str))


def listed_paths(tree: Path, commit: str) -> tuple[set[str], set[str], set[str]]:
    """What the dvc.yaml of a commit lists: outputs that git keeps, outputs that DVC keeps, and code."""
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


def of_tree(tree: Path, whole: bool = True) -> Pipeline:
    """The pipeline as it lies in a checkout; raises `VersionError` where it is not whole.

    Args:
        whole: False takes what `dvc.lock` holds, as where new code has stages that never ran.
    """
    return parse(_file(tree / PIPELINE), _file(tree / LOCK), str(tree), whole)


def of_commit(tree: Path, commit: str, whole: bool = True) -> Pipeline:
    """The pipeline that a commit holds; raises `VersionError` where it is not whole."""
    return parse(
        read(tree, commit, PIPELINE), read(tree, commit, LOCK), f"commit {commit[:12]}", whole
    )


def parse(pipeline: bytes | None, lock: bytes | None, where: str, whole: bool = True) -> Pipeline:
    """Read both files.

    If `whole`, every stage, dep and output of `dvc.yaml` has to stand in `dvc.lock`.

    A truncated `dvc.lock` often still parses, hence the check.
    """
    graph, locked = (
        _yaml(content, name, where) for content, name in ((pipeline, PIPELINE), (lock, LOCK))
    )
    outputs: list[Output] = []
    deps: dict[str, str] = {}
    params: dict[str, dict[str, Any]] = {}
    for stage, wanted in _mapping(graph.get("stages")).items():
        entry = _mapping(_mapping(locked.get("stages")).get(stage))
        wanted = _mapping(wanted)
        if whole:
            _check_whole(stage, wanted, entry, where)
        outputs += _outputs(stage, wanted, entry)
        deps |= _hashes("deps", [str(dep) for dep in wanted.get("deps", [])], entry)
        params[stage] = _mapping(_mapping(entry.get("params")).get(PARAMS))
    made = [output.path for output in outputs]
    inputs = {path: md5 for path, md5 in deps.items() if not any(within(path, out) for out in made)}
    return Pipeline(tuple(outputs), inputs, params)


def edited(tree: Path, base: str, code: Mapping[str, str]) -> list[str]:
    """The paths among `code`, and `dvc.yaml`, that differ from commit `base`.

    Args:
        code: the code deps with the MD5 that DVC gives (or gave, in a run) to each.
    """
    paths = differing(tree, base, code)
    if _file(tree / PIPELINE) != read(tree, base, PIPELINE):
        paths.append(PIPELINE)
    return sorted(paths)


def differing(tree: Path, commit: str, inputs: Mapping[str, str]) -> list[str]:
    """The paths among `inputs` whose MD5 is not that of their content in a commit."""
    listing = files(tree, commit, ".")
    oids = sorted({oid for path in inputs for oid in _below(path, listing).values()})
    md5s = dict(zip(oids, map(_md5, blobs(tree, oids)), strict=True))
    return sorted(path for path, md5 in inputs.items() if md5 != _dvc_md5(path, listing, md5s))


def refuse_dirty(tree: Path, paths: Sequence[str], base: str) -> None:
    """Raise `DirtyCode` if there are any `paths`, which differ in `tree` from commit `base`."""
    if not paths:
        return
    paths = [name for path in paths for name in _differing_files(tree, path, base)]
    names = ", ".join(paths[:_LISTED]) + (
        f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    )
    if all(_same_but_for_line_endings(tree, path, base) for path in paths):
        raise DirtyCode(
            f"{names}: same as in commit {base[:12]} except for the line endings, which git or an"
            " editor changed; commit or `git stash` other edits, then run `git config"
            " core.autocrlf false && git rm -r --cached --quiet . && git reset --hard` and this"
            " again; if that does not help, remove eol and text from .gitattributes and"
            " .git/info/attributes"
        )
    add = " ".join(paths) if len(paths) <= _LISTED else "--all"
    raise DirtyCode(
        f"{names}: differs from commit {base[:12]}, and a version names the commit that it was "
        f"made from; `git add {add} && git commit`, then run this again (`dvc repro` trains "
        "without making a version)"
    )


def _differing_files(tree: Path, path: str, base: str) -> list[str]:
    """The files at or below `path` that differ from commit `base`.

    It is `path` itself if none does any more.
    """
    committed, present = files(tree, base, path), _present(tree, path)
    contents = dict(zip(committed, blobs(tree, list(committed.values())), strict=True))
    names = [
        name
        for name in sorted(committed.keys() | present)
        if name not in present or (tree / name).read_bytes() != contents.get(name)
    ]
    return names or [path]


def _same_but_for_line_endings(tree: Path, path: str, base: str) -> bool:
    committed = files(tree, base, path)
    if _present(tree, path) != committed.keys():
        return False
    contents = blobs(tree, list(committed.values()))
    return all(
        _unix((tree / name).read_bytes()) == _unix(content)
        for name, content in zip(committed, contents, strict=True)
    )


def _present(tree: Path, path: str) -> set[str]:
    """The files at or below `path` in `tree`, without Python's bytecode."""
    paths = [tree / path] if (tree / path).is_file() else (tree / path).rglob("*")
    names = {file.relative_to(tree).as_posix() for file in paths if file.is_file()}
    return {name for name in names if "__pycache__" not in name}


def _unix(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def _below(path: str, listing: Mapping[str, str]) -> dict[str, str]:
    """The files of a listing at or below `path`."""
    return {name: oid for name, oid in listing.items() if within(name, path)}


def _dvc_md5(path: str, listing: Mapping[str, str], md5s: Mapping[str, str]) -> str | None:
    """The MD5 that DVC would give to a file or folder of a commit; None where it has none."""
    if path in listing:
        return md5s[listing[path]]
    below = _below(path, listing)
    if not below:
        return None
    entries = [
        {"md5": md5s[oid], "relpath": name.removeprefix(f"{path}/")}
        for name, oid in sorted(below.items())
    ]
    return _md5(json.dumps(entries, sort_keys=True).encode()) + ".dir"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _outputs(stage: str, wanted: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[Output]:
    flags = _flags(wanted)
    sizes: dict[Any, Any] = {
        out.get("path"): out.get("size") for out in _mappings(entry.get("outs"))
    }
    for path, md5 in _hashes("outs", list(flags), entry).items():
        cached = flags[path].get("cache", True)
        yield Output(
            path, md5, sizes[path], stage, cached, cached and flags[path].get("push", True)
        )


def _flags(wanted: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {
        path: flag
        for kind in ("outs", "metrics", "plots")
        for path, flag in _entries(wanted.get(kind, []))
    }


def _hashes(kind: str, paths: list[str], entry: Mapping[str, Any]) -> dict[str, str]:
    """Path to hash, as far as the entries are whole: a cut one may lack the end of its hash, or its size."""
    whole = (one for one in _mappings(entry.get(kind)) if isinstance(one.get("size"), int))
    found = {one.get("path"): str(one.get("md5")) for one in whole}
    return {path: found[path] for path in paths if _MD5.fullmatch(found.get(path, ""))}


def _check_whole(
    stage: str, wanted: Mapping[str, Any], entry: Mapping[str, Any], where: str
) -> None:
    lacking = [] if entry else ["everything"]
    for kind, paths in (
        ("deps", [str(dep) for dep in wanted.get("deps", [])]),
        ("outs", list(_flags(wanted))),
    ):
        held = _hashes(kind, paths, entry)
        lacking += [path for path in paths if path not in held and entry]
    if wanted.get("params") and entry and not entry.get("params"):
        lacking.append("the params")
    if lacking:
        what = ", ".join(lacking)
        raise VersionError(
            f"{LOCK} in {where} lacks {what} of stage {stage}; `dvc repro` writes it whole again"
        )


def _entries(listed: list[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for one in listed:
        yield from (
            (str(path), flags or {})
            for path, flags in (one.items() if isinstance(one, dict) else [(one, {})])
        )


def within(path: str, folder: str) -> bool:
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
            f"{name} in {where} is no YAML 1.2: {' '.join(str(error).split())}"
        ) from None


@functools.lru_cache(maxsize=64)
def _parsed(content: bytes) -> dict[str, Any]:
    """YAML 1.2, to be read only: versions share most of their files, and reading one takes 30 ms."""
    return _mapping(YAML(typ="safe", pure=True).load(content.decode()))


def _mappings(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _file(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
