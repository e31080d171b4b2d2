"""Only a fault of the connection is worth a retry; everything else keeps its cause."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import aiohttp
import asyncssh
import botocore.exceptions
import pytest
import requests
import urllib3
from fsspec.exceptions import FSTimeoutError

from ratchet.errors import RatchetError, Unreachable, VersionError
from ratchet.store import pipeline, remote, transport
from tests.helpers.toy import Toy


def failed(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def answered(status: int) -> Exception:
    return botocore.exceptions.ClientError(
        {"ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject"
    )


PASSING = [
    ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    BrokenPipeError(errno.EPIPE, "broken pipe"),
    failed(errno.EHOSTUNREACH),
    failed(errno.ENETUNREACH),
    failed(errno.ESTALE, "/mnt/store"),
    TimeoutError("timed out"),
    socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    FSTimeoutError(),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientConnectionError("closed"),
    aiohttp.ClientPayloadError("half of it"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
    botocore.exceptions.ReadTimeoutError(endpoint_url="http://127.0.0.1:9"),
    asyncssh.ConnectionLost("lost"),
    asyncssh.SFTPConnectionLost("lost"),
    requests.ConnectionError("refused"),
    requests.Timeout("slow"),
    urllib3.exceptions.ProtocolError("cut off"),
    answered(503),
    answered(429),
    chained(RuntimeError("could not read"), ConnectionResetError(errno.ECONNRESET, "reset")),
]
FINAL = [
    (failed(errno.ENOSPC, "/cache/x"), RatchetError, "the disk is full: .*/cache/x"),
    (failed(errno.EDQUOT), RatchetError, "the disk is full"),
    (chained(RuntimeError("wrapped"), failed(errno.ENOSPC)), RatchetError, "the disk is full"),
    (failed(errno.EACCES, "/store/x"), VersionError, "access to /store/x was denied"),
    (failed(errno.EROFS, "/store/x"), VersionError, "access to /store/x was denied"),
    (asyncssh.PermissionDenied("no key fits"), VersionError, "access was denied .no key fits"),
    (botocore.exceptions.NoCredentialsError(), VersionError, "access was denied"),
]
BUGS = [
    ValueError("bad json"),
    KeyError("md5"),
    RuntimeError("this cannot happen"),
    failed(errno.ENOENT, "/store/x"),
    failed(errno.EMFILE),
    answered(404),
    RecursionError("deep"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_a_fault_of_the_connection_is_worth_a_retry(error: Exception) -> None:
    with (
        pytest.raises(Unreachable, match="the DVC remote does not respond") as raised,
        transport.explained(),
    ):
        raise error
    assert raised.value.exit_code == 75
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("error", "kind", "message"), FINAL)
def test_a_full_disk_and_denied_access_are_final(
    error: Exception, kind: type[RatchetError], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised, transport.explained():
        raise error
    assert raised.value.exit_code == 1


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_a_bug_keeps_its_type_and_message(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, transport.explained():
        raise error
    assert raised.value is error


@pytest.mark.fault(34)
@pytest.mark.parametrize("kind", [ConnectionError, PermissionError])
def test_credentials_are_in_no_message(kind: type[Exception]) -> None:
    with pytest.raises(RatchetError) as raised, transport.explained():
        raise kind("GET https://ada:secret@host/x failed")
    assert "secret" not in str(raised.value)


@pytest.mark.fault(5)
def test_a_full_disk_during_a_transfer_is_reported_as_such(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC logs what stops a transfer and goes on, so that the objects only look missing."""
    from dvc_objects.fs.local import LocalFileSystem

    def full(*_: object, **__: object) -> None:
        raise failed(errno.ENOSPC)

    toy.remote(tmp_path / "store")
    toy.run("a")
    outputs = pipeline.of_tree(toy.tree).outputs
    monkeypatch.setattr("dvc_objects.fs.generic.copy", full)
    monkeypatch.setattr(LocalFileSystem, "put_file", full)
    monkeypatch.setattr("dvc_objects.fs.generic.transfer", full)
    with pytest.raises(RatchetError, match="the disk is full") as raised:
        remote.push(toy.tree, outputs)
    assert raised.value.exit_code == 1
