"""The card of a model: everything needed to rebuild it from its weights.

Weights are read only through their card, never as pickled code.
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
    """The content of `models/classifier.json`; fields with a default are optional there."""

    architecture: dict[str, Any]  # name and arguments
    spec: dict[str, Any]  # the content of spec.json
    weights_sha256: str
    params: dict[str, Any]  # the sections model and train
    spec_sha256: str = ""
    libraries: dict[str, str] = field(default_factory=dict)  # their versions
    device_type: str = ""

    @classmethod
    def read(cls, path: Path) -> Card:
        """Read a card from a file.

        Raises:
            CorruptModel: the file is missing, is not JSON, or lacks a field that building the model
                needs.
        """
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")), path)
        except FileNotFoundError:
            raise CorruptModel(
                f"{path} does not exist; run `dvc checkout models` or train first"
            ) from None
        except (OSError, ValueError) as error:
            raise CorruptModel(
                f"{path} cannot be read as the card of a model: {error}; {FORMAT.again}"
            ) from None

    @classmethod
    def parse(cls, content: object, where: object) -> Card:
        """Build a card from the content of its file, ignoring unknown fields.

        Args:
            content: the parsed JSON.
            where: the name of the file in messages.

        Raises:
            CorruptModel: a field is missing or has a wrong value.
        """
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
        """Check the types of the fields that `load_model` and predictions read.

        Raises:
            KeyError, TypeError, ValueError, CorruptData: a field is missing or has a wrong value.
        """
        if not isinstance(self.architecture["name"], str):
            raise TypeError("architecture.name is not text")
        dict(self.architecture.get("arguments", {}))
        _ = self.criterion
        self.parsed_spec()

    def write(self, path: Path) -> None:
        """Write the card to a file."""
        write_json(path, FORMAT.stamped(dataclasses.asdict(self)))

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the model's outputs."""
        return list(self.spec["classes"])

    @property
    def is_custom(self) -> bool:
        """Whether the model is a class in `custom/`."""
        return str(self.architecture["name"]).startswith("custom.")

    @property
    def criterion(self) -> str:
        """The name of the loss that the model was trained with."""
        return str(self.params["train"]["criterion"]["name"])

    def parsed_spec(self) -> Spec:
        """Parse `spec`; raise `CorruptData` if it is not a spec."""
        return Spec.parse(self.spec)


REQUIRED = required(Card)


def load_model(
    card: Path, weights: Path | None = None, *, trust: bool = False, package: str = "custom"
) -> tuple[nn.Module, Card]:
    """Load a model, in eval mode on the CPU, and its card.

    The SHA-256 of the weights must be the one in the card.

    Args:
        card: the card, or a file that `ratchet export --format whole_model` wrote.
        weights: the weights, or None if `card` is such a file.
        trust: allow a whole model, which is a pickle and can run any code.
        package: the package that stands for `custom`; `ratchet.load` passes that of the version's
            own commit.

    Raises:
        CorruptModel: the weights are missing, are not those of the card, or do not fit its
            architecture; or `card` is a whole model without `trust`, or not a whole model.
    """
    if weights is None:
        return _load_whole(card, trust)
    loaded_card = Card.read(card)
    content = _read_weights(weights, card, loaded_card.weights_sha256)
    architecture = loaded_card.architecture
    try:
        model = architectures.build(
            architecture["name"],
            architecture.get("arguments", {}),
            input_shape=loaded_card.spec["input_shape"],
            classes=len(loaded_card.classes),
            package=package,
        )
        model.load_state_dict(
            torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        )
    except TrainingError as error:
        raise CorruptModel(f"{card}: {error}") from error
    except pickle.UnpicklingError:  # torch's own message advises reading it without the check
        raise CorruptModel(
            f"{weights} holds more than tensors, which may be code, and none of it was run; "
            "train again with `ratchet train`"
        ) from None
    except (RuntimeError, KeyError, TypeError) as error:
        raise CorruptModel(f"{weights} does not fit {architecture}: {error}") from error
    return model.eval(), loaded_card


def _read_weights(weights: Path, card: Path, expected: str) -> bytes:
    """Read the weights; raise `CorruptModel` if their SHA-256 is not the `expected` one."""
    try:
        content = weights.read_bytes()
    except FileNotFoundError:
        raise CorruptModel(
            f"{weights} does not exist; run `dvc checkout models` or train first"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise CorruptModel(
            f"{weights} was not loaded: its SHA-256 is {digest[:12]}…, but {card} names "
            f"{expected[:12]}…; run `dvc checkout models` or train again"
        )
    return content


@dataclass(frozen=True)
class WholeModel:
    """The pickled form of a model whose class is in `custom/`: the code and the model.

    Unpickling restores the code first, so that the model finds its class.
    """

    code: dict[str, bytes]
    model: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.code, self.model)


def _restored(code: dict[str, bytes], model: bytes) -> nn.Module:
    """Unpickle a `WholeModel`; exported files refer to this function by its name."""
    custom_code.unpacked(code)
    restored: nn.Module = torch.load(io.BytesIO(model), weights_only=False, map_location="cpu")
    return restored


def _load_whole(path: Path, trust: bool) -> tuple[nn.Module, Card]:
    if not trust:
        raise CorruptModel(
            f"{path}: a whole model is a pickle, and loading it runs any code in it; "
            "pass trust=True if you made it yourself, or load the weights through their card with "
            "load_model(card, weights)"
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
            f"{path} is not a file that `ratchet export --format whole_model` writes: {error}"
        ) from error


def pack(state: dict[str, torch.Tensor]) -> bytes:
    """Serialise a `state_dict` to bytes that depend on nothing else.

    The tensors are contiguous and on the CPU, and the bytes contain no file name.
    """
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()
