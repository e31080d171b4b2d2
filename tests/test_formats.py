"""Stored files and versions of every format number, as the code of their time wrote them, read by today's."""

from __future__ import annotations

import json
import logging
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ratchet import formats, load
from ratchet.dataset import spec
from ratchet.dataset.spec import Spec
from ratchet.errors import CorruptModel, VersionError
from ratchet.formats import Format
from ratchet.gate import decisions
from ratchet.git import git, head
from ratchet.models import card
from ratchet.models.card import Card
from ratchet.registry import tags
from ratchet.registry.versions import Registry
from ratchet.shards import shards
from ratchet.sources import source_lock
from ratchet.validation.drift import drift
from tasks import check_data
from tasks.gate import gate
from tasks.predict import predict
from tasks.promote import promote, rollback
from tasks.register import register
from tests.conftest import ROOT
from tests.helpers.real import lay
from tests.helpers.toy import Toy

GOLDEN = ROOT / "tests/golden"
Content = dict[str, Any]


def read_card(content: Content, tree: Path) -> object:
    return Card.read(written(content, tree / "card.json"))


def read_spec(content: Content, tree: Path) -> object:
    return Spec.read(written(content, tree / "spec.json"))


def read_dataset(content: Content, tree: Path) -> object:
    found = shards.Shards.open(written(content, tree / shards.DATASET).parent)
    return (
        found.kind,
        found.format,
        list(found),
        found.source_splits(),
        found.info["features"],
        found.info["rows"],
    )


def read_lock(content: Content, tree: Path) -> object:
    written(content, tree / source_lock.FILE)
    return source_lock.previous(tree)


def read_gate(content: Content, tree: Path) -> object:
    written(content, tree / decisions.FILE)
    return decisions.read(tree)


def read_validation(content: Content, tree: Path) -> object:
    formats.VALIDATION.of(content, "the report")
    return drift(content, content, 0.5, 0.001, 0.02).rows


def read_version(content: Content, tree: Path) -> object:
    tag = tags.Tag(
        "classifier@v1.0.1",
        "0" * 40,
        "1" * 40,
        0,
        "Ada",
        f"Subject\n\n{json.dumps(content, indent=1)}\n",
    )
    assert tag.data["weights_sha256"]
    return tag.data.get("gate")


def read_assignment(content: Content, tree: Path) -> object:
    message = f"Subject\n\n{json.dumps(content, indent=1)}\n"
    made = Registry.assigned(tags.Tag("classifier#prod#3", "0" * 40, "1" * 40, 0, "Ada", message))
    return made.action, made.version, made.automatic


def read_drift(content: Content, tree: Path) -> object:
    return check_data.FORMAT.of(content, "drift.json")


# kind: how it is read, its format, and the fields that reading takes
KINDS: dict[str, tuple[Callable[[Content, Path], object], Format, tuple[str, ...]]] = {
    "card": (read_card, card.FORMAT, card.REQUIRED),
    "spec": (read_spec, spec.FORMAT, (*spec.REQUIRED, "features")),
    "dataset": (read_dataset, shards.FORMAT, (*shards.REQUIRED, "features")),
    "lock": (read_lock, source_lock.FORMAT, ("sources",)),
    "gate": (read_gate, decisions.FORMAT, decisions.REQUIRED),
    "validation": (read_validation, formats.VALIDATION, ()),
    "version": (read_version, tags.FORMAT, ("weights_sha256",)),
    "assignment": (read_assignment, tags.FORMAT, ("version",)),
    "drift": (read_drift, check_data.FORMAT, ()),
}
FILES = sorted(path.name for path in GOLDEN.glob("*.[0-9].json"))


