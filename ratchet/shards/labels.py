"""Labels as text, whatever the source stores: one rule for all sources.

null, NaN, blank text     null
whole numbers             their digits; 1.0 is 1, as a float, as a decimal and as text
other numbers             the shortest decimal that gives the same number
booleans                  true, false
text                      unchanged: 007 is not 7, and spaces stay
numbers of named classes  the name; -1, Hugging Face's "no label", is null; a number out of range
                          stays a number

1.0 is 1 because pandas stores a column of integers with gaps as floats. The same rule applies to
text, so that the CSV file and the parquet file of one table agree.
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
    """Return labels as strings (N,), by the rules above.

    Args:
        column: labels of any type (N,).
        classes: names of integer labels, as `names` returns them.
        name: the column's name, for the message.

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
    """Apply `label` to each distinct value."""
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    if pa.types.is_decimal32(array.type) or pa.types.is_decimal64(array.type):
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    encoded = array.dictionary_encode()
    values: Iterable[Any] = encoded.dictionary.to_pylist()
    if pa.types.is_floating(array.type):
        # A float32 has a shorter decimal than the same float64.
        values = encoded.dictionary.to_numpy()
    return pa.array(map(label, values), pa.string()).take(encoded.indices)


def _number(value: Any, classes: Sequence[str] | None) -> str | None:
    if value != value:  # noqa: PLR0124  # NaN, also of a Decimal
        return None
    if isinstance(value, bool) and classes is None:
        return str(value).lower()
    if not isinstance(value, int) and (abs(value) >= EXACT or value != int(value)):
        if isinstance(value, Decimal):
            return format(value.normalize(), "f")
        return str(value)
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
    if match := WHOLE.fullmatch(value):
        return match[1] if match[1] != "-0" else "0"
    return value if value.strip() else None


def names(classes: Sequence[object]) -> list[str]:
    """Return the names of integer labels as distinct text.

    A blank name becomes its number. Names that occur more than once get their number, so that no
    classes are merged.
    """
    words = [str(name) if str(name).strip() else str(index) for index, name in enumerate(classes)]
    count = Counter(words)
    return [f"{word} ({index})" if count[word] > 1 else word for index, word in enumerate(words)]


def ordered(labels: Iterable[str], classes: Sequence[str] | None) -> list[str]:
    """Return the distinct labels in a fixed order.

    They are in the order of `classes` if the source names its classes, by number if all of them
    are integers, and otherwise sorted as text.
    """
    distinct = set(labels)
    if classes:
        return sorted(
            distinct,
            key=lambda label: (classes.index(label) if label in classes else len(classes), label),
        )
    if all(INTEGER.fullmatch(label) for label in distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)
