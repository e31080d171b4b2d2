"""One row out for each row in, wherever the rows come from.

A bad one with its reason, by the rules of the version.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ratchet.dataset.spec import Spec
from ratchet.errors import Busy, CorruptData, DataError, ParamsError, SourceMissing, VersionError
from ratchet.git import head
from ratchet.locks import locked
from ratchet.prediction import input_files, unlabeled, unlabeled_hub, unlabeled_rows
from tasks.gate import gate
from tasks.predict import predict, predict_new
from tasks.promote import promote, rollback
from tasks.register import register
from tests.conftest import Checkout
from tests.helpers.data_samples import image_file, png
from tests.helpers.hub import REPOSITORY, hub
from tests.helpers.learning_samples import images
from tests.helpers.real import lay
from tests.helpers.toy import ROOT, Toy

SPEC = Spec(kind="image", input_shape=(3, 8, 8), classes=("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3,
            counts={}, features=None, size=(8, 8), channels=3)  # fmt: skip
CHECKS = unlabeled_rows.Checks(10_000, {})


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A version in prod that says "right" where the feature x is above 0.2.

    X has to be from -1 to 1.
    """
    toy = Toy.make(tmp_path / "checkout")
    toy.set(
        "validate.columns",
        {"x": {"dtype": None, "min": -1.0, "max": 1.0, "allowed": None, "nullable": True}},
    )
    toy.commit("Bound x")
    lay(toy, 0.2)
    version = register.fn(
        toy.params, toy.tree, gate.fn(toy.params, toy.tree, "prod"), head(toy.tree)
    )
    promote.fn(toy.tree, version.name, "prod", "")
    return toy


def scored(toy: Toy, **columns: object) -> dict[str, list[object]]:
    pq.write_table(pa.table(columns), toy.tree / "new.parquet")
    predict.fn(toy.tree, "new.parquet", "prod", toy.tree / "out.parquet")
    found: dict[str, list[object]] = pq.read_table(toy.tree / "out.parquet").to_pydict()
    return found


def test_numbers_are_checked_as_they_were_before_training(toy: Toy) -> None:
    found = scored(toy, x=[0.1, 0.3, None, float("inf"), -7.0], note=list("abcde"))
    assert found["prediction"] == ["left", "right", None, None, None]
    assert found["reason"] == [
        None,
        None,
        "null: every feature is missing",
        "not_finite: x is inf",
        "out_of_range: x is -7.0",
    ]
    assert found["row"] == list(range(5))
    assert [row and round(sum(row), 5) for row in found["probabilities"]] == [
        1,
        1,
        None,
        None,
        None,
    ]


def test_the_version_alone_decides_and_not_the_checkout(toy: Toy) -> None:
    """After it was registered, the checkout got other rules, and trained another model."""
    toy.set("validate.columns", {})
    toy.set("validate.max_pixels", 1)
    toy.commit("Drop the bounds of x")
    lay(toy, 0.6)
    found = scored(toy, x=[0.1, 0.3, -7.0])
    assert found["prediction"] == ["left", "right", None]
    assert found["reason"] == [None, None, "out_of_range: x is -7.0"]
    assert {*found["version"]} == {"v1.0.0"}


def test_a_model_that_gives_no_numbers_loses_no_row(toy: Toy) -> None:
    toy.set("gate.min_accuracy", 0.0)
    lay(toy, float("nan"))
    decision = replace(gate.fn(toy.params, toy.tree, "staging"), environment="staging")
    promote.fn(
        toy.tree, register.fn(toy.params, toy.tree, decision, head(toy.tree)).name, "prod", ""
    )
    found = scored(toy, x=[0.1, None])
    assert found["prediction"] == found["probabilities"] == [None, None]
    assert found["reason"] == [
        "not_finite: the model's probabilities are not finite numbers",
        "null: every feature is missing",
    ]


