"""Where a version comes from, how two differ, and what served when.

Reads git alone: no DVC, no torch.
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
    """A version's time in service; `until` is None while it lasts. Times are Unix seconds."""

    environment: str
    version: str
    since: int
    until: int | None
    action: str
    reason: str
    by: str  # a person's name, from git
    origin: str  # terminal or flow run, and the machine; empty in tags that do not say


@dataclass(frozen=True)
class Shown:
    """Everything that is known of one version."""

    version: str
    withdrawn: str | None  # why, if it is
    changes: list[dict[str, Any]]  # withdrawals and reinstatements, the oldest first
    origin: str  # where it was registered from
    date: int
    commit: str
    base: str | None  # the commit that it was trained from
    reason: str  # for its number
    metrics: dict[str, Any]
    gate: dict[str, Any]
    sources: Any  # source.lock
    params: dict[str, Any]  # by section
    overrides: dict[
        str, Any
    ]  # values that replaced those of params for its run alone, by dotted key
    code: dict[str, str]  # path to MD5
    libraries: dict[str, str]
    outputs: dict[str, str]  # path to hash
    weights_sha256: str | None
    served: list[Span]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """How version `new` differs from `old`; pairs are (old, new), None where one has none."""

    old: str
    new: str
    params: dict[str, tuple[Any, Any]]  # by dotted name, as all metrics
    data: list[str]  # source.lock and the data outputs that differ
    metrics: dict[str, tuple[Any, Any]]
    intervals: dict[str, tuple[Any, Any]]  # [low, high] of the metrics of the whole
    per_class: dict[str, dict[str, tuple[Any, Any]]]
    contract: dict[str, tuple[Any, Any]]
    code: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def show(tree: Path, name: str) -> Shown:
    """Raises `VersionError` for an unknown version."""
    registry = Registry(tree)
    version = registry.find(name)
    held = pipeline.of_commit(tree, version.commit)
    sources = read(tree, version.commit, pipeline.SOURCES)
    gone = version.withdrawn
    served = [span for at in sorted(registry.all_environments()) for span in spans(registry, at)]
    return Shown(
        version=version.name,
        withdrawn=None if gone is None else str(gone.data.get("reason") or "no reason given"),
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
        code=held.code,
        libraries=dict(version.data.get("libraries", {})),
        outputs={output.path: output.md5 for output in held.outputs},
        weights_sha256=version.weights_sha256,
        served=[span for span in served if span.version == version.name],
    )


def diff(tree: Path, old: str, new: str | None) -> Difference:
    """How two versions differ; `new` may be None: the run that lies in `tree`, not registered yet.

    Raises:
        VersionError: an unknown version, or a run that is not whole.
    """
    registry = Registry(tree)
    before, after = (
        _version(tree, registry.find(old)),
        _version(tree, registry.find(new)) if new else _run(tree),
    )
    changed = number.change(before.pipeline, after.pipeline, {}, {})
    classes, spreads = (
        [side.metrics.pop(key, {}) for side in (before, after)]
        for key in ("per_class", "intervals")
    )
    return Difference(
        old=before.name,
        new=after.name,
        params=_pairs(number.flat(before.params), number.flat(after.params)),
        data=([pipeline.SOURCES] if changed.data else []) + _data(before.pipeline, after.pipeline),
        metrics=_pairs(number.flat(before.metrics), number.flat(after.metrics)),
        intervals=_pairs(
            *(
                {key: each for key, each in found.items() if isinstance(each, list)}
                for found in spreads
            )
        ),
        per_class={
            name: _pairs(*(found.get(name, {}) for found in classes))
            for name in sorted({*classes[0], *classes[1]})
        },
        contract=_pairs(before.contract, after.contract),
        code=changed.code,
    )


class _Side(NamedTuple):
    """One of two that are compared."""

    name: str
    pipeline: pipeline.Pipeline
    params: dict[str, Any]
    metrics: dict[str, Any]
    contract: Mapping[str, Any]


def _version(tree: Path, version: Version) -> _Side:
    held = pipeline.of_commit(tree, version.commit)
    params = pipeline.params_of(tree, version.commit)
    return _Side(
        version.name, held, params, metrics(tree, version), version.data.get("contract", {})
    )


def _run(tree: Path) -> _Side:
    metrics, card = (json.loads((tree / file).read_bytes()) for file in (METRICS, CARD))
    return _Side(
        "this run",
        pipeline.of_tree(tree),
        pipeline.params_of(tree),
        metrics,
        number.contract(card["spec"]),
    )


def spans(registry: Registry, environment: str) -> list[Span]:
    """The audit of an environment: what served from when to when and why it changed, the oldest first."""
    history = registry.history(environment)
    ends: list[int | None] = [each.date for each in history[1:]]
    pairs = zip(history, [*ends, None])  # noqa: B905  # of no history there is one end too many
    return [_span(each, until) for each, until in pairs if each.action != "unassign"]


def _span(each: Assignment, until: int | None) -> Span:
    about = (each.action, each.reason, each.tag.tagger, origin_of(each.tag))
    return Span(each.environment, each.version, each.date, until, *about)


def metrics(tree: Path, version: Version) -> dict[str, Any]:
    """What `reports/metrics.json` holds in the version's commit.

    Empty where it is missing or no JSON.
    """
    found = _json(read(tree, version.commit, METRICS))
    return found if isinstance(found, dict) else {}


def _data(was: pipeline.Pipeline, now: pipeline.Pipeline) -> list[str]:
    before, after = (
        {out.path: out.md5 for out in held.outputs if out.path.startswith("data/")}
        for held in (was, now)
    )
    return sorted(
        path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
    )


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two flat mappings; nested values are compared whole."""
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
