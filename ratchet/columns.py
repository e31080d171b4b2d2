"""The columns of shards: their names, and features as float64.

`row_id`, `label`, `split` and `image` are Ratchet's own. A shard stores a user's column as
`feature:NAME` (float64), as `keep:NAME` (text), or as both, so that it cannot collide with them.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from ratchet.errors import CorruptData

FEATURE, KEEP = "feature:", "keep:"
# What pyarrow and pandas read as a missing number.
# What pyarrow and pandas read as a missing number.
MISSING = pa.array(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "<NA>", "N/A", "NA", "n/a"),
        *("NULL", "null", "None", "NaN", "nan", "-NaN", "-nan"),
        *("-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"),
    ]
)
TRUE, FALSE = pa.array(["true", "True", "TRUE"]), pa.array(["false", "False", "FALSE"])


class NotNumbers(CorruptData):
    """A feature is not numeric.

    `problem` is its type, or the first value that is not a number. `row` is the place of that
    value.
    """

    def __init__(self, problem: str, row: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.row = problem, row


def own(name: str) -> str:
    """The user's name for a column of a shard."""
    prefix = next((prefix for prefix in (FEATURE, KEEP) if name.startswith(prefix)), "")
    return name.removeprefix(prefix)


def prefixed(prefix: str, names: Iterable[str]) -> list[str]:
    """The names that a user's columns have in shards."""
    return [prefix + name for name in names]


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return one array without dictionaries, run lengths or extension types."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array.type, pa.BaseExtensionType):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    return array


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is one of Arrow's string types."""
    rules = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(rule(kind) for rule in rules)


def is_number(kind: pa.DataType) -> bool:
    """Whether the type is an integer, a float, a decimal or a boolean."""
    rules = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(rule(kind) for rule in rules)


def numbers(column: pa.ChunkedArray | pa.Array, decimal: str = ".") -> pa.Array:
    """Convert a feature to float64 (N,).

    Args:
        column: numbers, booleans, or text that spells numbers or booleans (N,).
        decimal: the decimal mark in text.

    Raises:
        NotNumbers: the column has another type, or a value that is not a number.
    """
    array = plain(column)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.float64())
    if is_number(array.type):
        return array.cast(pa.float64(), safe=False)
    if is_text(array.type):
        return _parsed(array.cast(pa.string()), decimal)
    raise NotNumbers(str(array.type))


def _parsed(text: pa.Array, decimal: str) -> pa.Array:
    words = pc.utf8_trim_whitespace(text)
    words = pc.if_else(pc.is_in(words, MISSING), pa.scalar(None, pa.string()), words)
    if decimal != ".":
        if (row := pc.index(pc.match_substring(words, "."), True).as_py()) >= 0:
            raise NotNumbers(repr(text[row].as_py()), row)
        words = pc.replace_substring(words, decimal, ".")
    try:
        return words.cast(pa.float64())
    except pa.ArrowInvalid:
        words = pc.if_else(pc.is_in(words, FALSE), "0", words)
        words = pc.if_else(pc.is_in(words, TRUE), "1", words)
    try:
        return words.cast(pa.float64())
    except pa.ArrowInvalid:
        row = next(row for row, word in enumerate(words) if not _is_number(word))
        raise NotNumbers(repr(text[row].as_py()), row) from None


def _is_number(word: pa.Scalar) -> bool:
    try:
        word.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
