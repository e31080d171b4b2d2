"""The page: everything in it, nothing fetched, nothing taken for markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ratchet.evaluation import metrics, report
from ratchet.models.card import Card
from tasks.evaluate import evaluate
from tests.helpers.learning_samples import Trainer, chosen

pytest_plugins = ["tests.helpers.learning_fixtures"]


class Page(HTMLParser):
    """What a page links to and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str, name: str) -> list[str]:
        return [values[name] or "" for each, values in self.tags if each == tag and name in values]


@pytest.fixture
def page(pictured: Path, trained: Trainer) -> str:
    trained(pictured)
    evaluate.fn(chosen(evaluate__worst=5), pictured)
    return (pictured / "reports/report.html").read_text()


def test_it_is_one_file_that_fetches_nothing(page: str) -> None:
    read = Page(page)
    links = [
        *read.all("img", "src"),
        *read.all("link", "href"),
        *read.all("script", "src"),
        *read.all("a", "href"),
    ]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", page)


def test_it_shows_what_there_is_to_see(page: str) -> None:
    read = Page(page)
    sections = ["curves", "confusion", "classes", "reliability", "mistakes", "data"]
    assert [name for name in read.all("h2", "id") if name != "slices"] == sections
    assert {link[1:] for link in read.all("a", "href")} == set(sections)
    assert len(read.all("button", "data-cell")) == 100
    assert len(read.all("img", "src")) == 5
    assert all(read.all("img", "alt"))
    assert all(label for label in read.all("svg", "aria-label"))
    assert "of 50 test rows are right" in page


def test_class_names_are_no_markup(tmp_path: Path, tables: Path, trained: Trainer) -> None:
    trained(tables, model__name="mlp")
    card = Card.read(tables / "models/classifier.json")
    names = ["<script>alert(1)</script>", '"quoted" & odd']
    hostile = Card(**{**vars(card), "spec": {**card.spec, "classes": names}})
    shares = np.tile(np.array([[0.3, 0.7]], np.float32), (6, 1))
    targets = np.array([0, 1] * 3)
    found = metrics.summary(targets, shares, names, resamples=3)
    report.write(
        tmp_path / "r.html",
        found,
        hostile,
        np.zeros((6, 10), np.float32),
        targets,
        shares,
        4,
        tmp_path / "none",
    )
    text = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert 'id="curves"' not in text


def test_photos_are_shown_small(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (1, 3, 400, 300), np.uint8)
    card = Card(
        architecture={"name": "cnn", "arguments": {}},
        spec={"kind": "image", "classes": ["a", "b"]},
        spec_sha256="",
        weights_sha256="",
        params={},
        libraries={},
        device_type="cpu",
    )
    answers = report.Answers(card, photo, np.array([0]), np.array([[0.1, 0.9]], np.float32))
    picture = answers.picture(0)
    assert picture is not None
    assert len(picture) < 40_000
    assert answers.by_cell()["0-1"][0]["picture"] == picture
