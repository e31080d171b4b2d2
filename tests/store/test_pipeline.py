"""What is read from dvc.lock and from the listings of folders, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ruamel.yaml import YAML

from ratchet.errors import CorruptData, VersionError
from ratchet.store import pipeline
from ratchet.store.cache import listing
from tests.helpers.toy import Toy

MD5 = "0123456789abcdef" * 2


def lock(toy: Toy) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(toy.tree / "dvc.lock")
    return content


def entry(content: dict[str, Any], kind: str, path: str) -> dict[str, Any]:
    (found,) = (one for one in content["stages"]["train"][kind] if one["path"] == path)
    return found  # type: ignore[no-any-return]


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("kind", "path", "change"),
    [
        ("outs", "models/classifier.pt", lambda one: one.pop("size")),
        ("outs", "models/classifier.pt", lambda one: one.update(size="12")),
        ("outs", "models/classifier.pt", lambda one: one.update(md5=one["md5"][:-1])),
        ("outs", "models/classifier.pt", lambda one: one.update(md5=one["md5"][:-1] + "G")),
        ("outs", "models/classifier.pt", lambda one: one.update(md5="../" * 10 + "ab")),
        ("outs", "models/classifier.pt", lambda one: one.update(md5=one["md5"] + "\n")),
        ("outs", "models/classifier.pt", lambda one: one.pop("md5")),
        ("outs", "models/classifier.pt", lambda one: one.update(path="models/other.pt")),
        ("deps", "code/train.py", lambda one: one.pop("size")),
        ("deps", "code/train.py", lambda one: one.update(md5="")),
        ("deps", "data/raw", lambda one: one.update(md5=one["md5"][:-1])),
    ],
)
def test_an_entry_that_is_not_complete_is_named(
    toy: Toy, kind: str, path: str, change: Callable[[dict[str, Any]], object]
) -> None:
    toy.run("a")
    content = lock(toy)
    change(entry(content, kind, path))
    with (toy.tree / "dvc.lock").open("w") as file:
        YAML().dump(content, file)
    with pytest.raises(VersionError, match=rf"dvc\.lock in .* lacks {path} of stage train"):
        pipeline.of_tree(toy.tree)
    known = pipeline.of_tree(toy.tree, complete=False)
    assert path not in (
        {output.path for output in known.outputs} if kind == "outs" else known.inputs
    )


def test_what_dvc_writes_is_read(toy: Toy) -> None:
    toy.run("weights")
    read = pipeline.of_tree(toy.tree)
    outputs = {output.path: output for output in read.outputs}
    weights = outputs["models/classifier.pt"]
    assert (weights.size, weights.stage, weights.cached, weights.pushed) == (7, "train", True, True)
    assert not weights.is_folder and outputs["data/raw"].is_folder
    assert (outputs["data/prepared"].cached, outputs["data/prepared"].pushed) == (True, False)
    assert (outputs["reports/metrics.json"].cached, outputs["reports/metrics.json"].pushed) == (
        False,
        False,
    )
    assert sorted(read.inputs) == ["code/ingest.py", "code/train.py", "custom", "source.lock"]
    assert sorted(read.code) == ["code/ingest.py", "code/train.py", "custom"]
    assert set(read.params["train"]) == {"prepare", "train", "validate"}
    with pytest.raises(VersionError, match=r"dvc\.yaml has no output models/other\.pt"):
        read.output("models/other.pt")


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    "relpath",
    [
        "../x",
        "/x",
        "a/../../x",
        "a/..",
        ".git/hooks/x",
        "a/.git/x",
        "a\\b",
        "a\0b",
        "a//b",
        "./a",
        "",
        "a/",
    ],
)
def test_a_listing_that_leaves_its_folder(relpath: str) -> None:
    content = json.dumps(
        [{"relpath": "fine", "md5": MD5}, {"relpath": relpath, "md5": MD5}]
    ).encode()
    with pytest.raises(CorruptData, match="which is not a path inside it; nothing was written"):
        listing(content, "data/raw")


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    "md5", ["", MD5[:-1], MD5 + "0", MD5.upper(), MD5 + ".dir", "../" * 11, MD5[:-1] + "/"]
)
def test_a_listing_with_something_else_than_an_md5(md5: str) -> None:
    with pytest.raises(CorruptData):
        listing(json.dumps([{"relpath": "a", "md5": md5}]).encode(), "data/raw")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'[{"relpath": "a"}]', b"\xff"])
def test_what_is_not_a_listing(content: bytes) -> None:
    with pytest.raises(CorruptData, match="data/raw: its listing is not one that DVC writes"):
        listing(content, "data/raw")


def test_a_listing_is_read() -> None:
    content = json.dumps(
        [{"relpath": "a/b c", "md5": MD5}, {"relpath": "..a", "md5": MD5}]
    ).encode()
    assert listing(content, "data/raw") == {"a/b c": MD5, "..a": MD5}
