"""The same promises over SSH, for git and DVC both: Debian's sshd on loopback, the `ssh` client and dvc-ssh."""

from __future__ import annotations

import gc
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.errors import CorruptData, ObjectsMissing, Unreachable
from ratchet.git import git
from ratchet.registry import loading, tags
from ratchet.store import pipeline
from ratchet.upkeep.checkout import checkout
from ratchet.upkeep.push import push
from ratchet.upkeep.verify import verify
from tasks.promote import rollback
from tests.helpers.toy import Toy

pytest.importorskip("dvc_ssh", reason="pip install dvc[ssh]")
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.long,
    pytest.mark.skipif(
        not SSHD or not shutil.which("ssh"), reason="apt-get install openssh-server"
    ),
]
USER = pwd.getpwuid(os.getuid()).pw_name
CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""


class Server:
    """An sshd of one user's, that lets one key in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, folder / "key"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def __enter__(self) -> Server:
        for name in ("host", "key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name],
                check=True,
            )
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # what its init script makes
        config = self.folder / "sshd_config"
        config.write_text(CONFIG.format(port=self.port, folder=self.folder))
        command = [str(SSHD), "-D", "-e", "-f", str(config)]
        with (self.folder / "sshd.log").open("w") as log:
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
                assert time.monotonic() < deadline, "sshd does not answer"
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def server(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An SSH server that is the git remote `origin` and the DVC remote of the toy."""
    git("clone", "--quiet", "--bare", str(toy.tree), str(tmp_path / "origin.git"), cwd=tmp_path)
    with Server(tmp_path) as server:
        options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        monkeypatch.setenv("GIT_SSH_COMMAND", f"ssh -F /dev/null -i {server.key} {options}")
        url = f"ssh://{USER}@127.0.0.1:{server.port}{tmp_path}"
        git("remote", "add", "origin", f"{url}/origin.git", cwd=toy.tree)
        toy.write(
            {
                ".dvc/config": f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}/store\n"
            }
        )
        toy.write({".dvc/config.local": f"['remote \"store\"']\n    keyfile = {server.key}\n"})
        toy.set("register.push_to", "origin")
        toy.commit("Publish")
        git("push", "--quiet", "origin", "main", cwd=toy.tree)
        yield server
    gc.collect()  # connections that the clients never closed complain here, not in a later test


def test_publishing_restoring_and_rolling_back_over_ssh(
    toy: Toy, server: Server, tmp_path: Path
) -> None:
    version = toy.release("a")
    assert len([file for file in (tmp_path / "store").rglob("*") if file.is_file()]) == 6
    toy.release("b")
    clone = tmp_path / "clone"
    git(
        "clone",
        "--quiet",
        f"ssh://{USER}@127.0.0.1:{server.port}{tmp_path}/origin.git",
        str(clone),
        cwd=tmp_path,
    )
    shutil.copy2(toy.tree / ".dvc/config.local", clone / ".dvc")
    checkout(clone, "prod", tmp_path / "out")
    assert (tmp_path / "out/models/classifier.pt").read_text() == "b"
    assert rollback.fn(clone, "prod").version == "v1.0.0"
    assert push(toy.params, clone).tags == []
    tags.fetch(toy.tree, "origin")
    assert toy.serves() == "v1.0.0"

    md5 = pipeline.of_commit(toy.tree, version.commit).output("models/classifier.pt").md5
    there = tmp_path / "store/files/md5" / md5[:2] / md5[2:]
    there.chmod(0o644)
    there.write_text("A")
    assert [(each.version, each.what) for each in verify(toy.tree, "v1.0.0")] == [
        ("v1.0.0", "models/classifier.pt")
    ]
    shutil.rmtree(clone / ".dvc/cache")
    with pytest.raises((CorruptData, ObjectsMissing), match=r"models/classifier\.pt"):
        loading.files(clone, version)
    there.unlink()
    with pytest.raises(
        ObjectsMissing, match=r"models/classifier\.pt: neither in DVC's cache nor on its remote"
    ):
        loading.files(clone, version)


def test_hosts_that_are_gone(toy: Toy, server: Server) -> None:
    git("remote", "set-url", "origin", f"ssh://{USER}@127.0.0.1:9/gone.git", cwd=toy.tree)
    with pytest.raises(Unreachable, match="git fetch got no answer from the remote"):
        toy.release("a")
    toy.set("register.push_to", "")
    server.__exit__()
    with pytest.raises(Unreachable, match="the DVC remote does not respond"):
        toy.release("a")
    assert toy.registry.versions() == []
