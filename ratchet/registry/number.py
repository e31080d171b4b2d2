"""The number of a new version, by what changed since the newest one, and the reason in words.

Major: the contract (kind of input, its shape, classes, features). Minor: data or params. Patch:
    only code or seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ratchet.registry.tags import Number
from ratchet.store.pipeline import SOURCES, Pipeline

FIRST = Number(1, 0, 0)
CONTRACT = ("kind", "input_shape", "classes", "features")
_SEED = "train.seed"


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
    before, after = (
        flat({key: held for stage in run.params.values() for key, held in stage.items()})
        for run in (old, new)
    )
    params = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    code = {
        path
        for path in old.code.keys() | new.code.keys()
        if old.code.get(path) != new.code.get(path)
    }
    return Change(
        contract=[key for key in CONTRACT if was.get(key) != now.get(key)],
        data=old.inputs.get(SOURCES) != new.inputs.get(SOURCES),
        params=[name for name in params if name != _SEED],
        seed=_SEED in params,
        code=sorted(code),
    )


def successor(newest: Number, what: Change) -> tuple[Number, str]:
    """The next number after `newest` and why."""
    if what.contract:
        return (
            Number(newest.major + 1, 0, 0),
            f"major: the contract changed ({', '.join(what.contract)})",
        )
    minor = (["data"] if what.data else []) + (
        [f"params ({', '.join(what.params)})"] if what.params else []
    )
    if minor:
        return Number(newest.major, newest.minor + 1, 0), f"minor: changed {' and '.join(minor)}"
    patch = ([f"code ({', '.join(what.code)})"] if what.code else []) + (
        ["the seed"] if what.seed else []
    )
    why = f"changed only {' and '.join(patch)}" if patch else "nothing changed but the weights"
    return Number(newest.major, newest.minor, newest.patch + 1), f"patch: {why}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name, as `train.epochs`."""
    found: dict[str, Any] = {}
    for key, inner in values.items():
        found |= (
            flat(inner, f"{prefix}{key}.")
            if isinstance(inner, dict) and inner
            else {f"{prefix}{key}": inner}
        )
    return found
