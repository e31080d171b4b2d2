"""The grammar of the registry's tags, which is GTO's, and how one is read and written.

    classifier@v1.4.0      a version              classifier@v1.4.0!   withdraws it
    classifier#prod#7      an assignment          classifier#prod!#8   takes the environment out of service

A tag is annotated; its message is for people first and ends with a JSON object for machines.
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
from ratchet.git import Rejected, git, identity, resolve

ARTIFACT = "classifier"
# 2: `by` is "terminal"; in 1 it was "hand"
FORMAT = Format("a tag of the registry", 2, "run `ratchet verify --all`", VersionError)
REFS = "refs/tags/"
# A remote's own settings (prune, fetch, mirror) must neither delete nor overwrite a tag.
_FETCH = (
    *("--no-tags", "--no-prune", "--no-prune-tags", "--refmap="),
    *("--no-write-fetch-head", "--no-recurse-submodules"),
)
EVERYTHING = (f"{ARTIFACT}@*", f"{ARTIFACT}#*")

_ENVIRONMENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9_-]{0,98}[a-zA-Z0-9])?"
ENVIRONMENT = re.compile(_ENVIRONMENT, re.A)
_NUMBER = r"(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*)"
_TAG = re.compile(
    rf"{ARTIFACT}(?:@v(?P<number>{_NUMBER})|#(?P<environment>{_ENVIRONMENT}))(?P<cancel>!?)(?:#(?P<counter>\d+))?",
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
    """What the name of a tag says: either `number` or `environment` is set."""

    number: Number | None
    environment: str | None
    cancels: bool
    counter: int | None


class Moved(VersionError):
    """A tag is another one on the remote than here."""


@dataclass(frozen=True)
class Tag:
    """An annotated tag as git holds it; `date` is its Unix time in seconds."""

    name: str
    oid: str
    commit: str
    date: int
    tagger: str
    message: str

    @cached_property
    def data(self) -> dict[str, Any]:
        """The JSON object at the end of the message; empty in tags that another tool made.

        The lines above it are a person's, and may look like JSON themselves.

        Raises:
            VersionError: only a newer Ratchet understands it.
        """
        text = f"\n{self.message}"
        start = text.rfind("\n{\n")
        try:
            data = json.loads(text[start:]) if start >= 0 else {}
        except ValueError:
            return {}
        if not isinstance(data, dict) or not data:
            return {}
        if isinstance(data.get("format", 1), int):  # otherwise another tool's
            FORMAT.of(data, self.name)
        return data

    @property
    def parsed(self) -> Name:
        parsed = parse(self.name)
        assert parsed is not None, self.name
        return parsed


def parse(name: str) -> Name | None:
    """Read the name of a tag; None where it is none of the registry's."""
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
    """Read "v1.2.0" or "1.2.0"; None where it is no version number."""
    bare = text.removeprefix("v")
    return (
        Number(*map(int, bare.split(".")))
        if re.fullmatch(_NUMBER, bare, re.A) and len(bare) < 100
        else None
    )


def checked_environment(name: str) -> str:
    """The name of an environment, if it may be one; raises `VersionError` otherwise."""
    if not ENVIRONMENT.fullmatch(name):
        raise VersionError(
            f"{name[:100]!r} can't name an environment: letters, digits, - and _, as in"
            " `--environment prod`"
        )
    return name


def version_tag(number: Number, cancels: bool = False, counter: int | None = None) -> str:
    return f"{ARTIFACT}@{number}{'!' if cancels else ''}" + (
        "" if counter is None else f"#{counter}"
    )


def assignment_tag(environment: str, counter: int, cancels: bool = False) -> str:
    return f"{ARTIFACT}#{environment}{'!' if cancels else ''}#{counter}"


def message(subject: str, lines: Sequence[str], data: Mapping[str, Any]) -> str:
    """Text of a tag: the subject, some lines for people, then `data` as JSON.

    Raises:
        VersionError: a text in it cannot be stored.
    """
    # no line for people begins as the JSON does
    body = re.sub(r"^\{", " {", "\n".join(lines), flags=re.MULTILINE)
    block = json.dumps(FORMAT.stamped(data), indent=1, sort_keys=True, ensure_ascii=False)
    text = f"{subject}\n\n{body}\n\n{block}\n" if body else f"{subject}\n\n{block}\n"
    return checked_text(text)


