"""Train the model that params.yaml describes.

Reads `data/prepared/{train,val}` and `data/prepared/spec.json`.
Writes `models/classifier.pt` (weights), `models/classifier.json` (the card that rebuilds the model)
and `reports/training/curves.tsv`.
Params: `model`, `train`.

After a kill, the same command resumes from the last checkpoint and ends bit-equal to an
uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ratchet import custom_code, custom_imports
from ratchet import params as parameters
from ratchet.dataset.prepared import PreparedDataset
from ratchet.dataset.spec import Spec
from ratchet.files import code_files, sha256, writing
from ratchet.models import devices
from ratchet.models.card import Card, pack
from ratchet.params import Params
from ratchet.stage import scratch, stage, stopping
from ratchet.training import checkpoint, distributed
from ratchet.training.checkpoint import Checkpoints
from ratchet.training.loop import Trained, fit

PREPARED = Path("data/prepared")
CURVES = ("epoch", "train_loss", "val_loss", "val_accuracy", "learning_rate")


@stage(patient=True)
def train(params: Params, tree: Path) -> None:
    """Train in `tree`.

    Args:
        params: all params; `model`, `train` and `run` are used.
        tree: the checkout to work in.

    Raises:
        Busy: another run trains the same model on the same data.
        ParamsError: a custom model imports code that is not a dependency of this stage.
        TrainingError, DataError: as in `loop.fit`.
        SystemExit: the stage was stopped; a checkpoint is saved.
    """
    Spec.read(tree / PREPARED / "spec.json")
    custom_imports.check_model(tree, params)
    folder = scratch(tree) / ".checkpoints" / _key(params, tree)
    with Checkpoints(folder).lock():
        if params.train.processes > 1 and not distributed.under_torchrun():
            count = params.train.processes
            distributed.launch(count, _train_in_group, params, tree, folder, stop=stopping)
        else:
            _train(params, tree, folder, stopping)


def _train(params: Params, tree: Path, folder: Path, stop: Callable[[], bool]) -> None:
    """Train in this process, alone or in a group, and write the outputs if it leads the group."""
    prepared = tree / PREPARED
    spec = Spec.read(prepared / "spec.json")
    rows, val = PreparedDataset(prepared / "train"), PreparedDataset(prepared / "val")
    checkpoints = Checkpoints(folder)
    with distributed.group(devices.device(params.train.device)) as group:
        result = fit(params, spec, rows, val, checkpoints, group=group, stop=stop, say=_say)
        if group.leads:
            _write(result, params, tree)


def _train_in_group(params: Params, tree: Path, folder: Path) -> None:
    """Train in a process outside the stage, which handles SIGTERM itself."""
    _train(params, tree, folder, distributed.heed())


def _say(line: str) -> None:
    print(f"train: {line}", flush=True)


def _key(params: Params, tree: Path) -> str:
    """Hash all that determines the outputs: data, code, params, libraries, type of device."""
    code = [Path(__file__), *code_files("training", "models", "dataset")]
    own = [tree / "custom/__init__.py", *custom_code.files(tree / "custom/models")]
    prepared = tree / PREPARED
    data = [prepared / "spec.json", *_files(prepared / "train"), *_files(prepared / "val")]
    values = {
        "model": asdict(params.model),
        "train": asdict(params.train),
        "libraries": _libraries(),
        "device_type": devices.device(params.train.device).type,
    }
    return checkpoint.key([*code, *filter(Path.is_file, own), *sorted(data)], values)


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def _write(result: Trained, params: Params, tree: Path) -> None:
    """Write the weights, the card and the learning curves."""
    weights = pack(result.weights)
    spec = tree / PREPARED / "spec.json"
    card = Card(
        architecture={"name": params.model.name, "arguments": dict(params.model.arguments)},
        spec=json.loads(spec.read_text(encoding="utf-8")),
        spec_sha256=sha256(spec),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        params={"model": asdict(params.model), "train": asdict(params.train)},
        libraries=_libraries(),
        device_type=result.device_type,
    )
    lines = ["\t".join(CURVES)]
    lines += ["\t".join(f"{dict(row)[name]:.6g}" for name in CURVES) for row in result.curves]
    with writing(tree / "reports/training/curves.tsv") as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with writing(tree / "models/classifier.pt") as file:
        file.write_bytes(weights)
    card.write(tree / "models/classifier.json")
    _say(f"wrote models/classifier.pt, {len(weights):,} bytes, SHA-256 {card.weights_sha256[:12]}")


def _libraries() -> dict[str, str]:
    """Return the versions of the libraries that compute."""
    from importlib.metadata import version

    return {
        "numpy": np.__version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
    }


if __name__ == "__main__":
    if distributed.follows():
        _train_in_group(parameters.load(), Path(), Path(".checkpoints/none"))
    else:
        train.main()
