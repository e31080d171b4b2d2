"""The params of a version that predictions need: rules for rows, and formats of CSV files.

An older or newer Ratchet may have checked and written these params.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ratchet.errors import VersionError
from ratchet.formats import warn
from ratchet.images import MAX_PIXELS
from ratchet.params import Rules
from ratchet.prediction.unlabeled import Format
from ratchet.prediction.unlabeled_rows import Checks

RULES = ("dtype", "min", "max", "allowed", "nullable")
DIALECT = ("separator", "decimal", "encoding")


def checks(version: str, validate: Mapping[str, Any]) -> Checks:
    """Build the rules for the rows of a version.

    Args:
        version: its name, for messages.
        validate: the section `validate` of its params.

    Raises:
        VersionError: a rule has a value that this Ratchet does not understand.
    """
    columns: dict[str, Rules] = {}
    for name, rule in (validate.get("columns") or {}).items():
        where = f"validate.columns.{name} of {version}"
        values = {**dict.fromkeys(RULES), "nullable": True, **rule}
        if unknown := sorted(key for key in rule if key not in RULES and rule[key] is not None):
            warn(
                f"{where} has {', '.join(unknown)}, which this Ratchet does not know and does not "
                "check; upgrade Ratchet to check it"
            )
        try:
            columns[name] = Rules(**{key: values[key] for key in RULES})
        except ValidationError as error:
            problem = error.errors()[0]
            reason = f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            raise VersionError(
                f"{where} cannot be understood: {reason}; "
                "predict with the Ratchet that registered the version, or train a new one"
            ) from None
    return Checks(int(validate.get("max_pixels", MAX_PIXELS)), columns)


def formats(ingest: Mapping[str, Any]) -> list[Format]:
    """List the formats of a version's own sources, or the default format.

    Args:
        ingest: the section `ingest` of its params.
    """
    result = []
    for source in ingest.get("sources", []):
        dialect = {}
        if source.get("type") == "csv":
            dialect = {key: source[key] for key in DIALECT if key in source}
        result.append(Format(**dialect, image=source.get("image")))
    return list(dict.fromkeys(result)) or [Format()]