def written(content: Content, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def golden(name: str) -> Content:
    return dict(json.loads((GOLDEN / name).read_text()))


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_so_far_has_a_golden_file(kind: str) -> None:
    numbers = range(1, KINDS[kind][1].number + 1)
    assert all(f"{kind}.{number}.json" in FILES for number in numbers)


@pytest.mark.fault(42)
@pytest.mark.parametrize("name", FILES)
def test_files_of_every_number_are_read(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind, number, _ = name.split(".")
    content, (read, form, required) = golden(name), KINDS[kind]
    assert content.get("format", 1) == int(number) == form.of(content, name)
    result = read(content, tmp_path)
    assert read({**content, "later": {"a": 1}}, tmp_path) == result, "an unknown field"
    for field in sorted(content.keys() - {*required, "format"}):
        read({key: value for key, value in content.items() if key != field}, tmp_path)
    assert not caplog.records


@pytest.mark.fault(42)
@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_number_is_read_with_one_warning_or_refused(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    formats.warn.cache_clear()
    read, form, _ = KINDS[kind]
    content = golden(f"{kind}.{form.number}.json") | {"format": form.number + 1, "later": [1]}
    with caplog.at_level(logging.WARNING):
        assert read(content, tmp_path) == read(content, tmp_path) or kind == "drift"
    (record,) = caplog.records
    assert f"format {form.number + 1}" in record.message
    assert f"knows format {form.number} and" in record.message
    if kind == "lock":
        assert source_lock.previous(tmp_path)
        written({**content, "needs_format": form.number + 1}, tmp_path / source_lock.FILE)
        assert source_lock.previous(tmp_path) == []
        return
    with pytest.raises(
        form.error,
        match=rf"has format {form.number + 1} .*reads format {form.number}.*upgrade Ratchet",
    ):
        read({**content, "needs_format": form.number + 1}, tmp_path)


@pytest.mark.parametrize("kind", ["card", "spec", "dataset", "gate"])
def test_what_reading_takes_is_asked_for_by_name(kind: str, tmp_path: Path) -> None:
    read, form, required = KINDS[kind]
    for field in required:
        content = golden(f"{kind}.{form.number}.json")
        del content[field]
        with pytest.raises(form.error, match=f"lacks {field}"):
            read(content, tmp_path)
        with pytest.raises(
            form.error,
            match=rf"format {form.number + 1} .*reads format {form.number}.*lacks {field}",
        ):
            read({**content, "format": form.number + 1}, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("architecture", {}), ("architecture", []), ("params", {}), ("spec", 3), ("format", "1")],
)
def test_a_card_of_other_kinds_is_one_typed_error(key: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"card\.json does not hold"):
        read_card(golden("card.1.json") | {key: value}, tmp_path)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A repository whose versions v1.0.0 (in service) and v1.0.1 an old Ratchet registered, then today's params."""
    tree = tmp_path / "old"
    subprocess.check_call(
        ["git", "clone", "--quiet", "--branch", "main", GOLDEN / "format1.bundle", tree]
    )
    git("remote", "remove", "origin", cwd=tree)
    git("config", "user.name", "Bob", cwd=tree)
    git("config", "user.email", "bob@localhost", cwd=tree)
    with tarfile.open(GOLDEN / "format1.tar.xz") as archive:
        archive.extractall(tree, filter="data")
    return tree


@pytest.mark.fault(42)
def test_versions_of_the_first_format_load_predict_are_gated_promoted_and_rolled_back(
    old: Path,
) -> None:
    registry = Registry(old)
    assert [version.name for version in registry.versions()] == ["v1.0.1", "v1.0.0"]
    assert [each.action for each in registry.history("prod")] == ["promote", "promote", "rollback"]

    x, y = np.linspace(-0.9, 0.9, 41), np.full(41, 500.0)
    with torch.no_grad():
        model = load("prod", old)
        inputs = (np.stack([x, y], axis=1) - model.card.spec["mean"]) / model.card.spec["std"]
        outputs = model(torch.tensor(inputs, dtype=torch.float32))
    sides = np.array(["left", "right"])[outputs.argmax(1)]
    assert (sides == np.where(x > 0, "right", "left")).mean() > 0.9
    pq.write_table(pa.table({"x": [*x, 7.0], "y": [*y, 1.0]}), old / "new.parquet")
    predict.fn(old, "new.parquet", "prod", old / "out.parquet")
    scored = pq.read_table(old / "out.parquet").to_pydict()
    assert scored["prediction"] == [*sides, None]
    assert scored["reason"][-1] == "out_of_range: x is 7.0"

    toy = Toy(old)
    assert promote.fn(old, "v1.0.1", "prod", "").changed
    assert toy.serves() == "v1.0.1"
    rollback.fn(old, "prod")
    assert toy.serves() == "v1.0.0"

    lay_today(toy)
    decision = gate.fn(toy.params, old, "prod")
    assert (decision.champion, decision.compared, decision.verdict) == ("v1.0.0", 1000, "promote")
    assert decision.new_contract == () and 0.9 < (decision.champion_score or 0) < 1
    version = register.fn(toy.params, old, decision, head(old))
    promote.fn(old, version.name, "prod", "")
    assert (toy.serves(), version.data["format"]) == (version.name, tags.FORMAT.number)
    rollback.fn(old, "prod")
    assert toy.serves() == "v1.0.0"


def lay_today(toy: Toy) -> None:
    """Leave a run of today's with the inputs of the old versions."""
    from tests.helpers.toy import GRAPH, IGNORED

    git("rm", "-r", "-q", "--cached", ".", cwd=toy.tree)
    toy.write({"dvc.yaml": GRAPH, ".gitignore": IGNORED})
    toy.write({f"code/{name}.py": f"# {name}\n" for name in ("ingest", "train")})
    lay(toy, 0.001, inputs=("x", "y"))
    toy.commit("Upgrade Ratchet")


def test_rules_of_other_ratchets_are_read(old: Path) -> None:
    from ratchet.prediction import version_params

    checks = version_params.checks(
        "v1.0.0",
        {"columns": {"x": {"min": -1.0}, "y": {"max": 2.0, "dtype": None, "pattern": "a"}}},
    )
    assert (checks.columns["x"].min, checks.columns["x"].nullable, checks.columns["y"].max) == (
        -1.0,
        True,
        2.0,
    )
    with pytest.raises(
        VersionError, match=r"validate.columns.x of v1.0.0 cannot be understood: .*dtype"
    ):
        version_params.checks("v1.0.0", {"columns": {"x": {"dtype": "date"}}})
