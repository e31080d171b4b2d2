"""The card beside the weights: all that rebuilds a model.

Weights are read only through it, never as pickled code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ratchet import custom_code
from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData, CorruptModel, TrainingError
from ratchet.files import write_json
from ratchet.formats import Format, known, required
from ratchet.models import architectures

FORMAT = Format("the card of a model", 1, "run `dvc checkout models` or train again", CorruptModel)


@dataclass(frozen=True, kw_only=True)
class Card:
    """`models/classifier.json`; the fields with a default may be missing in it."""

    architecture: dict[str, Any]  # name, arguments
    spec: dict[str, Any]  # what spec.json held
    weights_sha256: str
    params: dict[str, Any]  # the sections model and train
    spec_sha256: str = ""
    libraries: dict[str, str] = field(default_factory=dict)  # versions
    device_type: str = ""

    @classmethod
    def read(cls, path: Path) -> Card:
        """Raises `CorruptModel` if the file is missing, not JSON, or lacks what building the model takes."""
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")), path)
        except FileNotFoundError:
            raise CorruptModel(
                f"{path}: there is no card; run `dvc checkout models` or train first"
            ) from None
        except (OSError, ValueError) as error:
            raise CorruptModel(
                f"{path} cannot be read as the card of a model: {error}; {FORMAT.again}"
            ) from None

    @classmethod
    def parse(cls, content: object, where: object) -> Card:
        """From the file's content; fields that this Ratchet does not know are ignored."""
        complete = FORMAT.require(content, REQUIRED, where)
        try:
            card = cls(**known(cls, complete))
            card.check()
        except (KeyError, TypeError, ValueError, CorruptData) as error:
            number = FORMAT.of(content, where)
            if number > FORMAT.number:
                raise CorruptModel(
                    FORMAT.newer(where, number, f"cannot be understood ({error!r})")
                ) from None
            raise CorruptModel(
                f"{where} does not hold {FORMAT.name}: {error!r}; {FORMAT.again}"
            ) from None
        return card

    def check(self) -> None:
        """Raise unless what `load_model` and predictions take from the card has the right kind."""
        if not isinstance(self.architecture["name"], str):
            raise TypeError("architecture.name is not text")
        dict(self.architecture.get("arguments", {}))
        _ = self.criterion
        self.parsed_spec()

    def write(self, path: Path) -> None:
        write_json(path, FORMAT.stamped(dataclasses.asdict(self)))

    @property
    def classes(self) -> list[str]:
        return list(self.spec["classes"])

    @property
    def is_custom(self) -> bool:
        """Is the model a class in `custom/`?"""
        return str(self.architecture["name"]).startswith("custom.")

    @property
    def criterion(self) -> str:
        return str(self.params["train"]["criterion"]["name"])

    def parsed_spec(self) -> Spec:
        return Spec.parse(self.spec)


REQUIRED = required(Card)


def load_model(
    card: Path, weights: Path | None = None, *, trust: bool = False, package: str = "custom"
) -> tuple[nn.Module, Card]:
    """The model of a card, in eval mode on the CPU, after its weights were checked against the card's SHA-256.

    `load_model(path, trust=True)` reads what `ratchet export --format whole_model` wrote instead.
    `package` is where a class of `custom/` comes from: `ratchet.load` passes that of the version's
    own commit.

    Raises:
        CorruptModel: the weights are missing, are not those of the card, or do not fit its
            architecture; or a whole model was given without `trust`, or is none.
    """
    if weights is None:
        return _whole(card, trust)
    read = Card.read(card)
    try:
        content = weights.read_bytes()
    except FileNotFoundError:
        raise CorruptModel(
            f"{weights}: there are no weights; run `dvc checkout models` or train first"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if found != read.weights_sha256:
        raise CorruptModel(
            f"{weights}: SHA-256 {found[:12]}…, but {card} names {read.weights_sha256[:12]}…; not"
            " loaded"
        )
    architecture = read.architecture
    try:
        model = architectures.build(
            architecture["name"],
            architecture.get("arguments", {}),
            input_shape=read.spec["input_shape"],
            classes=len(read.classes),
            package=package,
        )
        model.load_state_dict(
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        )
    except TrainingError as error:
        raise CorruptModel(f"{card}: {error}") from error
    except pickle.UnpicklingError:  # torch's own words advise to read it all the same
        raise CorruptModel(
            f"{weights}: it holds more than tensors, which may be code; nothing of it was run;"
            " `ratchet train` makes others"
        ) from None
    except (RuntimeError, KeyError, TypeError) as error:
        raise CorruptModel(f"{weights}: they do not fit {architecture}: {error}") from error
    return model.eval(), read


@dataclass(frozen=True)
class WholeModel:
    """What `torch.save` pickles of a model whose class is in `custom/`: its code and the model, which finds that code."""

    code: dict[str, bytes]
    model: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.code, self.model)


def _restored(code: dict[str, bytes], model: bytes) -> nn.Module:
    custom_code.unpacked(code)
    restored: nn.Module = torch.load(io.BytesIO(model), weights_only=False, map_location="cpu")
    return restored


def _whole(path: Path, trust: bool) -> tuple[nn.Module, Card]:
    if not trust:
        raise CorruptModel(
            f"{path}: a whole model is a pickle, and reading one runs whatever code it holds; pass"
            " trust=True if you made it yourself, else load the weights through their card:"
            " load_model(card, weights)"
        )
    try:
        model: nn.Module = torch.load(path, weights_only=False, map_location="cpu")
        return model.eval(), Card.parse(model.card, path)
    except (
        OSError,
        EOFError,
        pickle.UnpicklingError,
        RuntimeError,
        AttributeError,
        TypeError,
    ) as error:
        raise CorruptModel(
            f"{path}: not what `ratchet export --format whole_model` writes: {error}"
        ) from error


def pack(state: dict[str, torch.Tensor]) -> bytes:
    """A `state_dict` as bytes that depend on nothing else: contiguous CPU tensors, no file name inside."""
    buffer = io.BytesIO()
    torch.save(
        {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, buffer
    )
    return buffer.getvalue()
