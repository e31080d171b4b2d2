"""Weights to start from: a local file, pinned by its hash; what does not fit stays random."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from ratchet.errors import CorruptModel, TrainingError
from ratchet.models import architectures
from ratchet.train_params import Pretrained
from ratchet.training import pretrained


def pinned(path: Path) -> Pretrained:
    return Pretrained(file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_all_but_the_head_is_taken_over(tmp_path: Path) -> None:
    given = architectures.build("mlp", {}, (6,), 1000).state_dict()
    model = architectures.build("mlp", {}, (6,), 3)
    fresh = pretrained.load(model, pinned(saved(tmp_path / "w.pt", given)))
    head = [key for key, value in model.state_dict().items() if 3 in value.shape]
    assert fresh == sorted(head)
    assert all(
        torch.equal(value, given[key])
        for key, value in model.state_dict().items()
        if key not in head
    )


def test_what_cannot_be_had_is_refused(tmp_path: Path) -> None:
    model = architectures.build("mlp", {}, (6,), 3)
    with pytest.raises(
        TrainingError, match=r"nothing\.pt does not exist, and Ratchet downloads no weights"
    ):
        pretrained.load(model, Pretrained(file=str(tmp_path / "nothing.pt"), sha256="0" * 64))
    file = saved(tmp_path / "w.pt", {"x": torch.ones(1)})
    with pytest.raises(CorruptModel, match=r"has SHA-256 .*, params\.yaml names 0000"):
        pretrained.load(model, Pretrained(file=str(file), sha256="0" * 64))
    with pytest.raises(TrainingError, match=r"no tensor in .* fits this model"):
        pretrained.load(model, pinned(file))
    with pytest.raises(CorruptModel, match="is not a plain state_dict"):
        pretrained.load(model, pinned(saved(tmp_path / "whole.pt", model)))
