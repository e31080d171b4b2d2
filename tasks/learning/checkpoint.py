"""Checkpoints of a run that may be killed: written whole or not at all, checked on reading, the last two kept.

They lie outside DVC's outputs (which DVC deletes before a stage runs) in `.checkpoints/<key>/`, where the key hashes
everything that decides the outputs: a change of any of it starts afresh.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tasks.data.files import writing

KEEP = 2


def key(files: Iterable[Path], values: object) -> str:
    """Hash of the contents of `files`, in the order given, and of `values` (anything JSON can hold)."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


class Checkpoints:
    """The checkpoints of one run, in `folder`: SHA-256 of what follows, then what `torch.save` makes of a state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Write `state` (tensors, numbers, strings, lists, dicts) and drop all but the last two."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        with writing(self.folder / f"{epoch:06d}-{step:08d}.pt") as temporary, temporary.open("wb") as file:
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        for old in self._files()[KEEP:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None. Runs no code that a file may hold (`weights_only`)."""
        for file in self._files():
            content = file.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                with contextlib.suppress(pickle.UnpicklingError):
                    state: dict[str, Any] = torch.load(io.BytesIO(content[32:]), weights_only=True, map_location="cpu")
                    return state
            print(f"train: checkpoint {file.name} is corrupt and was dropped")
            file.unlink()
        return None

    def remove(self) -> None:
        """Forget this run: it has finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("[0-9]*.pt"), reverse=True)
