"""The same promises on S3, through moto's server; folders are what the other tests use."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.errors import CorruptData, ObjectsMissing, Unreachable
from ratchet.registry import loading
from ratchet.store import pipeline
from ratchet.upkeep.checkout import checkout
from ratchet.upkeep.gc import collect
from ratchet.upkeep.withdraw import expire
from tests.helpers.toy import Toy

moto = pytest.importorskip("moto.server", reason="pip install moto[server] dvc[s3]")
pytest.importorskip("dvc_s3")
boto3 = pytest.importorskip("boto3")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.long]

LOCAL = """['remote "store"']
    endpointurl = {url}
    access_key_id = testing
    secret_access_key = testing
    region = us-east-1
"""


@pytest.fixture
def bucket(toy: Toy) -> Iterator[Any]:
    """A bucket that is the toy's DVC remote, with the credentials in `.dvc/config.local`."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
        "region_name": "us-east-1",
    }
    store = boto3.resource("s3", endpoint_url=url, **keys).Bucket("store")
    store.create()
    toy.write(
        {
            ".dvc/config": "[core]\n    remote = store\n['remote \"store\"']\n    url = s3://store/dvc\n"
        }
    )
    toy.commit("Set a remote")
    toy.write({".dvc/config.local": LOCAL.format(url=url)})
    yield store
    server.stop()
    gc.collect()  # connections that the client never closed complain here, not in a later test


def key(md5: str) -> str:
    return f"dvc/files/md5/{md5[:2]}/{md5[2:]}"


def fresh(toy: Toy, tree: Path) -> Toy:
    clone = toy.clone(tree)
    shutil.copy2(toy.tree / ".dvc/config.local", tree / ".dvc")
    return clone


def test_a_version_comes_back_from_s3_alone(toy: Toy, bucket: Any, tmp_path: Path) -> None:
    version = toy.release("a")
    assert len([*bucket.objects.all()]) == 6
    clone = fresh(toy, tmp_path / "clone")
    checkout(clone.tree, "prod", tmp_path / "out")
    assert (tmp_path / "out/models/classifier.pt").read_text() == "a"
    assert (tmp_path / "out/.dvc/config.local").read_text().count("secret_access_key") == 1

    weights = pipeline.of_commit(toy.tree, version.commit).output("models/classifier.pt").md5
    bucket.Object(key(weights)).put(Body=b"b")
    with pytest.raises((CorruptData, ObjectsMissing), match=r"models/classifier\.pt"):
        loading.files(fresh(toy, tmp_path / "second").tree, version)
    bucket.Object(key(weights)).delete()
    with pytest.raises(
        ObjectsMissing, match=r"models/classifier\.pt: neither in DVC's cache nor on its remote"
    ):
        loading.files(fresh(toy, tmp_path / "third").tree, version)


def test_expired_objects_go_from_s3(toy: Toy, bucket: Any) -> None:
    toy.register("a")
    toy.release("b")
    before = len([*bucket.objects.all()])
    expire(toy.tree, "v1.0.0")
    gone = collect(toy.tree, apply=True, on_remote=True, grace_s=0).on_remote
    assert len(gone) == 3
    assert len([*bucket.objects.all()]) == before - 3


@pytest.mark.fault(23)
def test_s3_that_does_not_answer_makes_no_version(toy: Toy, bucket: Any) -> None:
    toy.write({".dvc/config.local": LOCAL.format(url="http://127.0.0.1:9")})
    with pytest.raises(Unreachable, match="the DVC remote does not respond"):
        toy.register("a")
    assert toy.registry.versions() == []


@pytest.mark.fault(34)
def test_a_host_that_refuses_makes_no_version_and_keeps_its_secret(toy: Toy) -> None:
    toy.remote(Path("http:/user:secret@127.0.0.1:9/store"))
    config = toy.tree / ".dvc/config"
    config.write_text(config.read_text().replace("http:/user", "http://user"))
    with pytest.raises((Unreachable, ObjectsMissing), match="the DVC remote") as raised:
        toy.register("a")
    assert "secret" not in str(raised.value)
    assert toy.registry.versions() == []
