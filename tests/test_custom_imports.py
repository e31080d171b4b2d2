"""Code that `custom/` imports is a dep of the stage, or is refused by name before anything runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ratchet import custom_code
from ratchet import params as parameters
from ratchet.custom_imports import check_model, check_sources
from ratchet.errors import ParamsError
from ratchet.params import Params
from tests.helpers.data_samples import REPOSITORY


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with a `custom/`, modules at its root, and Ratchet's own code."""
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    for folder in ("tasks", "ratchet"):
        shutil.copytree(
            REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in (
        "custom/__init__.py", "custom/models/__init__.py", "custom/models/parts.py", "custom/models/deep/__init__.py",
        "custom/models/deep/er.py", "custom/sources/__init__.py", "custom/sources/blobs.py", "custom/shared.py",
        "helpers.py", "lib/tools.py", "lib/pack/__init__.py",
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    return tmp_path


def named(model: str = "cnn", source: str | None = None) -> Params:
    import ruamel.yaml

    raw: dict[str, Any] = ruamel.yaml.YAML(typ="safe").load(
        (REPOSITORY / "params.yaml").read_text()
    )
    raw["model"]["name"] = model
    if source is not None:
        raw["ingest"]["sources"] = [{"type": "custom", "source": source, "arguments": {}}]
    return parameters.parse(raw)


def model(tree: Path, code: str) -> None:
    (tree / "custom/models/net.py").write_text(code)
    check_model(tree, named("custom.models.net:Net"))


INSIDE = [
    "import torch, json, os.path, numpy as np",
    "from torch import nn\nfrom custom.models.parts import Block",
    "import custom.models.parts as parts",
    "from custom.models import parts",
    "from . import parts\nfrom .deep import er\nfrom .deep.er import *",
    "from .deep import name_of_a_function",
    "def forward():\n    from custom.models.deep.er import x",
    "import importlib\nimportlib.import_module('torch.nn')",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import helpers",
    "try:\n    import not_installed\nexcept ImportError:\n    pass",
    "from tasks.learning import models",
    "import torch, re\nnet = torch.nn.Linear(1, 1).eval()\ntorch.compile(net)\nre.compile('x')",
    "syntax error here",
]


@pytest.mark.parametrize("code", INSIDE)
def test_what_the_stages_depend_on_may_be_imported(tree: Path, code: str) -> None:
    model(tree, code)


OUTSIDE = [
    ("import helpers", r"custom/models/net\.py, line 1: imports helpers \(helpers\.py\)"),
    ("\n\nfrom helpers import x", r"net\.py, line 3: imports helpers \(helpers\.py\)"),
    ("def build():\n    import helpers as h", r"net\.py, line 2: imports helpers"),
    ("import lib.tools", r"imports lib\.tools \(lib/tools\.py\)"),
    ("from lib import tools", r"imports lib\.tools \(lib/tools\.py\)"),
    ("from lib.pack import x", r"imports lib\.pack \(lib/pack/__init__\.py\)"),
    ("from custom.shared import x", r"imports custom\.shared \(custom/shared\.py\)"),
    ("from custom import shared", r"imports custom\.shared"),
    ("from .. import shared", r"imports custom\.shared"),
    ("from ..sources.blobs import Blobs", r"imports custom\.sources"),
    ("import custom.sources.blobs", r"imports custom\.sources"),
    ("import tasks.promote", r"imports tasks\.promote \(tasks/promote\.py\)"),
    ("from ratchet.sources import csv_files", r"imports ratchet\.sources\.csv_files"),
    ("import importlib\nimportlib.import_module('helpers')", r"line 2: imports helpers"),
    ("from importlib import import_module\nimport_module('lib.tools')", r"imports lib\.tools"),
    (
        "from importlib import import_module as f\nf('helpers')",
        r"line 1: import_module loads code in a way",
    ),
    (
        "import importlib\nf = importlib.import_module\nf('helpers')",
        r"line 2: import_module loads code in a way",
    ),
    (
        "from importlib.util import spec_from_file_location as f",
        r"importlib\.util\.spec_from_file_location loads code",
    ),
    ("import pkgutil\npkgutil.resolve_name('helpers')", r"line 2: resolve_name loads code"),
    ("from sys import path\npath.append('lib')", r"line 1: sys\.path loads code"),
    ("x = eval('1')", r"line 1: eval loads code"),
    ("compile('import helpers', '', 'exec')", r"line 1: compile loads code"),
    ("__import__('helpers')", r"imports helpers"),
    (
        "import importlib\nimportlib.import_module('custom.models.parts')",
        r"imports a module by importlib\.import_module",
    ),
    (
        "import importlib\nimportlib.import_module(f'lib.{1}')",
        r"line 2: imports a module by .* cannot follow; write an",
    ),
    (
        "import sys\nsys.path.insert(0, 'lib')\nimport tools",
        r"line 2: sys\.path loads code in a way",
    ),
    ("import runpy\nrunpy.run_path('helpers.py')", r"line 2: run_path loads code"),
    ("exec(open('helpers.py').read())", r"line 1: exec loads code"),
    ("if True:\n    import helpers\nelse:\n    pass", r"line 2: imports helpers"),
    (
        "from custom.models.parts import x",
        r"custom/models/parts\.py, line 1: imports helpers",
    ),  # further down
    (
        "from .deep.er import x",
        r"custom/models/deep/__init__\.py, line 1: imports helpers",
    ),  # of the package around
]


@pytest.mark.parametrize(("code", "message"), OUTSIDE)
def test_other_code_of_the_repository_is_refused_by_name(
    tree: Path, code: str, message: str
) -> None:
    (tree / "custom/models/parts.py").write_text("import helpers")
    (tree / "custom/models/deep/__init__.py").write_text("import helpers")
    with pytest.raises(ParamsError, match=message):
        model(tree, code)


def test_the_message_says_where_to_move_it(tree: Path) -> None:
    with pytest.raises(ParamsError) as raised:
        model(tree, "import helpers")
    assert str(raised.value) == (
        "custom/models/net.py, line 1: imports helpers (helpers.py), which is not a dep of train and evaluate, so a "
        "change in it would go unnoticed; move it to custom/models/"
    )


def test_the_package_of_both_is_read_too(tree: Path) -> None:
    (tree / "custom/__init__.py").write_text("import helpers")
    with pytest.raises(ParamsError, match=r"custom/__init__\.py, line 1: imports helpers"):
        model(tree, "")


def test_a_source_may_import_what_dvc_yaml_lists(tree: Path) -> None:
    (tree / "custom/sources/mine.py").write_text(
        "import helpers\nfrom ratchet.sources.base import encoded\n"
    )
    params = named(source="custom.sources.mine:Mine")
    with pytest.raises(
        ParamsError,
        match=r"imports helpers .* or add helpers\.py to the deps of ingest in dvc\.yaml",
    ):
        check_sources(tree, params)
    graph = (tree / "dvc.yaml").read_text()
    (tree / "dvc.yaml").write_text(
        graph.replace("      - source.lock\n", "      - source.lock\n      - helpers.py\n")
    )
    check_sources(tree, params)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "custom.net:Net",
            r'not in custom/models/; move the module there, .* write "custom\.models\.net:Net"',
        ),
        ("custom.nets.small:Net", r'not in .* write "custom\.models\.small:Net"'),
        ("custom.sources.net:Net", r"not in custom/models/"),
        ("custom.models:Net", r"not in custom/models/"),
    ],
)
def test_a_model_elsewhere_is_refused(tree: Path, name: str, message: str) -> None:
    with pytest.raises(ParamsError, match=rf"^model\.name: {name} is {message}"):
        check_model(tree, named(name))


