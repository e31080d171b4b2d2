"""The versions and what serves where, read from git's tags: no server, no index, no file of our own.

What serves in an environment is its assignment with the highest counter, never the latest date.
Each assignment also names the one *under* it, so that what to roll back to is one step away,
however long the history is.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ratchet.errors import VersionError
from ratchet.git import git
from ratchet.registry import tags
from ratchet.registry.tags import ARTIFACT, Number, Tag

Action = Literal["promote", "rollback", "unassign"]
_COUNTED = (f"{ARTIFACT}#*", f"{ARTIFACT}@*!#*")  # the tags that take a counter


@dataclass(frozen=True)
class Version:
    """One version: its tag, and those that withdrew and reinstated it, the oldest first."""

    tag: Tag
    cancels: tuple[Tag, ...] = ()
    changed: bool = True  # False: the command found it in that state, and nothing was written

    @cached_property
    def withdrawn(self) -> Tag | None:
        """The tag by which it is withdrawn; None if it is not, or was reinstated since."""
        withdrawn: Tag | None = None
        for tag in self.cancels:
            if _action(tag) == "reinstate" and not self.expired:
                withdrawn = None
            elif _action(tag) != "reinstate":
                withdrawn = withdrawn or tag
        return withdrawn

    @cached_property
    def expired(self) -> bool:
        """Were its objects released?"""
        return any(_action(tag) == "expire" for tag in self.cancels)

    @cached_property
    def number(self) -> Number:
        number = self.tag.parsed.number
        assert number is not None
        return number

    @property
    def name(self) -> str:
        """As people write it: "v1.2.0"."""
        return str(self.number)

    @property
    def commit(self) -> str:
        """The commit of its own, beside the branch, that holds its whole state."""
        return self.tag.commit

    @property
    def date(self) -> int:
        """Unix time of the registration, in seconds."""
        return self.tag.date

    @property
    def data(self) -> dict[str, Any]:
        """What the tag's JSON block holds: metrics, gate, hashes, reason, contract."""
        return self.tag.data

    @property
    def metrics(self) -> dict[str, Any]:
        metrics = self.data.get("metrics")
        return metrics if isinstance(metrics, dict) else {}

    @property
    def weights_sha256(self) -> str | None:
        value = self.data.get("weights_sha256")
        return value if isinstance(value, str) else None

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "version": self.name,
            "commit": self.commit,
            "date": self.date,
            "withdrawn": self.withdrawn is not None,
            "expired": self.expired,
            "changes": [change_of(tag) for tag in self.cancels],
            **self.data,
        }


@dataclass(frozen=True)
class Assignment:
    """A version put into an environment.

    `under` is the counter of the assignment that a rollback returns to.
    """

    tag: Tag
    environment: str
    counter: int
    version: str
    action: Action
    reason: str
    under: int | None
    automatic: bool = False
    changed: bool = True  # False: the version served there before, and nothing was written
    unpushed: str = (
        ""  # why the git remote lacks its tag so far; empty: it has it, or there is none
    )
    remote: str = ""  # the git remote

    @property
    def date(self) -> int:
        return self.tag.date

    @property
    def not_pushed(self) -> str:
        """The end of a sentence that says what the git remote lacks; empty if it lacks nothing."""
        if not self.unpushed:
            return ""
        return (
            f"; not pushed to {self.remote} yet ({self.unpushed}): "
            "the next command that reaches it pushes it, such as `ratchet push --all`"
        )

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        fields = (
            "environment",
            "counter",
            "version",
            "action",
            "reason",
            "automatic",
            "date",
            "changed",
            "unpushed",
        )
        values: dict[str, Any] = {field: getattr(self, field) for field in fields}
        for key in ("host", "run", "was", "again"):
            if key in self.tag.data:
                values[key] = self.tag.data[key]
        return {**values, "tag": self.tag.name, "by": self.tag.tagger, "from": origin_of(self.tag)}


