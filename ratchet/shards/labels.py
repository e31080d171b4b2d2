"""Labels as text, whatever the source stores: one rule for all sources.

null, NaN, blank text     null
whole numbers             their digits; whole floats and decimals too (1.0 is 1), because pandas writes a column of integers
                          with a gap as floats; text such as 1.0 likewise, so that a CSV and a
                          parquet file of one table agree
other numbers             the shortest decimal that gives the same number
booleans                  true, false
text                      as it is: 007 is not 7, and spaces stay
numbers of named classes  the name; -1, Hugging Face's "no label", is null; a number out of range stays a number
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ratchet.columns import is_number, is_text, plain
from ratchet.errors import CorruptData

WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
INTEGER = re.compile(r"-?[0-9]{1,18}")
EXACT = 10**16  # from here on Python and pandas write floats with an exponent


def text(
    column: pa.ChunkedArray | pa.Array, classes: Sequence[str] | None = None, name: str = "label"
) -> pa.Array:
    """Labels as strings (N,), under the rules above.

    Args:
        classes: names of integer labels, as `names` returns them.
        name: of the column, for the message.

    Raises:
        CorruptData: the column holds something other than text, numbers or booleans.
    """
    array = plain(column)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.string())
    if is_number(array.type):
        return _mapped(array, lambda value: _number(value, classes))
    if (
        is_text(array.type)
        or pa.types.is_binary(array.type)
        or pa.types.is_large_binary(array.type)
    ):
        try:
            array = array.cast(pa.string())
        except pa.ArrowInvalid:
            raise CorruptData(
                f"the label column {name} holds bytes that are not UTF-8 text; convert it to text"
                " in the source"
            ) from None
        return _mapped(array, lambda value: _word(value, classes))
    raise CorruptData(
        f"the label column {name} is {array.type}; labels are text, numbers or booleans: "
        "convert the column, or name another one in ingest.sources"
    )


def _mapped(array: pa.Array, label: Callable[[Any], str | None]) -> pa.Array:
    """`label` of each distinct value."""
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    if pa.types.is_decimal32(array.type) or pa.types.is_decimal64(array.type):
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    encoded = array.dictionary_encode()
    values: Iterable[Any] = encoded.dictionary.to_pylist()
    if pa.types.is_floating(array.type):
        values = (
            encoded.dictionary.to_numpy()
        )  # a float32 has a shorter decimal than the same float64
    return pa.array(map(label, values), pa.string()).take(encoded.indices)


def _number(value: Any, classes: Sequence[str] | None) -> str | None:
    if value != value:  # NaN
        return None
    if isinstance(value, bool) and classes is None:
        return str(value).lower()
    if not isinstance(value, int) and (abs(value) >= EXACT or value != int(value)):
        return format(value.normalize(), "f") if isinstance(value, Decimal) else str(value)
    return str(int(value)) if classes is None else _class(int(value), classes)


def _class(index: int, classes: Sequence[str]) -> str | None:
    if index == -1:
        return None
    if 0 <= index < len(classes):
        return classes[index]
    return str(index) if str(index) not in classes else f"number {index}"


def _word(value: str, classes: Sequence[str] | None) -> str | None:
    if classes and value in classes:
        return value
    whole = WHOLE.fullmatch(value)
    if whole:
        return whole[1] if whole[1] != "-0" else "0"
    return value if value.strip() else None


def names(classes: Sequence[object]) -> list[str]:
    """The names of integer labels.

    Names that occur more than once get their number, so that none are merged.
    """
    words = [str(name) if str(name).strip() else str(index) for index, name in enumerate(classes)]
    count = Counter(words)
    return [f"{word} ({index})" if count[word] > 1 else word for index, word in enumerate(words)]


def ordered(labels: Iterable[str], classes: Sequence[str] | None) -> list[str]:
    """Distinct labels in the order of the classes that the source names, or by number if all are integers, or as text."""
    distinct = set(labels)
    if classes:
        return sorted(
            distinct,
            key=lambda label: (classes.index(label) if label in classes else len(classes), label),
        )
    if all(INTEGER.fullmatch(label) for label in distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)
