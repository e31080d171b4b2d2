"""Format numbers of stored files and tags, so that other versions of Ratchet can read them.

A format number increases when a field changes its meaning or is removed. Content without a number
has format 1. Readers ignore unknown fields, and fill in optional fields that are missing. They read
what they know of a newer format, unless its `needs_format` says that it needs a newer reader.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any

from ratchet.errors import CorruptData, RatchetError


@dataclass(frozen=True)
class Format:
    """One kind of file or tag."""

    name: str
    number: int  # the format that this Ratchet writes, and the newest one that it knows
    again: str  # what to do if the content is damaged, for messages
    error: type[RatchetError] = CorruptData

    def stamped(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return `content` with the current format number."""
        return {**content, "format": self.number}

    def of(self, content: object, where: object) -> int:
        """Check that `content` can be read, and return its format number.

        A newer format is reported by a warning, once per process.

        Args:
            content: the parsed JSON.
            where: where it was read, for messages.

        Raises:
            RatchetError: the content is not a JSON object, its number is invalid, or it needs a
                newer reader. The class of the exception is `error`.
        """
        if not isinstance(content, Mapping):
            raise self.error(
                f"{where} does not hold {self.name}: it is not a JSON object; {self.again}"
            )
        number = _number(content.get("format", 1))
        needed = _number(content.get("needs_format", 1))
        if number is None or needed is None:
            raise self.error(
                f"{where} does not hold {self.name}: its format number is not a whole number;"
                f" {self.again}"
            )
        if needed > self.number:
            raise self.error(
                self.newer(where, number, f"needs a Ratchet that reads format {needed}")
            )
        if number > self.number:
            warn(
                f"{where} has format {number} of {self.name}, but this Ratchet knows format"
                f" {self.number} and ignores what is new; upgrade Ratchet to use it"
            )
        return number

    def require(self, content: object, names: tuple[str, ...], where: object) -> Mapping[str, Any]:
        """Check that `content` can be read and has the fields `names`, and return it.

        Raises:
            RatchetError: as `of` does, or a field is missing.
        """
        number = self.of(content, where)
        assert isinstance(content, Mapping)
        missing = [name for name in names if name not in content]
        if missing and number > self.number:
            raise self.error(self.newer(where, number, f"lacks {', '.join(missing)}"))
        if missing:
            raise self.error(
                f"{where} does not hold {self.name}: it lacks {', '.join(missing)}; {self.again}"
            )
        return content

    def newer(self, where: object, number: int, problem: str) -> str:
        """The message about a newer format that cannot be understood."""
        return (
            f"{where} has format {number} of {self.name}, but this Ratchet reads format"
            f" {self.number}, and it {problem}; upgrade Ratchet to the version that wrote it"
        )


# This is here because the steps that read a report do not import the stage.
VALIDATION = Format("a validation report", 1, "run `dvc repro validate`")


def required(record: Any) -> tuple[str, ...]:
    """The fields of a dataclass that have no default."""
    return tuple(
        field.name
        for field in fields(record)
        if field.default is MISSING and field.default_factory is MISSING
    )


def known(record: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `content` that the dataclass has fields for."""
    return {field.name: content[field.name] for field in fields(record) if field.name in content}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


@lru_cache(maxsize=1000)
def warn(message: str) -> None:
    """Log a warning, once per process."""
    logging.getLogger("ratchet").warning(message)
