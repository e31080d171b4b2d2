from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ratchet import load, path
from ratchet.columns import KEEP
from ratchet.errors import CorruptData, CorruptModel, ObjectsMissing, VersionError
from ratchet.gate import decisions, scoring
from ratchet.gate.decisions import Decision
from ratchet.git import git, head
from ratchet.registry.versions import Registry
from ratchet.shards import shards, splits
from ratchet.store import pipeline
from tasks.gate import best_before, gate, gate_versions
from tasks.promote import promote, rollback
from tasks.register import register
from tests.helpers.real import ROW_IDS, lay
from tests.helpers.toy import BIN, Toy


def train(toy: Toy, threshold: float, environment: str = "prod", **run: Any) -> Decision:
    """What the flow does: run, compare, register, promote."""
    lay(toy, threshold, **run)
    decision = gate.fn(toy.params, toy.tree, environment)
    if decision.promotes:
        version = register.fn(toy.params, toy.tree, decision, head(toy.tree))
        promote.fn(toy.tree, version.name, environment, decision.reason)
    return decision


def test_a_better_model_takes_over_and_a_worse_one_does_not(toy: Toy) -> None:
    assert (
        train(toy, 0.2).reason == "first in service: accuracy 0.9000 reaches gate.min_accuracy 0.85"
    )
    worse = train(toy, 0.4)
    assert (worse.verdict, worse.champion, worse.champion_score) == ("refuse", "v1.0.0", 0.9)
    assert worse.reason.startswith(
        "class right (-0.200 on 500 rows) got worse by more than 0.05; worse than the margin"
    )
    assert toy.serves() == "v1.0.0"
    better = train(toy, 0.1)
    assert (better.verdict, better.difference) == ("promote", pytest.approx(0.05))
    assert toy.serves() == "v1.0.1"
    assert decisions.read(toy.tree).to_dict() == better.to_dict()


def test_the_page_says_what_was_decided_and_why(toy: Toy) -> None:
    def page() -> str:
        return (toy.tree / "reports/gate.html").read_text()

    train(toy, 0.2)
    assert "goes into service" in page()
    assert 'id="differences"' not in page()
    train(toy, 0.2)
    assert "v1.0.0" in page()
    assert "is nothing new" in page()
    toy.set("train.lr", 0.1)
    toy.write({"source.lock": '{"rows": 2}\n'})
    decision = train(toy, 0.4)
    for text in (
        "is refused",
        decision.reason[1:],
        "class right",
        "train.lr",
        "<code>source.lock</code>",
        "got worse",
    ):
        assert text in page()
    assert page().count('data-kind="lost"') == 24
    assert 'data-kind="won"' not in page()
    assert "was: right" in page()
    assert "now: left" in page()
    assert toy.serves() == "v1.0.0"
    toy.set("train.lr", 0.2)
    train(toy, 0.1)
    held = git("show", f"{toy.registry.find('prod').commit}:reports/gate.html", cwd=toy.tree)
    assert held.strip() == page().strip()
    assert page().count('data-kind="won"') == 24


def test_the_page_of_another_contract(toy: Toy) -> None:
    train(toy, 0.2)
    decision = train(toy, 0.1, classes=("left", "<b>up</b>"))
    page = (toy.tree / "reports/gate.html").read_text()
    assert decision.verdict == "undecided"
    assert "Classes differ from the champion" in page
    assert "<b>up</b>" not in page


def test_the_first_version_needs_no_torch(toy: Toy) -> None:
    lay(toy, 0.2)
    code = "import runpy, sys; sys.argv = ['gate', 'prod']; runpy.run_module('tasks.gate', run_name='__main__'); "
    done = subprocess.run(
        [BIN / "python", "-c", code + "sys.exit('torch' in sys.modules)"],
        cwd=toy.tree,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == "gate: promote: first in service: accuracy 0.9000 reaches gate.min_accuracy 0.85\n"
    )


