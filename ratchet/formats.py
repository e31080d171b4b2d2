"""The numbers of the stored formats: files and tags as an older or newer Ratchet wrote them can be read.

A number is raised when a field changes its meaning or goes away; content without one has format 1.
Readers ignore fields that they do not know and fill in optional ones that are missing. Of a newer
format they read what they know, unless it says in `needs_format` that only a newer reader
understands it.
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
    number: int  # what this Ratchet writes, and the newest that it knows
    again: str  # the command after which it is whole again
    error: type[RatchetError] = CorruptData

    def stamped(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """`content` with this Ratchet's number, whatever number it had before."""
        return {**content, "format": self.number}

    def of(self, content: object, where: object) -> int:
        """The number of `content`, once it is known that it can be read.

        A newer one is warned of once.

        Raises:
            `error`: it is not a JSON object, its number is not one, or it needs a newer reader.
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
                f"{where} has format {number} of {self.name}, and this Ratchet knows format"
                f" {self.number}: what is new in it is ignored; upgrade Ratchet to use it"
            )
        return number

    def require(self, content: object, names: tuple[str, ...], where: object) -> Mapping[str, Any]:
        """`content`, once it is known that it can be read and has the fields `names`.

        Raises:
            `error`: as `of`, or one of these fields is missing.
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


# Here, since the steps that read it do not import the stage.
VALIDATION = Format("a validation report", 1, "run `dvc repro validate`")


def required(record: Any) -> tuple[str, ...]:
    """The fields of a dataclass that have no default."""
    return tuple(
        field.name
        for field in fields(record)
        if field.default is MISSING and field.default_factory is MISSING
    )


def known(record: Any, content: Mapping[str, Any]) -> dict[str, Any]:
    """What of `content` the dataclass has fields for."""
    return {field.name: content[field.name] for field in fields(record) if field.name in content}


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


@lru_cache(maxsize=1000)
def warn(message: str) -> None:
    """Log a warning, once in a process."""
    logging.getLogger("ratchet").warning(message)
