"""Every exception of Ratchet, one class per kind of failure.

    RatchetError                  a failure that one line explains to a user; exit code 1
    ├── ParamsError               params.yaml: unknown, missing or wrong values
    ├── DataError                 the data or their source
    │   ├── SourceMissing         a source does not exist
    │   ├── SourceChanged         a source differs from what source.lock pins
    │   ├── CorruptData           bytes that do not match their hash, checksum or format
    │   └── ValidationFailed      too many bad rows, or a fault of the whole data set
    ├── TrainingError             a model, its arguments or its loss
    │   └── CorruptModel          weights or a card that are not safe to load
    ├── VersionError              the registry: unknown, withdrawn, or not allowed to serve
    │   ├── NotARepository        no git repository, or no commit in it
    │   ├── DirtyCode             code differs from the commit that a version would name
    │   ├── ObjectsMissing        bytes of a version are missing in the cache or on the remote
    │   └── RemoteRefused         the git remote responds, but refuses the user or the push
    ├── StageFailed               the process of a stage ended with an error
    ├── InputsChanged             an input was edited while its stage ran
    ├── ServerUnreachable         no Prefect server responds
    └── PassingFault              worth trying again later; exit code 75 (EX_TEMPFAIL)
        ├── Unreachable           a host, hub or remote does not respond
        └── Busy                  another run holds the lock

A message says what happened, where, what was expected, and which command to run next.
"""

from __future__ import annotations


class RatchetError(Exception):
    """Root of the tree.

    Args:
        message: what happened.
        hint: what to do; the text of the exception is the message, a semicolon and the hint.

    Attributes:
        exit_code: the exit code of the process.
        cause: the message without the hint.
    """

    exit_code = 1

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.cause = message


class ParamsError(RatchetError):
    """Values in params.yaml, or settings of a run, are unknown, missing or wrong."""


class DataError(RatchetError):
    """The data or their source have a fault."""


class SourceMissing(DataError):
    """A source does not exist."""


class SourceChanged(DataError):
    """A source differs from what source.lock pins."""


class CorruptData(DataError):
    """Bytes do not match their hash, checksum or format."""


class ValidationFailed(DataError):
    """Too many rows are bad, or the data set as a whole has a fault."""


class TrainingError(RatchetError):
    """A model, its arguments or its loss do not work."""


class CorruptModel(TrainingError):
    """The weights or the card of a model are not safe to load."""


class VersionError(RatchetError):
    """A version is unknown, withdrawn, or not allowed to serve."""


class NotARepository(VersionError):
    """There is no git repository, or it has no commit."""


class DirtyCode(VersionError):
    """Code differs from the commit that a version would name."""


class ObjectsMissing(VersionError):
    """Bytes of a version are missing in the cache or on the remote."""


class RemoteRefused(VersionError):
    """The git remote responds, but refuses the user or the push."""


class StageFailed(RatchetError):
    """The process of a stage ended with an error."""


class InputsChanged(RatchetError):
    """An input was edited while its stage ran."""


class ServerUnreachable(RatchetError):
    """No Prefect server responds."""


class PassingFault(RatchetError):
    """A fault that is worth trying again later."""

    exit_code = 75


class Unreachable(PassingFault):
    """A host, hub or remote does not respond."""


class Busy(PassingFault):
    """Another run holds the lock."""
