"""Load versions of the model.

from ratchet import load

model = load("prod")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def load(name: str, tree: Path = Path()) -> nn.Module:
    """Return the model of a version, in eval mode, on the CPU, with its card as `.card`.

    Args:
        name: the number of the version ("v1.2.0") or the environment that it serves in ("prod").
        tree: the checkout.

    Raises:
        RatchetError: see `ratchet.registry.loading.load`.
    """
    from ratchet.registry import loading

    return loading.load(name, tree)


def path(name: str, tree: Path = Path()) -> Path:
    """Return the path of the verified weights of a version.

    Args:
        name: the number of the version, or the environment that it serves in.
        tree: the checkout.

    Raises:
        RatchetError: see `ratchet.registry.loading.path`.
    """
    from ratchet.registry import loading

    return loading.path(name, tree)
