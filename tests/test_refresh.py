"""What upstream is, in `source.lock`."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.data.files import sha256
from tasks.data.sources import fashion_mnist
from tasks.errors import SourceMissing
from tasks.refresh import refresh
from tasks.versions.git import git
from tests.data.samples import ASSETS, image_file, pictures

pytest_plugins = ["tests.data.fixtures"]

RAW = ASSETS / "FashionMNIST" / "raw"


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A folder as Debian's package makes it, of our sample, whose hashes then count as the right ones."""
    folder = tmp_path / "package"
    folder.mkdir()
    for file in RAW.iterdir():
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    monkeypatch.setattr(fashion_mnist, "FILES", {file.name: sha256(file) for file in RAW.iterdir()})
    monkeypatch.setattr(fashion_mnist, "DEBIAN", folder)
    return folder


def test_a_named_root_is_pinned_by_the_lock_alone_without_its_place(sample, tree):
    assert refresh.fn(sample, tree)["changed"]
    assert not refresh.fn(sample, tree)["changed"]
    (entry,) = json.loads((tree / "source.lock").read_text())["sources"]
    assert [file["name"] for file in entry["files"]] == sorted(
        f"FashionMNIST/raw/{file.name}" for file in RAW.iterdir()
    )
    assert entry["files"][0]["sha256"] == sha256(RAW / "t10k-images-idx3-ubyte")
    assert str(ASSETS) not in (tree / "source.lock").read_text()


def test_the_package_of_debian_is_unpacked_and_repaired(configured, package, tree):
    params = configured()
    refresh.fn(params, tree)
    raw = tree / "data/downloads/FashionMNIST/raw"
    assert {file.name for file in raw.iterdir()} == set(fashion_mnist.FILES)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"cut")
    assert not refresh.fn(params, tree)["changed"]
    assert sha256(raw / "t10k-labels-idx1-ubyte") == fashion_mnist.FILES["t10k-labels-idx1-ubyte"]


def test_unavailable_names_the_hosts_and_three_ways_on(configured, package, tree, monkeypatch):
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(fashion_mnist, "DEBIAN", package / "none")
    with pytest.raises(
        SourceMissing,
        match=r"http://127.0.0.1:9/.*run `apt-get install dataset-fashion-mnist`; or set `root`.*your own data",
    ):
        refresh.fn(configured(), tree)
    assert not (tree / "source.lock").exists()


def test_8_a_cut_package_is_not_taken(configured, package, tree, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_download", lambda downloads: (["host"], "no answer"))
    whole = (package / "train-images-idx3-ubyte.gz").read_bytes()
    (package / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceMissing, match=r"is missing or damaged"):
        refresh.fn(configured(), tree)
    assert not (tree / "data/downloads/FashionMNIST/raw").exists()
    (package / "train-images-idx3-ubyte.gz").write_bytes(whole)
    refresh.fn(configured(), tree)


def test_a_path_without_parquet_files_is_named(configured, parquet, tree):
    (tree / "data/incoming").mkdir(parents=True)
    for path in ("data/incoming", "nowhere/*.parquet", "no.parquet"):
        with pytest.raises(SourceMissing, match=f"no parquet file at {path.replace('*', '.*')}; put one there"):
            refresh.fn(configured(parquet(path)), tree)


def test_a_file_that_arrives_changes_the_lock(configured, parquet, tree):
    params = configured(parquet("data/incoming/*.parquet"))
    image_file(tree / "data/incoming/a.parquet", pictures(2), [0, 1])
    assert refresh.fn(params, tree)["changed"]
    image_file(tree / "data/incoming/b.parquet", pictures(2), [0, 1])
    result = refresh.fn(params, tree)
    assert result["changed"] and [file["name"] for file in result["sources"][0]["files"]] == ["a.parquet", "b.parquet"]


def test_looking_at_files_that_are_here_imports_no_torch(tree):
    code = f"""
import sys
from pathlib import Path
from tasks import params
from tasks.refresh import refresh
from tasks.params import TorchvisionSource
from tasks.data.sources import base, kinds
places = base.Places(Path({str(tree)!r}), Path({str(tree)!r}))
kinds.resolve(TorchvisionSource(type="torchvision", name="FashionMNIST", root={str(ASSETS)!r}, arguments={{}}), places)
assert not {{"torch", "polars", "datasets", "pandera"}} & sys.modules.keys(), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_runs_tree_finds_what_arrived_in_the_main_checkout(configured, parquet, tree, tmp_path):
    run = tmp_path / "run"
    git("commit", "--quiet", "--allow-empty", "-m", "Begin", cwd=tree)
    git("worktree", "add", "--quiet", "--detach", str(run), cwd=tree)
    (run / "data/incoming").mkdir(parents=True)
    (run / "data/incoming/.gitkeep").touch()
    image_file(tree / "data/incoming/a.parquet", pictures(2), [0, 1])
    refresh.fn(configured(parquet()), run)
    assert json.loads((run / "source.lock").read_text())["sources"][0]["files"][0]["name"] == "a.parquet"
