"""Values that replace those in params.yaml for one run: `--set`, `--params`, a flow's settings."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from ratchet import param_faults, params, yaml_file
from ratchet.errors import ParamsError
from ratchet.param_faults import KeyPath, dotted, shown

HEADING = "--set (the settings of this run)"


def replaced(text: str, settings: Mapping[str, Any]) -> str:
    """Return the text of a params.yaml with some values replaced; it keeps the comments.

    Args:
        text: the content of params.yaml.
        settings: values by dotted key (`train.epochs`, `ingest.sources.0.path`). A string is read
            as YAML 1.2, as in the file, so that "3" is the number 3.

    Raises:
        ParamsError: settings are invalid, or `text` was invalid before; the message lists all
            problems.
    """
    before = yaml_file.parse(text, params.FILE)
    if not settings:
        params.parse(before)
        return text
    document = _document()
    after, content = copy.deepcopy(before), document.load(text)
    messages: list[str] = []
    for key, value in settings.items():
        try:
            parsed = yaml_file.parse(value, f"{key}={value}") if isinstance(value, str) else value
            _put(after, key, parsed)
            _put(content, key, _quoted(parsed))
        except ParamsError as error:
            messages.append(str(error))
    _check(before, after, messages)
    stream = io.StringIO()
    document.dump(content, stream)
    return stream.getvalue()


def preset(file: Path) -> dict[str, Any]:
    """Read a file such as `params/accurate.yaml`.

    Returns:
        Values by dotted key, as `replaced` takes them. It is `replaced` that checks them.

    Raises:
        ParamsError: the file is missing or not a mapping.
    """
    if not file.is_file():
        raise ParamsError(f"--params {file}: there is no such file; the presets are in params/")
    raw = yaml_file.read(file)
    if not isinstance(raw, dict):
        raise ParamsError(f"{file}: expected one KEY: VALUE per line, such as train.epochs: 12")
    return {str(key): json.dumps(value, default=str) for key, value in raw.items()}


def lasting(settings: Mapping[str, Any], sections: Collection[str]) -> dict[str, Any]:
    """Return the settings that belong to a version: those in `sections`, which the stages list.

    The others (`gate`, `run`, `register`) cannot change an output. They apply to one run, and a
    version must not carry them to the branch, where every later run would use them.
    """
    return {key: value for key, value in settings.items() if key.split(".")[0] in sections}


def in_words(settings: Mapping[str, Any]) -> str:
    """Return the settings as text: `gate.max_shrink=1, run.workers=4`."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _check(before: object, after: object, messages: list[str]) -> None:
    """Raise `ParamsError` with the problems of the settings, and with those of the file itself."""
    old = {str(problem) for problem in params.problems(before)}
    problems = [str(problem) for problem in params.problems(after)]
    messages += [problem for problem in problems if problem not in old]
    of_file = [problem for problem in problems if problem in old]
    reports = [params.report(HEADING, messages)] if messages else []
    if of_file:
        reports.append(params.report(params.FILE, of_file))
    if reports:
        raise ParamsError("\n".join(reports))


def _put(content: Any, key: str, value: object) -> None:
    """Set the value at a dotted key; raise `ParamsError` if there is no such place."""
    place, path = content, list[int | str]()
    *sections, name = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in sections:
        _check_has(content, place, key, [*path, part])
        place = place[part]
        path.append(part)
    if isinstance(place, list):
        _check_has(content, place, key, [*path, name])
    has_keys = isinstance(place, dict | list)
    if not has_keys:
        owner = dotted(tuple(path))
        example = f"{owner}={_example(content, tuple(path))}"
        raise ParamsError(f"{key}: {owner} is {shown(place)}; set it as a whole, {example}")
    place[name] = value


def _check_has(content: object, place: object, key: str, path: list[int | str]) -> None:
    """Raise `ParamsError` unless `place` has the last part of `path`."""
    part = path[-1]
    if isinstance(place, list) and not (isinstance(part, int) and part < len(place)):
        owner = dotted(tuple(path[:-1]))
        advice = "the first one is 0" if place else f"it is empty: set it as a whole, {owner}=[...]"
        raise ParamsError(f"{key}: {owner} has no entry {part}; {advice}")
    if not isinstance(place, list) and not (isinstance(place, dict) and part in place):
        advice = param_faults.advice(params.Params, content, tuple(path))
        raise ParamsError(f"{key}: unknown key {dotted(tuple(path))}; {advice}")


def _example(content: object, path: KeyPath) -> str:
    """Return an example of a value for the key at `path`."""
    keys = param_faults.keys(params.Params, content, path)
    if not keys:
        return "VALUE"
    return "{" + ", ".join(f"{key}: ..." for key in keys) + "}"


def _quoted(value: Any) -> Any:
    """Put strings with a colon in quotes.

    The dumper does not, and DVC's parser refuses such strings between braces.
    """
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str) and ":" in value:
        return DoubleQuotedScalarString(value)
    if isinstance(value, dict):
        return {_quoted(key): _quoted(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(entry) for entry in value]
    return value


def _document() -> YAML:
    """Return a reader and writer that keeps comments, quotes and the indentation of params.yaml."""
    document = YAML()
    document.preserve_quotes, document.width = True, 4096
    document.indent(mapping=2, sequence=4, offset=2)
    document.Representer = _Representer
    return document


class _Representer(RoundTripRepresenter):
    """Writes null as `null` instead of nothing."""


_Representer.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
)
