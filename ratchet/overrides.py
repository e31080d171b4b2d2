"""Values that replace those of params.yaml for one run: `--set`, `--params`, and the `settings` of a deployment."""

from __future__ import annotations

import copy
import io
from collections.abc import Collection, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from ratchet import param_faults, params, yaml_file
from ratchet.errors import ParamsError
from ratchet.param_faults import Path, dotted, shown

HEADING = "--set (the settings of this run)"


def replaced(text: str, settings: Mapping[str, Any]) -> str:
    """The text of a params.yaml with some values replaced; comments are kept.

    Args:
        settings: values by dotted key (`train.epochs`, `ingest.sources.0.path`). A string is read
            as YAML 1.2, as in the file, so that "3" is the number 3; every other value is taken as
            it is.

    Raises:
        ParamsError: settings that params.yaml does not take, all of them, or a params.yaml that was
            wrong before.
    """
    before = yaml_file.parse(text, params.FILE)
    if not settings:
        params.parse(before)
        return text
    document = _document()
    after, content = copy.deepcopy(before), document.load(text)
    wrong: list[str] = []
    for key, value in settings.items():
        try:
            parsed = yaml_file.parse(value, f"{key}={value}") if isinstance(value, str) else value
            _put(after, key, parsed)
            _put(content, key, _quoted(parsed))
        except ParamsError as error:
            wrong.append(str(error))
    _check(before, after, wrong)
    stream = io.StringIO()
    document.dump(content, stream)
    return stream.getvalue()


def lasting(settings: Mapping[str, Any], sections: Collection[str]) -> dict[str, Any]:
    """The settings in `sections`, which are those that a stage lists: they belong to a version.

    The others (`gate`, `run`, `register`) cannot change an output. They apply to one run, and a
    version must not carry them to the branch, where every later run would use them.
    """
    return {key: value for key, value in settings.items() if key.split(".")[0] in sections}


def in_words(settings: Mapping[str, Any]) -> str:
    """`gate.max_shrink=1, run.workers=4`."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _check(before: object, after: object, wrong: list[str]) -> None:
    """Raise what is wrong with the settings, and apart from that what was wrong with the file already."""
    old = {str(problem) for problem in params.problems(before)}
    left = params.problems(after)
    wrong += [str(problem) for problem in left if str(problem) not in old]
    of_file = [problem for problem in left if str(problem) in old]
    reports = [params.report(HEADING, wrong)] if wrong else []
    if of_file:
        reports.append(params.report(params.FILE, of_file))
    if reports:
        raise ParamsError("\n".join(reports))


def _put(content: Any, key: str, value: object) -> None:
    """Set the value at a dotted key; raises `ParamsError` where there is no such place."""
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
        whole = f"{dotted(tuple(path))}={_example(content, tuple(path))}"
        raise ParamsError(
            f"{key}: {dotted(tuple(path))} is {shown(place)}; set it as a whole, {whole}"
        )
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


def _example(content: object, path: Path) -> str:
    keys = param_faults.keys(params.Params, content, path)
    return "{" + ", ".join(f"{key}: ..." for key in keys) + "}" if keys else "VALUE"


def _quoted(value: Any) -> Any:
    """Strings with a colon in quotes: the dumper leaves them bare, and DVC's parser refuses that between braces."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str) and ":" in value:
        return DoubleQuotedScalarString(value)
    if isinstance(value, dict):
        return {_quoted(key): _quoted(each) for key, each in value.items()}
    return [_quoted(each) for each in value] if isinstance(value, list | tuple) else value


def _document() -> YAML:
    """A reader and writer that keeps comments, quotes, nulls and the indentation of params.yaml."""
    document = YAML()
    document.preserve_quotes, document.width = True, 4096
    document.indent(mapping=2, sequence=4, offset=2)
    document.Representer = _Representer
    return document


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, not as nothing."""


_Representer.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
)
