"""The registry: the versions and what serves where, read from git's tags.

It needs no server, no index and no file of its own.

What serves in an environment is the assignment with the highest counter there, not the one with
the latest date. Each assignment also names the one *under* it, so a rollback finds its target in
one step, however long the history is.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from ratchet.errors import VersionError
from ratchet.git import git
from ratchet.registry import tags
from ratchet.registry.records import (
    Assignment,
    Version,
    assignment_of,
    is_ours,
    rolled_back,
    versions_of,
)
from ratchet.registry.tags import ARTIFACT, Number, Tag

_COUNTED = (f"{ARTIFACT}#*", f"{ARTIFACT}@*!#*")  # the tags that take a counter


class Registry:
    """The registry of a repository.

    Args:
        tree: a checkout or worktree of the repository.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    @staticmethod
    def assigned(tag: Tag) -> Assignment:
        """The assignment that a tag makes. Ratchet has to have written the tag."""
        assignment = assignment_of(tag)
        assert assignment is not None, tag.name
        return assignment

    def versions(self) -> list[Version]:
        """Every version, withdrawn ones too, highest number first."""
        return versions_of(tags.read(self.tree, f"{ARTIFACT}@*"))

    def newest(self) -> Version | None:
        """The version with the highest number, withdrawn or not.

        This lists all names but reads only one version.
        """
        numbers = self._numbers()
        return self._version(max(numbers)) if numbers else None

    def serving(self, environment: str) -> Version | None:
        """The version in service in an environment; None if there is none.

        Raises:
            VersionError: the assignment and the version's tag are on different commits.
        """
        assignment = self.assignment(environment)
        if assignment is None:
            return None
        version = self._version(_number(assignment.version))
        if version is None or version.commit != assignment.tag.commit:
            raise VersionError(
                f"{assignment.tag.name} put {assignment.version} into {environment}, but the tag of"
                f" that version is {'gone' if version is None else 'on another commit now'}; for"
                " details, run `ratchet verify --all`"
            )
        return version

    def assignment(self, environment: str) -> Assignment | None:
        """The assignment that decides what serves in an environment.

        None if nothing was ever put there, or if the environment was taken out of service.
        """
        return self.position(environment)[0]

    def position(self, environment: str) -> tuple[Assignment | None, int]:
        """The assignment that decides what serves there, and the counter of the next assignment.

        Both are read together: an assignment that another process fetches meanwhile is in both or
        in neither.
        """
        tags.checked_environment(environment)
        here = (f"{ARTIFACT}#{environment}#", f"{ARTIFACT}#{environment}!#")
        missing: list[str] = []
        while True:
            names = tags.names(self.tree, *_COUNTED)
            last = tags.last(names)
            counter = 1 + (last[0] if last else 0)
            # a name that is listed twice and cannot be read is not that of an annotated tag
            candidates = [
                name for name in names if name.startswith(here) and missing.count(name) < 2
            ]
            newest = tags.last(candidates)
            if newest is None:
                return None, counter
            entry = self.entry(environment, newest[0])
            if entry is not None:
                return None if entry.action == "unassign" else entry, counter
            # a fetch just pruned it, or it is another kind of tag
            missing.append(newest[1])

    def entry(self, environment: str, counter: int) -> Assignment | None:
        """The assignment with this counter; None if there is none."""
        patterns = (f"{ARTIFACT}#{environment}#{counter}", f"{ARTIFACT}#{environment}!#{counter}")
        matches = tags.read(self.tree, *patterns)
        if not matches:
            return None
        if is_ours(matches[-1]):
            return assignment_of(matches[-1])
        for entry in self.history(environment):
            if entry.counter == counter:
                return entry
        return None

    def history(self, environment: str) -> list[Assignment]:
        """All assignments of an environment, oldest first. The last one decides what serves."""
        tags.checked_environment(environment)
        assignments = tags.read(
            self.tree, f"{ARTIFACT}#{environment}#*", f"{ARTIFACT}#{environment}!#*"
        )
        assignments.sort(key=lambda tag: tag.parsed.counter or 0)
        numbers: dict[str, str] = {}
        if not all(map(is_ours, assignments)):
            numbers = {version.commit: version.name for version in self.versions()}
        history: list[Assignment] = []
        for tag in assignments:
            below = history[-1].counter if history and history[-1].action != "unassign" else None
            assignment = assignment_of(tag, numbers, below)
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
        """What serves where: environment to version name, without those out of service."""
        serving = {
            environment: self.assignment(environment)
            for environment in sorted(self.all_environments())
        }
        return {environment: entry.version for environment, entry in serving.items() if entry}

    def all_environments(self) -> set[str]:
        """Every environment that something was ever put into."""
        parsed = map(tags.parse, tags.names(self.tree, f"{ARTIFACT}#*"))
        return {name.environment for name in parsed if name and name.environment}

    def find(self, name: str) -> Version:
        """The version with this name, or the one that serves in the environment of this name.

        Args:
            name: "v1.2.0", "1.2.0", "classifier@v1.2.0", or an environment such as "prod".

        Raises:
            VersionError: there is no such version. The message suggests the nearest one.
        """
        bare = name.removeprefix(f"{ARTIFACT}@")
        number = tags.number(bare)
        version = self._version(number) if number else None
        if version is None and number is None and tags.ENVIRONMENT.fullmatch(bare):
            version = self.serving(bare)
        if version is None:
            raise VersionError(self._unknown(name))
        return version

    def with_weights(self, weights_sha256: str) -> Version | None:
        """The version with exactly these weights, preferably one that is not withdrawn.

        Expired versions do not count.
        """
        same = [version for version in self.versions() if version.weights_sha256 == weights_sha256]
        unexpired = [version for version in same if not version.expired]
        for version in unexpired:
            if version.withdrawn is None:
                return version
        return unexpired[0] if unexpired else None

    def was_rolled_back(self, version: str, environment: str) -> bool:
        """Whether a rollback took `version` out of service there and no promotion followed."""
        return version in rolled_back(self.history(environment))

    def next_counter(self) -> int:
        """The counter of the next assignment. All environments share one counter."""
        last = tags.last(tags.names(self.tree, *_COUNTED))
        return 1 + (last[0] if last else 0)

    def last_assignment(self) -> Tag | None:
        """The tag with the highest counter, in any environment."""
        last = tags.last(tags.names(self.tree, f"{ARTIFACT}#*"))
        return tags.read(self.tree, last[1])[0] if last else None

    def _numbers(self) -> list[Number]:
        parsed = map(tags.parse, tags.names(self.tree, f"{ARTIFACT}@*"))
        return [name.number for name in parsed if name and name.number and not name.cancels]

    def _version(self, number: Number) -> Version | None:
        name = tags.version_tag(number)
        versions = versions_of(tags.read(self.tree, name, f"{name}!", f"{name}!#*"))
        return versions[0] if versions else None

    def _unknown(self, name: str) -> str:
        numbers = [str(number) for number in sorted(self._numbers())]
        if not numbers:
            return f"no version {_short(name)}: {self.none()}"
        bare = name.removeprefix(f"{ARTIFACT}@")[:50]
        choices = [*numbers, *self.environments()]
        near = difflib.get_close_matches(bare, choices, n=1, cutoff=0.3)
        fetch = self._fetch()
        return (
            f"no version {_short(name)}; the nearest is {near[0] if near else numbers[-1]};"
            f" `ratchet versions` lists all{f', {fetch}' if fetch else ''}"
        )

    def none(self) -> str:
        """Why there may be no version here, and the next command."""
        fetch = self._fetch()
        if fetch:
            return f"there is none here; {fetch}"
        return "there is none yet; `ratchet train` makes the first"

    def _fetch(self) -> str:
        remote = git("remote", cwd=self.tree).partition("\n")[0]
        return f"`git fetch --tags {remote}` brings those of {remote}" if remote else ""


def _number(name: str) -> Number:
    number = tags.number(name)
    if number is None:
        raise VersionError(
            f"an assignment names {name!r}, which is not a version; for details, run"
            " `ratchet verify --all`"
        )
    return number


def _short(name: str) -> str:
    return name if len(name) < 60 and name.isprintable() else repr(name[:60])