class Registry:
    """The registry of the repository that `tree` belongs to (a checkout or one of its worktrees)."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    @staticmethod
    def assigned(tag: Tag) -> Assignment:
        """The assignment that a tag of ours makes."""
        assignment = _assignment(tag, {}, None)
        assert assignment is not None, tag.name
        return assignment

    def versions(self) -> list[Version]:
        """Every version, withdrawn ones too, the highest number first."""
        return _versions(tags.read(self.tree, f"{ARTIFACT}@*"))

    def newest(self) -> Version | None:
        """The version with the highest number, withdrawn or not.

        Costs a listing of names and one tag.
        """
        numbers = self._numbers()
        return self._version(max(numbers)) if numbers else None

    def serving(self, environment: str) -> Version | None:
        """The version in service there, or None."""
        assignment = self.assignment(environment)
        if assignment is None:
            return None
        version = self._version(_number(assignment.version))
        if version is None or version.commit != assignment.tag.commit:
            raise VersionError(
                f"{assignment.tag.name} put {assignment.version} into {environment}, but the tag of"
                f" that version is {'gone' if version is None else 'on another commit now'};"
                " `ratchet verify --all` tells more"
            )
        return version

    def assignment(self, environment: str) -> Assignment | None:
        """The assignment that decides what serves there.

        None if there is none, or the last one was taken back.
        """
        return self.position(environment)[0]

    def position(self, environment: str) -> tuple[Assignment | None, int]:
        """What decides what serves there, and the counter of the next assignment.

        Both are of one moment: an assignment that another process fetches meanwhile is in both or
            in neither.
        """
        tags.checked_environment(environment)
        here = (f"{ARTIFACT}#{environment}#", f"{ARTIFACT}#{environment}!#")
        missing: list[str] = []
        while True:
            names = tags.names(self.tree, *_COUNTED)
            last = tags.last(names)
            counter = 1 + (last[0] if last else 0)
            # what is listed twice and cannot be read is not an annotated tag
            candidates = [
                name for name in names if name.startswith(here) and missing.count(name) < 2
            ]
            newest = tags.last(candidates)
            if newest is None:
                return None, counter
            entry = self.entry(environment, newest[0])
            if entry is not None:
                return None if entry.action == "unassign" else entry, counter
            missing.append(
                newest[1]
            )  # a fetch that prunes removed it just now, or it is another kind of tag

    def entry(self, environment: str, counter: int) -> Assignment | None:
        """One assignment by its counter."""
        patterns = (f"{ARTIFACT}#{environment}#{counter}", f"{ARTIFACT}#{environment}!#{counter}")
        found = tags.read(self.tree, *patterns)
        if not found:
            return None
        if _ours(found[-1]):
            return _assignment(found[-1], {}, None)
        return next((each for each in self.history(environment) if each.counter == counter), None)

    def history(self, environment: str) -> list[Assignment]:
        """All assignments of an environment, the oldest first; the last one decides what serves."""
        tags.checked_environment(environment)
        found = tags.read(self.tree, f"{ARTIFACT}#{environment}#*", f"{ARTIFACT}#{environment}!#*")
        found.sort(key=lambda tag: tag.parsed.counter or 0)
        foreign = not all(map(_ours, found))
        numbers = {version.commit: version.name for version in self.versions()} if foreign else {}
        history: list[Assignment] = []
        for tag in found:
            below = history[-1].counter if history and history[-1].action != "unassign" else None
            assignment = _assignment(tag, numbers, below)
            if assignment is not None:
                history.append(assignment)
        return history

    def histories(self) -> dict[str, list[Assignment]]:
        """The history of every environment, by its name."""
        return {
            environment: self.history(environment)
            for environment in sorted(self.all_environments())
        }

    def environments(self) -> dict[str, str]:
        """What serves where: environment to version name, for every environment that has one in service."""
        serving = {
            environment: self.assignment(environment)
            for environment in sorted(self.all_environments())
        }
        return {environment: at.version for environment, at in serving.items() if at}

    def all_environments(self) -> set[str]:
        """Every environment that something was ever put into."""
        found = map(tags.parse, tags.names(self.tree, f"{ARTIFACT}#*"))
        return {name.environment for name in found if name and name.environment}

    def find(self, name: str) -> Version:
        """A version by "v1.2.0", "1.2.0", "classifier@v1.2.0", or by the environment that it serves in.

        Raises:
            VersionError: there is no such version; the nearest one is suggested.
        """
        bare = name.removeprefix(f"{ARTIFACT}@")
        number = tags.number(bare)
        found = self._version(number) if number else None
        if found is None and number is None and tags.ENVIRONMENT.fullmatch(bare):
            found = self.serving(bare)
        if found is None:
            raise VersionError(self._unknown(name))
        return found

    def known(self, weights_sha256: str) -> Version | None:
        """The version with exactly these weights.

        One that serves or may serve comes first, an expired one is none.
        """
        same = [version for version in self.versions() if version.weights_sha256 == weights_sha256]
        kept = [version for version in same if not version.expired]
        return next(
            (version for version in kept if version.withdrawn is None), kept[0] if kept else None
        )

    def was_rolled_back(self, version: str, environment: str) -> bool:
        """Has `version` left that environment by a rollback, without being promoted again since?"""
        return version in rolled_back(self.history(environment))

    def next_counter(self) -> int:
        """The counter of the next assignment: it runs over the artifact, whatever the environment."""
        last = tags.last(tags.names(self.tree, *_COUNTED))
        return 1 + (last[0] if last else 0)

    def last_assignment(self) -> Tag | None:
        """The tag with the highest counter, in whatever environment."""
        last = tags.last(tags.names(self.tree, f"{ARTIFACT}#*"))
        return tags.read(self.tree, last[1])[0] if last else None

    def _numbers(self) -> list[Number]:
        parsed = map(tags.parse, tags.names(self.tree, f"{ARTIFACT}@*"))
        return [name.number for name in parsed if name and name.number and not name.cancels]

    def _version(self, number: Number) -> Version | None:
        name = tags.version_tag(number)
        found = _versions(tags.read(self.tree, name, f"{name}!", f"{name}!#*"))
        return found[0] if found else None

    def _unknown(self, name: str) -> str:
        known = [str(number) for number in sorted(self._numbers())]
        if not known:
            return f"no version {_short(name)}: {self.none()}"
        choices = [*known, *self.environments()]
        near = difflib.get_close_matches(
            name.removeprefix(f"{ARTIFACT}@")[:50], choices, n=1, cutoff=0.3
        )
        more = f", {self._fetch()}" if self._fetch() else ""
        return (
            f"no version {_short(name)}; the nearest is {near[0] if near else known[-1]}; `ratchet"
            f" versions` lists all{more}"
        )

    def none(self) -> str:
        """Why there may be no version here, and the next command."""
        fetch = self._fetch()
        return (
            f"there is none here; {fetch}"
            if fetch
            else "there is none yet; `ratchet train` makes the first"
        )

    def _fetch(self) -> str:
        remote = git("remote", cwd=self.tree).partition("\n")[0]
        return f"`git fetch --tags {remote}` brings those of {remote}" if remote else ""


def rolled_back(history: Sequence[Assignment]) -> set[str]:
    """The versions that left service by a rollback and were not promoted again since."""
    by_counter = {each.counter: each for each in history}
    back: set[str] = set()
    before: Assignment | None = None
    for each in history:
        if each.action == "promote":
            back.discard(each.version)
        elif each.action == "rollback":
            left = before
            while left is not None and left.version != each.version and left.counter != each.under:
                back.add(left.version)
                left = by_counter.get(left.under) if left.under is not None else None
        before = None if each.action == "unassign" else each
    return back


def _versions(found: Sequence[Tag]) -> list[Version]:
    versions: dict[Number, Tag] = {}
    changes: dict[Number, list[Tag]] = {}
    for tag in found:
        name = tag.parsed
        assert name.number is not None
        if name.cancels:
            changes.setdefault(name.number, []).append(tag)
        else:
            versions[name.number] = tag
    return [
        Version(
            versions[number],
            tuple(sorted(changes.get(number, []), key=lambda tag: tag.parsed.counter or 0)),
        )
        for number in sorted(versions, reverse=True)
    ]


def _action(tag: Tag) -> str:
    """What a tag does with a version: withdraw, expire or reinstate; GTO's only withdraw."""
    action = tag.data.get("action")
    return action if action in ("expire", "reinstate") else "withdraw"


