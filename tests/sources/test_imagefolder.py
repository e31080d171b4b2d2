"""Folders of image files: which folders are splits and classes, and what is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.errors import CorruptData, DataError, SourceMissing
from ratchet.shards.shards import Shards
from ratchet.source_params import ImageFolderSource
from ratchet.sources import imagefolder
from ratchet.sources.base import Places
from ratchet.sources.skipped import Skipped
from tasks.ingest import ingest
from tasks.refresh import refresh
from tests.helpers.data_samples import REPOSITORY, image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]

PICTURE = pictures(1)[0]
SOURCE = {"type": "imagefolder", "path": "photos"}


def lay(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE)


def read(root: Path) -> tuple[set[tuple[str | None, str]], str]:
    """The (split, class) pairs of the source, and what refresh says about it."""
    source = ImageFolderSource(type="imagefolder", path="photos")
    places = Places(root, root)
    entry = imagefolder.resolve(source, places)
    parts = imagefolder.parts(source, entry, places)
    (note,) = places.notes
    return {(part.detail.get("split"), part.detail["label"]) for part in parts}, note


def each(tops: str, classes: str = "cat dog") -> list[str]:
    """Two images in each class of each folder."""
    names = [
        f"{top}/{name}/{number}.png"
        for top in tops.split()
        for name in classes.split()
        for number in (1, 2)
    ]
    return [f"photos/{name}" for name in names]


PLAIN = {(None, "cat"), (None, "dog")}


def splits(*names: str) -> set[tuple[str | None, str]]:
    return {(name, label) for name in names for label in ("cat", "dog")}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (each("cat dog", "."), PLAIN),
        (each("train val test"), splits("train", "val", "test")),
        (each("train valid test"), splits("train", "val", "test")),  # roboflow/roboflow-python#153
        (
            each("train validation test"),
            splits("train", "val", "test"),
        ),  # huggingface/datasets#4895
        (each("train val"), splits("train", "val")),  # huggingface/datasets#4839
        (each("training dev testing"), splits("train", "val", "test")),
        (each("Train TEST"), splits("train", "test")),
        (each("TRAINING Eval"), splits("train", "test")),
        (each("train"), splits("train")),
        ([*each("train test"), "photos/__MACOSX/train/cat/._1.png"], splits("train", "test")),
        (
            [*each("train test"), "photos/annotations/1.xml", "photos/README.txt"],
            splits("train", "test"),
        ),
        ([*each("cat dog", "."), "photos/cat/2021/summer/3.png"], PLAIN),
        (each("cat dog", "images"), PLAIN),
        (["photos/cat/2020/1.png", "photos/cat/2021/1.png", "photos/dog/2022/1.png"], PLAIN),
        ([*each("cat dog", "."), "photos/.ipynb_checkpoints/1.png"], PLAIN),  # pytorch/vision#2831
        ([*each("cat dog", "."), "photos/.DS_Store"], PLAIN),  # pytorch/vision#109
        (each("cat training-set", "."), {(None, "cat"), (None, "training-set")}),
        (each("0 007", "."), {(None, "0"), (None, "007")}),
        (each("größe it's", "."), {(None, "größe"), (None, "it's")}),
    ],
)
def test_a_tree_with_one_reading(tmp_path, names, expected):
    lay(tmp_path, *names)
    assert read(tmp_path)[0] == expected


TWO = r"photos can be read in two ways: "


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            each("train test extra"),
            TWO
            + r"as the splits test, train beside other folders \(extra\), or as the classes extra, test, train; "
            r"move extra out of photos to get the splits, or rename test, train to get the classes",
        ),
        (
            each("cat dog test", "."),
            TWO + r"as the splits test beside other folders \(cat, dog\)",
        ),  # fastai/fastai#1552
        (
            each("bus car train", "."),
            TWO + r"as the splits train beside other folders \(bus, car\)",
        ),
        (
            each("train test", "."),
            TWO + r".*of which test, train has no folders",
        ),  # huggingface/datasets#7880
        (
            [*each("train"), *each("test", ".")],
            TWO + r"as the splits test, train, of which test has no folders",
        ),
        (
            each("train val valid"),
            TWO + r"the folders val, valid as one split \(val\), or as different ones",
        ),
        (each("Train train"), TWO + r"the folders Train, train as one split \(train\)"),
        (
            each("cat dog", "train test"),
            TWO + r"as classes that contain splits \(CLASS/SPLIT, in cat, dog\)",
        ),
        (each("train", "train test"), TWO),
        (
            each("train_set test_set"),
            TWO
            + r"as the classes test_set, train_set, or as splits or groups \(test_set, train_set\) that hold the "
            r"classes cat, dog; move the images out of the inner folders to get the former, or rename the outer folders",
        ),
        (each("2020 2021"), TWO + r"as the classes 2020, 2021, or as splits or groups"),
        (
            [*each("amazon dslr"), "photos/amazon/bird/1.png"],
            TWO + r"as the classes amazon, dslr, or",
        ),
        (each("COVID Normal", "images masks"), TWO + r".* that hold the classes images, masks"),
        (
            [
                "photos/seg_train/seg_train/sea/1.png",
                "photos/seg_test/seg_test/sea/1.png",
                "photos/seg_pred/1.png",
            ],
            TWO + r".*or as splits or groups \(seg_test, seg_train\)",
        ),
        (
            ["photos/train2017/cat/1.png", "photos/val2017/dog/1.png"],
            TWO + r".*\(train2017, val2017\)",
        ),
        (
            each("dataset", "train test"),
            r"photos holds the single folder dataset, which is either a class or .* \(test, train\); "
            r"set the path to photos/dataset, or move",
        ),
        (
            each("animals"),
            r"photos holds the single folder animals.* set the path to photos/animals",
        ),
        (
            ["photos/1.png", "photos/2.png"],
            r"the 2 images at photos are not in folders; move each into a folder named",
        ),
        (
            ["photos/notes.txt"],
            r"no image in a class's folder at photos \(skipped 1: 1 suffix \(notes.txt\)\)",
        ),
        ([], r"there is no folder photos; create it, or correct the path"),
    ],
)
def test_a_tree_with_two_readings_or_none_is_refused(tmp_path, names, message):
    lay(tmp_path, *names)
    with pytest.raises(DataError, match=message) as raised:
        read(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_data_set_in_a_further_folder_is_read_with_the_path_that_the_message_names(tmp_path):
    lay(tmp_path, *each("dataset", "train/cat train/dog test/cat test/dog"))
    with pytest.raises(CorruptData, match="set the path to photos/dataset"):
        read(tmp_path)
    (tmp_path / "photos/dataset").rename(tmp_path / "inner")
    (tmp_path / "photos").rmdir()
    (tmp_path / "inner").rename(tmp_path / "photos")
    assert read(tmp_path)[0] == splits("train", "test")


# ── what is skipped ───────────────────────────────────────────────────────────────────────────────


def odd(root: Path, kind: str) -> None:
    """One file of a kind that is not read."""
    folder = root / "photos/cat"
    match kind:
        case "suffix":
            (folder / "notes.txt").write_text("x")
        case "hidden file":
            (folder / "._1.png").write_bytes(PICTURE)
        case "hidden folder":
            lay(root, "photos/.git/1.png")
        case "link out":
            (root / "secret.png").write_bytes(PICTURE)
            (folder / "out.png").symlink_to(root / "secret.png")
        case "broken link":
            (folder / "gone.png").symlink_to(folder / "nothing.png")
        case "loop":
            (folder / "loop.png").symlink_to(folder / "loop.png")
        case "linked folder":
            (root / "photos/more").symlink_to(folder)
        case "pipe":
            os.mkfifo(folder / "pipe.png")
        case "not UTF-8":
            Path(os.fsdecode(bytes(folder) + b"/caf\xe9.png")).write_bytes(PICTURE)
        case "class not UTF-8":
            place = Path(os.fsdecode(bytes(root) + b"/photos/caf\xe9"))
            place.mkdir()
            (place / "1.png").write_bytes(PICTURE)
        case "in the root":
            lay(root, "photos/1.png")
        case "large":
            with (folder / "large.png").open("wb") as file:
                file.truncate(imagefolder.FILE_BYTES + 1)
        case "heic":
            lay(root, "photos/cat/1.HEIC")
        case "postscript":
            (folder / "1.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("suffix", "1 suffix (cat/notes.txt)"),
        ("hidden file", "1 hidden (cat/._1.png)"),
        ("hidden folder", "1 hidden (.git/)"),
        ("link out", "1 link (cat/out.png)"),
        ("broken link", "1 link (cat/gone.png)"),
        ("loop", "1 link (cat/loop.png)"),
        ("linked folder", "1 link (more/)"),
        ("pipe", "1 unreadable (cat/pipe.png)"),
        ("not UTF-8", r"1 name not UTF-8 (cat/caf\udce9.png)"),
        ("class not UTF-8", r"1 name not UTF-8 (caf\udce9/1.png)"),
        ("in the root", "1 not in a class folder (1.png)"),
        ("large", "1 over 128 MiB (cat/large.png)"),
        ("postscript", "1 suffix (cat/1.eps)"),
        (
            "heic",
            "1 HEIC without the extra `heif` (pip install -c constraints.txt -e '.[heif]') (cat/1.HEIC)",
        ),
    ],
)
def test_a_file_that_is_not_read_is_counted_with_its_reason(tmp_path, monkeypatch, kind, line):
    lay(tmp_path, *each("cat dog", "."))
    if kind == "heic":
        monkeypatch.setattr(imagefolder.images, "suffixes", lambda: {".png"})
    odd(tmp_path, kind)
    found, note = read(tmp_path)
    assert found == PLAIN
    assert note == f"photos: 4 images in 2 classes; skipped 1: {line}"
    note.encode()


def test_heic_and_avif_files_are_read_where_pillow_can(tmp_path):
    pytest.importorskip("pillow_heif")
    lay(tmp_path, *each("cat dog", "."), "photos/cat/3.HEIC", "photos/cat/4.avif")
    assert read(tmp_path)[1] == "photos: 6 images in 2 classes"


def test_a_summary_names_splits_and_counts_by_reason(tmp_path):
    lay(
        tmp_path,
        *each("valid train"),
        "photos/train/9.png",
        "photos/README.txt",
        "photos/data.yaml",
    )
    assert read(tmp_path)[1] == (
        "photos: 8 images in 2 classes, splits train, val; "
        "skipped 3: 1 not in a class folder (train/9.png), 2 suffix (README.txt, ...)"
    )
    assert str(Skipped()) == ""


@pytest.fixture
def as_a_user() -> Iterator[Path]:
    """A folder of a user that is not root, who reads everything: the test runs as that user."""
    with tempfile.TemporaryDirectory(prefix="ratchet-") as name:
        if os.geteuid() == 0:
            nobody = 65534
            os.chown(name, nobody, nobody)
            os.seteuid(nobody)
        try:
            yield Path(name)
        finally:
            os.seteuid(os.getuid())


def test_an_unreadable_file_and_folder_are_counted(as_a_user: Path) -> None:
    lay(as_a_user, *each("cat dog", "."), "photos/cat/3.png", "photos/bird/1.png")
    (as_a_user / "photos/cat/3.png").chmod(0)
    (as_a_user / "photos/bird").chmod(0)
    try:
        assert read(as_a_user)[1].endswith("skipped 2: 2 unreadable (bird, ...)")
    finally:
        (as_a_user / "photos/bird").chmod(0o755)


NAMES = [
    'a"b.png',
    "a'b.png",
    "a b.png",
    "a\nb.png",
    "a\tb.png",
    "..png",
    "a..png",
    "x" * 250 + ".png",
    "#?*.PNG",
    "ä.jpeg",
]


@pytest.mark.fault(43)
def test_odd_names_are_read_from_refresh_to_shard(configured, tree):
    lay(
        tree, *(f"photos/{label}/{name}" for label in ("cat", "it's 5\" (new)\n") for name in NAMES)
    )
    params = configured(SOURCE)
    refresh.fn(params, tree)
    ingest.fn(params, tree)
    shards = Shards.open(tree / "data/raw")
    rows = [row for shard in shards for table in shard.batches() for row in table.to_pylist()]
    hidden = [name for name in NAMES if name.startswith(".")]
    assert len(rows) == 2 * (len(NAMES) - len(hidden))
    assert {row["image"]["path"] for row in rows} == {
        f"{label}/{name}"
        for label in ("cat", "it's 5\" (new)\n")
        for name in NAMES
        if name not in hidden
    }


@pytest.mark.fault(40)
def test_a_name_that_is_not_utf_8_does_not_stop_refresh(configured, tree):
    lay(tree, *each("cat dog", "."))
    odd(tree, "not UTF-8")
    result = refresh.fn(configured(SOURCE), tree)
    assert any(r"caf\udce9.png" in line for line in result["summary"])
    assert len(result["sources"][0]["files"]) == 4


def test_a_skipped_file_does_not_change_what_is_pinned(configured, tree):
    lay(tree, *each("cat dog", "."))
    params = configured(SOURCE)
    refresh.fn(params, tree)
    for kind in ("suffix", "hidden file", "link out", "not UTF-8"):
        odd(tree, kind)
    assert refresh.fn(params, tree)["changed"] is False


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_files_beside_tables_are_counted(configured, tree, kind, parquet):
    folder = tree / "tables"
    folder.mkdir()
    if kind == "csv":
        (folder / "a.csv").write_text("x,y\n1,a\n2,b\n")
        source = {"type": "csv", "path": "tables", "label": "y", "features": ["x"]}
    else:
        image_file(folder / "a.parquet", pictures(2), ["a", "b"])
        source = parquet("tables")
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden").write_text("x")
    result = refresh.fn(configured(source), tree)
    assert "tables: skipped 2: 1 hidden (.hidden), 1 suffix (notes.txt)" in result["summary"]


def test_the_command_prints_what_it_skips(tree):
    """Through the process that users start, with its output as it is."""
    lay(tree, *each("cat dog", "."))
    odd(tree, "not UTF-8")
    code = (
        "from pathlib import Path; from ratchet.sources import imagefolder; "
        "from ratchet.sources.base import Places; from ratchet.source_params import ImageFolderSource; "
        "places = Places(Path(), Path()); "
        "imagefolder.resolve(ImageFolderSource(type='imagefolder', path='photos'), places); print(*places.notes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert r"skipped 1: 1 name not UTF-8 (cat/caf\udce9.png)" in done.stdout, done.stderr


def test_no_image_at_all_says_what_was_skipped(tmp_path):
    lay(tmp_path, "photos/cat/1.txt", "photos/cat/.2.png")
    with pytest.raises(
        SourceMissing, match=r"skipped 2: 1 hidden \(cat/.2.png\), 1 suffix \(cat/1.txt\)"
    ):
        read(tmp_path)
