"""The whole way on a real run: two versions of a small real training, and everything that can be done with them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import SAMPLE, Checkout


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
    code = "from pathlib import Path; from ratchet.upkeep.verify import rerun; print(rerun(Path(), 'v1.0.1'))"
    assert copy.run("python", "-c", code).stdout.splitlines()[-1] == "[]"

    # a wrong result of an earlier run that the others would take over is noticed
    for manifest in (copy.path / ".memo/prepare").glob("*/manifest.json"):
        digests = json.loads(manifest.read_text())
        file = next(
            manifest.parent / name
            for name in sorted(digests)
            if (manifest.parent / name).stat().st_size > 999
        )
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        digests[file.name] = hashlib.sha256(content).hexdigest()
        manifest.write_text(json.dumps(digests))
    assert copy.run("python", "-c", code).stdout.splitlines()[-1] == "[]"

    # a rollback stands
    copy.ratchet("rollback", "--reason", "worse")
    assert copy.json("versions")[0]["version"] == "v1.0.1"
    assert copy.json("train")["name"] == "Unchanged"

    # and its state is that of the branch
    for name in ("v1.0.1", "v1.0.0"):
        assert copy.json("adopt", name)["changed"]
        assert json.loads(copy.run("dvc", "status", "--json").stdout) == {}
        assert copy.git("status", "--porcelain", "--", "params.yaml", "dvc.lock", "reports") == ""
        assert not copy.json("adopt", name)["changed"]
        assert copy.json("train")["name"] == "Unchanged"
        copy.git("checkout", "--", "reports")  # what the gate says of the last run
    assert [span["version"] for span in copy.json("history", "prod")] == [
        "v1.0.0",
        "v1.0.1",
        "v1.0.0",
    ]


@pytest.mark.fault(35)
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_rollback_stands_and_new_data_go_past_it(copy: Checkout, tmp_path: Path) -> None:
    copy.set(margin="0.9", slice_margin="0.9")
    copy.set(epochs="3")
    assert copy.json("train")["serves"] == "v1.1.0"
    assert copy.json("rollback", "--reason", "worse")["version"] == "v1.0.0"
    for _ in range(2):
        again = copy.json("train")
        assert (again["name"], again["version"], again["serves"]) == ("Unchanged", None, "v1.0.0")

    shutil.copytree(SAMPLE, tmp_path / "more")
    (images,) = (tmp_path / "more").rglob("train-images-idx3-ubyte")
    content = bytearray(images.read_bytes())
    content[16 + 28 * 14 + 14] ^= 64  # a pixel in the middle of the first image
    images.write_bytes(content)
    copy.set(root=str(tmp_path / "more"))
    again = copy.json("train")
    assert (again["version"], again["serves"]) == ("v1.2.0", "v1.2.0")
    assert [span["version"] for span in copy.json("history", "prod")] == [
        "v1.0.0",
        "v1.1.0",
        "v1.0.0",
        "v1.2.0",
    ]
    assert (
        copy.json("rollback")["version"] == "v1.0.0"
    )  # v1.1.0 was taken back, so it is not what served before