def checked_text(text: str) -> str:
    """A text that a person typed, if git can store every character of it.

    Raises:
        VersionError: it holds a NUL character, or bytes that are not UTF-8.
    """
    if "\0" in text:
        raise VersionError("a reason cannot contain a NUL character; type it again without")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise VersionError(
            f"a reason has to be UTF-8, and character {error.start + 1} of this one is not:"
            f" {text[max(0, error.start - 20) : error.end]!r}; type it again, or set LC_ALL to a"
            " UTF-8 locale"
        ) from None
    return text


def names(tree: Path, *patterns: str) -> list[str]:
    """Names of the tags that match git's patterns (`classifier@*`), in git's order."""
    return git(
        "for-each-ref", "--format=%(refname:strip=2)", *(REFS + each for each in patterns), cwd=tree
    ).split()


def last(found: Sequence[str]) -> tuple[int, str] | None:
    """The highest counter among names of tags, and the name.

    Of 10,000 names only the last ones are parsed.
    """

    def counter(name: str) -> int:
        digits = name.rpartition("#")[2]
        return int(digits) if digits.isdecimal() and len(digits) < 100 else -1

    for name in sorted(found, key=counter, reverse=True):
        parsed = parse(name)
        if parsed is not None and parsed.counter is not None:
            return parsed.counter, name
    return None


def read(tree: Path, *patterns: str, namespace: str = REFS) -> list[Tag]:
    """The annotated tags of the registry that match git's patterns.

    Others are passed over, as GTO does.
    """
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
    """Make the object of an annotated tag, to which no reference points yet.

    It is dated now, or a second past the latest of `after` if the clock went back.
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
    """Let a new tag point to `oid`.

    That it does so already, as after another process's fetch, is success.

    Raises:
        Rejected: there is another tag of that name.
    """
    try:
        git("update-ref", "-m", "ratchet", REFS + name, oid, "", cwd=tree)  # "": only a new one
    except Rejected:
        if resolve(tree, REFS + name) != oid:
            raise


def push(tree: Path, remote: str, refspecs: Sequence[str], limit_s: float | None = None) -> None:
    """Push exactly these references, all or none.

    Raises:
        Rejected: the remote has another one of that name.
        RemoteRefused: the remote does not accept one of them.
        Unreachable: the remote does not respond.
    """
    mirror: list[str] = []
    if re.fullmatch(r"[\w.-]+", remote):  # not a URL; a mirror refuses to push single references
        mirror = ["-c", f"remote.{remote}.mirror=false"]
    options = ["--quiet", "--porcelain", "--no-follow-tags"]
    if len(refspecs) > 1:
        options.append("--atomic")
    git(*mirror, "push", *options, "--", remote, *refspecs, cwd=tree, limit_s=limit_s)


def fetch(tree: Path, remote: str, limit_s: float | None = None) -> None:
    """Bring the registry's tags from a git remote; an empty name is none, and nothing is asked.

    Raises:
        Moved: a tag differs, there and here; it was not taken over.
        Unreachable: the remote does not answer.
    """
    if not remote:
        return
    refs = [f"{REFS}{pattern}:{REFS}{pattern}" for pattern in EVERYTHING]
    try:
        fetch_refs(tree, remote, refs, limit_s)
    except Rejected as error:
        raise Moved(
            f"a tag differs here and on {remote}, and is never moved ({error}); `ratchet verify`"
        ) from None


def fetch_refs(
    tree: Path, remote: str, refspecs: Sequence[str], limit_s: float | None = None
) -> None:
    """Fetch exactly these references."""
    git("fetch", *_FETCH, "--", remote, *refspecs, cwd=tree, limit_s=limit_s)


def listed(tree: Path, remote: str, limit_s: float | None = None) -> dict[str, str]:
    """The registry's tags on a git remote: name to id of the tag object; raises `Unreachable`."""
    command = ("ls-remote", "--tags", "--refs", "--")
    lines = git(*command, remote, f"{ARTIFACT}*", cwd=tree, limit_s=limit_s).splitlines()
    pairs = (line.split(f"\t{REFS}", 1) for line in lines)
    return {name: oid for oid, name in pairs if parse(name)}
