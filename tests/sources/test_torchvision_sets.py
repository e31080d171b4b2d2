"""torchvision's own client against a mirror on loopback."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import multiprocessing
import shutil
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from torchvision import datasets

from ratchet.errors import CorruptData, ParamsError, SourceChanged, SourceMissing, Unreachable
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import ASSETS, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]

RAW = ASSETS / "FashionMNIST" / "raw"


class Mirror:
    """A folder behind a web server, which breaks off half way in what `cut` names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cut, self.fetched, self.address = folder, set[str](), list[str](), ""


@pytest.fixture
def mirror(tmp_path) -> Iterator[Mirror]:
    mirror = Mirror(tmp_path / "mirror")
    mirror.folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def copyfile(self, source, target):
            name = self.path.strip("/")
            mirror.fetched.append(name)
            body = source.read()
            target.write(body[: len(body) // 2] if name in mirror.cut else body)
            self.close_connection = True

        def log_message(self, *_): ...

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=mirror.folder)
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    mirror.address = f"http://127.0.0.1:{server.server_address[1]}/"
    yield mirror
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def mnist(mirror, monkeypatch):
    """MNIST at the mirror, with our sample as its content."""

    def publish(change: bytes = b"") -> None:
        resources = []
        for file in sorted(RAW.iterdir()):
            packed = mirror.folder / f"{file.name}.gz"
            content = file.read_bytes()
            packed.write_bytes(
                gzip.compress(content[: len(content) - len(change)] + change, mtime=0)
            )
            resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror.address])
        monkeypatch.setattr(datasets.MNIST, "resources", resources)

    publish()
    return publish


def vision(name, **arguments):
    return {"type": "torchvision", "name": name, "root": None, "arguments": arguments}


def fresh(tree: Path) -> None:
    """As in a fresh clone: only what git has."""
    for name in ("data", ".memo"):
        shutil.rmtree(tree / name, ignore_errors=True)


def rows(tree: Path) -> int:
    return sum(shard.rows for shard in Shards.open(tree / "data/raw"))


def test_ingest_downloads_what_is_pinned(configured, tree, mirror, mnist):
    params = configured(vision("MNIST"))
    refresh.fn(params, tree)
    lock, once = (tree / "source.lock").read_bytes(), sorted(mirror.fetched)
    fresh(tree)
    mirror.fetched.clear()
    ingest.fn(params, tree)
    assert rows(tree) == 600 and sorted(mirror.fetched) == once  # though three parts need them
    assert (tree / "source.lock").read_bytes() == lock
    mirror.fetched.clear()
    shutil.rmtree(tree / ".memo")
    ingest.fn(params, tree)
    assert not mirror.fetched


def test_a_damaged_download_is_replaced(configured, tree, mirror, mnist):
    params = configured(vision("MNIST"))
    refresh.fn(params, tree)
    file = tree / "data/downloads/MNIST/raw/t10k-labels-idx1-ubyte"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\xff")
    ingest.fn(params, tree)
    assert file.read_bytes() == content and rows(tree) == 600


def test_a_data_set_that_moved_upstream_is_named_and_what_was_here_stays(
    configured, tree, mirror, mnist
):
    params = configured(vision("MNIST"))
    refresh.fn(params, tree)
    raw = tree / "data/downloads/MNIST/raw"
    (raw / "t10k-images-idx3-ubyte").unlink()
    mnist(change=b"\x01\x02")
    with pytest.raises(
        SourceChanged,
        match=r"downloads another MNIST: MNIST/raw/t10k-images.* has SHA-256 \w+…, but",
    ):
        ingest.fn(params, tree)
    assert (raw / "train-images-idx3-ubyte").read_bytes() == (
        RAW / "train-images-idx3-ubyte"
    ).read_bytes()
    assert sorted(path.name for path in (tree / "data/downloads").iterdir()) == [".lock", "MNIST"]


@pytest.mark.fault(8)
def test_a_cut_download_leaves_nothing_and_the_next_heals_it(configured, tree, mirror, mnist):
    params = configured(vision("MNIST"))
    mirror.cut.add("train-images-idx3-ubyte.gz")
    with pytest.raises(
        Unreachable,
        match=r"torchvision could not download MNIST: .*; try again later, or set `root`",
    ):
        refresh.fn(params, tree)
    assert [path.name for path in (tree / "data/downloads").iterdir()] == [".lock"]
    mirror.cut.clear()
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    assert rows(tree) == 600


