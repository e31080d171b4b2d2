"""The problems of a params.yaml, one per line: key, what was expected, the value, the remedy."""

from __future__ import annotations

import datetime
import difflib
import json
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

KeyPath = tuple[int | str, ...]

_KINDS = {  # pydantic's type of an error: what was expected instead
    "bool_type": ["true", "false"],
    "int_type": ["a whole number"],
    "int_from_float": ["a whole number"],
    "float_type": ["a number"],
    "finite_number": ["a finite number"],
    "string_type": ["a string"],
    "tuple_type": ["a list"],
    "dict_type": ["a mapping"],
    "none_required": ["null"],
    "greater_than": ["more than {gt:g}"],
    "greater_than_equal": ["at least {ge:g}"],
    "less_than": ["less than {lt:g}"],
    "less_than_equal": ["at most {le:g}"],
    "string_too_short": ["text that is not empty"],
    "string_too_long": ["at most {max_length} characters"],
    "model_attributes_type": ["a mapping with a type, such as {{type: csv, ...}}"],
}
_PATTERNS = {  # the last part of a key whose value must match a pattern: an example or description
    "path": "a path, without control characters",
    "root": "a path, without control characters",
    "separator": 'one character, such as ";", or "\\t" in double quotes for a tab',
    "name": "the name of a class, such as FashionMNIST",
    "repository": "OWNER/NAME",
    "revision": "a branch, a tag or a commit",
    "source": "custom.module:Class",
    "sha256": "64 hexadecimal digits in lower case",
    "cluster": "tcp://HOST:PORT",
}
_FEW = 12  # keys that a message lists


@dataclass
class Problem:
    """What is wrong at one key."""

    path: KeyPath
    expected: list[str] = field(default_factory=list)  # alternatives, of the types that may apply
    text: str = ""  # the whole message, if it is not about what was expected
    value: object = None

    def __str__(self) -> str:
        key = dotted(self.path)
        if self.text:
            return f"{key}: {self.text}" if key else self.text
        remedy = _about_quotes(self.expected, self.value)
        line = f"expected {_joined(self.expected)}, found {shown(self.value)}{remedy}"
        return f"{key or 'the whole file'}: {line}"


def problems(model: type, raw: object, error: ValidationError) -> list[Problem]:
    """Return the problems in order, each once, without those that only follow from others."""
    by_key: dict[tuple[KeyPath, bool], Problem] = {}
    for fault in error.errors(include_url=False):
        path = _path(raw, fault["loc"], fault["type"])
        text = _text(model, raw, path, fault)
        new = Problem(path, text=text, value=fault["input"])
        problem = by_key.setdefault((path, bool(text)), new)
        if text and text != problem.text:
            problem.text += f"; {text}"
        if not text:
            problem.expected += _expected(model, raw, path, fault)
    all_problems = list(by_key.values())
    return [problem for problem in all_problems if not _follows(problem, all_problems)]


def dotted(path: KeyPath) -> str:
    """Return the key as text: `ingest.sources.0.path`."""
    return ".".join(map(str, path))


def shown(value: object) -> str:
    """Return a value as YAML has it, shortened to 60 characters."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _follows(problem: Problem, all_problems: Sequence[Problem]) -> bool:
    """Does a problem only follow from one below its key, such as a list without its bad entry?"""
    depth = len(problem.path)
    return not problem.text and any(
        other.path[:depth] == problem.path != other.path for other in all_problems
    )


def _text(model: type, raw: object, path: KeyPath, fault: Mapping[str, Any]) -> str:
    """Return the whole message of a fault that is not about the type or range of one value."""
    kind = fault["type"]
    if kind == "unexpected_keyword_argument":
        return f"unknown key; {advice(model, raw, path)}"
    if kind == "missing" and isinstance(fault["loc"][-1], str):
        return "missing; add it" if len(path) > 1 else "this section is missing; add it"
    if kind == "union_tag_invalid":
        tags = fault["ctx"]["expected_tags"].removeprefix("the expected tags: ")
        return f"unknown type {shown(fault['input'].get('type'))}; use {_joined(_words(tags))}"
    if kind == "union_tag_not_found":
        return "missing; name the type of the source, such as csv"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    return ""


def _expected(model: type, raw: object, path: KeyPath, fault: Mapping[str, Any]) -> list[str]:
    """Return what was expected instead of a value, as alternatives."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "literal_error":
        return _words(context["expected"])
    if kind == "string_pattern_mismatch":
        return [_PATTERNS.get(str(path[-1]), f"text that matches {context['pattern']}")]
    if kind in ("dataclass_type", "dataclass_exact_type"):
        names = [key.name for key in fields(_class(model, raw, path) or model)]
        if len(names) > _FEW:
            return ["a mapping"]
        return [f"a mapping with {_joined(names, 'and')}"]
    if kind == "missing":  # an entry of a list of a fixed length
        return [_entries("at least", int(fault["loc"][-1]) + 1)]
    if kind == "too_short":
        return [_entries("at least", context["min_length"])]
    if kind == "too_long":
        return [_entries("at most", context["max_length"])]
    if kind in _KINDS:
        return [text.format(**context) for text in _KINDS[kind]]
    message = str(fault["msg"])
    return [message.removeprefix("Input should be ").removeprefix("a valid ")]


def _entries(bound: str, count: int) -> str:
    return f"{bound} {count} {'entry' if count == 1 else 'entries'}"


