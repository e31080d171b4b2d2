"""`make up` with PostgreSQL (Debian's) as Prefect's database."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Checkout
from tests.helpers.standing import standing, until

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
NAME = "PREFECT_API_DATABASE_CONNECTION_URL"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not BINARIES, reason="no PostgreSQL here; `apt-get install postgresql` brings it"
    ),
]


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of an empty database on a server of its own, which runs as another user: PostgreSQL refuses root."""
    folder = Path(tempfile.mkdtemp(prefix="ratchet-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    data, binaries = folder / "data", BINARIES[0]
    make = [*as_user, binaries / "initdb", "-D", data, "-U", "ratchet", "-A", "trust", "--no-sync"]
    subprocess.run(make, check=True, capture_output=True, cwd="/")
    command = [
        *as_user,
        binaries / "postgres",
        "-D",
        data,
        "-p",
        port,
        "-h",
        "127.0.0.1",
        "-k",
        folder,
    ]
    with subprocess.Popen(
        command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            create = ["createdb", "-h", "127.0.0.1", "-p", port, "-U", "ratchet", "ratchet"]
            until(
                lambda: (
                    subprocess.run(
                        [binaries / create[0], *create[1:]], capture_output=True
                    ).returncode
                    == 0
                ),
                30,
            )
            yield f"postgresql+asyncpg://ratchet@127.0.0.1:{port}/ratchet"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
            shutil.rmtree(folder)


async def ask(url: str, query: str) -> list[tuple[object, ...]]:
    import asyncpg

    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


def test_the_service_keeps_its_runs_in_postgres(
    released: Checkout, tmp_path: Path, database: str
) -> None:
    with standing(released, tmp_path, **{NAME: database}) as service:
        sqlite = service.checkout.path / ".prefect/prefect.db"
        untouched = sqlite.stat().st_mtime_ns
        runs = [service.trigger("training/training"), service.trigger("verification/verification")]
        assert [service.wait(run)["name"] for run in runs] == ["Unchanged", "Verified"]
        service.process("server").kill()
        service("up")
        assert service.state(runs[0])["name"] == "Unchanged"
        assert service.wait(service.trigger("training/training"))["name"] == "Unchanged"
        kept = asyncio.run(
            ask(
                database,
                "select state_name, count(*) from flow_run where state_type = 'COMPLETED' group by 1",
            )
        )
        assert sorted(kept) == [("Unchanged", 2), ("Verified", 1)]
        assert sqlite.stat().st_mtime_ns == untouched
