"""The grammar of the registry's tags, which is GTO's, and how tags are read and written.

    classifier@v1.4.0    a version        classifier@v1.4.0!    withdraws it
    classifier#prod#7    an assignment    classifier#prod!#8    takes prod out of service

The tags are annotated. A message is written for people and ends with a JSON object for machines.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ratchet.errors import VersionError
from ratchet.formats import Format
from ratchet.git import git, identity, resolve
from ratchet.git_errors import Rejected

ARTIFACT = "classifier"
# 2: `by` is "terminal"; in 1 it was "hand"
FORMAT = Format("a tag of the registry", 2, "run `ratchet verify --all`", VersionError)
REFS = "refs/tags/"
EVERYTHING = (f"{ARTIFACT}@*", f"{ARTIFACT}#*")

_ENVIRONMENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]{0,98}[a-zA-Z0-9])?"
ENVIRONMENT = re.compile(_ENVIRONMENT, re.A)
_NUMBER = r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
_TAG = re.compile(
    rf"{ARTIFACT}(?:@v(?P<number>{_NUMBER})|#(?P<environment>{_ENVIRONMENT}))"
    r"(?P<cancel>!?)(?:#(?P<counter>\d+))?",
    re.A,
)


class Number(NamedTuple):
    """A semantic version number."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"


class Name(NamedTuple):
    """The parts of a tag's name. Either `number` or `environment` is set."""

    number: Number | None
    environment: str | None
    cancels: bool
    counter: int | None


@dataclass(frozen=True)
class Tag:
    """An annotated tag. `date` is in Unix seconds."""

    name: str
    oid: str
    commit: str
    date: int
    tagger: str
    message: str

    @cached_property
    def data(self) -> dict[str, Any]:
        """The JSON object at the end of the message; empty if another tool made the tag.

        The lines above it come from a person and may look like JSON themselves.

        Raises:
            VersionError: a newer Ratchet wrote it, in a format that this one does not read.
        """
        text = f"\n{self.message}"
        start = text.rfind("\n{\n")
        try:
            data = json.loads(text[start:]) if start >= 0 else {}
        except ValueError:
            return {}
        if not isinstance(data, dict) or not data:
            return {}
        if isinstance(data.get("format", 1), int):  # otherwise another tool made the tag
            FORMAT.of(data, self.name)
        return data

    @property
    def parsed(self) -> Name:
        """The parts of its name."""
        parsed = parse(self.name)
        assert parsed is not None, self.name
        return parsed


def parse(name: str) -> Name | None:
    """Read the name of a tag; None if it is not one of the registry's."""
    match = _TAG.fullmatch(name)
    if match is None:
        return None
    return Name(
        number=number(match["number"]) if match["number"] else None,
        environment=match["environment"],
        cancels=bool(match["cancel"]),
        counter=int(match["counter"]) if match["counter"] else None,
    )


def number(text: str) -> Number | None:
    """Read "v1.2.0" or "1.2.0"; None if it is not a version number."""
    bare = text.removeprefix("v")
    if len(bare) >= 100 or not re.fullmatch(_NUMBER, bare, re.A):
        return None
    return Number(*map(int, bare.split(".")))


def checked_environment(name: str) -> str:
    """Return the name unchanged if it can name an environment.

    Raises:
        VersionError: it cannot.
    """
    if not ENVIRONMENT.fullmatch(name):
        raise VersionError(
            f"{name[:100]!r} can't name an environment; use letters, digits, - and _, as in"
            " `--environment prod`"
        )
    return name


def version_tag(number: Number, cancels: bool = False, counter: int | None = None) -> str:
    """The name of a version's tag, or of a tag that withdraws or reinstates it."""
    name = f"{ARTIFACT}@{number}{'!' if cancels else ''}"
    return name if counter is None else f"{name}#{counter}"


def assignment_tag(environment: str, counter: int, cancels: bool = False) -> str:
    """The name of an assignment's tag."""
    return f"{ARTIFACT}#{environment}{'!' if cancels else ''}#{counter}"


