"""What upstream is, in `source.lock`."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.errors import ParamsError, SourceMissing
from ratchet.files import sha256
from ratchet.git import git
from ratchet.sources import fashion_mnist
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import ASSETS, image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]

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


@pytest.mark.fault(8)
def test_a_cut_package_is_not_taken(configured, package, tree, monkeypatch):
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
        with pytest.raises(
            SourceMissing, match=f"no parquet file at {path.replace('*', '.*')}; put one there"
        ):
            refresh.fn(configured(parquet(path)), tree)


def test_a_file_that_arrives_changes_the_lock(configured, parquet, tree):
    params = configured(parquet("data/incoming/*.parquet"))
    image_file(tree / "data/incoming/a.parquet", pictures(2), [0, 1])
    assert refresh.fn(params, tree)["changed"]
    image_file(tree / "data/incoming/b.parquet", pictures(2), [0, 1])
    result = refresh.fn(params, tree)
    assert result["changed"] and [file["name"] for file in result["sources"][0]["files"]] == [
        "a.parquet",
        "b.parquet",
    ]


def test_looking_at_files_that_are_here_imports_no_torch(tree):
    code = f"""
import sys
from pathlib import Path
from ratchet import params
from tasks.refresh import refresh
from ratchet.source_params import TorchvisionSource
from ratchet.sources import base, types
places = base.Places(Path({str(tree)!r}), Path({str(tree)!r}))
types.resolve(TorchvisionSource(type="torchvision", name="FashionMNIST", root={str(ASSETS)!r}, arguments={{}}), places)
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
    assert (
        json.loads((run / "source.lock").read_text())["sources"][0]["files"][0]["name"]
        == "a.parquet"
    )


def test_what_changed_is_told_by_source(configured, parquet, tree, monkeypatch):
    params = configured(parquet())
    for name in "abc":
        image_file(tree / f"data/incoming/{name}.parquet", pictures(2, seed=ord(name)), [0, 1])
    (tree / "data/incoming/notes.txt").touch()
    refresh.fn(params, tree)
    (tree / "data/incoming/a.parquet").unlink()
    image_file(tree / "data/incoming/b.parquet", pictures(3), [0, 1, 0])
    image_file(tree / "data/incoming/d.parquet", pictures(2, seed=9), [0, 1])
    logged = []
    monkeypatch.setattr("tasks.refresh.log", logged.append)
    result = refresh.fn(params, tree)
    line = "data/incoming: 1 file new (d.parquet), 1 changed (b.parquet), 1 gone (a.parquet), 1 as before"
    note = "data/incoming: skipped 1: 1 suffix (notes.txt)"
    assert result["summary"] == [line, note] and result["notes"] == [note]
    (change,) = result["changes"]
    assert (change["new"], change["changed"], change["gone"], change["same"]) == (
        ["d.parquet"],
        ["b.parquet"],
        ["a.parquet"],
        1,
    )
    assert logged == [f"refresh: {line}", f"refresh: {note}"]


@pytest.mark.parametrize(("count", "more"), [(3, ""), (5, " and 2 more")])
def test_a_pinned_source_that_is_gone_is_named_with_its_files(
    configured, parquet, tree, count, more
):
    params = configured(parquet())
    names = [f"{number}.parquet" for number in range(count)]
    for name in names:
        image_file(tree / "data/incoming" / name, pictures(2), [0, 1])
    refresh.fn(params, tree)
    before = (tree / "source.lock").read_text()
    for name in names:
        (tree / "data/incoming" / name).unlink()
    with pytest.raises(SourceMissing) as caught:
        refresh.fn(params, tree)
    assert (
        f"source.lock pins 0.parquet, 1.parquet, 2.parquet{more} of this source; copy them"
        in str(caught.value)
    )
    assert (tree / "source.lock").read_text() == before
    (tree / "source.lock").unlink()
    with pytest.raises(SourceMissing) as caught:
        refresh.fn(params, tree)
    assert "source.lock" not in str(caught.value)


@pytest.mark.parametrize("code", ["sources", "models"])
def test_code_that_no_stage_depends_on_is_refused_before_anything_is_pinned(configured, tree, code):
    """A module of custom/ that imports one beside the folders that dvc.yaml lists."""
    for name in ("", "sources/", "models/"):
        (tree / f"custom/{name}").mkdir(parents=True, exist_ok=True)
        (tree / f"custom/{name}__init__.py").touch()
    (tree / "custom/other.py").write_text("VALUE = 1\n")
    text = "import custom.other\n" if code == "sources" else ""
    (tree / "custom/sources/mine.py").write_text(f"{text}class Mine: ...\n")
    text = "import custom.other\n" if code == "models" else ""
    (tree / "custom/models/mine.py").write_text(f"{text}class Mine: ...\n")
    source = {"type": "custom", "source": "custom.sources.mine:Mine", "arguments": {}}
    params = configured(source, model={"name": "custom.models.mine:Mine"})
    with pytest.raises(
        ParamsError, match=rf"custom/{code}/mine\.py imports custom\.other|custom\.other"
    ):
        refresh.fn(params, tree)
    assert not (tree / "source.lock").exists()
    if code == "sources":
        with pytest.raises(ParamsError, match=r"custom\.other"):
            ingest.fn(params, tree)