@pytest.fixture
def imagenette(mirror, monkeypatch):
    """A data set of image files in an archive, at the mirror and without an MD5 sum."""

    def publish(count: int = 4) -> None:
        with tarfile.open(mirror.folder / "imagenette2-160.tgz", "w:gz") as archive:
            for split in ("train", "val"):
                for label in ("n01440764", "n02102040"):
                    for number, image in enumerate(pictures(count, side=30)):
                        file = mirror.folder / f"imagenette2-160/{split}/{label}/{number}.JPEG"
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_bytes(image)
            archive.add(mirror.folder / "imagenette2-160", "imagenette2-160")
        shutil.rmtree(mirror.folder / "imagenette2-160")
        archives = {"160px": (f"{mirror.address}imagenette2-160.tgz", None)}
        monkeypatch.setattr(datasets.Imagenette, "_ARCHIVES", archives)

    publish()
    return publish


@pytest.mark.fault(8)
def test_a_cut_archive_without_an_md5_sum(configured, tree, mirror, imagenette):
    params = configured(vision("Imagenette", size="160px"))
    mirror.cut.add("imagenette2-160.tgz")
    with pytest.raises(Unreachable, match=r"torchvision could not download Imagenette"):
        refresh.fn(params, tree)
    mirror.cut.clear()
    refresh.fn(params, tree)
    fresh(tree)
    mirror.cut.add("imagenette2-160.tgz")
    with pytest.raises(Unreachable, match=r"torchvision could not download Imagenette"):
        ingest.fn(params, tree)
    mirror.cut.clear()
    ingest.fn(params, tree)
    assert rows(tree) == 16


def test_arguments_that_need_other_files_download_them(
    configured, tree, mirror, imagenette, monkeypatch
):
    refresh.fn(configured(vision("Imagenette", size="160px")), tree)
    archives = {"320px": (f"{mirror.address}imagenette2-320.tgz", None)}
    monkeypatch.setattr(datasets.Imagenette, "_ARCHIVES", archives)
    with tarfile.open(mirror.folder / "imagenette2-320.tgz", "w:gz") as archive:
        for split in ("train", "val"):
            file = mirror.folder / "one.JPEG"
            file.write_bytes(pictures(1)[0])
            archive.add(file, f"imagenette2-320/{split}/n01440764/0.JPEG")
    params = configured(vision("Imagenette", size="320px"))
    result = refresh.fn(params, tree)
    assert all("imagenette2-320" in file["name"] for file in result["sources"][0]["files"])
    ingest.fn(params, tree)
    assert rows(tree) == 2


def test_what_torchvision_cannot_do_is_said(configured, tree, mirror, mnist, tmp_path):
    with pytest.raises(
        SourceMissing, match=r"torchvision cannot download ImageNet; set `root` of the source"
    ):
        refresh.fn(configured(vision("ImageNet")), tree)
    with pytest.raises(ParamsError, match="torchvision's MNIST has no argument sise"):
        refresh.fn(configured(vision("MNIST", sise=3)), tree)
    (tmp_path / "root/MNIST").mkdir(parents=True)
    (tmp_path / "root/MNIST/readme.txt").touch()
    params = configured({**vision("MNIST"), "root": str(tmp_path / "root")})
    refresh.fn(params, tree)
    with pytest.raises(CorruptData, match=r"torchvision cannot read MNIST in .*root"):
        ingest.fn(params, tree)


def run(tree: Path, params, failures) -> None:
    try:
        refresh.fn(params, tree)
    except BaseException as error:
        failures.put(repr(error))


def test_two_at_once_download_once(configured, tree, mirror, mnist):
    params = configured(vision("MNIST"))
    context = multiprocessing.get_context("fork")  # the children have the patched class
    failures = context.Queue()
    children = [context.Process(target=run, args=(tree, params, failures)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert failures.empty() and [child.exitcode for child in children] == [0, 0]
    assert sorted(mirror.fetched) == sorted(
        [f"{file.name}.gz" for file in RAW.iterdir()] * 2
    )  # torchvision asks twice
