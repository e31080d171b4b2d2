"""Every exception of Ratchet, one class per kind of failure.

    RatchetError                  what a user can be told in one line; exit code 1
    ├── ParamsError               params.yaml: unknown, missing or wrong values
    ├── DataError                 the data, or where they should come from
    │   ├── SourceMissing         a source is not there
    │   ├── SourceChanged         a source is not what source.lock pins
    │   ├── CorruptData           bytes that do not match their hash, checksum or format
    │   └── ValidationFailed      too many bad rows, or a fault of the whole
    ├── TrainingError             a model, its arguments or its loss
    │   └── CorruptModel          weights or a card that may not be loaded
    ├── VersionError              the registry: unknown, withdrawn, or not allowed to serve
    │   ├── NotARepository        no git repository, or no commit in it
    │   ├── DirtyCode             code differs from the commit that a version would name
    │   ├── ObjectsMissing        a version's bytes are not where they have to be
    │   └── RemoteRefused         the git remote answers, and accepts neither us nor what we send
    ├── StageFailed               the process of a stage ended with an error
    ├── InputsChanged             an input was edited while its stage ran
    ├── ServerUnreachable         no Prefect server answers
    └── PassingFault              worth trying again later; exit code 75 (EX_TEMPFAIL)
        ├── Unreachable           a host, hub or remote does not answer
        └── Busy                  another run holds the lock

A message says what happened, where, what was expected, and the next command to run.
"""

from __future__ import annotations


class RatchetError(Exception):
    """Root of the tree; `exit_code` is what the process ends with."""

    exit_code = 1

    def __init__(self, message: str = "", hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.cause = message  # without the next command


class ParamsError(RatchetError): ...


class DataError(RatchetError): ...


class SourceMissing(DataError): ...


class SourceChanged(DataError): ...


class CorruptData(DataError): ...


class ValidationFailed(DataError): ...


class TrainingError(RatchetError): ...


class CorruptModel(TrainingError): ...


class VersionError(RatchetError): ...


class NotARepository(VersionError): ...


class DirtyCode(VersionError): ...


class ObjectsMissing(VersionError): ...


class RemoteRefused(VersionError): ...


class StageFailed(RatchetError): ...


class InputsChanged(RatchetError): ...


class ServerUnreachable(RatchetError): ...


class PassingFault(RatchetError):
    exit_code = 75


class Unreachable(PassingFault): ...


class Busy(PassingFault): ...