def _about_quotes(expected: Sequence[str], value: object) -> str:
    """Return the remedy if quotes are the fault: `"3"` for a number, or `007` for text."""
    if "a string" in expected and isinstance(value, int | float | datetime.date):
        return "; put it in quotes"
    numbers = {"a whole number", "a number"} & {*expected}
    if isinstance(value, str) and numbers and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value):
        return "; remove the quotes"
    if "true" in expected and value in ("true", "false"):
        return "; remove the quotes"
    return ""


def advice(model: type, raw: object, path: KeyPath) -> str:
    """Return what to write instead of an unknown key.

    It is a similar key of the same section, or the full name of a key in another section.
    """
    *place, name = path
    section, content = _class(model, raw, tuple(place)), _at(raw, tuple(place))
    present = content if isinstance(content, dict) else {}
    keys = [key.name for key in fields(section)] if section else []
    similar = _similar(name, [key for key in keys if key not in present]) or _similar(name, keys)
    if similar:
        return f"did you mean {dotted((*place, similar))}?"
    if "type" in present:
        required = [key.name for key in fields(section) if _required(key)] if section else []
        lacking = [key for key in required if key not in present]
        if len(lacking) == 1:
            return f"did you mean {dotted((*place, *lacking))}?"
        return _takes(f"a {present['type']} source", keys)
    elsewhere = _named_alike(model, str(name)) if section else []
    if elsewhere:
        return f"did you mean {_joined(elsewhere)}?"
    return _takes("this section" if place else "the file", keys)


def _named_alike(model: type, name: str) -> list[str]:
    """Return the keys of all sections whose last part is `name`, or else is similar to it."""
    last_parts = {key: key.split(".")[-1] for key in _leaves(model)}
    if name not in last_parts.values():
        name = _similar(name, list(last_parts.values()), cutoff=0.8)
    return [key for key, last in last_parts.items() if last == name]


def _similar(name: object, keys: Sequence[str], cutoff: float = 0.6) -> str:
    """Return the key most similar to `name`, or "" if none is."""
    return "".join(difflib.get_close_matches(str(name), keys, n=1, cutoff=cutoff))


def _takes(owner: str, keys: Sequence[str]) -> str:
    if 0 < len(keys) <= _FEW:
        return f"{owner} takes {_joined(keys, 'and')}"
    return "remove it"


def _required(key: Field[Any]) -> bool:
    return key.default is MISSING and key.default_factory is MISSING


def _path(raw: object, location: Sequence[int | str], kind: str) -> KeyPath:
    """Return the keys of pydantic's `location`, without the names of types that it adds to them."""
    path: list[int | str] = []
    for part in location:
        if _has(raw, part):
            raw = raw[part]  # type: ignore[index]  # `_has` has checked that
            path.append(part)
    if kind == "missing" and isinstance(location[-1], str):
        path.append(location[-1])
    if kind.startswith("union_tag"):
        path.append("type")
    return tuple(path)


def _has(raw: object, part: int | str) -> bool:
    if isinstance(raw, list):
        return isinstance(part, int) and part < len(raw)
    return isinstance(raw, dict) and part in raw


def _at(raw: object, path: KeyPath) -> object:
    for part in path:
        raw = raw[part]  # type: ignore[index]  # `_path` has checked that
    return raw


def keys(model: type, raw: object, path: KeyPath) -> list[str]:
    """Return the keys of the section at `path`; empty if all keys are allowed there."""
    section = _class(model, raw, path)
    return [key.name for key in fields(section)] if section else []


def _class(model: type, raw: object, path: KeyPath) -> type | None:
    """Return the dataclass that checks the content at `path`; None if any key is allowed."""
    hint: Any = _bare(model, raw)
    for part in path:
        if isinstance(hint, type) and is_dataclass(hint):
            hint = get_type_hints(hint, include_extras=True).get(str(part))
        elif get_origin(hint) is tuple:
            hint = get_args(hint)[0]
        elif get_origin(hint) is dict:
            hint = get_args(hint)[1]
        else:
            return None
        raw = raw[part] if _has(raw, part) else None  # type: ignore[index]  # `_has` checks that
        hint = _bare(hint, raw)
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _bare(hint: Any, raw: object) -> Any:
    """Return a type without annotations; of a union the member for the `type` of the content."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0], raw)
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    members = [_bare(member, raw) for member in get_args(hint) if member is not type(None)]
    kind = raw.get("type") if isinstance(raw, dict) else None
    tagged = [member for member in members if is_dataclass(member) and kind in _tags(member)]
    return (tagged or members)[0]


def _tags(section: Any) -> tuple[object, ...]:
    """Return the values that the key `type` of a source may have."""
    hint = get_type_hints(section).get("type")
    if get_origin(hint) is not Literal:
        return ()
    return get_args(hint)


def _leaves(model: Any, prefix: str = "") -> Iterator[str]:
    """Yield all keys below the sections of `model`, dotted: `train.optimizer.name`."""
    for name, hint in get_type_hints(model, include_extras=True).items():
        if prefix:
            yield prefix + name
        section = _bare(hint, None)
        if isinstance(section, type) and is_dataclass(section):
            yield from _leaves(section, f"{prefix}{name}.")


def _words(text: str) -> list[str]:
    """Return the alternatives that pydantic lists: `'a', 'b' or 'c'`."""
    return [word.strip("'") for word in re.split(r", | or ", text)]


def _joined(words: Sequence[str], last: str = "or") -> str:
    words = list(dict.fromkeys(words))
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"