def change_of(tag: Tag) -> dict[str, Any]:
    """A withdrawal or reinstatement, for people and `--json`."""
    reason = str(tag.data["reason"] if "reason" in tag.data else tag.message.strip().split("\n")[0])
    return {
        "action": _action(tag),
        "reason": reason,
        "date": tag.date,
        "by": tag.tagger,
        "from": origin_of(tag),
    }


def _assignment(tag: Tag, numbers: dict[str, str], below: int | None) -> Assignment | None:
    """Read an assignment.

    One that GTO wrote holds no JSON: it is a promotion, over what was `below` it.
    """
    name = tag.parsed
    if name.environment is None or name.counter is None:
        return None
    if _ours(tag):
        data = tag.data
        action: Action = "rollback" if data.get("action") == "rollback" else "promote"
        version, under = str(data["version"]), data.get("under")
        reason = str(data.get("reason", ""))
        automatic = bool(
            data.get("automatic", data.get("by") == "flow")
        )  # older tags have `by` alone
    else:
        version, under = numbers.get(tag.commit, tag.commit[:12]), below
        action, reason, automatic = "promote", tag.message.strip().split("\n")[0], False
    action = "unassign" if name.cancels else action
    return Assignment(
        tag, name.environment, name.counter, version, action, reason, under, automatic
    )


def origin_of(tag: Tag) -> str:
    """Where a change came from: "terminal on alpha", "flow run brisk-fox on alpha".

    Empty if its tag does not say.
    """
    data = tag.data
    by = {"hand": "terminal", "terminal": "terminal", "flow": "flow"}.get(str(data.get("by")), "")
    if by == "flow" and data.get("run"):
        by = f"flow run {data['run']}"
    return f"{by} on {data['host']}" if by and data.get("host") else by


def _ours(tag: Tag) -> bool:
    return "version" in tag.data


def _number(name: str) -> Number:
    number = tags.number(name)
    if number is None:
        raise VersionError(
            f"an assignment names {name!r}, which is no version; `ratchet verify --all` tells more"
        )
    return number


def _short(name: str) -> str:
    return name if len(name) < 60 and name.isprintable() else repr(name[:60])