@pytest.mark.parametrize(
    "name", ["custom.models.gone:Net", "custom.models.deep.gone:Net", "custom.models.partss:Net"]
)
def test_a_module_that_does_not_exist_is_refused_before_anything_runs(
    tree: Path, name: str
) -> None:
    path = name.partition(":")[0].replace(".", "/")
    with pytest.raises(
        ParamsError,
        match=rf"^model\.name: {name} does not exist: there is no {path}\.py; create it",
    ):
        check_model(tree, named(name))


def test_a_source_elsewhere_is_refused(tree: Path) -> None:
    with pytest.raises(
        ParamsError,
        match=r"^ingest\.sources\.0\.source: custom\.blobs:Blobs is not in custom/sources/",
    ):
        check_sources(tree, named(source="custom.blobs:Blobs"))


# ── several custom/ at the same time ──────────────────────────────────────────────────────────────


def version(folder: Path, value: int, **files: str) -> Path:
    """A `custom/` whose module `models.net` says `value` in several ways."""
    code = {
        "__init__.py": "",
        "models/__init__.py": "",
        "models/parts.py": f"VALUE = {value}\n",
        "models/net.py": (
            "import custom.models.parts\nimport custom.models.parts as p\nfrom custom.models.parts import VALUE\n"
            "from . import parts\nfrom pathlib import Path\n"
            "def later():\n    from custom.models import parts as late\n    return late.VALUE\n"
            "def values():\n"
            "    file = Path(__file__).with_name('value.txt')\n"
            "    return {custom.models.parts.VALUE, p.VALUE, VALUE, parts.VALUE, later(), int(file.read_text())}\n"
        ),
        "models/value.txt": f"{value}",
        **files,
    }
    for name, text in code.items():
        (folder / "custom" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "custom" / name).write_text(text)
    return folder


def test_two_versions_of_a_module_live_side_by_side(tmp_path: Path) -> None:
    one, two = version(tmp_path / "one", 1), version(tmp_path / "two", 2)
    modules = [custom_code.imported(tree, "custom.models.net") for tree in (one, two)]
    assert [module.values() for module in modules] == [{1}, {2}]
    import custom

    assert Path(custom.__path__[0]).resolve() == REPOSITORY / "custom", "the checkout's own stays"


def test_threads_may_import_different_versions_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    trees = [version(tmp_path / f"{number}", number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        modules = list(
            pool.map(lambda tree: custom_code.imported(tree, "custom.models.net"), trees * 2)
        )
    assert [module.values() for module in modules] == [{number} for number in range(8)] * 2


def test_an_edited_module_is_imported_again(tmp_path: Path) -> None:
    tree = version(tmp_path, 1)
    assert custom_code.imported(tree, "custom.models.net").values() == {1}
    version(tmp_path, 2)
    assert custom_code.imported(tree, "custom.models.net").values() == {2}


def test_an_import_by_a_string_cannot_be_redirected(tmp_path: Path) -> None:
    code = "import importlib\nparts = importlib.import_module('custom.models.parts')\n"
    tree = version(tmp_path, 1, **{"models/net.py": code})
    with pytest.raises(ImportError, match="imports a module of custom/ by a string"):
        custom_code.imported(tree, "custom.models.net")


def test_folders_without_init_are_packages_too(tmp_path: Path) -> None:
    tree = version(tmp_path, 7)
    for file in (tree / "custom").rglob("__init__.py"):
        file.unlink()
    assert custom_code.imported(tree, "custom.models.net").values() == {7}
