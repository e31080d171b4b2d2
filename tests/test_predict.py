"""One row out for each row in, wherever the rows come from; a bad one with its reason, by the rules of the version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.compare import compare
from tasks.data import arrivals
from tasks.data.spec import Spec
from tasks.errors import CorruptData, ParamsError, SourceMissing, VersionError
from tasks.predict import predict
from tasks.promote import promote
from tasks.register import register
from tasks.versions.git import head
from tests.conftest import Checkout
from tests.data.hub import REPOSITORY, hub
from tests.data.samples import image_file, png
from tests.learning.samples import images
from tests.versions.real import lay
from tests.versions.toy import ROOT, Toy

SPEC = Spec(kind="image", input_shape=(3, 8, 8), classes=("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3,
            counts={}, features=None, size=(8, 8), channels=3)  # fmt: skip
CHECKS = arrivals.Checks(10_000, {})


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A version in prod that says "right" where the feature x is above 0.2; x has to be from -1 to 1."""
    toy = Toy.make(tmp_path / "checkout")
    toy.set("validate.columns", {"x": {"dtype": None, "min": -1.0, "max": 1.0, "allowed": None, "nullable": True}})
    toy.commit("Bound x")
    lay(toy, 0.2)
    version = register.fn(toy.params, toy.tree, compare.fn(toy.params, toy.tree, "prod"), head(toy.tree))
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
    assert [row and round(sum(row), 5) for row in found["probabilities"]] == [1, 1, None, None, None]


def test_a_model_that_gives_no_numbers_loses_no_row(toy: Toy) -> None:
    toy.set("gate.min_accuracy", 0.0)
    lay(toy, float("nan"))
    decision = replace(compare.fn(toy.params, toy.tree, "staging"), environment="staging")
    promote.fn(toy.tree, register.fn(toy.params, toy.tree, decision, head(toy.tree)).name, "prod", "")
    found = scored(toy, x=[0.1, None])
    assert found["prediction"] == found["probabilities"] == [None, None]
    assert found["reason"] == [
        "not_finite: the model gives probabilities that are no numbers",
        "null: every feature is missing",
    ]


def test_many_batches_lose_no_row(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "ROWS", 300)
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
        ({"y": [1.0]}, "the rows lack x; they have y"),
        ({"x": ["one"]}, "the feature x is 'one', not a number"),
    ],
)
def test_rows_of_another_kind_are_refused_whole(toy: Toy, columns: dict[str, object], message: str) -> None:
    with pytest.raises(CorruptData, match=message):
        scored(toy, **columns)
    assert not (toy.tree / "out.parquet").exists()


def test_nothing_to_score_and_nobody_to_do_it(toy: Toy) -> None:
    with pytest.raises(
        SourceMissing, match=r"there is no file at nowhere; name a parquet file, .* hf://datasets/OWNER"
    ):
        predict.fn(toy.tree, "nowhere", "prod", toy.tree / "out.parquet")
    with pytest.raises(VersionError, match="no version staging"):
        predict.fn(toy.tree, "nowhere", "staging", toy.tree / "out.parquet")
    with pytest.raises(ParamsError, match=r"expected hf://datasets/OWNER/NAME\[@REVISION\]"):
        predict.fn(toy.tree, "hf://datasets/../x?shard=3", "prod", toy.tree / "out.parquet")
    (toy.tree / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorruptData, match=r"cut\.parquet is cut or damaged"):
        predict.fn(toy.tree, "cut.parquet", "prod", toy.tree / "out.parquet")


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
    seen = [(some, arrivals.checked(some, SPEC, CHECKS)[1]) for some in arrivals.read(tmp_path, "photos", SPEC)]
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
    assert found[""] == "image_null: no image"


READ = """
import json, sys
from pathlib import Path
from tasks.data import arrivals
from tasks.data.spec import Spec
from tasks.errors import RatchetError
spec = Spec.parse(json.loads(sys.argv[1]))
for source in sys.argv[2:]:
    try:
        parts = [arrivals.checked(some, spec, arrivals.Checks(10_000, {}))[1] for some in arrivals.read(Path(), source, spec)]
        print(json.dumps([reason for part in parts for reason in part]))
    except RatchetError as error:
        print(json.dumps(f"{type(error).__name__}: {error}"))
"""


def of_hub(files: dict[str, bytes], home: Path, *names: str, up: bool = True) -> list[Any]:
    """What comes of data sets that the client of another process streams from a Hub: reasons by row, or the error."""
    with hub(files) as endpoint:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", READ, json.dumps(asdict(SPEC)), *(arrivals.HUB + name for name in names)]
        if up:
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    if not up:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def on_hub(tmp_path: Path) -> dict[str, bytes]:
    encoded: list[bytes | None] = [png(image[0]) for image in images()[0][:250]]
    encoded[7] = (encoded[7] or b"")[:50]
    parts = {"train": encoded, "test": [*encoded[:20], None]}
    return {
        f"data/{split}-00000-of-00001.parquet": image_file(tmp_path / split, part, ["x"] * len(part)).read_bytes()
        for split, part in parts.items()
    }


def test_a_data_set_of_the_hub_is_streamed(on_hub: dict[str, bytes], tmp_path: Path) -> None:
    asked = (REPOSITORY, f"{REPOSITORY}?split=test", "friends/nobody", f"{REPOSITORY}?split=no")
    both, test, nobody, no_split = of_hub(on_hub, tmp_path / "home", *asked)
    assert (len(both), sum(reason is None for reason in both)) == (271, 268)
    assert [row for row, reason in enumerate(test) if reason] == [7, 20]
    assert test[7].startswith("image_corrupt: ")
    assert test[20] == "image_null: no image"
    assert nobody.startswith("SourceMissing: the input: the Hub has no friends/nobody at its newest commit")
    assert no_split.startswith("CorruptData: friends/toys at its newest commit cannot be read: Bad split: no")
    assert not list((tmp_path / "home").rglob("*.parquet"))


@pytest.mark.long  # the client tries for 23 s
def test_a_hub_that_is_down(on_hub: dict[str, bytes], tmp_path: Path) -> None:
    (said,) = of_hub(on_hub, tmp_path / "home", REPOSITORY, up=False)
    assert said.startswith("Unreachable: the Hub does not answer for friends/toys")


def test_the_flow_scores_what_has_arrived(released: Checkout, tmp_path: Path) -> None:
    inputs, _ = images()
    image_file(tmp_path / "new.parquet", [png(image[0]) for image in inputs[:20]], ["x"] * 20)
    code = (
        "import json, sys; from pathlib import Path; from flows.server import server; from tasks.stage import home\n"
        "with server(home(Path())):\n"
        "    from flows.prediction import prediction\n"
        "    state = prediction(sys.argv[1], sys.argv[2], return_state=True)\n"
        "    print(json.dumps([state.name, state.message]))"
    )
    done = released.run("python", "-c", code, str(tmp_path / "new.parquet"), str(tmp_path / "scored"))
    name, message = json.loads(done.stdout.splitlines()[-1])
    (file,) = (tmp_path / "scored").glob("*.parquet")
    assert (name, message) == ("Scored", f"20 rows (0 bad) scored by v1.0.0 into {file}")
    assert pq.read_metadata(file).num_rows == 20
