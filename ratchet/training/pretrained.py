"""Weights to start from, out of a local file that the params pin by its hash, so that training stays a pure function."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import nn

from ratchet.errors import CorruptModel, TrainingError
from ratchet.params import Pretrained


def load(model: nn.Module, chosen: Pretrained) -> list[str]:
    """Copy every tensor of the file that fits by name and shape.

    Returns the names that stayed random.

    A head for other classes and a first convolution for other channels don't fit, and so stay
    random.

    Raises:
        TrainingError: no such file, or nothing in it fits.
        CorruptModel: another hash than the params name, or no plain `state_dict`.
    """
    path = Path(chosen.file)
    if not path.is_file():
        raise TrainingError(
            f"model.pretrained.file: {path} is not there; Ratchet downloads no weights: put the"
            " file there"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != chosen.sha256:
        raise CorruptModel(
            f"model.pretrained: {path} has SHA-256 {found}, params.yaml names {chosen.sha256}"
        )
    try:
        given = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CorruptModel(
            f"model.pretrained: {path} holds no plain state_dict: {error}"
        ) from error
    own = model.state_dict()
    fitting = {
        key: value for key, value in given.items() if key in own and own[key].shape == value.shape
    }
    if not fitting:
        raise TrainingError(
            f"model.pretrained: nothing in {path} fits this model's tensors; is it for another one?"
        )
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
