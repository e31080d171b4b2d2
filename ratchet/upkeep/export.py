"""Write a version's model in another format.

A fresh process loads the file again, and the model has to give the same outputs there.

- `state_dict`: the weights. Read it with `load_model(card, weights)`, or with
  `torch.load(file, weights_only=True)`.
- `safetensors`: the same tensors, with the card in the metadata. Read it with
  `safetensors.torch.load_file(file)`.
- `torch_export`: a program for any batch size, which does not need Ratchet. Read it with
  `torch.export.load(file).module()`.
- `whole_model`: `torch.save(model)`, a pickle, with the code of a class in `custom/`. Read it with
  `load_model(file, trust=True)`.

For every format but `whole_model`, the card is written to `<file>.json`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ratchet import custom_code
from ratchet.errors import TrainingError
from ratchet.files import writing
from ratchet.models import architectures
from ratchet.models.card import Card, WholeModel, load_model

ROWS = 3
TOLERANCE = 1e-5  # for the outputs of a compiled program; those of other formats are bit-equal


def export(
    version_card: Path, weights: Path, format: str, target: Path, package: str = "custom"
) -> None:
    """Write the model to `target`, or nothing if the file does not give the same outputs.

    Args:
        version_card: the version's card.
        weights: the version's weights.
        format: a key of `FORMATS`.
        target: the file to write.
        package: where a class of `custom/` comes from, as for `card.load_model`.

    Raises:
        TrainingError: the format is unknown, a package is missing, or the outputs differ after
            loading.
        CorruptModel: the version's files are damaged.
    """
    if format not in FORMATS:
        raise TrainingError(f"there is no format {format!r}; expected one of {', '.join(FORMATS)}")
    if Card.read(version_card).is_custom and package == "custom":
        # a name that is the same in every checkout
        package = custom_code.package(custom_code.folder_of(package))
    model, card = load_model(version_card, weights, package=package)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, *card.spec["input_shape"], generator=generator)
    with torch.no_grad():
        expected = model(inputs)
    with writing(target) as temporary:
        FORMATS[format].save(Model(model, card, package), inputs, temporary)
        _compare(format, temporary, version_card, inputs, expected, package)
    if format != "whole_model":
        card.write(target.with_name(f"{target.name}.json"))


def _compare(
    format: str, file: Path, card: Path, inputs: Tensor, expected: Tensor, package: str
) -> None:
    """Raise `TrainingError` unless the file gives the expected outputs in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.pt"
        torch.save({"inputs": inputs, "expected": expected}, sample)
        paths = [file, card, sample]
        if package != "custom":
            paths.append(custom_code.folder_of(package))
        command = [
            sys.executable,
            "-m",
            "ratchet.upkeep.export",
            format,
            *(str(path.resolve()) for path in paths),
        ]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrainingError(
            f"{format}: the file does not give the same outputs as the model ({last}); nothing was"
            " exported"
        )


class Model(NamedTuple):
    """A model to write, with its card and the package of its class."""

    module: nn.Module
    card: Card
    package: str


def _save_state_dict(model: Model, _inputs: Tensor, file: Path) -> None:
    with file.open("wb") as stream:
        torch.save(model.module.state_dict(), stream)


def _load_state_dict(file: Path, card: Card, package: str) -> nn.Module:
    return _filled(card, package, torch.load(file, weights_only=True))


def _filled(card: Card, package: str, tensors: dict[str, Tensor]) -> nn.Module:
    shape, classes = card.spec["input_shape"], len(card.classes)
    model = architectures.build(
        **card.architecture, input_shape=shape, classes=classes, package=package
    )
    model.load_state_dict(tensors)
    return model


def _save_safetensors(model: Model, _inputs: Tensor, file: Path) -> None:
    try:
        from safetensors.torch import save
    except ImportError:
        raise TrainingError(
            "safetensors: the package is not installed; run `pip install safetensors`"
        ) from None
    tensors = {key: value.contiguous() for key, value in model.module.state_dict().items()}
    card = json.dumps(dataclasses.asdict(model.card), sort_keys=True)
    file.write_bytes(save(tensors, metadata={"card": card}))


def _load_safetensors(file: Path, card: Card, package: str) -> nn.Module:
    from safetensors.torch import load_file

    return _filled(card, package, load_file(file))


def _save_program(model: Model, inputs: Tensor, file: Path) -> None:
    program = torch.export.export(
        model.module, (inputs,), dynamic_shapes=({0: torch.export.Dim.AUTO},)
    )
    with file.open("wb") as stream:  # a path would have to end with .pt2
        torch.export.save(program, stream)


def _load_program(file: Path, _card: Card, _package: str) -> nn.Module:
    with file.open("rb") as stream:
        return torch.export.load(stream).module()


def _save_whole(model: Model, _inputs: Tensor, file: Path) -> None:
    module = model.module
    module.card = dataclasses.asdict(model.card)  # type: ignore[assignment]  # torch types attributes as tensors and modules
    if not model.card.is_custom:
        torch.save(module, file)
        return
    content = io.BytesIO()
    torch.save(module, content)
    torch.save(WholeModel(custom_code.packed(model.package), content.getvalue()), file)


def _load_whole(file: Path, _card: Card, _package: str) -> nn.Module:
    return load_model(file, trust=True)[0]


class Format(NamedTuple):
    """The functions that write and read a format."""

    save: Callable[[Model, Tensor, Path], None]
    load: Callable[[Path, Card, str], nn.Module]


FORMATS = {
    "state_dict": Format(_save_state_dict, _load_state_dict),
    "safetensors": Format(_save_safetensors, _load_safetensors),
    "torch_export": Format(_save_program, _load_program),
    "whole_model": Format(_save_whole, _load_whole),
}


def _verify(format: str, file: Path, card: Path, sample: Path, custom: Path | None = None) -> None:
    """Compare the outputs, in the fresh process; `custom` is the version's folder of that name."""
    tensors = torch.load(sample, weights_only=True)
    package = "custom" if custom is None or format == "whole_model" else custom_code.package(custom)
    model = FORMATS[format].load(file, Card.read(card), package)
    with torch.no_grad():
        outputs = (
            model(tensors["inputs"])
            if format == "torch_export"
            else model.eval()(tensors["inputs"])
        )
        model(tensors["inputs"][:2])  # another batch size
    bound = TOLERANCE if format == "torch_export" else 0.0
    difference = (outputs - tensors["expected"]).abs().max().item()
    if not difference <= bound:
        raise SystemExit(f"outputs differ by {difference:.2g}")


if __name__ == "__main__":
    _verify(sys.argv[1], *map(Path, sys.argv[2:]))
