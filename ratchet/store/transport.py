"""What an exception from a DVC remote means: only faults of the connection are worth a retry.

Each transport has its own exceptions, most of which are not an `OSError`. The tables here list
their modules and classes, so that no transport has to be installed or imported.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ratchet.errors import RatchetError, Unreachable, VersionError
from ratchet.files import FULL
from ratchet.git_errors import without_secrets

_NETWORK = {
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ESTALE,  # a network file system whose server restarted
    errno.ETIMEDOUT,
}
_TRANSPORTS = {
    "aiohttp": {"ClientConnectionError", "ClientPayloadError"},
    "asyncssh": {"ConnectionLost", "SFTPConnectionLost", "SFTPNoConnection"},
    "azure": {"ServiceRequestError", "ServiceResponseError"},
    "botocore": {"ConnectionError", "HTTPClientError"},
    "google": {"RetryError", "ServerError", "TooManyRequests", "TransportError"},
    "httpx": {"TransportError"},
    "paramiko": {"NoValidConnectionsError"},
    "requests": {"ConnectionError", "Timeout"},
    "urllib3": {"MaxRetryError", "ProtocolError", "TimeoutError"},
}
_BUSY = {408, 429, *range(500, 600)}  # HTTP statuses of servers that cannot serve right now


@contextmanager
def explained() -> Iterator[None]:
    """Turn the exceptions of a DVC remote into errors of Ratchet with one line.

    The exception of a bug keeps its type and its traceback.

    Raises:
        Unreachable: the connection failed.
        VersionError: the remote is not set up correctly, or denies access.
        RatchetError: the disk is full.
    """
    from dvc.config import NoRemoteError, RemoteConfigError
    from dvc_objects.fs.errors import AuthError, ConfigError, RemoteMissingDepsError

    try:
        yield
    except RatchetError:
        raise
    except (NoRemoteError, RemoteConfigError, ConfigError, RemoteMissingDepsError) as error:
        raise VersionError(
            f"the DVC remote is not set up correctly: {line(error)}; see `dvc remote list`"
        ) from None
    except AuthError as error:
        raise _denied(error) from None
    except Exception as error:
        explanation = _explanation(error)
        if explanation is None:
            raise
        raise explanation from error


def line(error: BaseException) -> str:
    """Return the error's message as one line without credentials."""
    return without_secrets(" ".join(str(error).split())) or type(error).__name__


def unreachable(error: BaseException) -> Unreachable:
    """Return the error for a remote that does not respond."""
    return Unreachable(
        f"the DVC remote does not respond ({line(error)}); check `dvc remote list`, then try again"
    )


def _explanation(error: BaseException) -> RatchetError | None:
    """Return an error of Ratchet, or None if the cause is neither the remote nor the disk."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in FULL or (isinstance(cause, OSError) and "No space left" in str(cause)):
            return RatchetError(f"the disk is full: {line(cause)}; make room, then run it again")
        is_read_only = isinstance(cause, PermissionError) or number == errno.EROFS
        if is_read_only or _has_class(cause, _DENIALS):
            return _denied(cause)
        if is_transport(cause):
            return unreachable(cause)
    return None


_DENIALS = {
    "asyncssh": {"HostKeyNotVerifiable", "PermissionDenied"},
    "botocore": {"NoCredentialsError", "PartialCredentialsError"},
    "google": {"DefaultCredentialsError"},
}


def is_transport(error: BaseException) -> bool:
    """Did the connection fail, so that the same request may succeed later?"""
    families = (ConnectionError, TimeoutError, asyncio.TimeoutError, socket.gaierror)
    if isinstance(error, families) or _has_class(error, _TRANSPORTS):
        return True
    if isinstance(error, OSError) and error.errno in _NETWORK:
        return True
    return _status(error) in _BUSY


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _has_class(error: BaseException, table: dict[str, set[str]]) -> bool:
    """Is a class of the error in a table of class names by package?"""
    classes = type(error).__mro__
    return any(cls.__name__ in table.get(cls.__module__.partition(".")[0], ()) for cls in classes)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status in the exception of a client, if it has one."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    response = getattr(error, "response", None)  # botocore's is a dict
    if isinstance(response, dict):
        value = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return value if isinstance(value, int) else None
    return None


def _denied(error: BaseException) -> VersionError:
    """Return the error for a remote that denies access."""
    name = getattr(error, "filename", None)
    place = f" to {without_secrets(str(name))}" if name else ""
    return VersionError(
        f"access{place} was denied ({line(error)}); check the permissions of the folder, or the"
        " credentials of the DVC remote in .dvc/config.local"
    )
