"""Every row checked, the bad ones set aside."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.errors import CorruptData, ValidationFailed
from tasks.ingest import ingest
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]


@pytest.fixture
def ingested(configured, parquet, tree):
    """Ingest image rows and return the params, with a quarantine as large as the data."""

    def make(images, labels, **columns):
        split = "split" if "split" in columns else None
        params = configured(parquet(split=split), validate={"max_bad_fraction": 1.0})
        image_file(tree / "data/incoming/a.parquet", images, labels, **columns)
        refresh.fn(params, tree)
        ingest.fn(params, tree)
        return params

    return make


def bad(tree):
    rows = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    return [(row["row"], row["reason"]) for row in rows]


def test_real_images_pass(sample, tree):
    refresh.fn(sample, tree)
    ingest.fn(sample, tree)
    validate.fn(sample, tree)
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["rows"] == {"in": 600, "out": 600, "quarantined": 0}
    assert (
        report["classes"]["test"]["Shirt"] == 20
        and report["sizes"] == {"28x28": 600}
        and report["modes"] == {"L": 600}
    )
    html = (tree / "reports/validation.html").read_text()
    assert "600 rows came in" in html and "http" not in html


@pytest.mark.fault(14)
def test_labels_that_are_missing_or_no_class(configured, parquet, tree):
    named = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    file = image_file(tree / "data/incoming/a.parquet", pictures(5), [0, None, -1, 1, 2])
    pq.write_table(
        pq.read_table(file).replace_schema_metadata({"huggingface": json.dumps(named)}), file
    )
    params = configured(parquet(), validate={"max_bad_fraction": 1.0})
    for stage in (refresh, ingest, validate):
        stage.fn(params, tree)
    assert bad(tree) == [(1, "label_null"), (2, "label_null"), (4, "label_unknown")]


@pytest.mark.fault(12)
def test_cut_images_are_set_aside_with_their_row(ingested, tree):
    whole = pictures(3)
    params = ingested([whole[0], whole[1][:60], b"", None, whole[2], b"GIF89a"], [0, 0, 0, 0, 1, 0])
    validate.fn(params, tree)
    assert bad(tree) == [
        (1, "image_corrupt"),
        (2, "image_empty"),
        (3, "image_null"),
        (5, "image_corrupt"),
    ]
    html = (tree / "reports/validation.html").read_text()
    assert "an image that does not decode to its end" in html


@pytest.mark.fault(17)
def test_the_same_image_twice(ingested, tree):
    a, b, c, d = pictures(4)
    params = ingested(
        [a, a, b, b, c, c, d],
        [0, 0, 1, 1, 0, 1, 1],
        split=["train", "Training", "train", "test", "train", "TEST", "train"],
    )
    validate.fn(params, tree)
    assert bad(tree) == [(1, "duplicate"), (2, "leak"), (4, "conflict"), (5, "conflict")]
    (first, *_) = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    assert (
        first["detail"] == "like shard-00000.parquet row 0"
        and first["shard"] == "shard-00000.parquet"
    )


def test_too_many_bad_rows_fail_and_the_reports_stand(ingested, configured, parquet, tree):
    ingested(pictures(3), [0, None, None])
    with pytest.raises(
        ValidationFailed,
        match=r"2 of 3 rows are bad, most of them label_null.*max_bad_fraction is 0.05",
    ):
        validate.fn(configured(parquet()), tree)
    assert (tree / "reports/validation.json").exists() and len(bad(tree)) == 2


@pytest.mark.fault(11)
def test_a_flipped_bit_in_a_shard_is_found(ingested, tree):
    params = ingested(pictures(3), [0, 1, 2])
    shard = tree / "data/raw/shard-00000.parquet"
    flipped = bytearray(shard.read_bytes())
    flipped[200] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(CorruptData, match=r"shard-00000.parquet is not what dataset.json lists"):
        validate.fn(params, tree)


@pytest.mark.fault(13)
def test_bombs_are_set_aside_and_take_little_memory(ingested, tree):
    import io

    from PIL import Image

    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    params = ingested([*pictures(2), bomb.getvalue()], [0, 1, 1])
    validate.fn(params, tree)
    assert bad(tree) == [(2, "image_bomb")]
    (row,) = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    assert row["detail"] == "12000 x 12000 pixels; at most 36,000,000 are decoded"


@pytest.fixture
def features(configured, parquet, tree):
    """Ingest feature rows and validate them under rules."""

    def make(table, **rules):
        (tree / "data/incoming").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), tree / "data/incoming/a.parquet")
        names = [name for name in table if name != "label"]
        params = configured(
            parquet(image=None, features=names), validate={"max_bad_fraction": 1.0, **rules}
        )
        refresh.fn(params, tree)
        ingest.fn(params, tree)
        validate.fn(params, tree)
        return bad(tree)

    return make


def rules(**values):
    return {"dtype": None, "min": None, "max": None, "allowed": None, "nullable": True, **values}


@pytest.mark.fault(14)
def test_infinite_and_missing_features(features, tree):
    found = features(
        {"x": [1.0, float("inf"), float("nan"), None, 2.0], "label": [0, 1, 0, 1, None]}
    )
    assert found == [(1, "not_finite"), (2, "not_finite"), (4, "label_null")]
    rows = pq.read_table(tree / "data/quarantine.parquet").to_pylist()
    assert rows[0]["detail"] == "x is inf" and rows[0]["shard"] == "shard-00000.parquet"
    report = json.loads((tree / "reports/validation.json").read_text())
    assert report["numbers"]["x"]["null"] == 2


@pytest.mark.fault(14)
def test_rules_of_the_params(features):
    columns = {
        "age": [3, 200, 30, None, 4],
        "kind": [0, 1, 7, 1, 0],
        "label": ["a", "b", "c", "a", "b"],
    }
    found = features(
        columns,
        columns={
            "age": rules(min=0, max=120, nullable=False),
            "kind": rules(allowed=[0, 1], dtype="int"),
            "label": rules(allowed=["a", "b"]),
        },
    )
    assert found == [(1, "out_of_range"), (2, "not_allowed"), (3, "null")]


def test_unique_keys(features, tree):
    found = features(
        {"x": [1, 2, 1, 1], "y": [1, 1, 2, 1], "label": [0, 1, 0, 1]}, unique=["x", "y"]
    )
    assert found == [(3, "not_unique")]
    assert pq.read_table(tree / "data/quarantine.parquet")["detail"].to_pylist() == [
        "like shard-00000.parquet row 0"
    ]


@pytest.mark.fault(15)
def test_a_column_of_another_type_or_name_is_shown(features):
    with pytest.raises(
        ValidationFailed, match=r"validate\.columns\.x\.dtype is string, but it is a feature"
    ):
        features({"x": [1.5], "label": [0]}, columns={"x": rules(dtype="string")})
    with pytest.raises(
        ValidationFailed, match=r"validate.columns and unique name z; the rows have label, x"
    ):
        features({"x": [1.5], "label": [0]}, columns={"z": rules()})


@pytest.mark.fault(16)
def test_no_good_row_and_a_class_without_examples(ingested, features, tree):
    with pytest.raises(
        ValidationFailed,
        match=r"no good row among 2, most of them not_finite; see reports/validation.json",
    ):
        features({"x": [float("nan")] * 2, "label": [0, 1]})


@pytest.mark.fault(16)
def test_a_class_of_the_source_without_an_example(sample, configured, tree):
    import dataclasses

    refresh.fn(sample, tree)
    ingest.fn(sample, tree)
    listing = tree / "data/raw/dataset.json"
    listing.write_text(listing.read_text().replace('"Ankle boot"', '"Ankle boot", "Hat"'))
    with pytest.raises(ValidationFailed, match=r"no example of class Hat; .*validate.may_be_empty"):
        validate.fn(sample, tree)
    allowed = dataclasses.replace(sample.validate, may_be_empty=("Hat",))
    validate.fn(dataclasses.replace(sample, validate=allowed), tree)


def test_warnings_have_levels(ingested, tree, capsys):
    a, *rest = pictures(9)
    params = ingested([a, a, *rest], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    validate.fn(params, tree)
    warning, rare, few = json.loads((tree / "reports/validation.json").read_text())["warnings"]
    assert rare.startswith(
        "1 of 2 classes have fewer than 3 rows, too few for one in each split: 1;"
    )
    assert few.startswith(
        "about 1 test row: differences in accuracy below 73.0 points cannot be shown at 95%;"
    )
    assert warning == "1 rows (10.00%) are set aside as duplicate; validate.warn.duplicate is 0.01"
    assert f"validate: warning: {warning}" in capsys.readouterr().out
    assert warning in (tree / "reports/validation.html").read_text()


def test_only_a_new_shard_is_checked_again(configured, parquet, tree, monkeypatch):
    from ratchet import images

    params = configured(parquet())
    for part in range(2):
        image_file(tree / f"data/incoming/{part}.parquet", pictures(5, seed=part), [0, 1, 0, 1, 0])
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    validate.fn(params, tree)
    image_file(tree / "data/incoming/2.parquet", pictures(5, seed=2), [0, 1, 0, 1, 0])
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    decoded = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *a: decoded.append(1) or decode(*a))
    validate.fn(params, tree)
    assert len(decoded) == 5
    validate.fn(configured(parquet(), validate={"max_bad_fraction": 0.9}), tree)
    assert len(decoded) == 5
