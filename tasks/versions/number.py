"""The number of a new version, by what changed since the newest one, and the reason in words.

Major: the contract (kind of input, its shape, classes, features). Minor: data or params. Patch: only code or seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tasks.versions.pipeline import SOURCES, Pipeline
from tasks.versions.tags import Number

FIRST = Number(1, 0, 0)
CONTRACT = ("kind", "input_shape", "classes", "features")
_SEED = ("train", "seed")


class Change(NamedTuple):
    """What sets one version apart from another, for the number and for people."""

    contract: list[str]
    data: bool
    params: list[str]
    seed: bool
    code: list[str]


def contract(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a spec that users of the model rely on."""
    return {key: spec.get(key) for key in CONTRACT}


def change(old: Pipeline, new: Pipeline, was: Mapping[str, Any], now: Mapping[str, Any]) -> Change:
    """Compare two runs: their pipelines and their contracts."""
    params = changed_params(old, new)
    seed = ".".join(_SEED)
    code = {path for path in old.code.keys() | new.code.keys() if old.code.get(path) != new.code.get(path)}
    return Change(
        contract=[key for key in CONTRACT if was.get(key) != now.get(key)],
        data=old.inputs.get(SOURCES) != new.inputs.get(SOURCES),
        params=[name for name in params if name != seed],
        seed=seed in params,
        code=sorted(code),
    )


def successor(newest: Number, what: Change) -> tuple[Number, str]:
    """The next number after `newest` and why."""
    if what.contract:
        return Number(newest.major + 1, 0, 0), f"major: the contract changed ({', '.join(what.contract)})"
    minor = (["data"] if what.data else []) + ([f"params ({', '.join(what.params)})"] if what.params else [])
    if minor:
        return Number(newest.major, newest.minor + 1, 0), f"minor: changed {' and '.join(minor)}"
    patch = ([f"code ({', '.join(what.code)})"] if what.code else []) + (["the seed"] if what.seed else [])
    why = f"changed only {' and '.join(patch)}" if patch else "nothing changed but the weights"
    return Number(newest.major, newest.minor, newest.patch + 1), f"patch: {why}"


def changed_params(old: Pipeline, new: Pipeline) -> list[str]:
    """Dotted names of the params, among those that stages list, whose values differ."""
    before, after = flat(old), flat(new)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def flat(pipeline: Pipeline) -> dict[str, Any]:
    """The params that stages list, by dotted name."""
    found: dict[str, Any] = {}
    for sections in pipeline.params.values():
        _flatten(sections, "", found)
    return found


def _flatten(value: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            _flatten(inner, f"{prefix}{key}.", into)
        else:
            into[f"{prefix}{key}"] = inner
