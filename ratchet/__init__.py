"""Versions of the model: what there is, what serves, and how to get it back.

from ratchet import load
model = load("prod")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load(name: str, tree: Path = Path()) -> nn.Module:
    """The model of a version, by its number ("v1.2.0") or the environment that it serves in ("prod").

    It is in eval mode, on the CPU, with its card as `.card`; see `ratchet.registry.loading.load`.
    """
    from ratchet.registry import loading

    return loading.load(name, tree)


def path(name: str, tree: Path = Path()) -> Path:
    """The checked file with the weights of a version; see `ratchet.registry.loading.path`."""
    from ratchet.registry import loading

    return loading.path(name, tree)
