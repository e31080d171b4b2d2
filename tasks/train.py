"""Train the model that params.yaml describes.

Reads `data/prepared/{train,val}` and `data/prepared/spec.json`; writes `models/classifier.pt`
(weights), `models/classifier.json` (the card that rebuilds the model) and
`reports/training/curves.tsv`. Params: `model`, `train`. A run that is killed goes on from its last
checkpoint when it is started again, and ends bit-equal to one that was not.
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

    Raises:
        Busy: another run trains the same model on the same data.
        ParamsError: a custom model imports code that is not a dep of this stage.
        TrainingError, DataError: as `loop.fit`.
    """
    Spec.read(tree / PREPARED / "spec.json")
    custom_imports.check_model(tree, params)
    folder = scratch(tree) / ".checkpoints" / _key(params, tree)
    with Checkpoints(folder).held():
        if params.train.processes > 1 and not distributed.under_torchrun():
            distributed.launch(
                params.train.processes, _together, params, tree, folder, stop=stopping
            )
        else:
            _train(params, tree, folder, stopping)


def _train(params: Params, tree: Path, folder: Path, stop: Callable[[], bool]) -> None:
    """Train in this process, alone or as one of a group, whose leader writes."""
    prepared = tree / PREPARED
    spec = Spec.read(prepared / "spec.json")
    rows, held_out = (PreparedDataset(prepared / split) for split in ("train", "val"))
    with distributed.group(devices.device(params.train.device)) as group:
        trained = fit(
            params, spec, rows, held_out, Checkpoints(folder), group=group, stop=stop, say=_say
        )
        if group.leads:
            _write(trained, params, tree)


def _together(params: Params, tree: Path, folder: Path) -> None:
    _train(params, tree, folder, distributed.heed())


def _say(line: str) -> None:
    print(f"train: {line}", flush=True)


def _key(params: Params, tree: Path) -> str:
    """Everything that decides the outputs: data, code, params, libraries, the kind of device."""
    code = [Path(__file__), *code_files("training", "models", "dataset")]
    own = [tree / "custom/__init__.py", *custom_code.files(tree / "custom/models")]
    data = sorted(
        file for part in ("spec.json", "train", "val") for file in _files(tree / PREPARED / part)
    )
    values = {
        "model": asdict(params.model),
        "train": asdict(params.train),
        "libraries": _libraries(),
        "device_type": devices.device(params.train.device).type,
    }
    return checkpoint.key([*code, *(file for file in own if file.is_file()), *data], values)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _write(trained: Trained, params: Params, tree: Path) -> None:
    weights = pack(trained.weights)
    spec = tree / PREPARED / "spec.json"
    card = Card(
        architecture={"name": params.model.name, "arguments": dict(params.model.arguments)},
        spec=json.loads(spec.read_text(encoding="utf-8")),
        spec_sha256=sha256(spec),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        params={"model": asdict(params.model), "train": asdict(params.train)},
        libraries=_libraries(),
        device_type=trained.device_type,
    )
    lines = [
        "\t".join(CURVES),
        *("\t".join(f"{dict(row)[name]:.6g}" for name in CURVES) for row in trained.curves),
    ]
    with writing(tree / "reports/training/curves.tsv") as file:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with writing(tree / "models/classifier.pt") as file:
        file.write_bytes(weights)
    card.write(tree / "models/classifier.json")
    _say(f"wrote models/classifier.pt, {len(weights):,} bytes, SHA-256 {card.weights_sha256[:12]}")


def _libraries() -> dict[str, str]:
    from importlib.metadata import version

    return {
        "numpy": np.__version__,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
    }


if __name__ == "__main__":
    if distributed.follows():
        _together(parameters.load(), Path(), Path(".checkpoints/none"))
    else:
        train.main()
