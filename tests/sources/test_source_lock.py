"""Every param of every type of source: changed, it is either used by `ingest` or refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet import params as parameters
from ratchet.errors import ParamsError, SourceChanged, SourceMissing
from ratchet.shards.shards import Shards
from ratchet.sources import source_lock
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import ASSETS, image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]

SOURCES: dict[str, dict[str, Any]] = {
    "torchvision": {"name": "FashionMNIST", "root": str(ASSETS), "arguments": {"a": 1}},
    "parquet": {"path": "data/incoming", "label": "label", "image": "image", "features": None},
    "huggingface": {
        "repository": "friends/toys",
        "config": None,
        "revision": "v1",
        "splits": {"train": "train"},
        "label": "label",
        "image": "image",
        "features": None,
    },
    "imagefolder": {"path": "pets"},
    "csv": {"path": "data/*.csv", "label": "name", "features": ["a"]},
    "custom": {"source": "custom.sources.blobs:Blobs", "arguments": {"rows": 5, "seed": 0}},
}

# Each changed key with what the refusal says, "" where the new value is only read differently.
CHANGES = [
    ("torchvision", {"name": "KMNIST"}, "sources.0.name: FashionMNIST → KMNIST"),
    ("torchvision", {"arguments": {"a": 2}}, 'sources.0.arguments: {"a": 1} → {"a": 2}'),
    ("torchvision", {"arguments": {"a": True}}, 'sources.0.arguments: {"a": 1} → {"a": true}'),
    ("torchvision", {"root": "elsewhere"}, ""),
    ("parquet", {"path": "data/other"}, "sources.0.path: data/incoming → data/other"),
    ("parquet", {"label": "class"}, ""),
    ("parquet", {"image": None, "features": ["x"]}, ""),
    ("huggingface", {"revision": "v2"}, "sources.0.revision: v1 → v2"),  # huggingface/datasets#7928
    ("huggingface", {"revision": None}, "sources.0.revision: v1 → null"),
    ("huggingface", {"config": "small"}, "sources.0.config: null → small"),
    (
        "huggingface",
        {"splits": {"train": "train", "test": "test"}},
        'sources.0.splits: {"train": "train"} → {"test": "test", "train": "train"}',
    ),
    ("huggingface", {"repository": "friends/cats"}, "repository: friends/toys → friends/cats"),
    ("huggingface", {"label": "class"}, ""),
    ("huggingface", {"image": None, "features": ["x"]}, ""),
    ("imagefolder", {"path": "cats"}, "sources.0.path: pets → cats"),
    ("csv", {"path": "data/b.csv"}, "sources.0.path: data/*.csv → data/b.csv"),
    ("csv", {"label": "b"}, ""),
    ("csv", {"features": ["a", "c"]}, ""),
    (
        "custom",
        {"source": "custom.b:C"},
        "sources.0.source: custom.sources.blobs:Blobs → custom.b:C",
    ),
    (
        "custom",
        {"arguments": {"rows": 5, "seed": 1}},
        'arguments: {"rows": 5, "seed": 0} → {"rows": 5, "seed": 1}',
    ),
    ("csv", {"type": "parquet", "image": None}, "sources.0.type: csv → parquet"),
]


def source(kind: str, **values: Any) -> dict[str, Any]:
    return {"type": kind, **SOURCES[kind], **values}


@pytest.fixture
def pinned(tree, configured):
    """Write the lock of sources, without files."""

    def write(*sources):
        entries = [
            {"source": source_lock.pinning(source)}
            for source in configured(*sources).ingest.sources
        ]
        source_lock.write(tree, entries)

    return write


@pytest.mark.parametrize(("kind", "change", "refusal"), CHANGES)
def test_a_changed_param_is_refused_by_name_or_only_changes_the_reading(
    configured, pinned, tree, kind, change, refusal
):
    pinned(source(kind))
    source_lock.read(tree, configured(source(kind)).ingest)
    wanted = configured(source(kind, **change)).ingest
    if not refusal:
        assert source_lock.read(tree, wanted)
        return
    with pytest.raises(SourceChanged) as raised:
        source_lock.read(tree, wanted)
    assert refusal in str(raised.value) and str(raised.value).endswith("run `ratchet refresh`")


def test_every_param_of_every_source_is_in_the_table():
    tried = {(kind, key) for kind, change, _ in CHANGES for key in change}
    for member in get_args(get_args(parameters.Source)[0]):
        (kind,) = get_args(get_type_hints(member)["type"])
        keys = {field.name for field in fields(member)} - {"type"}
        untried = {key for key in keys if (kind, key) not in tried}
        assert untried <= source_lock.READING, (
            f"add {untried - source_lock.READING} of {kind} to the table"
        )


def test_the_number_and_order_of_sources_count(configured, pinned, tree):
    a, b = source("csv"), source("imagefolder")
    pinned(a, b)
    with pytest.raises(
        SourceChanged, match=r"source.lock pins 2 sources, but ingest.sources .* lists 1"
    ):
        source_lock.read(tree, configured(a).ingest)
    with pytest.raises(
        SourceChanged, match=r"sources.0.type: csv → imagefolder, .*sources.1.path: pets"
    ):
        source_lock.read(tree, configured(b, a).ingest)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"sources": []}',
            "source.lock has format 1, but this Ratchet reads format 2; run `ratchet refresh`",
        ),
        ('{"format": 3, "needs_format": 3, "sources": []}', "has format 3"),
        ('{"format": 2', "source.lock cannot be read"),
        ("[]", "source.lock cannot be read"),
        ('{"format": 2, "sources": [{"files": []}]}', "source.lock cannot be read"),
        (
            '{"format": 2, "sources": [{"source": {}, "files": [{"name": "../x"}]}]}',
            "names a file outside its source: ../x",
        ),
        (
            '{"format": 2, "sources": [{"source": {}, "files": [{"name": "/x"}]}]}',
            "names a file outside its source: /x",
        ),
    ],
)
def test_a_lock_that_cannot_be_used_says_why(configured, tree, content, message):
    (tree / "source.lock").write_text(content)
    with pytest.raises(SourceChanged) as raised:
        source_lock.read(tree, configured(source("csv")).ingest)
    assert message in str(raised.value)


def test_a_number_that_json_lacks_is_refused(configured):
    (custom,) = configured(source("custom", arguments={"a": float("nan")})).ingest.sources
    with pytest.raises(
        ParamsError, match=r"`arguments` of the custom source holds a number that is not finite"
    ):
        source_lock.pinning(custom)


def test_a_signature_in_a_url_is_compared_but_not_shown(configured, pinned, tree):
    url = "https://example.org/a.parquet?signature="
    pinned(source("parquet", path=f"{url}hunter2"))
    source_lock.read(tree, configured(source("parquet", path=f"{url}hunter2")).ingest)
    with pytest.raises(SourceChanged, match=r"path: https://example.org/a.parquet\?… → ") as raised:
        source_lock.read(tree, configured(source("parquet", path=f"{url}hunter3")).ingest)
    assert "hunter" not in str(raised.value)


# ── through ingest ──────────────────────────────────────────────────────────────────────────────


def labels(tree):
    shards = Shards.open(tree / "data/raw")
    return [
        label
        for shard in shards
        for table in shard.batches()
        for label in table["label"].to_pylist()
    ]


def test_a_new_label_is_read_from_the_pinned_bytes(configured, parquet, tree):
    image_file(
        tree / "data/incoming/a.parquet", pictures(3), ["x", "y", "z"], other=["p", "q", "r"]
    )
    refresh.fn(configured(parquet()), tree)
    ingest.fn(configured(parquet(label="other")), tree)
    assert labels(tree) == ["p", "q", "r"]
    ingest.fn(configured(parquet(label="label")), tree)
    assert labels(tree) == ["x", "y", "z"]


def test_new_features_and_another_label_of_a_csv(configured, tree):
    (tree / "data").mkdir()
    (tree / "data/a.csv").write_text("a,b,name\n1,x,p\n2,y,q\n")
    first = {"type": "csv", "path": "data/a.csv", "label": "name", "features": ["a"]}
    refresh.fn(configured(first), tree)
    ingest.fn(configured({**first, "label": "b"}), tree)
    assert labels(tree) == ["x", "y"]


def test_a_new_root_has_to_hold_the_pinned_files_and_no_others(configured, sample, tree):
    refresh.fn(sample, tree)

    def at(root):
        return configured(
            {"type": "torchvision", "name": "FashionMNIST", "root": root, "arguments": {}}
        )

    with pytest.raises(
        SourceMissing, match=r"source.lock pins FashionMNIST/raw/t10k-images.*missing from"
    ):
        ingest.fn(at("nowhere"), tree)
    shutil.copytree(ASSETS / "FashionMNIST", tree / "copy/FashionMNIST")
    ingest.fn(at("copy"), tree)
    assert len(labels(tree)) == 600
    (tree / "copy/FashionMNIST/raw/more").touch()
    with pytest.raises(
        SourceChanged, match=r"holds files that source.lock does not pin: FashionMNIST/raw/more"
    ):
        ingest.fn(at("copy"), tree)


def test_refresh_says_what_is_new_changed_and_gone(configured, parquet, tree):
    params = configured(parquet())

    def write(name, *values):
        (tree / "data/incoming").mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": pa.array(pictures(2), pa.binary()), "label": list(values)})
        pq.write_table(table, tree / f"data/incoming/{name}.parquet", compression="none")

    write("a", 0, 1)
    write("b", 0, 1)
    write("c", 0, 1)
    result = refresh.fn(params, tree)
    assert result["summary"] == ["data/incoming: 3 files new (a.parquet, b.parquet, c.parquet)"]
    size = (tree / "data/incoming/b.parquet").stat().st_size
    write("b", 1, 0)  # in place, at equal size
    assert (tree / "data/incoming/b.parquet").stat().st_size == size
    (tree / "data/incoming/c.parquet").unlink()
    write("d", 0, 1)
    result = refresh.fn(params, tree)
    assert result["changed"] and result["summary"] == [
        "data/incoming: 1 file new (d.parquet), 1 changed (b.parquet), 1 gone (c.parquet), 1 as before"
    ]
    assert result["changes"][0]["changed"] == ["b.parquet"]
    result = refresh.fn(params, tree)
    assert not result["changed"] and result["summary"] == ["data/incoming: 3 as before"]
    assert json.loads((tree / "source.lock").read_text())["format"] == 2


def test_a_clone_without_the_local_files_is_told_which_they_were(configured, parquet, tree):
    for name in "abcde":
        image_file(tree / f"data/incoming/{name}.parquet", pictures(2), [0, 1])
    refresh.fn(configured(parquet()), tree)
    shutil.rmtree(tree / "data/incoming")
    told = r"no parquet file at data/incoming.*pins a.parquet, b.parquet, c.parquet and 2 more of this source; copy them"
    with pytest.raises(SourceMissing, match=told):
        refresh.fn(configured(parquet()), tree)
    with pytest.raises(
        SourceMissing, match=r"source.lock pins a.parquet, but it is missing from .*data/incoming"
    ):
        ingest.fn(configured(parquet()), tree)


def test_refresh_says_which_revision_a_source_of_your_own_has(configured, tree):
    first = source("custom")
    assert refresh.fn(configured(first), tree)["summary"] == [
        "custom.sources.blobs:Blobs: revision 5 rows of seed 0 (new)"
    ]
    assert refresh.fn(configured(first), tree)["summary"] == [
        "custom.sources.blobs:Blobs: revision 5 rows of seed 0 as before"
    ]


def test_a_url_is_for_parquet_only(configured, tree):
    for kind in ("csv", "imagefolder"):
        path = "https://example.org/a.csv"
        with pytest.raises(
            ParamsError, match=f"{path} is a URL, but a {kind} source reads local files only"
        ):
            refresh.fn(configured(source(kind, path=path)), tree)
