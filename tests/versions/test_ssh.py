"""The same promises over SSH, for git and DVC both: a server of asyncssh's on loopback, the `ssh` client and dvc-ssh."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.checkout import checkout
from tasks.errors import ObjectsMissing, Unreachable
from tasks.versions import loading, pipeline
from tasks.versions.git import git
from tests.versions.toy import Toy

asyncssh = pytest.importorskip("asyncssh")
pytest.importorskip("dvc_ssh", reason="pip install dvc[ssh]")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("ssh"), reason="there is no ssh client"),
]


class Server:
    """An SSH server that lets one key in, with SFTP and with git's commands."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.loop = folder, asyncio.new_event_loop()
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.key = folder / "key"
        key.write_private_key(str(self.key))
        self.key.chmod(0o600)
        key.write_public_key(str(folder / "authorized"))
        self.port = 0

    async def begin(self) -> None:
        self.server = await asyncssh.create_server(
            asyncssh.SSHServer,
            "127.0.0.1",
            0,
            server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
            authorized_client_keys=str(self.folder / "authorized"),
            process_factory=self.run,
            sftp_factory=True,
            encoding=None,
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def run(self, process: Any) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_shell(process.command, stdin=pipe, stdout=pipe, stderr=pipe)
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        process.exit(await child.wait())

    def __enter__(self) -> Server:
        self.loop.run_until_complete(self.begin())
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.run_until_complete(self.end())
        self.loop.close()

    async def end(self) -> None:
        self.server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@pytest.fixture
def server(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An SSH server that is the git remote `origin` and the DVC remote of the toy."""
    git("clone", "--quiet", "--bare", str(toy.tree), str(tmp_path / "origin.git"), cwd=tmp_path)
    with Server(tmp_path) as server:
        options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        monkeypatch.setenv("GIT_SSH_COMMAND", f"ssh -F /dev/null -i {server.key} {options}")
        url = f"ssh://ratchet@127.0.0.1:{server.port}{tmp_path}"
        git("remote", "add", "origin", f"{url}/origin.git", cwd=toy.tree)
        toy.write({".dvc/config": f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}/store\n"})
        toy.write({".dvc/config.local": f"['remote \"store\"']\n    keyfile = {server.key}\n"})
        toy.set("register.push_to", "origin")
        toy.commit("Publish")
        git("push", "--quiet", "origin", "main", cwd=toy.tree)
        yield server
    gc.collect()  # connections that the clients never closed complain here, not in a later test


def test_publishing_and_restoring_over_ssh(toy: Toy, server: Server, tmp_path: Path) -> None:
    version = toy.release("a")
    assert len([file for file in (tmp_path / "store").rglob("*") if file.is_file()]) == 6
    clone = tmp_path / "clone"
    git("clone", "--quiet", f"ssh://ratchet@127.0.0.1:{server.port}{tmp_path}/origin.git", str(clone), cwd=tmp_path)
    shutil.copy2(toy.tree / ".dvc/config.local", clone / ".dvc")
    checkout(clone, "prod", tmp_path / "out")
    assert (tmp_path / "out/models/classifier.pt").read_text() == "a"

    md5 = pipeline.of_commit(toy.tree, version.commit).output("models/classifier.pt").md5
    (tmp_path / "store/files/md5" / md5[:2] / md5[2:]).unlink()
    shutil.rmtree(clone / ".dvc/cache")
    with pytest.raises(ObjectsMissing, match=r"models/classifier\.pt: neither in DVC's cache nor on its remote"):
        loading.files(clone, version)


def test_a_host_that_is_gone(toy: Toy, server: Server) -> None:
    git("remote", "set-url", "origin", "ssh://ratchet@127.0.0.1:9/gone.git", cwd=toy.tree)
    with pytest.raises(Unreachable, match="git fetch got no answer from the remote"):
        toy.release("a")
    assert toy.registry.versions() == []
