"""Checkpoints of a run that may be killed.

A checkpoint is complete or absent, and its hash is checked on reading. The last two are kept. They
are in `.checkpoints/<key>/`, outside DVC's outputs, which DVC deletes before a stage runs. The key
hashes everything that determines the outputs, so any change starts training from the beginning. A
folder belongs to one run at a time. The folders of the last five unfinished runs are kept.
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
from ratchet.locks import locked

KEEP = 2  # checkpoints per run
KEEP_RUNS = 5  # unfinished runs
HASH_BYTES = 32  # of a SHA-256


def key(files: Iterable[Path], values: object) -> str:
    """Hash the contents of `files`, in that order, and `values`.

    Args:
        files: files to read.
        values: anything that JSON can represent.

    Returns:
        32 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


class Checkpoints:
    """The checkpoints of one run, in `folder`.

    A file starts with the SHA-256 of the rest, which is a state as `torch.save` writes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Write `state` and delete all checkpoints but the last two.

        Args:
            state: tensors, numbers, strings, lists and dicts.
            epoch: epochs done.
            step: steps done in the next epoch.
        """
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
        """Return the newest undamaged state, or None; delete damaged ones.

        `weights_only` keeps code in a file from running.
        """
        for file in self._files():
            content = file.read_bytes()
            digest, body = content[:HASH_BYTES], content[HASH_BYTES:]
            if hashlib.sha256(body).digest() == digest:
                with contextlib.suppress(pickle.UnpicklingError):
                    state: dict[str, Any] = torch.load(
                        io.BytesIO(body), weights_only=True, map_location="cpu"
                    )
                    return state
            print(f"train: deleting the checkpoint {file.name}, because it is corrupt")
            file.unlink()
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder, and delete it when the block succeeds, because the run has finished.

        Raises:
            Busy: another run trains the same model on the same data.
        """
        with locked(
            self._lock_file, f"a run that trains the same model on the same data, in {self.folder},"
        ):
            try:
                yield
                shutil.rmtree(self.folder, ignore_errors=True)
            finally:
                self._lock_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # cleaning up must not fail a finished run
            self._remove_old_runs()

    @property
    def _lock_file(self) -> Path:
        return self.folder.with_suffix(".lock")

    def _remove_old_runs(self) -> None:
        """Delete the checkpoints of all unfinished runs but the newest and those still running."""
        area = self.folder.parent
        folders = newest_first(area)
        locked_folders = [lock.with_suffix("") for lock in area.glob("*.lock")]
        missing = [folder for folder in locked_folders if not folder.exists()]
        removed = 0
        for folder in [*folders[KEEP_RUNS:], *missing]:
            lock = folder.with_suffix(".lock")
            with contextlib.suppress(Busy), locked(lock, str(folder), 0):
                removed += folder.exists()
                shutil.rmtree(folder, ignore_errors=True)
                lock.unlink(missing_ok=True)
        if removed:
            print(f"train: removed the checkpoints of {removed} unfinished runs")

    def _files(self) -> list[Path]:
        """List the checkpoints, newest first."""
        return sorted(self.folder.glob("[0-9]*.pt"), reverse=True)
