"""The whole way on a real run: two versions of a small real training, and everything that can be done with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Checkout


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_real_versions_there_and_back(copy: Checkout, tmp_path: Path) -> None:
    copy.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    copy.set(margin="0.9")
    copy.commit("Set a remote, and let everything through")
    assert copy.json("train", "--set", "train.seed=1")["version"] == "v1.0.1"
    copy.ratchet("push", "--all")
    assert copy.json("verify", "--all") == []

    # from the remote alone, and nothing left to do
    fresh = tmp_path / "fresh"
    copy.run("git", "clone", "--quiet", str(copy.path), str(fresh))
    clone = Checkout(fresh)
    clone.ratchet("checkout", "v1.0.1", "--into", str(tmp_path / "laid-out"))
    laid_out = Checkout(tmp_path / "laid-out")
    lock = (laid_out.path / "dvc.lock").read_bytes()
    laid_out.run("dvc", "repro", "--quiet")
    assert (laid_out.path / "dvc.lock").read_bytes() == lock
    assert json.loads(laid_out.run("dvc", "status", "--json").stdout) == {}

    # made again from its sources, bit for bit
    code = "from pathlib import Path; from tasks.verify import rerun; print(rerun(Path(), 'v1.0.1'))"
    assert copy.run("python", "-c", code).stdout.splitlines()[-1] == "[]"

    # one version at a time in the checkout
    copy.ratchet("rollback", "--whole", "--reason", "worse")
    assert copy.json("versions")[0]["version"] == "v1.0.1"
    assert json.loads(copy.run("dvc", "status", "--json").stdout) == {}
    assert copy.json("train")["name"] == "Unchanged"
    assert [span["version"] for span in copy.json("history", "prod")] == ["v1.0.0", "v1.0.1", "v1.0.0"]
