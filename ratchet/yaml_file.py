"""YAML 1.2, read with the parser that DVC uses (libyaml).

A file that DVC would refuse later is refused here, with the line and a remedy.
"""

from __future__ import annotations

from pathlib import Path

from ratchet.errors import ParamsError

_QUOTE = "put the value in quotes"
_REMEDIES = {  # a part of the parser's message: the remedy
    "found unexpected ':'": (
        'put values that contain a colon in quotes, such as "custom.models.net:Net" or '
        '"https://...", and a space after the colon of a key'
    ),
    "mapping values are not allowed": (
        "put values that contain a colon and a space in quotes, put a space after the "
        "colon of a key, and check the indentation"
    ),
    "cannot start any token": (
        "indent with spaces, not tabs, and put values that start with @, ` or % in quotes"
    ),
    "duplicate key": "keep one of the two",
    "expected ',' or": "close the bracket, and separate the entries with commas",
    "unexpected end of stream": "close the quotes",
    "escape character": "use single quotes, or double each backslash",
    "constructor for the tag": _QUOTE,
    "alphabetic or numeric character": _QUOTE,
    "undefined alias": _QUOTE,
    "another document": "remove the line ---",
    "control characters": "remove that character",
}
_INDENTATION = "check the indentation of this line and the one above"


def read(file: Path) -> object:
    """Return the content of a YAML file.

    Raises:
        ParamsError: it is not UTF-8 or not valid YAML; the message has the line and the remedy.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ParamsError(
            f"{file.name} is not UTF-8 in line {line}; save it with that encoding"
        ) from None
    return parse(text, file.name)


def parse(text: str, name: str) -> object:
    """Return the content of a YAML text.

    Args:
        text: the YAML document.
        name: the name of the document in messages.

    Raises:
        ParamsError: it is not valid YAML; the message has the line and the remedy.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except YAMLError as error:
        where, problem = _described(error, text)
        message = f"{name} is not valid YAML{where}: {problem}; {_remedy(problem)}"
        raise ParamsError(message) from None
    except (RecursionError, ValueError) as error:  # nested too deeply; a date such as 2026-02-30
        cause = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ParamsError(f"{name} is not valid YAML: {cause}; {_QUOTE} if it is text") from None


def _remedy(problem: str) -> str:
    for part, remedy in _REMEDIES.items():
        if part in problem:
            return remedy
    return _INDENTATION


def _described(error: Exception, text: str) -> tuple[str, str]:
    """Return where the parser stopped, and its message."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    problem = " ".join(problem.splitlines()[0].split()).split(" (original value")[0]
    if mark is not None:
        return f" at line {mark.line + 1}, column {mark.column + 1}", problem
    position = getattr(error, "position", None)
    if isinstance(position, int):
        return f" at line {text.count(chr(10), 0, position) + 1}", problem
    return "", problem
