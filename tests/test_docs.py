"""What the documents name exists."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
ROWS = re.findall(r"(?m)^\| (.+?) \| (.+?) \| `(tests/.+?)::(.+?)` \|$", ARCHITECTURE)


def test_the_documents_name_files_that_exist() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        folders = "cli|custom|flows|ratchet|service|tasks|tests"
        for path in re.findall(rf"`((?:{folders})/[\w/]*(?:\.\w+)?)`", text):
            assert (ROOT / path).exists(), f"{document.name}: there is no {path}"


def test_there_are_ten_examples_of_changes() -> None:
    assert len(ROWS) >= 10


@pytest.mark.parametrize(("change", "where", "file", "test"), ROWS)
def test_each_example_names_its_test(change: str, where: str, file: str, test: str) -> None:
    assert change and where
    functions = [
        node.name
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    ]
    assert test in functions
