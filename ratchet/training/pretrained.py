"""Load pretrained weights from a local file.

The params pin the file by its SHA-256, so training stays a pure function of its inputs.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import nn

from ratchet.errors import CorruptModel, TrainingError
from ratchet.train_params import Pretrained


def load(model: nn.Module, settings: Pretrained) -> list[str]:
    """Copy every tensor of the file that fits the model by name and shape.

    A head for other classes and a first convolution for other channels do not fit, so they stay
    random.

    Args:
        model: the model with random weights; changed in place.
        settings: the section `model.pretrained`.

    Returns:
        The sorted names of the tensors that stayed random.

    Raises:
        TrainingError: the file does not exist, or none of its tensors fits.
        CorruptModel: the file's SHA-256 is not the one in the params, or the file is not a plain
            `state_dict`.
    """
    path = Path(settings.file)
    if not path.is_file():
        raise TrainingError(
            f"model.pretrained.file: {path} does not exist, and Ratchet downloads no weights; "
            "put the file there"
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != settings.sha256:
        raise CorruptModel(
            f"model.pretrained: {path} has SHA-256 {digest}, params.yaml names {settings.sha256}"
        )
    try:
        tensors = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CorruptModel(
            f"model.pretrained: {path} is not a plain state_dict: {error}"
        ) from error
    own = model.state_dict()
    fitting = {
        key: value for key, value in tensors.items() if key in own and own[key].shape == value.shape
    }
    if not fitting:
        raise TrainingError(
            f"model.pretrained: no tensor in {path} fits this model; "
            "check that the file is for the architecture in model.name"
        )
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
