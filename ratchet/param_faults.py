"""What is wrong with a params.yaml, one line per problem: the key, what was expected, what was found, and the remedy."""

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

Path = tuple[int | str, ...]

_KINDS = {  # pydantic's name of an error: what was expected instead
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
_PATTERNS = {  # the last part of a key whose value has to match a pattern: an example, or what the pattern means
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
    """What is wrong at one place.

    `expected` are alternatives, where pydantic tried several types.
    """

    path: Path
    expected: list[str] = field(default_factory=list)
    text: str = ""  # instead of them
    found: object = None

    def __str__(self) -> str:
        key = dotted(self.path)
        if self.text:
            return f"{key}: {self.text}" if key else self.text
        line = (
            f"expected {_joined(self.expected)}, found"
            f" {shown(self.found)}{_quotes(self.expected, self.found)}"
        )
        return f"{key or 'the whole file'}: {line}"


def problems(model: type, raw: object, error: ValidationError) -> list[Problem]:
    """The problems in order, each once, without those that only follow from others."""
    found: dict[tuple[Path, bool], Problem] = {}
    for fault in error.errors(include_url=False):
        path = _path(raw, fault["loc"], fault["type"])
        text = _text(model, raw, path, fault)
        problem = found.setdefault(
            (path, bool(text)), Problem(path, text=text, found=fault["input"])
        )
        if text and text != problem.text:
            problem.text += f"; {text}"
        if not text:
            problem.expected += _expected(model, raw, path, fault)
    listed = list(found.values())
    return [problem for problem in listed if not _follows(problem, listed)]


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


def shown(value: object) -> str:
    """A value as YAML has it, shortened."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _follows(problem: Problem, listed: Sequence[Problem]) -> bool:
    """A list that is too short because its entries are wrong.

    Or a value that is wrong in itself, and so as a whole.
    """
    depth = len(problem.path)
    return not problem.text and any(
        other.path[:depth] == problem.path != other.path for other in listed
    )


def _text(model: type, raw: object, path: Path, fault: Mapping[str, Any]) -> str:
    """The whole message, where it is not about the type or range of one value."""
    kind = fault["type"]
    if kind == "unexpected_keyword_argument":
        return f"unknown key; {advice(model, raw, path)}"
    if kind == "missing" and isinstance(fault["loc"][-1], str):
        return "missing; add it" if len(path) > 1 else "this section is missing; add it"
    if kind == "union_tag_invalid":
        types_ = re.sub(r"^the expected tags: ", "", fault["ctx"]["expected_tags"])
        return f"unknown type {shown(fault['input'].get('type'))}; use {_joined(_words(types_))}"
    if kind == "union_tag_not_found":
        return "missing; name the type of the source, such as csv"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    return ""


def _expected(model: type, raw: object, path: Path, fault: Mapping[str, Any]) -> list[str]:
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "literal_error":
        return _words(context["expected"])
    if kind == "string_pattern_mismatch":
        return [_PATTERNS.get(str(path[-1]), f"text that matches {context['pattern']}")]
    if kind in ("dataclass_type", "dataclass_exact_type"):
        names = [each.name for each in fields(_class(model, raw, path) or model)]
        return [f"a mapping with {_joined(names, 'and')}" if len(names) <= _FEW else "a mapping"]
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


def _quotes(expected: Sequence[str], value: object) -> str:
    """Whether quotes are the fault: `"3"` for a number, or `007` for text."""
    if "a string" in expected and isinstance(value, int | float | datetime.date):
        return "; put it in quotes"
    numbers = {"a whole number", "a number"} & {*expected}
    if isinstance(value, str) and numbers and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value):
        return "; remove the quotes"
    return "; remove the quotes" if "true" in expected and value in ("true", "false") else ""


def advice(model: type, raw: object, path: Path) -> str:
    """What to write instead of an unknown key: a near key of its section, or its full name in another section."""
    *place, name = path
    section, content = _class(model, raw, tuple(place)), _at(raw, tuple(place))
    there = content if isinstance(content, dict) else {}
    keys = [each.name for each in fields(section)] if section else []
    lacking = (
        [each.name for each in fields(section) if each.name not in there and _required(each)]
        if section
        else []
    )
    if near := _near(name, [key for key in keys if key not in there]) or _near(name, keys):
        return f"did you mean {dotted((*place, near))}?"
    if "type" in there:
        return (
            f"did you mean {dotted((*place, *lacking))}?"
            if len(lacking) == 1
            else _takes(f"a {there['type']} source", keys)
        )
    everywhere = {} if section is None else {key: key.split(".")[-1] for key in _leaves(model)}
    if same := [key for key, last in everywhere.items() if last == name]:
        return f"did you mean {_joined(same)}?"
    if near := _near(name, list(everywhere.values()), cutoff=0.8):
        return f"did you mean {_joined([key for key, last in everywhere.items() if last == near])}?"
    return _takes("this section" if place else "the file", keys)


def _near(name: object, keys: Sequence[str], cutoff: float = 0.6) -> str:
    return "".join(difflib.get_close_matches(str(name), keys, n=1, cutoff=cutoff))


def _takes(owner: str, keys: Sequence[str]) -> str:
    return f"{owner} takes {_joined(keys, 'and')}" if 0 < len(keys) <= _FEW else "remove it"


def _required(key: Field[Any]) -> bool:
    return key.default is MISSING and key.default_factory is MISSING


def _path(raw: object, location: Sequence[int | str], kind: str) -> Path:
    """The keys of `location` as the file has them: pydantic adds the names of types that it tried."""
    path: list[int | str] = []
    for part in location:
        if _has(raw, part):
            raw = raw[part]  # type: ignore[index]  # `_has` says so
            path.append(part)
    if kind == "missing" and isinstance(location[-1], str):
        path.append(location[-1])
    return (*path, "type") if kind.startswith("union_tag") else tuple(path)


def _has(raw: object, part: int | str) -> bool:
    if isinstance(raw, list):
        return isinstance(part, int) and part < len(raw)
    return isinstance(raw, dict) and part in raw


def _at(raw: object, path: Path) -> object:
    for part in path:
        raw = raw[part]  # type: ignore[index]  # `_path` made sure of it
    return raw


def keys(model: type, raw: object, path: Path) -> list[str]:
    """The keys of the mapping at `path`.

    None where any are allowed, or where it is not a mapping.
    """
    section = _class(model, raw, path)
    return [each.name for each in fields(section)] if section else []


def _class(model: type, raw: object, path: Path) -> type | None:
    """The dataclass that checks what is at `path`; None where any keys are allowed."""
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
        raw = raw[part] if _has(raw, part) else None  # type: ignore[index]  # `_has` says so
        hint = _bare(hint, raw)
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def _bare(hint: Any, raw: object) -> Any:
    """A type without its annotations, and of a union the member that has the `type` of the content, or the only one."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0], raw)
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    members = [_bare(member, raw) for member in get_args(hint) if member is not type(None)]
    kind = raw.get("type") if isinstance(raw, dict) else None
    tagged = [member for member in members if is_dataclass(member) and kind in _tags(member)]
    return (tagged or members)[0]


def _tags(section: Any) -> tuple[object, ...]:
    hint = get_type_hints(section).get("type")
    return get_args(hint) if get_origin(hint) is Literal else ()


def _leaves(model: Any, prefix: str = "") -> Iterator[str]:
    """All keys below the sections of `model`, dotted: `train.optimizer.name`."""
    for name, hint in get_type_hints(model, include_extras=True).items():
        if prefix:
            yield prefix + name
        section = _bare(hint, None)
        if isinstance(section, type) and is_dataclass(section):
            yield from _leaves(section, f"{prefix}{name}.")


def _words(listed: str) -> list[str]:
    return [word.strip("'") for word in re.split(r", | or ", listed)]


def _joined(words: Sequence[str], last: str = "or") -> str:
    words = list(dict.fromkeys(words))
    return (
        f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
    )
