"""Ingest, validate and prepare over several shards, compared with what plain Python makes of the same rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet import images, repository
from ratchet.dataset.prepared import open_inputs
from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptData
from ratchet.files import sha256
from ratchet.git import git
from ratchet.params import Params
from ratchet.shards import parquet, shards, splits
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]

Row = dict[str, Any]
FRACTIONS = {"val_fraction": 0.2, "test_fraction": 0.25}


def run(params: Params, tree: Path) -> None:
    refresh.fn(params, tree)
    for stage in (ingest, validate, prepare):
        stage.fn(params, tree)


def raw_rows(tree: Path) -> Iterator[Row]:
    """The rows of all shards with their shard and the row in it."""
    for file in sorted((tree / "data/raw").glob("*.parquet")):
        for number, row in enumerate(pq.read_table(file).to_pylist()):
            yield {**row, "shard": file.name, "row": number}


def split(row: Row) -> str:
    """The split by the hash of a row."""
    if int(row["row_id"][:13], 16) / 16**13 < FRACTIONS["test_fraction"]:
        return "test"
    return "val" if int(row["row_id"][16:29], 16) / 16**13 < FRACTIONS["val_fraction"] else "train"


def quarantine(tree: Path) -> dict[tuple[str, int], Row]:
    rows = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    assert [(row["shard"], row["row"]) for row in rows] == sorted(
        (row["shard"], row["row"]) for row in rows
    )
    return {(row["shard"], row["row"]): row for row in rows}


def meta(tree: Path, name: str) -> list[str]:
    return list(pq.read_table(tree / f"data/prepared/{name}/meta.parquet")["row_id"].to_pylist())


def test_features_over_shards_and_batches_are_the_good_rows_of_the_source(
    tree: Path, configured: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files, five shards, several batches in each; bad rows in every batch.

    Classes 10 before 9 in text.
    """
    monkeypatch.setattr(shards, "ID_ROWS", 700)
    random = np.random.default_rng(0)
    (tree / "data/incoming").mkdir(parents=True)
    source: list[Row] = []
    for name, count in (("a", 2900), ("b", 1500)):
        x, y = random.normal(1e9, 50, count), random.normal(-3, 2, count)
        x[random.integers(0, count, 40)] = np.inf
        label = random.choice(["9", "10", ""], count, p=[0.6, 0.38, 0.02])
        table = pa.table({"x": x, "y": [None if v < -6 else v for v in y], "label": label})
        pq.write_table(table, tree / f"data/incoming/{name}.parquet")
        source += [
            {**row, "source": f"{name}.parquet, row {n}"} for n, row in enumerate(table.to_pylist())
        ]
    table = {
        "type": "parquet",
        "path": "data/incoming",
        "label": "label",
        "image": None,
        "features": ["x", "y"],
    }
    run(configured(table, ingest={"shard_rows": 1200}, prepare=FRACTIONS), tree)

    rows = list(raw_rows(tree))
    assert Counter(row["shard"] for row in rows) == Counter(
        {f"shard-0000{n}.parquet": count for n, count in enumerate((1200, 1200, 500, 1200, 300))}
    )
    assert [(row["feature:x"], row["feature:y"]) for row in rows] == [
        (row["x"], row["y"]) for row in source
    ]
    reasons = {}
    for row, origin in zip(rows, source, strict=True):
        reason = (
            "label_null" if not origin["label"] else "not_finite" if np.isinf(origin["x"]) else None
        )
        if reason:
            reasons[row["shard"], row["row"]] = (row["row_id"], reason, origin["source"])
    found = quarantine(tree)
    assert {
        key: (row["row_id"], row["reason"], row["source"]) for key, row in found.items()
    } == reasons
    assert {shard for shard, _ in reasons} == {row["shard"] for row in rows}

    good = [row for row in rows if (row["shard"], row["row"]) not in reasons]
    spec = Spec.read(tree / "data/prepared/spec.json")
    assert spec.classes == ("9", "10") and spec.features == ("x", "y") and spec.input_shape == (2,)
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["rows"] == {"in": 4400, "out": len(good), "quarantined": len(reasons)}
    assert report["classes"] == {"all": Counter(row["label"] for row in good)}
    assert report["numbers"].keys() == {"x", "y"}
    assert report["reasons"] == Counter(reason for _, reason, _ in reasons.values())
    values = np.array(
        [
            [row["feature:x"], np.nan if row["feature:y"] is None else row["feature:y"]]
            for row in good
        ]
    )
    training = values[[split(row) == "train" for row in good]]
    mean, std = np.nanmean(training, 0), np.nanstd(training, 0)
    np.testing.assert_allclose(spec.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(spec.std, std, rtol=1e-9)
    for name in ("train", "val", "test"):
        chosen = [split(row) == name for row in good]
        expected = np.where(np.isnan(values[chosen]), mean, values[chosen])
        inputs = np.load(tree / f"data/prepared/{name}/inputs.npy")
        assert inputs.dtype == np.float32 and spec.counts[name] == sum(chosen) == len(inputs)
        np.testing.assert_allclose(inputs, (expected - mean) / std, atol=1e-5)
        own = [row for row in good if split(row) == name]
        assert meta(tree, name) == [row["row_id"] for row in own]
        targets = np.load(tree / f"data/prepared/{name}/targets.npy")
        assert [spec.classes[target] for target in targets] == [row["label"] for row in own]


@pytest.mark.parametrize("encoded", [False, True], ids=["decoded", "encoded"])
def test_images_over_shards_are_the_good_rows_of_the_source(
    encoded: bool, tree: Path, configured: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies in another shard, another label, another split; and images that cannot be read."""
    monkeypatch.setattr(shards, "ID_ROWS", 7)
    monkeypatch.setattr(parquet, "ROWS", 10)
    monkeypatch.setattr("ratchet.validation.duplicates.PART_ROWS", 16)
    whole = pictures(60)
    labels = ["cat" if n % 3 else "dog" for n in range(60)]
    given: list[str | None] = [*["train"] * 40, *["test"] * 20]
    bad: dict[int, tuple[str, str]] = {}

    def put(at: int, image: bytes | None, reason: str, detail: str, **other: str) -> None:
        whole[at], bad[at] = image, (reason, detail)  # type: ignore[call-overload]
        labels[at], given[at] = other.get("label", labels[at]), other.get("split", given[at])

    put(3, whole[3][:50], "image_corrupt", "")
    put(21, None, "image_null", "")
    put(33, whole[2], "duplicate", "like shard-00000.parquet row 2", label=labels[2])
    put(34, whole[5], "duplicate", "like shard-00000.parquet row 5", label=labels[5])
    put(10, whole[50], "leak", "like shard-00003.parquet row 5", label=labels[50])
    put(12, whole[12], "conflict", "like shard-00003.parquet row 13", label="cat")
    put(58, whole[12], "conflict", "like shard-00000.parquet row 12", label="dog")
    column = [
        None if image is None else {"bytes": image, "path": f"{n}.png"}
        for n, image in enumerate(whole)
    ]
    (tree / "data/incoming").mkdir(parents=True)
    pq.write_table(
        pa.table({"image": column, "label": labels, "part": given}),
        tree / "data/incoming/a.parquet",
    )
    table = {
        "type": "parquet",
        "path": "data/incoming",
        "label": "label",
        "image": "image",
        "features": None,
    }
    limit = {"decoded_limit_bytes": 0} if encoded else {}
    prepared = {**FRACTIONS, **limit, "size": [6, 5]}
    accepted = {"max_bad_fraction": 0.5}
    run(
        configured(
            {**table, "split": "part"},
            ingest={"shard_rows": 15},
            prepare=prepared,
            validate=accepted,
        ),
        tree,
    )

    rows = list(raw_rows(tree))
    assert [row["image"] and row["image"]["bytes"] for row in rows] == whole
    assert [row["row_id"] for row in rows] == [
        hashlib.blake2b(i or b"", digest_size=16).hexdigest() for i in whole
    ]
    found = quarantine(tree)
    assert {(row["shard"], row["row"]): bad[n][0] for n, row in enumerate(rows) if n in bad} == {
        key: row["reason"] for key, row in found.items()
    }
    for n, (reason, detail) in bad.items():
        row = found[rows[n]["shard"], rows[n]["row"]]
        place = f"a.parquet, row {n}" + (f" ({n}.png)" if whole[n] else "")
        assert detail in row["detail"] and row["source"] == place, reason
    report = json.loads((tree / "reports/validation.json").read_text())
    assert (report["sizes"], report["modes"], report["colour"]) == ({"8x8": 58}, {"L": 58}, 0)
    brightness = report["numbers"]["brightness"]
    assert (
        sum(brightness["bins"].values()) == 58 and 0 < brightness["min"] < brightness["max"] < 255
    )
    spec = Spec.read(tree / "data/prepared/spec.json")
    assert spec.classes == ("cat", "dog") and spec.size == (6, 5)
    for name in splits.SPLITS:
        own = [
            n
            for n in range(60)
            if n not in bad and _split_beside_a_given_test(rows[n], given[n]) == name
        ]
        assert (
            meta(tree, name) == [rows[n]["row_id"] for n in own]
            and spec.counts[name] == len(own) > 0
        )
        inputs = open_inputs(tree / f"data/prepared/{name}")
        expected = np.stack([images.pixels(whole[n], (6, 5), 1) for n in own])
        np.testing.assert_array_equal(inputs[:], expected)
        assert (tree / f"data/prepared/{name}/inputs.bin").exists() is encoded
        targets = np.load(tree / f"data/prepared/{name}/targets.npy")
        assert [spec.classes[target] for target in targets] == [labels[n] for n in own]
        if name == "train":
            pixels = expected / 255
            assert spec.mean[0] == pytest.approx(pixels.mean()) and spec.std[0] == pytest.approx(
                pixels.std()
            )


def _split_beside_a_given_test(row: Row, given: str | None) -> str:
    if given == "test":
        return "test"
    return "val" if int(row["row_id"][16:29], 16) / 16**13 < FRACTIONS["val_fraction"] else "train"


@pytest.mark.fault(11)
def test_prepare_refuses_a_shard_that_changed_after_validation(
    tree: Path, configured: Callable[..., Params]
) -> None:
    """A shard replaced by a valid parquet file with other values: only its SHA-256 tells."""
    (tree / "data/incoming").mkdir(parents=True)
    table = pa.table({"x": np.arange(40.0), "label": ["a", "b"] * 20})
    pq.write_table(table, tree / "data/incoming/a.parquet")
    params = configured(
        {"type": "parquet", "path": "data/incoming", "label": "label", "features": ["x"]}
    )
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    validate.fn(params, tree)
    shard = tree / "data/raw/shard-00000.parquet"
    rows = pq.read_table(shard)
    values = pa.array(np.arange(40.0) + 1)
    shard.unlink()
    pq.write_table(
        rows.set_column(rows.column_names.index("feature:x"), "feature:x", values), shard
    )
    shutil.rmtree(tree / ".memo")  # what was made of the listed shard is not made again
    for stage in (validate, prepare):
        with pytest.raises(
            CorruptData, match=r"shard-00000\.parquet is not what dataset\.json lists"
        ):
            stage.fn(params, tree)
    assert not (tree / "data/prepared").exists()


@pytest.mark.fault(14)
def test_the_quarantine_names_the_rows_of_every_shard(tmp_path: Path) -> None:
    """Batches that begin and end within a shard, and one with several shards."""
    from ratchet.shards import quarantine as file

    rows = [("a", 1), ("a", 5), ("a", 9), ("b", 0), ("c", 2), ("c", 3), ("d", 7)]
    names, numbers = zip(*rows, strict=True)
    columns = [names, numbers, *[[""] * 7] * 4]
    path = tmp_path / "quarantine.parquet"
    table = pa.table([pa.array(c) for c in columns], names=file.SCHEMA.names).cast(file.SCHEMA)
    expected: dict[str, list[int]] = {"a": [1, 5, 9], "b": [0], "c": [2, 3], "d": [7]}
    for size in (1, 2, 3, 5, 7):
        pq.write_table(table, path, row_group_size=size)
        assert [(name, bad.tolist()) for name, bad in file.by_shard(path)] == list(expected.items())


def outputs(tree: Path) -> dict[str, str]:
    """The SHA-256 of every output of the three stages."""
    files = [
        file
        for folder in ("data", "reports")
        for file in (tree / folder).rglob("*")
        if file.is_file()
    ]
    outputs = [file for file in files if "incoming" not in file.parts]
    return {file.relative_to(tree).as_posix(): sha256(file) for file in outputs}


IMAGES: list[dict[str, dict[str, Any]]] = [
    {"ingest": {"shard_rows": 7}},
    {"ingest": {"keep": ["site"]}},
    {"prepare": {"size": [5, 8]}},
    {"prepare": {"channels": 3}},
    {"prepare": {"decoded_limit_bytes": 0}},
    {"prepare": {"val_fraction": 0.4}},
    {"prepare": {"test_fraction": 0.4}},
    {"validate": {"max_pixels": 63}},
    {"ingest": {"keep": ["site"]}, "validate": {"unique": ["site"]}},
]
BOUND = {"dtype": None, "min": None, "max": 20.0, "allowed": None, "nullable": True}
FEATURES: list[dict[str, dict[str, Any]]] = [
    {"ingest": {"keep": ["label"]}},
    {"validate": {"columns": {"x": BOUND}}},
    {"validate": {"unique": ["y"]}},
    {"prepare": {"val_fraction": 0.4}},
]


@pytest.mark.parametrize("kind", ["image", "features"])
def test_a_changed_param_takes_nothing_old_from_the_memo(
    kind: str, tree: Path, configured: Callable[..., Params]
) -> None:
    """One change after the other with the same memo gives what an empty memo gives."""
    if kind == "image":
        source = {"label": "label", "image": "image", "features": None}
        images = [*pictures(20, side=8), *pictures(12, seed=1, side=7)]
        image_file(
            tree / "data/incoming/a.parquet",
            images,
            ["a", "b"] * 16,
            site=[str(n) for n in range(31)] + ["0"],
        )
    else:
        (tree / "data/incoming").mkdir(parents=True)
        table = pa.table(
            {"x": np.arange(32.0), "y": np.arange(32.0) % 30, "label": ["a", "b"] * 16}
        )
        pq.write_table(table, tree / "data/incoming/a.parquet")
        source = {"label": "label", "image": None, "features": ["x", "y"]}
    source |= {"type": "parquet", "path": "data/incoming"}
    start: dict[str, dict[str, Any]] = {
        "prepare": {"size": [8, 8]},
        "validate": {"max_bad_fraction": 1.0},
    }
    changes = [{}, *(IMAGES if kind == "image" else FEATURES)]
    seen = []
    for memo in ("kept", "empty"):
        for number, change in enumerate(changes):
            sections = {
                **change,
                **{key: values | change.get(key, {}) for key, values in start.items()},
            }
            if memo == "empty":
                shutil.rmtree(tree / ".memo")
            run(configured(source, **sections), tree)
            if memo == "kept":
                seen.append(outputs(tree))
            else:
                assert outputs(tree) == seen[number], change
    assert len({tuple(files.items()) for files in seen}) == len(changes)


@pytest.mark.parametrize(
    "change",
    [
        {"features": ["y"]},
        {"features": ["y", "x"]},
        {"label": "other"},
        {"split": "part"},
        {"path": "data/incoming/b"},
    ],
    ids=str,
)
def test_a_changed_source_takes_nothing_old_from_the_memo(
    change: dict[str, Any], tree: Path, configured: Callable[..., Params]
) -> None:
    for folder, step in (("a", 1), ("b", 2)):
        (tree / f"data/incoming/{folder}").mkdir(parents=True)
        columns = {
            "x": np.arange(24.0) * step,
            "y": np.arange(24.0)[::-1],
            "label": ["a", "b"] * 12,
        }
        more = {"other": ["c", "d", "e"] * 8, "part": ["train", "train", "test", "val"] * 6}
        pq.write_table(pa.table(columns | more), tree / f"data/incoming/{folder}/a.parquet")
    source = {
        "type": "parquet",
        "path": "data/incoming/a",
        "label": "label",
        "image": None,
        "features": ["x", "y"],
    }
    run(configured(source), tree)
    before = outputs(tree)
    run(configured(source | change), tree)
    seen = outputs(tree)
    shutil.rmtree(tree / ".memo")
    run(configured(source | change), tree)
    assert outputs(tree) == seen != before


def test_a_rerun_takes_nothing_from_a_memo_that_is_wrong_throughout(
    tree: Path, tmp_path: Path, configured: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    git("add", "params.yaml", cwd=tree)
    git(
        "-c",
        "user.name=Ada",
        "-c",
        "user.email=ada@localhost",
        "commit",
        "--quiet",
        "-m",
        "Start",
        cwd=tree,
    )
    repository.add_worktree(tree, tmp_path / "rerun", "HEAD")
    for folder in (tree, tmp_path / "rerun"):
        (folder / "data/incoming").mkdir(parents=True)
        table = pa.table({"x": np.arange(24.0), "label": ["a", "b"] * 12})
        pq.write_table(table, folder / "data/incoming/a.parquet")
    source = {
        "type": "parquet",
        "path": "data/incoming",
        "label": "label",
        "image": None,
        "features": ["x"],
    }
    params = configured(source)
    run(params, tree)
    manifests = list((tree / ".memo").glob("*/*/manifest.json"))
    assert {manifest.parts[-3] for manifest in manifests} == {"ingest", "validate", "prepare"}
    for manifest in manifests:
        digests = json.loads(manifest.read_text())
        for name in digests:
            (manifest.parent / name).unlink()  # a shard of data/raw may be the same file
            (manifest.parent / name).write_bytes(b"wrong")
            digests[name] = sha256(manifest.parent / name)
        manifest.write_text(json.dumps(digests))
    monkeypatch.setenv(repository.ALONE, "1")
    run(params, tmp_path / "rerun")
    assert outputs(tmp_path / "rerun") == outputs(tree)
