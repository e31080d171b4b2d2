from __future__ import annotations

from ratchet.registry import history
from tasks.promote import rollback
from tests.helpers.toy import Toy, tool


def test_what_one_version_comes_from_and_when_it_served(toy: Toy) -> None:
    toy.release("a")
    toy.release("b")
    rollback.fn(toy.tree, "prod", reason="worse on Mondays")
    shown = history.show(toy.tree, "v1.0.0")
    assert (shown.version, shown.reason, shown.withdrawn) == ("v1.0.0", "first version", None)
    assert shown.sources == {"rows": 1}
    assert set(shown.code) == {"code/ingest.py", "code/train.py", "custom"}
    assert shown.params["train"]["seed"] == 0
    assert [(span.action, span.until is None) for span in shown.served] == [
        ("promote", False),
        ("rollback", True),
    ]
    audit = history.spans(toy.registry, "prod")
    assert [(span.version, span.reason, span.by) for span in audit] == [
        ("v1.0.0", "", "Ada"),
        ("v1.0.1", "", "Ada"),
        ("v1.0.0", "worse on Mondays", "Ada"),
    ]
    assert [span.until for span in audit] == [audit[1].since, audit[2].since, None]
    assert history.spans(toy.registry, "staging") == []


def test_how_two_versions_differ(toy: Toy) -> None:
    toy.release("a")
    toy.set("train.epochs", 3)
    toy.write({"code/train.py": "# other\n", "source.lock": '{"rows": 2}\n'})
    toy.commit("Go on")
    toy.release("b", accuracy=0.95, classes=("cat", "dog", "eel"))
    found = history.diff(toy.tree, "v1.0.0", "v2.0.0")
    assert found.params == {"train.epochs": (8, 3)}
    assert found.data == ["source.lock", "data/prepared", "data/raw"]
    assert found.metrics == {"accuracy": (0.9, 0.95)}
    assert found.contract == {"classes": (["cat", "dog"], ["cat", "dog", "eel"])}
    assert found.code == ["code/train.py"]
    assert history.diff(toy.tree, "prod", "v2.0.0").params == {}


def test_dvc_draws_two_versions_together(toy: Toy) -> None:
    toy.release("a")
    toy.release("other weights")
    page = toy.tree / "drawn/index.html"
    tool(
        "dvc",
        "plots",
        "diff",
        "classifier@v1.0.0",
        "classifier@v1.0.1",
        "--out",
        str(page.parent),
        cwd=toy.tree,
    )
    drawn = page.read_text()
    assert "classifier@v1.0.0" in drawn
    assert "classifier@v1.0.1" in drawn
