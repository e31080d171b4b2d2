"""Faults that cross the stages, by their numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ratchet import params as parameters
from ratchet.errors import CorruptData, ParamsError, SourceChanged
from ratchet.files import sha256
from ratchet.shards.shards import Shards
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import REPOSITORY, image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]

FULL = """
import json
import sys
from pathlib import Path
from ratchet import params
from ratchet.files import sha256
from ratchet.errors import RatchetError
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.validate import validate
tree = Path(sys.argv[1])
before = {file for file in tree.rglob("*") if file.is_file()}
try:
    {"ingest": ingest, "validate": validate, "prepare": prepare}[sys.argv[2]].fn(params.load(tree), tree)
except RatchetError as error:
    print(error)
left = {file for file in tree.rglob("*") if file.is_file() and file not in before}
print(json.dumps({str(file.relative_to(tree)): sha256(file) for file in left}))
"""


@pytest.mark.fault(5)
@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0,
    reason="no namespaces here",
)
@pytest.mark.parametrize(
    ("stage", "full", "free"),
    [
        ("ingest", "data", 60),
        ("ingest", ".memo", 60),
        ("validate", "data", 0),
        ("validate", ".memo", 8),
        ("validate", "reports", 4),
        ("prepare", "data", 60),
        ("prepare", ".memo", 60),
    ],
)
def test_a_full_disk_leaves_nothing_half_written(parquet, tree, stage, full, free):
    """One folder on a file system with no more than `free` kB free."""
    from ruamel.yaml import YAML

    raw = YAML(typ="safe").load((tree / "params.yaml").read_text())
    raw["ingest"]["sources"] = [parquet("incoming")]
    raw["prepare"]["size"] = [64, 64]
    raw["run"]["workers"] = 1
    YAML().dump(raw, tree / "params.yaml")
    for part in range(4):
        image_file(tree / f"incoming/{part}.parquet", pictures(10, seed=part, side=200), [0, 1] * 5)
    params = parameters.load(tree)
    refresh.fn(params, tree)
    stages = [ingest, validate, prepare][: ["ingest", "validate", "prepare"].index(stage) + 1]
    for before in stages[:-1]:
        before.fn(params, tree)
    for folder in ("data", ".memo", "reports"):
        (tree / folder).mkdir(exist_ok=True)
    used = sum(
        -(-file.stat().st_size // 4096) * 4 for file in (tree / full).rglob("*") if file.is_file()
    )
    size = f"size={used + free or 4}k"
    mount = f"cp -a {full} kept && mount -t tmpfs -o {size} none {full} && cp -a kept/. {full} && rm -r kept"
    done = subprocess.run(
        [
            "unshare",
            "-rm",
            "sh",
            "-c",
            f'{mount} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            FULL,
            str(tree),
            stage,
        ],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the disk is full: " in done.stdout and "make room, then run it again" in done.stdout, (
        done.stderr
    )
    left = json.loads(done.stdout.splitlines()[-1])
    stages[-1].fn(params, tree)
    assert left == {name: sha256(tree / name) for name in left}  # what it did write is whole


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    "source",
    [
        {
            "type": "huggingface",
            "repository": "../../etc",
            "config": None,
            "revision": None,
            "splits": {},
        },
        {
            "type": "huggingface",
            "repository": "-x; touch x",
            "config": None,
            "revision": None,
            "splits": {},
        },
        {
            "type": "huggingface",
            "repository": "a/b",
            "config": None,
            "revision": "--help",
            "splits": {},
        },
        {"type": "torchvision", "name": "../FashionMNIST", "root": None, "arguments": {}},
        {"type": "torchvision", "name": "__builtins__.eval", "root": None, "arguments": {}},
        {"type": "custom", "source": "os:system", "arguments": {"command": "touch x"}},
        {"type": "custom", "source": "custom.sources.blobs:__import__('os')", "arguments": {}},
        {"type": "imagefolder", "path": "a\0b"},
        {"type": "imagefolder", "path": "x" * 10_000},
    ],
    ids=lambda source: source["type"],
)
def test_hostile_names_are_refused_as_params(configured, source):
    columns = (
        {"label": "label", "image": "image", "features": None}
        if source["type"] == "huggingface"
        else {}
    )
    with pytest.raises(ParamsError, match=r"ingest.sources"):
        configured({**source, **columns})


@pytest.mark.fault(30)
def test_a_listing_that_points_out_of_its_folder_is_refused(sample, tree):
    refresh.fn(sample, tree)
    ingest.fn(sample, tree)
    listing = tree / "data/raw/dataset.json"
    listing.write_text(listing.read_text().replace("shard-00000.parquet", "../shard-00000.parquet"))
    with pytest.raises(CorruptData, match=r"names ../shard-00000.parquet, which is not beside it"):
        Shards.open(tree / "data/raw")


@pytest.mark.fault(30)
def test_a_lock_that_points_out_of_its_source_is_refused(configured, parquet, tree):
    params = configured(parquet())
    image_file(tree / "data/incoming/a.parquet", pictures(2), [0, 1])
    image_file(tree / "data/b.parquet", pictures(2), [0, 1])
    refresh.fn(params, tree)
    lock = tree / "source.lock"
    for name in ("../b.parquet", "/etc/passwd"):
        lock.write_text(lock.read_text().replace("a.parquet", name))
        with pytest.raises(SourceChanged, match=r"source.lock names a file outside its source: "):
            ingest.fn(params, tree)
        lock.write_text(lock.read_text().replace(name, "a.parquet"))