def test_many_batches_lose_no_row(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlabeled, "ROWS", 300)
    x = np.where(np.arange(1000) % 7 == 0, np.nan, np.linspace(-1, 1, 1000))
    found = scored(toy, x=x)
    assert found["row"] == list(range(1000))
    assert [reason is None for reason in found["reason"]] == (np.arange(1000) % 7 != 0).tolist()
    good = np.arange(1000) % 7 != 0
    assert [found["prediction"][row] for row in np.flatnonzero(good)] == [
        "right" if v > 0.2 else "left" for v in x[good]
    ]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [1.0]}, "new.parquet has no column x; it has y"),
        ({"x": [[1.0]]}, "new.parquet: the feature x is list<.*>, not a number"),
    ],
)
def test_rows_of_another_kind_are_refused_whole(
    toy: Toy, columns: dict[str, object], message: str
) -> None:
    with pytest.raises(CorruptData, match=message):
        scored(toy, **columns)
    assert not (toy.tree / "out.parquet").exists()


# ray-project/ray#28891 and pola-rs/polars#10585 report ragged rows that stop or change a whole file
CSV: list[tuple[str, list[str | None]]] = [  # the text, and for each row its prediction or the reason
    ("x\n0.1\n0.3\n", ["left", "right"]),
    ("note,x,label\na,0.1,right\nb,0.3,left", ["left", "right"]),  # other columns, the label too; no newline at the end
    ("\ufeffx\r\n0.1\r\n\r\n0.3\r\n", ["left", "right"]),  # byte order mark, CRLF, a blank line
    ('x,note\n0.1,"two\nlines"\n"0.3",b\n', ["left", "right"]),
    ("x\n1\n0\n", ["right", "left"]),  # whole numbers
    ("x\ntrue\nFalse\n", ["right", "left"]),
    ("x,y\n,1\nNA,1\n0.3,1\n", ["null: every feature is missing", "null: every feature is missing", "right"]),
    ("x\n0.1\n?\n0.3\n", ["left", "not_a_number: x is '?'", "right"]),
    ('x\n"1,234.5"\n0.3\n', ["not_a_number: x is '1,234.5'", "right"]),
    ("x\ninf\n-7\n0.3\n", ["not_finite: x is inf", "out_of_range: x is -7.0", "right"]),
    ("x,y\n0.1,1\n0.3\n0.3,2,3\n0.3,4\n", [
        "left", "ragged: expected 2 values, found 1", "ragged: expected 2 values, found 3", "right"]),  # pandas-dev/pandas#5686
    ("x\n", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CSV, ids=[repr(text)[:40] for text, _ in CSV])
def test_a_bad_row_of_a_csv_has_a_reason(toy: Toy, text: str, expected: list[str | None]) -> None:
    (toy.tree / "new.csv").write_text(text, encoding="utf-8", newline="")
    scored = predict.fn(toy.tree, "new.csv", "prod", toy.tree / "out.parquet")
    rows = sorted(pq.read_table(toy.tree / "out.parquet").to_pylist(), key=lambda row: row["row"])
    assert [row["prediction"] or row["reason"] for row in rows] == expected
    assert [row["row"] for row in rows] == list(range(len(expected)))
    assert {(row["path"], row["version"]) for row in rows} <= {("new.csv", "v1.0.0")}
    assert scored.rows == len(expected)
    assert scored.bad == sum(row["prediction"] is None for row in rows)


def test_csv_and_parquet_of_one_table_give_the_same_ids(toy: Toy) -> None:
    (toy.tree / "new.csv").write_text('x\n0.1\n""\n1\n')
    predict.fn(toy.tree, "new.csv", "prod", toy.tree / "csv.parquet")
    inputs = scored(toy, x=[0.1, None, 1.0])
    assert pq.read_table(toy.tree / "csv.parquet")["row_id"].to_pylist() == inputs["row_id"]
    assert len({*inputs["row_id"]}) == 3


def test_a_csv_is_read_as_the_one_that_the_version_was_trained_on(toy: Toy) -> None:
    source = {
        "type": "csv",
        "path": "x",
        "label": "y",
        "features": ["größe"],
        "separator": ";",
        "decimal": ",",
        "encoding": "cp1252",
    }
    toy.set("ingest.sources", [source])
    toy.set("validate.columns", {})
    toy.set("gate.on_new_contract", "promote")
    toy.set("gate.min_accuracy", 0.0)
    toy.commit("Read German files")
    lay(toy, 0.25, inputs=["größe"])
    decision = replace(gate.fn(toy.params, toy.tree, "staging"), environment="staging")
    promote.fn(
        toy.tree, register.fn(toy.params, toy.tree, decision, head(toy.tree)).name, "staging", ""
    )
    (toy.tree / "new.csv").write_bytes("größe;y\n0,1;a\n0,3;b\n0.3;b\n".encode("cp1252"))
    predict.fn(toy.tree, "new.csv", "staging", toy.tree / "out.parquet")
    rows = pq.read_table(toy.tree / "out.parquet").to_pylist()
    assert [row["prediction"] or row["reason"] for row in rows] == [
        "left",
        "right",
        "not_a_number: größe is '0.3'",
    ]
    (toy.tree / "new.csv").write_text("größe,y\n0.1,a\n", encoding="cp1252")
    with pytest.raises(
        CorruptData,
        match=r"new.csv has no column größe; it has größe,y; it was read with the separator ';'",
    ):
        predict.fn(toy.tree, "new.csv", "staging", toy.tree / "out.parquet")


REFUSED: list[tuple[str, bytes, str]] = [
    ("a.csv", b"y,z\n1,2\n", "a.csv has no column x; it has y, z; it was read with the separator ','"),
    ("a.csv", b"x,x\n1,2\n", "a.csv has more than one column x; rename or remove the others"),
    ("a.csv", b"x,y\n1,\xe4\n", "a.csv is not utf-8 text like the version's own data; save it in that encoding"),
    ("a.csv", b"", "a.csv is empty; a CSV file needs a header and rows"),
    ("a.txt", b"x\n1\n", "a.txt cannot be scored: the version takes CSV or parquet files with the columns x"),
    ("a.png", png(np.zeros((8, 8, 3), np.uint8)), "a.png cannot be scored: the version takes CSV or parquet files "
                                                  "with the columns x"),
    ("a.parquet", b"PAR1 and no more", "a.parquet is cut or damaged"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_a_file_that_cannot_be_scored_is_one_line(
    toy: Toy, name: str, content: bytes, message: str
) -> None:
    (toy.tree / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        predict.fn(toy.tree, name, "prod", toy.tree / "out.parquet")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (toy.tree / "out.parquet").exists()


def test_a_mixed_folder_is_read_by_kind_and_the_rest_is_counted(toy: Toy) -> None:
    folder = toy.tree / "mixed"
    (folder / ".git").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "a.csv").write_text("x\n0.1\n")
    (folder / "sub/B.CSV").write_text("x\n0.3\n")
    pq.write_table(pa.table({"x": pa.array([1, 0], pa.int32())}), folder / "c.parquet")
    for name in (
        "notes.txt",
        "more.txt",
        "photo.png",
        "README",
        ".git/config",
        ".gitkeep",
        "empty.csv",
    ):
        (folder / name).touch()
    (toy.tree / "outside.csv").write_text("x\n0.9\n")
    (folder / "link.csv").symlink_to(toy.tree / "outside.csv")
    done = predict.fn(toy.tree, "mixed", "prod", toy.tree / "out.parquet")
    rows = pq.read_table(toy.tree / "out.parquet").to_pylist()
    assert [(row["path"], row["row"], row["prediction"]) for row in rows] == [
        ("mixed/a.csv", 0, "left"),
        ("mixed/c.parquet", 0, "right"),
        ("mixed/c.parquet", 1, "left"),
        ("mixed/sub/B.CSV", 0, "right"),
    ]
    assert done.skipped == (
        "skipped 7 files: 1 .png, 2 .txt, 1 empty, 1 hidden, 1 linked from outside the folder, 1 without a suffix"
    )
    assert str(done).startswith("4 rows (0 bad) scored by v1.0.0 into ")
    (toy.tree / "texts").mkdir()
    (toy.tree / "texts/a.txt").touch()
    with pytest.raises(
        SourceMissing,
        match=r"^texts has no rows for v1.0.0: skipped 1 file: 1 \.txt; the version takes CSV",
    ):
        predict.fn(toy.tree, "texts", "prod", toy.tree / "out.parquet")
    predict.fn(toy.tree, "mixed/*.csv", "prod", toy.tree / "glob.parquet")
    assert pq.read_table(toy.tree / "glob.parquet")["path"].to_pylist() == [
        "mixed/a.csv",
        "mixed/link.csv",
    ]


# warner-benjamin/code_for_blog_posts#2: a text file beside the images stops a prediction
def test_tables_and_texts_are_no_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    good = png(np.zeros((9, 7, 3), np.uint8))
    for name in ("a.png", "B.JPG", "c.csv", "d.txt", "e"):
        (folder / name).write_bytes(good)
    arrived = unlabeled.find(tmp_path, "photos", SPEC)
    assert [path for part in arrived.batches() for path in part.paths] == [
        "photos/B.JPG",
        "photos/a.png",
    ]
    assert (
        input_files.describe_skipped(arrived.skipped)
        == "skipped 3 files: 1 .csv, 1 .txt, 1 without a suffix"
    )
    with pytest.raises(
        SourceMissing,
        match=r"photos/c.csv cannot be scored: the version takes image files, or parquet",
    ):
        unlabeled.find(tmp_path, "photos/c.csv", SPEC)
    (only,) = unlabeled.find(tmp_path, "photos/e", SPEC).batches()  # named, so it is tried
    assert unlabeled_rows.checked(only, SPEC, CHECKS)[1] == [None]


# huggingface/datasets#4987
def test_an_image_that_a_table_holds_as_a_path_is_read_in_its_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    good = png(np.zeros((9, 7, 3), np.uint8))
    (tmp_path / "data/a.png").write_bytes(good)
    (tmp_path / "secret.png").write_bytes(good)
    paths = [
        "a.png",
        str(tmp_path / "data/a.png"),
        "../secret.png",
        str(tmp_path / "secret.png"),
        "gone.png",
    ]
    pq.write_table(
        pa.table({"image": [{"bytes": None, "path": path} for path in paths]}),
        tmp_path / "data/t.parquet",
    )
    (part,) = unlabeled.find(tmp_path, "data/t.parquet", SPEC).batches()
    reasons = unlabeled_rows.checked(part, SPEC, CHECKS)[1]
    assert reasons[:2] == [None, None]
    assert all("leads out of its folder" in str(reason) for reason in reasons[2:4])
    assert reasons[4] == "unread: No such file or directory"


def test_many_images_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(50):
        (tmp_path / f"photos/{number:02}.png").write_bytes(bytes(1000))
    monkeypatch.setattr(unlabeled, "BATCH_BYTES", 10_000)
    sizes = [len(part.ids) for part in unlabeled.find(tmp_path, "photos", SPEC).batches()]
    assert sum(sizes) == 50
    assert max(sizes) <= 11


def test_a_feature_may_be_a_partition(toy: Toy) -> None:
    for value, note in (("0.1", "a"), ("0.3", "b"), ("__HIVE_DEFAULT_PARTITION__", "c")):
        (toy.tree / f"table/x={value}").mkdir(parents=True)
        pq.write_table(pa.table({"note": [note]}), toy.tree / f"table/x={value}/part-0.parquet")
    (toy.tree / "table/_delta_log").mkdir()
    pq.write_table(
        pa.table({"add": ["part-0"]}), toy.tree / "table/_delta_log/1.checkpoint.parquet"
    )
    (toy.tree / "table/_SUCCESS").touch()
    done = predict.fn(toy.tree, "table", "prod", toy.tree / "out.parquet")
    rows = pq.read_table(toy.tree / "out.parquet").to_pylist()
    assert [row["prediction"] or row["reason"] for row in rows] == [
        "left",
        "right",
        "null: every feature is missing",
    ]
    assert done.skipped == "skipped 2 files: 1 without a suffix, 1 written for other programs"


def test_csv_out_has_a_column_for_each_class(toy: Toy) -> None:
    (toy.tree / "new.csv").write_text("x\n0.1\noops\n0.3\n")
    predict.fn(toy.tree, "new.csv", "prod", toy.tree / "out.csv")
    table = pl.read_csv(toy.tree / "out.csv")
    assert table.columns == [
        "path", "row", "row_id", "version", "prediction", "probability:left", "probability:right", "reason",
    ]  # fmt: skip
    assert table["prediction"].to_list() == ["left", None, "right"]
    assert table["probability:left"].is_null().to_list() == [False, True, False]
    assert table.select(pl.sum_horizontal(pl.col("^probability:.*$")))[0, 0] == pytest.approx(1)
    assert table["reason"].to_list() == [None, "not_a_number: x is 'oops'", None]


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        (
            "new.csv",
            "out.txt",
            "the output out.txt must end in .parquet or .csv, such as out.parquet",
        ),
        ("new.csv", "out", "the output out must end in .parquet or .csv"),
        (
            "new.csv",
            "new.csv",
            "the output new.csv is part of the input new.csv; write it somewhere else",
        ),
        (
            ".",
            "sub/out.csv",
            "the output sub/out.csv is part of the input .; write it somewhere else",
        ),
    ],
)
def test_where_predictions_cannot_go(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, source: str, output: str, message: str
) -> None:
    monkeypatch.chdir(toy.tree)
    Path("new.csv").write_text("x\n0.1\n")
    with pytest.raises(ParamsError, match=f"^{re.escape(message)}"):
        predict.fn(Path(), source, "prod", Path(output))
    assert Path("new.csv").read_text() == "x\n0.1\n"


class Hourly:
    """Runs that score what is new in `data/incoming`."""

    def __init__(self, toy: Toy) -> None:
        self.toy, self.incoming, self.folder = (
            toy,
            toy.tree / "data/incoming",
            toy.tree / "data/predictions",
        )
        self.incoming.mkdir(parents=True)

    def __call__(self, environment: str = "prod") -> list[tuple[str, str | None]]:
        """Scores, and returns what this run added: version and prediction or reason."""
        before = {*self.folder.glob("*.parquet")} if self.folder.exists() else set()
        self.scored = predict_new.fn(self.toy.tree, "data/incoming", environment, self.folder)
        added = {*self.folder.glob("*.parquet")} - before
        assert len(added) == (1 if self.scored.rows else 0)
        rows = [row for file in added for row in pq.read_table(file).to_pylist()]
        return [(row["version"], row["prediction"] or row["reason"]) for row in rows]


@pytest.fixture
def hourly(toy: Toy) -> Hourly:
    return Hourly(toy)


def test_only_new_rows_are_scored(hourly: Hourly) -> None:
    assert hourly() == []  # an empty folder
    assert str(hourly.scored) == "no new rows for v1.0.0"
    file = hourly.incoming / "a.csv"
    file.write_text("x\n0.1\n0.3\nbad\n0.3\n")
    first = [("v1.0.0", said) for said in ("left", "right", "not_a_number: x is 'bad'", "right")]
    assert hourly() == first
    assert hourly() == []
    assert str(hourly.scored) == "no new rows for v1.0.0; 4 scored before"
    with file.open("a") as more:
        more.write("0.3\n0.4\n")  # the third row of that content, and a new one
    assert hourly() == [("v1.0.0", "right")] * 2
    file.write_text("x\n0.4\n0.3\n0.1\n")  # shorter, and in another order
    assert hourly() == []
    (hourly.incoming / "b.csv").write_text(
        "x\n0.3\n"
    )  # another file with a row like one of the first
    assert hourly() == [("v1.0.0", "right")]
    pq.write_table(pa.table({"x": [0.5, -0.5]}), hourly.incoming / "c.parquet")
    assert hourly() == [("v1.0.0", "right"), ("v1.0.0", "left")]
    assert hourly() == []


def test_a_new_version_scores_everything_once(hourly: Hourly) -> None:
    toy = hourly.toy
    (hourly.incoming / "a.csv").write_text("x\n0.1\n0.3\n")
    hourly()
    toy.set("gate.min_accuracy", 0.0)
    lay(toy, 0.5)
    decision = replace(gate.fn(toy.params, toy.tree, "staging"), environment="staging")
    second = register.fn(toy.params, toy.tree, decision, head(toy.tree)).name
    promote.fn(toy.tree, second, "prod", "")
    assert hourly() == [(second, "left"), (second, "left")]
    assert hourly() == []
    rollback.fn(toy.tree, "prod")
    assert hourly() == []  # v1.0.0 has scored them


def test_a_run_that_is_killed_leaves_no_row_behind_and_none_twice(
    hourly: Hourly, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hourly.incoming / "a.csv").write_text("x\n" + "0.1\n0.3\n" * 20)
    monkeypatch.setattr(unlabeled, "ROWS", 10)
    code = (
        "import os, sys; from pathlib import Path; from tasks import predict; from ratchet.prediction import unlabeled\n"
        "score, count = predict._Scorer._score, []; unlabeled.ROWS = 10\n"
        "def stop(self, rows):\n    count.append(1)\n"
        "    return score(self, rows) if len(count) < 3 else os.kill(os.getpid(), 9)\n"
        "predict._Scorer._score = stop\n"
        "predict.predict_new.fn(Path(sys.argv[1]), 'data/incoming', 'prod', Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(hourly.toy.tree), str(hourly.folder)],
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == -9
    assert not list(hourly.folder.glob("*.parquet"))
    assert len(hourly()) == 40
    assert hourly() == []


def test_two_runs_do_not_score_the_same_rows(hourly: Hourly) -> None:
    (hourly.incoming / "a.csv").write_text("x\n0.1\n")
    hourly.folder.mkdir(parents=True)
    with locked(hourly.folder / ".lock", "test"), pytest.raises(Busy, match="is busy"):
        hourly()
    assert len(hourly()) == 1


def test_files_of_others_among_the_predictions(hourly: Hourly) -> None:
    (hourly.incoming / "a.csv").write_text("x\n0.1\n")
    hourly.folder.mkdir(parents=True)
    pq.write_table(
        pa.table({"path": ["data/incoming/a.csv"], "prediction": ["left"]}),
        hourly.folder / "old.parquet",
    )
    assert hourly() == [("v1.0.0", "left")]
    (hourly.folder / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(CorruptData, match=r"cut\.parquet is cut or damaged"):
        hourly()


def test_nothing_to_score_and_nobody_to_do_it(toy: Toy) -> None:
    with pytest.raises(
        SourceMissing,
        match=r"there is no file at nowhere; name a CSV or parquet file, .* hf://datasets/OWNER",
    ):
        predict.fn(toy.tree, "nowhere", "prod", toy.tree / "out.parquet")
    with pytest.raises(VersionError, match="no version staging"):
        predict.fn(toy.tree, "nowhere", "staging", toy.tree / "out.parquet")
    with pytest.raises(ParamsError, match=r"expected hf://datasets/OWNER/NAME\[@REVISION\]"):
        predict.fn(toy.tree, "hf://datasets/../x?shard=3", "prod", toy.tree / "out.parquet")
    (toy.tree / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorruptData, match=r"cut\.parquet is cut or damaged"):
        predict.fn(toy.tree, "cut.parquet", "prod", toy.tree / "out.parquet")


@pytest.mark.fault(40)
def test_every_file_of_a_folder_gets_a_row(tmp_path: Path) -> None:
    folder, outside = tmp_path / "photos", tmp_path / "secret.png"
    (folder / "deep").mkdir(parents=True)
    good = png(np.zeros((9, 7, 3), np.uint8))
    outside.write_bytes(good)
    image_file(folder / "d.parquet", [good, None], ["x", "y"])
    for name, content in {
        "a.png": good,
        "b.jpg": good[:40],
        "c.png": b"",
        "deep/e.png": png(np.zeros((200, 200), np.uint8)),
    }.items():
        (folder / name).write_bytes(content)
    (folder / "f.png").symlink_to(outside)
    (folder / "g.png").symlink_to(folder / "gone.png")
    batches = unlabeled.find(tmp_path, "photos", SPEC).batches()
    seen = [(some, unlabeled_rows.checked(some, SPEC, CHECKS)[1]) for some in batches]
    found = {
        Path(path or "").name: reason
        for some, reasons in seen
        for path, reason in zip(some.paths, reasons, strict=True)
    }
    assert sum(len(reasons) for _, reasons in seen) == 8
    assert found["a.png"] is None
    assert str(found["b.jpg"]).startswith("image_corrupt: ")
    assert found["c.png"] == "image_empty: 0 bytes"
    assert found["e.png"] == "image_bomb: 200 x 200 pixels; at most 10,000 are decoded"
    assert found["f.png"] == "unread: a link that leads out of the folder"
    assert found["g.png"] == "unread: No such file or directory"
    assert found["d.parquet"] == "image_null: no image"  # its second row


READ = """
import json, sys
from pathlib import Path
from ratchet.prediction import unlabeled, unlabeled_rows
from ratchet.dataset.spec import Spec
from ratchet.errors import RatchetError
spec = Spec.parse(json.loads(sys.argv[1]))
for source in sys.argv[2:]:
    try:
        batches = unlabeled.find(Path(), source, spec).batches()
        parts = [unlabeled_rows.checked(some, spec, unlabeled_rows.Checks(10_000, {}))[1] for some in batches]
        print(json.dumps([reason for part in parts for reason in part]))
    except RatchetError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def of_hub(files: dict[str, bytes], home: Path, *names: str, up: bool = True) -> list[Any]:
    """What comes of data sets that the client of another process streams from a Hub: reasons by row, or the error."""
    with hub(files) as endpoint:
        environment = {
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        command = [
            sys.executable,
            "-c",
            READ,
            json.dumps(asdict(SPEC)),
            *(unlabeled.HUB + name for name in names),
        ]
        if up:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
            )
    if not up:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def on_hub(tmp_path: Path) -> dict[str, bytes]:
    encoded: list[bytes | None] = [png(image[0]) for image in images()[0][:250]]
    encoded[7] = (encoded[7] or b"")[:50]
    parts = {"train": encoded, "test": [*encoded[:20], None]}
    return {
        f"data/{split}-00000-of-00001.parquet": image_file(
            tmp_path / split, part, ["x"] * len(part)
        ).read_bytes()
        for split, part in parts.items()
    }


def test_a_data_set_of_the_hub_is_streamed(on_hub: dict[str, bytes], tmp_path: Path) -> None:
    asked = (REPOSITORY, f"{REPOSITORY}?split=test", "friends/nobody", f"{REPOSITORY}?split=no")
    both, test, nobody, no_split = of_hub(on_hub, tmp_path / "home", *asked)
    assert (len(both), sum(reason is None for reason in both)) == (271, 268)
    assert [row for row, reason in enumerate(test) if reason] == [7, 20]
    assert test[7].startswith("image_corrupt: ")
    assert test[20] == "image_null: no image"
    assert nobody.startswith(
        "SourceMissing: the input: the Hub has no friends/nobody at its newest commit"
    )
    assert no_split.startswith(
        "CorruptData: friends/toys at its newest commit cannot be read: Bad split: no"
    )
    assert not list((tmp_path / "home").rglob("*.parquet"))


def test_images_that_the_hub_keeps_as_files(tmp_path: Path) -> None:
    good = png(np.zeros((9, 7, 3), np.uint8))
    files = {"train/cat/a.png": good, "train/dog/b.png": good[:40], "README.md": b"photos"}
    (reasons,) = of_hub(files, tmp_path / "home", REPOSITORY)
    assert reasons[0] is None
    assert reasons[1].startswith("image_corrupt: ")


LOCAL = [
    "/etc/hostname",
    "etc/hostname",
    "file:///etc/hostname",
    "local:///etc/hostname",
    "zip://a.png::file:///tmp/a.zip",
    "zip://a.png::/tmp/a.zip",
    "simplecache::file:///etc/hostname",
    "https://example.org/a.png",
    "hf://datasets/somebody/private@main/a.png",
    "hf://datasets/friends/toys@main/../../../somebody/private/a.png",
    "",
]


@pytest.mark.parametrize("address", LOCAL)
def test_an_image_of_the_hub_is_read_from_its_repository_alone(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsspec, "open", lambda *_: pytest.fail("was opened"))
    assert unlabeled_hub.load(REPOSITORY, address) == (
        None,
        f"unread: {address} is not a file of {REPOSITORY}",
    )


@pytest.mark.long  # the client tries for 23 s
def test_a_hub_that_is_down(on_hub: dict[str, bytes], tmp_path: Path) -> None:
    (said,) = of_hub(on_hub, tmp_path / "home", REPOSITORY, up=False)
    assert said.startswith("Unreachable: the Hub does not answer for friends/toys")


def test_the_flow_scores_what_has_arrived(copy: Checkout, tmp_path: Path) -> None:
    inputs, _ = images()
    image_file(tmp_path / "new.parquet", [png(image[0]) for image in inputs[:20]], ["x"] * 20)
    code = (
        "import json, sys; from pathlib import Path; from service.server import server; from ratchet.stage import home\n"
        "with server(home(Path())):\n"
        "    from flows.prediction import prediction\n"
        "    for _ in range(2):\n"
        "        state = prediction(sys.argv[1], sys.argv[2], return_state=True)\n"
        "        print(json.dumps([state.name, state.message]))"
    )
    done = copy.run("python", "-c", code, str(tmp_path / "new.parquet"), str(tmp_path / "scored"))
    first, second = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    (file,) = (tmp_path / "scored").glob("*.parquet")
    assert first == ["Scored", f"20 rows (0 bad) scored by v1.0.0 into {file}"]
    assert second == ["Nothing new", "no new rows for v1.0.0; 20 scored before"]
    assert pq.read_metadata(file).num_rows == 20


HOURLY = """
import json
from pathlib import Path
from service.server import server
from ratchet.stage import home
with server(home(Path())):
    from flows.prediction import prediction
    for text in ("x\\n0.1\\n", "0.3\\n?\\n", ""):
        with Path("data/incoming/a.csv").open("a") as file:
            file.write(text)
        state = prediction(return_state=True)
        print(json.dumps([state.name, state.message]))
"""


@pytest.mark.long
def test_the_hourly_deployment_reads_a_csv_that_grows(hourly: Hourly) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HOURLY],
        cwd=hourly.toy.tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    states = [json.loads(line) for line in done.stdout.splitlines()]
    first, second = sorted(
        path.relative_to(hourly.toy.tree) for path in hourly.folder.glob("*.parquet")
    )
    assert states == [
        ["Scored", f"1 rows (0 bad) scored by v1.0.0 into {first}"],
        ["Scored", f"2 rows (1 bad) scored by v1.0.0 into {second}; 1 scored before"],
        ["Nothing new", "no new rows for v1.0.0; 3 scored before"],
    ]