@pytest.mark.fault(35)
def test_the_same_weights_are_known_and_a_rollback_stands(toy: Toy) -> None:
    train(toy, 0.2)
    assert train(toy, 0.2).reason == "the same weights as v1.0.0, which serves in prod"
    train(toy, 0.1)
    rollback.fn(toy.tree, "prod")
    again = train(toy, 0.1)
    assert (again.verdict, again.version) == ("known", "v1.0.1")
    assert toy.serves() == "v1.0.0"
    assert train(toy, 0.05).promotes
    assert toy.serves() == "v1.0.2"


@pytest.mark.fault(2)
def test_a_run_cut_off_before_its_promotion_is_completed(toy: Toy) -> None:
    lay(toy, 0.2)
    register.fn(toy.params, toy.tree, gate.fn(toy.params, toy.tree, "prod"), head(toy.tree))
    assert toy.serves() is None
    decision = train(toy, 0.2)
    assert decision.reason.startswith(
        "v1.0.0 was registered and not yet promoted: first in service"
    )
    assert (toy.serves(), len(toy.registry.versions())) == ("v1.0.0", 1)


def test_rows_that_either_was_trained_on_do_not_count(toy: Toy) -> None:
    train(toy, 0.2, trained=range(100))
    decision = train(toy, 0.1, trained=range(50, 150))
    assert (decision.compared, decision.excluded) == (850, 150)
    assert decision.verdict == "promote"


def test_the_split_is_computed_again_where_the_prepared_data_are_gone(toy: Toy) -> None:
    train(toy, 0.2, trained=range(100))
    toy.object(pipeline.of_tree(toy.tree).output("data/prepared").md5).unlink()
    found = scoring.trained(toy.tree, toy.registry.find("prod"))
    prepare = toy.params.prepare
    expected = splits.splits(ROW_IDS, None, (), prepare.val_fraction, prepare.test_fraction)
    assert 600 < len(found) < 900
    assert found == {row_id for row_id, split in zip(ROW_IDS, expected, strict=True) if split == 0}


def test_many_small_steps_down_are_stopped(toy: Toy) -> None:
    toy.set("gate.margin", 0.02)
    verdicts = [train(toy, 0.1 + 0.008 * step).verdict for step in range(8)]
    assert verdicts[:2] == ["promote", "promote"]
    assert "promote" not in verdicts[4:]
    best = toy.registry.find("v1.0.0")
    assert best_before(toy.registry, "prod", toy.registry.find("prod"), "accuracy") == best


class Chain:
    """Versions by name, each with its major number, what its gate recorded, and whether it was withdrawn."""

    def __init__(self, *versions: Any, history: tuple[Any, ...] = ()) -> None:
        self._versions, self._history = versions, history

    def versions(self) -> tuple[Any, ...]:
        return self._versions

    def history(self, environment: str) -> tuple[Any, ...]:
        assert environment == "prod"
        return self._history

    def best(self, metric: str = "accuracy") -> str | None:
        found = best_before(cast("Registry", self), "prod", self._versions[-1], metric)
        return found and found.name


def after(
    champion: str | None, name: str, difference: float | None, low: float = 0.0, **other: Any
) -> Any:
    """A version whose gate compared it with `champion`."""
    judged = {
        "champion": champion,
        "difference": difference,
        "low": low,
        "environment": "prod",
        "metric": "accuracy",
    }
    return SimpleNamespace(
        name=name,
        number=SimpleNamespace(major=other.pop("major", 1)),
        withdrawn=other.pop("withdrawn", None),
        data={"gate": {**judged, **other}},
    )


def test_the_best_version_before_is_found_down_the_chain_of_champions() -> None:
    first, lower = after(None, "v1.0.0", None), after("v1.0.0", "v1.0.1", -0.004)
    assert Chain(first, lower).best() == "v1.0.0"
    assert Chain(first, lower, after("v1.0.1", "v1.0.2", -0.004)).best() == "v1.0.0"
    assert (
        Chain(first, lower, after("v1.0.1", "v1.0.2", 0.01, low=0.001)).best() is None
    )  # it is the best itself
    not_shown = Chain(first, lower, after("v1.0.1", "v1.0.2", 0.01, low=-0.001))
    assert not_shown.best() == "v1.0.0"  # a gain that is not shown does not count
    assert (
        Chain(first, after("v1.0.0", "v1.0.1", 0.0), after("v1.0.1", "v1.0.2", -0.001)).best()
        == "v1.0.0"
    )
    assert Chain(first).best() is None


