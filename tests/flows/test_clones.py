"""Plain `dvc repro` in a fresh clone does what the flow does, to the byte."""

from __future__ import annotations

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SAMPLE, Checkout, clone


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback with the sample's images in two parquet files."""
    from torchvision.datasets import FashionMNIST

    from tests.helpers.data_samples import image_file, png

    folder = tmp_path / "site"
    for train in (True, False):
        data = FashionMNIST(str(SAMPLE), train=train)
        images = [png(image.numpy()) for image in data.data]
        names = ["train" if train else "test"] * len(images)
        image_file(folder / f"part {names[0]}.parquet", images, data.targets.tolist(), split=names)
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.mark.fault(43)
@pytest.mark.long
def test_repro_alone_in_a_fresh_clone_makes_the_lock_of_the_flow(tmp_path: Path, site: str) -> None:
    first = clone(tmp_path / "first")
    source = (
        f"type: parquet, path: '{site}/part*.parquet', label: label, image: image, features: null"
    )
    text = (first.path / "params.yaml").read_text()
    head, _, tail = text.partition("    - type: torchvision\n")
    tail = tail[tail.index("  shard_rows") :]
    (first.path / "params.yaml").write_text(f"{head}    - {{{source}}}\n{tail}")
    assert "2 of 2 files downloaded" in first.ratchet("refresh").stdout
    first.commit("Read the images from a server")

    second = Checkout(tmp_path / "zweiter Äst" / "clone")
    subprocess.run(["git", "clone", "-q", first.path, second.path], check=True)
    assert not (second.path / "data/downloads").exists()
    second.run("dvc", "repro")
    assert second.git("diff", "--stat", "HEAD", "--", "source.lock") == ""
    first.ratchet("train", "--json")
    lock = (second.path / "dvc.lock").read_bytes()
    assert lock == (first.path / "dvc.lock").read_bytes()
    shards = (second.path / "data/raw").glob("*.parquet")
    assert sum(pq.read_metadata(shard).num_rows for shard in shards) == 600
    assert pa.types.is_struct(
        pq.read_schema(second.path / "data/raw/shard-00000.parquet").field("image").type
    )