def message(subject: str, lines: Sequence[str], data: Mapping[str, Any]) -> str:
    """The message of a tag: the subject, lines for people, then `data` as JSON.

    Raises:
        VersionError: git cannot store the text.
    """
    # no line for people may look like the start of the JSON
    body = re.sub(r"^\{", " {", "\n".join(lines), flags=re.MULTILINE)
    block = json.dumps(FORMAT.stamped(data), indent=1, sort_keys=True, ensure_ascii=False)
    text = f"{subject}\n\n{body}\n\n{block}\n" if body else f"{subject}\n\n{block}\n"
    return checked_text(text)


def checked_text(text: str) -> str:
    """Return a text that a person typed, unchanged, if git can store every character.

    Raises:
        VersionError: it contains a NUL character, or bytes that are not UTF-8.
    """
    if "\0" in text:
        raise VersionError("a reason cannot contain a NUL character; type it again without one")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        excerpt = text[max(0, error.start - 20) : error.end]
        raise VersionError(
            f"a reason has to be UTF-8, and character {error.start + 1} of this one is not:"
            f" {excerpt!r}; type it again, or set LC_ALL to a UTF-8 locale"
        ) from None
    return text


def names(tree: Path, *patterns: str) -> list[str]:
    """The names of the tags that match git's patterns (`classifier@*`), in git's order."""
    refs = [REFS + pattern for pattern in patterns]
    return git("for-each-ref", "--format=%(refname:strip=2)", *refs, cwd=tree).split()


def last(names: Sequence[str]) -> tuple[int, str] | None:
    """The highest counter among the names of tags, and the name that has it.

    This is fast for 10,000 names, because it parses only the last few.
    """

    def counter(name: str) -> int:
        digits = name.rpartition("#")[2]
        return int(digits) if digits.isdecimal() and len(digits) < 100 else -1

    for name in sorted(names, key=counter, reverse=True):
        parsed = parse(name)
        if parsed is not None and parsed.counter is not None:
            return parsed.counter, name
    return None


def read(tree: Path, *patterns: str, namespace: str = REFS) -> list[Tag]:
    """The registry's annotated tags that match git's patterns. Others are skipped, as GTO does."""
    fields = [
        "refname",
        "objecttype",
        "objectname",
        "*objectname",
        "taggerdate:unix",
        "taggername",
        "contents",
    ]
    form = "--format=" + "".join(f"%({field})%00" for field in fields)
    output = git("for-each-ref", form, *(namespace + pattern for pattern in patterns), cwd=tree)
    values = output.split("\0")[:-1]  # no field can hold a NUL
    tags = []
    for start in range(0, len(values), len(fields)):
        name, kind, oid, commit, date, tagger, text = values[start : start + len(fields)]
        name = name.removeprefix("\n").removeprefix(namespace)
        if kind == "tag" and parse(name):
            tags.append(Tag(name, oid, commit, int(date or 0), tagger, text))
    return tags


def make(tree: Path, name: str, commit: str, text: str, after: Sequence[Tag | None]) -> Tag:
    """Make the object of an annotated tag. No reference names it yet.

    It is dated now, or one second after the latest of `after` if the clock went back.
    """
    date = max([int(time.time()), *(tag.date + 1 for tag in after if tag)])
    author, address = identity(tree)
    content = (
        f"object {commit}\ntype commit\ntag {name}\ntagger {author} <{address}> {date}"
        f" +0000\n\n{text}"
    )
    oid = git("mktag", cwd=tree, input=content)
    return Tag(name, oid, commit, date, author, text)


def write(tree: Path, name: str, oid: str) -> None:
    """Make a tag that names the object `oid`, or find that a fetch has just made it.

    Raises:
        Rejected: there is another tag of that name.
    """
    try:
        # the empty old value: only if there is no tag of that name
        git("update-ref", "-m", "ratchet", REFS + name, oid, "", cwd=tree)
    except Rejected:
        if resolve(tree, REFS + name) != oid:
            raise