def test_what_does_not_count_for_the_best_version_before() -> None:
    first, lower = after(None, "v1.0.0", None), after("v1.0.0", "v1.0.1", -0.004)
    assert Chain(first, lower, after("v1.0.1", "v2.0.0", -0.01, major=2)).best() is None
    assert Chain(first, after("v1.0.0", "v1.0.1", -0.004, environment="staging")).best() is None
    assert Chain(first, lower).best("macro_f1") is None
    withdrawn = after(None, "v1.0.0", None, withdrawn="a tag")
    assert Chain(withdrawn, lower).best() is None
    assert Chain(withdrawn, lower, after("v1.0.1", "v1.0.2", -0.001)).best() == "v1.0.1"

    def assigned(counter: int, version: str, action: str, under: int | None = None) -> Any:
        return SimpleNamespace(counter=counter, version=version, action=action, under=under)

    back = (
        assigned(1, "v1.0.0", "promote"),
        assigned(2, "v1.0.1", "promote"),
        assigned(3, "v1.0.0", "rollback"),
    )
    higher = after("v1.0.0", "v1.0.1", 0.02, low=0.01)
    assert Chain(first, higher, after("v1.0.1", "v1.0.2", -0.001)).best() == "v1.0.1"
    assert Chain(first, higher, after("v1.0.1", "v1.0.2", -0.001), history=back).best() is None


def test_slices_of_the_evaluation_are_judged(toy: Toy) -> None:
    train(toy, 0.2)
    lay(toy, 0.1)
    file = toy.tree / "reports/predictions.parquet"
    table = pq.read_table(file)
    said = table["prediction"].to_numpy().copy()
    said[:60] = (
        1 - said[:60]
    )  # the challenger is better on the whole, and has nothing right from the old camera
    table = table.set_column(table.column_names.index("prediction"), "prediction", pa.array(said))
    cameras = pa.array(["old"] * 60 + ["new"] * (len(said) - 60))
    pq.write_table(table.append_column(f"{KEEP}camera", cameras), file)
    toy.lock()
    decision = gate.fn(toy.params, toy.tree, "prod")
    assert [part[:2] for part in decision.slices] == [
        ("class left", 500), ("class right", 500), ("camera=old", 60), ("camera=new", 940)
    ]  # fmt: skip
    assert decision.verdict == "refuse"
    assert "camera=old (-1.000 on 60 rows)" in decision.reason.partition(" got worse")[0]


def test_too_few_rows_and_what_the_params_make_of_it(toy: Toy) -> None:
    train(toy, 0.2)
    assert train(toy, 0.2 - 0.001).verdict == "promote"
    assert train(toy, 0.2 + 0.008).reason.startswith(
        "too few rows to tell, with a margin of 0.005: accuracy -0.0050"
    )
    toy.set("gate.on_undecided", "promote")
    decision = train(toy, 0.2 + 0.008)
    assert (decision.verdict, decision.reason[:38]) == (
        "promote",
        "let through by gate.on_undecided: prom",
    )


def test_a_loss_that_is_shown_is_never_let_through(toy: Toy) -> None:
    train(toy, 0.2)
    toy.set("gate.on_undecided", "promote")
    toy.set("gate.slice_margin", 0.5)
    decision = train(toy, 0.2 + 0.024)  # 12 rows lost, none won
    assert (decision.verdict, decision.reason[:42]) == (
        "worse",
        "seems worse than the margin of 0.005: accu",
    )
    assert "seems worse" in (toy.tree / "reports/gate.html").read_text()
    assert toy.serves() == "v1.0.0"


