"""The records of the registry, a version and an assignment, and how their tags are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ratchet.registry.tags import Number, Tag

Action = Literal["promote", "rollback", "unassign"]


@dataclass(frozen=True)
class Version:
    """One version: its tag, and the tags that withdrew or reinstated it, oldest first."""

    tag: Tag
    cancels: tuple[Tag, ...] = ()
    changed: bool = True  # False: it was in that state before, and nothing was written

    @cached_property
    def withdrawn(self) -> Tag | None:
        """The tag that withdraws it; None if it is in use, or was reinstated since."""
        withdrawn: Tag | None = None
        for tag in self.cancels:
            if _action(tag) == "reinstate" and not self.expired:
                withdrawn = None
            elif _action(tag) != "reinstate":
                withdrawn = withdrawn or tag
        return withdrawn

    @cached_property
    def expired(self) -> bool:
        """Whether `ratchet gc` may delete its objects."""
        return any(_action(tag) == "expire" for tag in self.cancels)

    @cached_property
    def number(self) -> Number:
        """The version number."""
        number = self.tag.parsed.number
        assert number is not None
        return number

    @property
    def name(self) -> str:
        """The number as text, such as "v1.2.0"."""
        return str(self.number)

    @property
    def commit(self) -> str:
        """The commit that holds its whole state. It is on no branch."""
        return self.tag.commit

    @property
    def date(self) -> int:
        """Unix time of the registration, in seconds."""
        return self.tag.date

    @property
    def data(self) -> dict[str, Any]:
        """The JSON block of its tag: metrics, gate, hashes, reason, contract."""
        return self.tag.data

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics in its tag, by name."""
        metrics = self.data.get("metrics")
        return metrics if isinstance(metrics, dict) else {}

    @property
    def weights_sha256(self) -> str | None:
        """The SHA-256 of its weights; None if its tag does not record it."""
        value = self.data.get("weights_sha256")
        return value if isinstance(value, str) else None

    def as_dict(self) -> dict[str, Any]:
        """The fields that `--json` prints."""
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
    """A version that was put into an environment."""

    tag: Tag
    environment: str
    counter: int
    version: str
    action: Action
    reason: str
    under: int | None  # the counter of the assignment that a rollback returns to
    automatic: bool = False
    changed: bool = True  # False: the version served there before, and nothing was written
    unpushed: str = ""  # why its tag is not pushed yet; empty if it is, or if there is no remote
    remote: str = ""  # the git remote

    @property
    def date(self) -> int:
        """Unix time of the assignment, in seconds."""
        return self.tag.date

    @property
    def not_pushed(self) -> str:
        """The end of a sentence that says why the tag is not pushed; empty if it is."""
        if not self.unpushed:
            return ""
        return (
            f"; not pushed to {self.remote} yet ({self.unpushed}): the next command that reaches"
            " it pushes it, such as `ratchet push --all`"
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields that `--json` prints."""
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


def versions_of(tags: Sequence[Tag]) -> list[Version]:
    """The versions that these tags make and change, highest number first."""
    versions: dict[Number, Tag] = {}
    changes: dict[Number, list[Tag]] = {}
    for tag in tags:
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


def assignment_of(
    tag: Tag, numbers: Mapping[str, str] | None = None, below: int | None = None
) -> Assignment | None:
    """Read an assignment from its tag; None if the tag is not that of an assignment.

    A tag that GTO wrote holds no JSON and is read as a promotion.

    Args:
        tag: the tag.
        numbers: commit to version name, for a tag that GTO wrote.
        below: the counter of the assignment before, for a tag that GTO wrote.
    """
    name = tag.parsed
    if name.environment is None or name.counter is None:
        return None
    if is_ours(tag):
        data = tag.data
        action: Action = "rollback" if data.get("action") == "rollback" else "promote"
        version, under = str(data["version"]), data.get("under")
        reason = str(data.get("reason", ""))
        # older tags have only `by`
        automatic = bool(data.get("automatic", data.get("by") == "flow"))
    else:
        version, under = (numbers or {}).get(tag.commit, tag.commit[:12]), below
        action, reason, automatic = "promote", tag.message.strip().split("\n")[0], False
    action = "unassign" if name.cancels else action
    return Assignment(
        tag, name.environment, name.counter, version, action, reason, under, automatic
    )


def rolled_back(history: Sequence[Assignment]) -> set[str]:
    """The versions that a rollback took out of service and that were not promoted again since.

    Args:
        history: the assignments of one environment, oldest first.
    """
    by_counter = {entry.counter: entry for entry in history}
    back: set[str] = set()
    before: Assignment | None = None
    for entry in history:
        if entry.action == "promote":
            back.discard(entry.version)
        elif entry.action == "rollback":
            left = before
            while left and left.version != entry.version and left.counter != entry.under:
                back.add(left.version)
                left = by_counter.get(left.under) if left.under is not None else None
        before = None if entry.action == "unassign" else entry
    return back


def change_of(tag: Tag) -> dict[str, Any]:
    """A withdrawal or reinstatement, as `ratchet show` and `--json` print it."""
    reason = str(tag.data["reason"] if "reason" in tag.data else tag.message.strip().split("\n")[0])
    return {
        "action": _action(tag),
        "reason": reason,
        "date": tag.date,
        "by": tag.tagger,
        "from": origin_of(tag),
    }


def origin_of(tag: Tag) -> str:
    """Where a change came from, such as "terminal on alpha" or "flow run brisk-fox on alpha".

    Empty if its tag does not record it.
    """
    data = tag.data
    by = {"hand": "terminal", "terminal": "terminal", "flow": "flow"}.get(str(data.get("by")), "")
    if by == "flow" and data.get("run"):
        by = f"flow run {data['run']}"
    return f"{by} on {data['host']}" if by and data.get("host") else by


def _action(tag: Tag) -> str:
    """What a tag does with a version: withdraw, expire or reinstate. GTO's tags only withdraw."""
    action = tag.data.get("action")
    return action if action in ("expire", "reinstate") else "withdraw"


def is_ours(tag: Tag) -> bool:
    """Whether Ratchet wrote this tag, not GTO."""
    return "version" in tag.data
