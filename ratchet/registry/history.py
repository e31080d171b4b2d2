"""Where a version comes from, how two versions differ, and what served when.

This reads only git and imports neither DVC nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ratchet.git import read
from ratchet.registry import number
from ratchet.registry.records import Assignment, Version, change_of, origin_of
from ratchet.registry.versions import Registry
from ratchet.store import pipeline

METRICS, CARD = "reports/metrics.json", "models/classifier.json"


@dataclass(frozen=True)
class Span:
    """A version's time in service, in Unix seconds. `until` is None while it serves."""

    environment: str
    version: str
    since: int
    until: int | None
    action: str
    reason: str
    by: str  # a person's name, from git
    origin: str  # terminal or flow run, and the machine; empty if the tag does not record it


@dataclass(frozen=True)
class Shown:
    """All there is to know about one version."""

    version: str
    withdrawn: str | None  # why, if it is
    changes: list[dict[str, Any]]  # withdrawals and reinstatements, oldest first
    origin: str  # where it was registered from
    date: int
    commit: str
    base: str | None  # the commit that it was trained from
    reason: str  # for its number
    metrics: dict[str, Any]
    gate: dict[str, Any]
    sources: Any  # source.lock
    params: dict[str, Any]  # by section
    overrides: dict[str, Any]  # params that applied to its run only, by dotted key
    code: dict[str, str]  # path to MD5
    libraries: dict[str, str]
    outputs: dict[str, str]  # path to hash
    weights_sha256: str | None
    served: list[Span]

    def as_dict(self) -> dict[str, Any]:
        """The fields that `--json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """How version `new` differs from `old`. Pairs are (old, new), with None for a missing value."""

    old: str
    new: str
    params: dict[str, tuple[Any, Any]]  # by dotted name
    data: list[str]  # source.lock and the data outputs that differ
    metrics: dict[str, tuple[Any, Any]]  # by dotted name
    intervals: dict[str, tuple[Any, Any]]  # [low, high] of the metrics over all rows
    per_class: dict[str, dict[str, tuple[Any, Any]]]
    contract: dict[str, tuple[Any, Any]]
    code: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The fields that `--json` prints."""
        return asdict(self)


def show(tree: Path, name: str) -> Shown:
    """Everything about one version: where it comes from, its contents, and where it served.

    Raises:
        VersionError: there is no such version.
    """
    registry = Registry(tree)
    version = registry.find(name)
    contents = pipeline.of_commit(tree, version.commit)
    sources = read(tree, version.commit, pipeline.SOURCES)
    withdrawal = version.withdrawn
    withdrawn = None
    if withdrawal is not None:
        withdrawn = str(withdrawal.data.get("reason") or "no reason given")
    served = [
        span
        for environment in sorted(registry.all_environments())
        for span in spans(registry, environment)
    ]
    return Shown(
        version=version.name,
        withdrawn=withdrawn,
        changes=[change_of(tag) for tag in version.cancels],
        origin=origin_of(version.tag),
        date=version.date,
        commit=version.commit,
        base=version.data.get("base"),
        reason=str(version.data.get("reason", "")),
        metrics=version.metrics,
        gate=dict(version.data.get("gate", {})),
        sources=_json(sources),
        params=pipeline.params_of(tree, version.commit),
        overrides=dict(version.data.get("overrides", {})),
        code=contents.code,
        libraries=dict(version.data.get("libraries", {})),
        outputs={output.path: output.md5 for output in contents.outputs},
        weights_sha256=version.weights_sha256,
        served=[span for span in served if span.version == version.name],
    )


def diff(tree: Path, old: str, new: str | None) -> Difference:
    """How two versions differ.

    Args:
        tree: the checkout.
        old: a version.
        new: another version; None for the run in `tree`, which is not registered yet.

    Raises:
        VersionError: there is no such version, or the run is incomplete.
    """
    registry = Registry(tree)
    before = _version(tree, registry.find(old))
    after = _version(tree, registry.find(new)) if new else _run(tree)
    changed = number.change(before.pipeline, after.pipeline, {}, {})
    classes = sorted({*before.per_class, *after.per_class})
    return Difference(
        old=before.name,
        new=after.name,
        params=_pairs(number.flat(before.params), number.flat(after.params)),
        data=([pipeline.SOURCES] if changed.data else []) + _data(before.pipeline, after.pipeline),
        metrics=_pairs(number.flat(before.metrics), number.flat(after.metrics)),
        intervals=_pairs(before.intervals, after.intervals),
        per_class={
            name: _pairs(before.per_class.get(name, {}), after.per_class.get(name, {}))
            for name in classes
        },
        contract=_pairs(before.contract, after.contract),
        code=changed.code,
    )


class _Side(NamedTuple):
    """One of the two that `diff` compares."""

    name: str
    pipeline: pipeline.Pipeline
    params: dict[str, Any]
    metrics: dict[str, Any]  # without the next two
    per_class: dict[str, dict[str, Any]]
    intervals: dict[str, list[float]]  # of the metrics over all rows
    contract: Mapping[str, Any]


def _version(tree: Path, version: Version) -> _Side:
    return _side(
        version.name,
        pipeline.of_commit(tree, version.commit),
        pipeline.params_of(tree, version.commit),
        metrics(tree, version),
        version.data.get("contract", {}),
    )


def _run(tree: Path) -> _Side:
    metrics = json.loads((tree / METRICS).read_bytes())
    card = json.loads((tree / CARD).read_bytes())
    return _side(
        "this run",
        pipeline.of_tree(tree),
        pipeline.params_of(tree),
        metrics,
        number.contract(card["spec"]),
    )


def _side(
    name: str,
    contents: pipeline.Pipeline,
    params: dict[str, Any],
    metrics: dict[str, Any],
    contract: Mapping[str, Any],
) -> _Side:
    per_class = metrics.pop("per_class", {})
    intervals = {
        key: bounds
        for key, bounds in metrics.pop("intervals", {}).items()
        if isinstance(bounds, list)
    }
    return _Side(name, contents, params, metrics, per_class, intervals, contract)


def spans(registry: Registry, environment: str) -> list[Span]:
    """What served in an environment, from when to when and why it changed, oldest first."""
    history = registry.history(environment)
    spans = []
    for position, assignment in enumerate(history):
        following = history[position + 1 : position + 2]
        if assignment.action != "unassign":
            spans.append(_span(assignment, following[0].date if following else None))
    return spans


def _span(assignment: Assignment, until: int | None) -> Span:
    return Span(
        environment=assignment.environment,
        version=assignment.version,
        since=assignment.date,
        until=until,
        action=assignment.action,
        reason=assignment.reason,
        by=assignment.tag.tagger,
        origin=origin_of(assignment.tag),
    )


def metrics(tree: Path, version: Version) -> dict[str, Any]:
    """The content of `reports/metrics.json` in the version's commit.

    Empty if the file is missing or not valid JSON.
    """
    content = _json(read(tree, version.commit, METRICS))
    return content if isinstance(content, dict) else {}


def _data(old: pipeline.Pipeline, new: pipeline.Pipeline) -> list[str]:
    """The data outputs that differ."""
    return sorted(_pairs(_data_hashes(old), _data_hashes(new)))


def _data_hashes(contents: pipeline.Pipeline) -> dict[str, str]:
    return {out.path: out.md5 for out in contents.outputs if out.path.startswith("data/")}


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two flat mappings. A nested value counts as one value."""
    return {
        key: (old.get(key), new.get(key))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    }


def _json(content: bytes | None) -> Any:
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None