def test_no_promotion_below_the_floor(toy: Toy) -> None:
    train(toy, 0.2)
    toy.set("gate.min_accuracy", 0.97)  # raised while v1.0.0 serves
    decision = train(toy, 0.1)
    assert decision.verdict == "refuse"
    assert decision.reason.startswith(
        "accuracy 0.9500 is below gate.min_accuracy 0.97, the floor for every promotion (v1.0.0, which is in service, "
        "reached 0.9000 and is below it too); better: accuracy"
    )
    for key in ("on_undecided", "on_new_contract"):
        toy.set(f"gate.{key}", "promote")
    assert train(toy, 0.1, classes=("up", "down")).verdict == "refuse"
    assert train(toy, 0.05).promotes


def test_a_run_cut_off_is_not_promoted_below_a_floor_raised_since(toy: Toy) -> None:
    lay(toy, 0.2)
    register.fn(toy.params, toy.tree, gate.fn(toy.params, toy.tree, "prod"), head(toy.tree))
    toy.set("gate.min_accuracy", 0.95)
    decision = train(toy, 0.2)
    assert (decision.verdict, decision.version) == ("refuse", "v1.0.0")
    assert decision.reason.startswith(
        "accuracy 0.9000 is below gate.min_accuracy 0.95; v1.0.0 was registered"
    )
    assert toy.serves() is None


def test_on_new_contract_alone_lets_a_model_of_other_classes_through(toy: Toy) -> None:
    train(toy, 0.2)
    toy.set("gate.on_new_contract", "promote")
    decision = train(toy, 0.1, classes=("up", "down"))
    assert (decision.verdict, decision.compared) == ("promote", 0)
    assert decision.reason == (
        "the contract differs from v1.0.0's (classes), nothing can be compared (no rows to compare on); let through by "
        "gate.on_new_contract: promote; accuracy 0.9500 reaches gate.min_accuracy 0.85, as for a first version"
    )
    assert toy.serves() == "v2.0.0"


def test_a_new_contract_is_said_and_never_promoted_silently(toy: Toy) -> None:
    train(toy, 0.2)
    decision = train(toy, 0.1, classes=("left", "up"))
    assert (decision.verdict, decision.new_contract, decision.excluded) == (
        "undecided",
        ("classes",),
        500,
    )
    said = "the contract differs from v1.0.0's (classes), compared on what both know; too few rows to tell"
    assert decision.reason.startswith(said)
    toy.set("gate.margin", 0.02)
    said = "the contract differs from v1.0.0's (classes), compared on what both know; not let through by gate.on_new_contract"
    assert train(toy, 0.1, classes=("left", "up")).reason.startswith(said)
    toy.set("gate.on_new_contract", "promote")
    train(toy, 0.1, classes=("left", "up"))
    assert toy.serves() == "v2.0.0"


def test_a_model_of_other_inputs_is_compared_on_what_the_champion_can_read(toy: Toy) -> None:
    train(toy, 0.2)
    toy.set("gate.margin", 0.02)
    decision = train(toy, 0.1, inputs=("x", "y"))
    assert (decision.verdict, decision.new_contract, decision.compared) == (
        "undecided",
        ("input_shape", "features"),
        1000,
    )
    said = "the contract differs from v1.0.0's (input_shape, features), compared on what both know; not let through by "
    assert decision.reason.startswith(said)
    train(toy, 0.2)
    toy.set("gate.on_new_contract", "promote")
    train(toy, 0.1, inputs=("x", "y"))
    assert toy.serves() == "v2.0.0"
    decision = train(toy, 0.05)  # back to one: the champion can't answer rows without y
    assert decision.reason.startswith(
        "the contract differs from v2.0.0's (input_shape, features), nothing can be compared (v2.0.0 can't answer these "
        "rows: the rows lack y"
    )
    assert decision.reason.endswith(
        "let through by gate.on_new_contract: promote; accuracy 0.9750 reaches gate.min_accuracy 0.85, as for a first "
        "version"
    )


def test_a_champion_that_gives_no_numbers_is_named(toy: Toy) -> None:
    toy.set("gate.min_accuracy", 0.0)
    train(toy, float("nan"))
    with pytest.raises(
        CorruptModel,
        match=r"v1\.0\.0 gives probabilities that are not finite; for details, run `ratchet verify v1\.0\.0`",
    ):
        train(toy, 0.2)


