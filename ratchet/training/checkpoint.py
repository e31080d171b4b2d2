"""Checkpoints of a run that may be killed: complete or absent, checked on reading, the last two kept.

They are in `.checkpoints/<key>/`, outside DVC's outputs, which DVC deletes before a stage runs. The
key hashes everything that decides the outputs, so a change of any of it starts from the beginning.
One run at a time uses a folder. Those of the last five runs that did not finish are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from ratchet.errors import Busy
from ratchet.files import newest_first, writing
from ratchet.process import locked

KEEP = 2  # checkpoints of a run
KEEP_RUNS = 5  # runs that did not finish


def key(files: Iterable[Path], values: object) -> str:
    """Hash of the contents of `files`, in the order given, and of `values` (anything JSON can hold)."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


class Checkpoints:
    """The checkpoints of one run, in `folder`: the SHA-256 of the rest, then a state as `torch.save` writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Write `state` (tensors, numbers, strings, lists, dicts) and drop all but the last two."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        with (
            writing(self.folder / f"{epoch:06d}-{step:08d}.pt") as temporary,
            temporary.open("wb") as file,
        ):
            file.write(hashlib.sha256(content).digest())
            file.write(content)
        for old in self._files()[KEEP:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest state that is whole, or None.

        Runs no code that a file may hold (`weights_only`).
        """
        for file in self._files():
            content = file.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                with contextlib.suppress(pickle.UnpicklingError):
                    state: dict[str, Any] = torch.load(
                        io.BytesIO(content[32:]), weights_only=True, map_location="cpu"
                    )
                    return state
            print(f"train: checkpoint {file.name} is corrupt and was dropped")
            file.unlink()
        return None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Use the folder alone, and delete it when the block succeeds: the run has finished.

        Raises:
            Busy: another run trains the same model from the same data.
        """
        with locked(
            self._lock, f"a training of the same model on the same data, in {self.folder},"
        ):
            try:
                yield
                shutil.rmtree(self.folder, ignore_errors=True)
            finally:
                self._lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it must not fail a run that has finished
            self._remove_old_runs()

    @property
    def _lock(self) -> Path:
        return self.folder.with_suffix(".lock")

    def _remove_old_runs(self) -> None:
        """Delete the checkpoints of all but the newest runs that did not finish and do not run now."""
        area = self.folder.parent
        folders = newest_first(area)
        unused = [lock.with_suffix("") for lock in area.glob("*.lock")]
        unused = [folder for folder in unused if not folder.exists()]
        removed = 0
        for folder in [*folders[KEEP_RUNS:], *unused]:
            lock = folder.with_suffix(".lock")
            with contextlib.suppress(Busy), locked(lock, str(folder), 0):
                removed += folder.exists()
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
        if removed:
            print(f"train: removed the checkpoints of {removed} runs that did not finish")

    def _files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("[0-9]*.pt"), reverse=True)
