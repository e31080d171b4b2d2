"""The number of a new version, from what changed since the newest one, and the reason in words.

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
    """What differs between two versions."""

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
    params = _differing(_flat_params(old), _flat_params(new))
    return Change(
        contract=[key for key in CONTRACT if was.get(key) != now.get(key)],
        data=old.inputs.get(SOURCES) != new.inputs.get(SOURCES),
        params=[name for name in params if name != _SEED],
        seed=_SEED in params,
        code=_differing(old.code, new.code),
    )


def _flat_params(run: Pipeline) -> dict[str, Any]:
    """The params of all stages, by dotted name."""
    sections: dict[str, Any] = {}
    for params in run.params.values():
        sections |= params
    return flat(sections)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def successor(newest: Number, what: Change) -> tuple[Number, str]:
    """The number after `newest`, and the reason for it."""
    if what.contract:
        reason = f"major: the contract changed ({', '.join(what.contract)})"
        return Number(newest.major + 1, 0, 0), reason
    minor = []
    if what.data:
        minor.append("data")
    if what.params:
        minor.append(f"params ({', '.join(what.params)})")
    if minor:
        return Number(newest.major, newest.minor + 1, 0), f"minor: changed {' and '.join(minor)}"
    patch = []
    if what.code:
        patch.append(f"code ({', '.join(what.code)})")
    if what.seed:
        patch.append("the seed")
    why = f"changed only {' and '.join(patch)}" if patch else "nothing changed but the weights"
    return Number(newest.major, newest.minor, newest.patch + 1), f"patch: {why}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted name, such as `train.epochs`."""
    flattened: dict[str, Any] = {}
    for key, inner in values.items():
        if isinstance(inner, dict) and inner:
            flattened |= flat(inner, f"{prefix}{key}.")
        else:
            flattened[f"{prefix}{key}"] = inner
    return flattened