def test_a_challenger_whose_loss_is_not_finite_is_refused(toy: Toy) -> None:
    train(toy, 0.2)
    lay(toy, 0.1)
    file = toy.tree / "reports/metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "loss": float("nan")}))
    toy.lock()
    decision = gate.fn(toy.params, toy.tree, "prod")
    assert (decision.verdict, decision.reason) == ("refuse", "its loss is not finite")


@pytest.mark.parametrize(("format", "moves"), [(1, False), (2, True)])
def test_before_format_2_no_row_moved_for_its_class(
    tmp_path: Path, format: int, moves: bool
) -> None:
    """Three rows of a class that the hash alone keeps out of training."""
    hashed = splits.splits(ROW_IDS, None, (), 0.1, 0.1)
    rare = [row_id for row_id, split in zip(ROW_IDS, hashed, strict=True) if split == 2][:3]
    others = [row_id for row_id, split in zip(ROW_IDS, hashed, strict=True) if split == 0][:50]
    table = pa.table({"row_id": [*rare, *others], "label": ["rare"] * 3 + ["often"] * 50})
    shards.write(tmp_path / "shard-00000.parquet", iter([table]))
    listed = [{"file": "shard-00000.parquet", "rows": 53, "sha256": "", "source": 0}]
    content = {"kind": "features", "features": [], "shards": listed, "format": format}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    trained = scoring._split_again(shards.Shards.open(tmp_path), {}, 0.1, 0.1)
    assert trained & {*rare} if moves else trained == {*others}


def test_comparing_two_versions_by_hand(toy: Toy) -> None:
    train(toy, 0.2)
    train(toy, 0.1)
    lay(toy, 0.7)
    found = gate_versions(toy.params, toy.tree, "v1.0.0", "v1.0.1")
    assert (found.verdict, found.champion_score, found.challenger_score) == ("promote", 0.9, 0.95)
    assert gate_versions(toy.params, toy.tree, "v1.0.1", "v1.0.0").verdict == "refuse"
    assert not decisions.read(toy.tree).reason.startswith("worse")


def test_nothing_to_compare(toy: Toy) -> None:
    with pytest.raises(
        VersionError,
        match=r"metrics\.json is missing, so there is nothing to compare; make it with",
    ):
        gate.fn(toy.params, toy.tree, "prod")


def test_a_champion_whose_objects_are_gone(toy: Toy) -> None:
    train(toy, 0.2)
    champion = toy.registry.find("prod")
    toy.object(
        pipeline.of_commit(toy.tree, champion.commit).output("models/classifier.pt").md5
    ).unlink()
    with pytest.raises(ObjectsMissing, match=r"models/classifier\.pt: not in DVC's cache"):
        train(toy, 0.1)


def test_loading_from_python(toy: Toy) -> None:
    train(toy, 0.2)
    model = load("prod", toy.tree)
    assert not model.training
    assert model.card.classes == ["left", "right"]
    assert model(torch.tensor([[0.1], [0.3]])).argmax(dim=1).tolist() == [0, 1]
    weights = path("v1.0.0", toy.tree)
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CorruptData, match=r"models/classifier\.pt: .* does not match its hash"):
        load("prod", toy.tree)


OWN = """\
from torch import nn

from custom.helper import {name}

def Line(input_shape, classes):
    return nn.Sequential(nn.Flatten(), {name}(input_shape[0], classes))
"""


def test_a_model_of_custom_comes_from_its_own_commit(toy: Toy) -> None:
    toy.write(
        {
            "custom/own.py": OWN.format(name="Layer"),
            "custom/helper.py": "from torch.nn import Linear as Layer\n",
        }
    )
    toy.commit("Write a model")
    train(toy, 0.2, model="custom.own:Line")
    toy.write({"custom/own.py": "raise SystemExit('the code of the branch was run')\n"})
    assert load("prod", toy.tree)(torch.tensor([[0.1], [0.3]])).argmax(dim=1).tolist() == [0, 1]
    assert "custom.own" not in sys.modules


def test_importing_the_gate_brings_no_torch() -> None:
    code = "import sys, tasks.gate, tasks.register; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
