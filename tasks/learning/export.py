"""A version's model in other formats, each loaded again in a fresh process, where it must give the same outputs.

| format | what it is | how to read it |
|---|---|---|
| `state_dict` | the weights as they are | `load_model(card, weights)`, or `torch.load(file, weights_only=True)` |
| `safetensors` | the same tensors, the card in its metadata | `safetensors.torch.load_file(file)` |
| `torch_export` | a program for any batch size, without Ratchet | `torch.export.load(file).module()` |
| `whole_model` | `torch.save(model)`: a pickle, code and all | `load_model(file, trust=True)` |

All but `whole_model` get the card beside them, as `<file>.json`.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from tasks.data.files import writing
from tasks.errors import TrainingError
from tasks.learning import models
from tasks.learning.card import Card, load_model

ROWS = 3
TOLERANCE = 1e-5  # between the outputs of the original and of a compiled program; the other formats are bit-equal


def export(version_card: Path, weights: Path, format: str, target: Path) -> None:
    """Write the model to `target`, or nothing at all if it does not come back the same.

    Raises:
        TrainingError: an unknown format, a package that is missing, or other outputs after loading.
        CorruptModel: the version's files are not whole.
    """
    if format not in FORMATS:
        raise TrainingError(f"there is no format {format!r}; expected one of {', '.join(FORMATS)}")
    model, card = load_model(version_card, weights)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, *card.spec["input_shape"], generator=generator)
    with torch.no_grad():
        expected = model(inputs)
    with writing(target) as temporary:
        FORMATS[format][0](model, card, inputs, temporary)
        _compare(format, temporary, version_card, inputs, expected)
    if format != "whole_model":
        card.write(target.with_name(f"{target.name}.json"))


def _compare(format: str, file: Path, card: Path, inputs: Tensor, expected: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.pt"
        torch.save({"inputs": inputs, "expected": expected}, sample)
        given = [str(path.resolve()) for path in (file, card, sample)]
        command = [sys.executable, "-m", "tasks.learning.export", format, *given]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(f"{format}: what was written does not come back the same ({last}); nothing was exported")


def _save_state_dict(model: nn.Module, _card: Card, _inputs: Tensor, file: Path) -> None:
    with file.open("wb") as stream:
        torch.save(model.state_dict(), stream)


def _load_state_dict(file: Path, card: Path) -> nn.Module:
    return _filled(card, torch.load(file, weights_only=True))


def _filled(card: Path, tensors: dict[str, Tensor]) -> nn.Module:
    read = Card.read(card)
    model = models.build(**read.architecture, input_shape=read.spec["input_shape"], classes=len(read.classes))
    model.load_state_dict(tensors)
    return model


def _save_safetensors(model: nn.Module, card: Card, _inputs: Tensor, file: Path) -> None:
    try:
        from safetensors.torch import save_file  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise TrainingError("safetensors: the package is not installed; run `pip install safetensors`") from None
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, file, metadata={"card": json.dumps(dataclasses.asdict(card), sort_keys=True)})


def _load_safetensors(file: Path, card: Path) -> nn.Module:
    from safetensors.torch import load_file  # type: ignore[import-not-found, unused-ignore]

    return _filled(card, load_file(file))


def _save_program(model: nn.Module, _card: Card, inputs: Tensor, file: Path) -> None:
    program = torch.export.export(model, (inputs,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.export.save(program, file)


def _load_program(file: Path, _card: Path) -> nn.Module:
    return torch.export.load(file).module()


def _save_whole(model: nn.Module, card: Card, _inputs: Tensor, file: Path) -> None:
    model.card = dataclasses.asdict(card)  # type: ignore[assignment]  # torch types attributes as tensors and modules
    torch.save(model, file)


def _load_whole(file: Path, _card: Path) -> nn.Module:
    return load_model(file, trust=True)[0]


FORMATS: dict[str, tuple[Callable[[nn.Module, Card, Tensor, Path], None], Callable[[Path, Path], nn.Module]]] = {
    "state_dict": (_save_state_dict, _load_state_dict),
    "safetensors": (_save_safetensors, _load_safetensors),
    "torch_export": (_save_program, _load_program),
    "whole_model": (_save_whole, _load_whole),
}


def _verify(format: str, file: Path, card: Path, sample: Path) -> None:
    """What the fresh process does."""
    held = torch.load(sample, weights_only=True)
    model = FORMATS[format][1](file, card)
    with torch.no_grad():
        found = model(held["inputs"]) if format == "torch_export" else model.eval()(held["inputs"])
        model(held["inputs"][:2])  # another batch size
    bound = TOLERANCE if format == "torch_export" else 0.0
    difference = (found - held["expected"]).abs().max().item()
    if not difference <= bound:
        raise SystemExit(f"outputs differ by {difference:.2g}")


if __name__ == "__main__":
    _verify(sys.argv[1], *map(Path, sys.argv[2:]))
