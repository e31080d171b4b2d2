"""The rooms of the house: who may import whom, and that dvc.yaml lists for each stage the code that it runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
GRAPH = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
# From the top of the house to its ground; an import goes down, or stays in its room.
FLOORS = (
    ("cli",),
    ("flows",),
    ("service",),
    ("tasks",),
    ("ratchet.upkeep",),
    ("ratchet.gate", "ratchet.workspace", "ratchet.prediction"),
    ("ratchet.registry",),
    ("ratchet.sources", "ratchet.validation", "ratchet.preparation"),
    ("ratchet.training", "ratchet.evaluation"),
    ("ratchet.models",),
    ("ratchet.dataset", "ratchet.pages"),
    ("ratchet.store",),
    ("ratchet.stage", "ratchet.shards"),
    ("ratchet.out_of_date",),
    ("ratchet.prefect_task",),
    ("ratchet",),  # its own modules
)
LEARNING = ("ratchet.training", "ratchet.evaluation", "ratchet.models", "ratchet.dataset")
# What no stage lists: a new param of the gate must not ingest everything again.
NO_DEPS = {
    f"ratchet.{name}"
    for name in (
        *("errors", "params", "param_types", "source_params", "train_params", "param_faults"),
        *("overrides", "yaml_file"),
        *("environment", "locks", "process", "stage", "out_of_date", "prefect_task"),
    )
}

OWN = ("cli", "flows", "service", "tasks", "ratchet")
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for folder in OWN
    for file in sorted((ROOT / folder).rglob("*.py"))
    if file.name != "__init__.py"
}


OWN_CODE = {
    "ratchet.sources.custom": "custom/sources",
    "ratchet.models.architectures": "custom/models",
}


class _RunTime(ast.NodeTransformer):
    """Takes out what only the type checker reads."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return (
            None
            if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            else self.generic_visit(node)
        )


@cache
def tree(module: str) -> ast.Module:
    parsed: ast.Module = _RunTime().visit(ast.parse(MODULES[module].read_text()))
    return parsed


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that `module` imports, at its top or inside a function.

    Ours down to the file.
    """
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{module}: write imports out, so that they can be read"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in found if name.partition(".")[0] not in OWN or name in MODULES)


@cache
def ours(module: str) -> set[str]:
    found = {name for name in imports(module) if name in MODULES}
    # a name that a package's __init__ hands on
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            init = ROOT / Path(*node.module.split(".")) / "__init__.py"
            if node.module.partition(".")[0] in OWN and init.exists():
                for line in ast.walk(ast.parse(init.read_text())):
                    if isinstance(line, ast.ImportFrom) and {a.name for a in line.names} & {
                        a.name for a in node.names
                    }:
                        found.add(str(line.module))
    return found & set(MODULES)


def closure(module: str) -> set[str]:
    """`module` and all of ours that it imports, however far, less what no stage lists."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in found and name not in NO_DEPS:
            found.add(name)
            waiting.extend(ours(name))
    return found


def room(module: str) -> str:
    """The folder of a module; a module of `ratchet` that a floor names is a room of its own."""
    return module if (module,) in FLOORS or module == "ratchet.stage" else module.rpartition(".")[0]


def floor(module: str) -> int:
    (number,) = (number for number, rooms in enumerate(FLOORS) if room(module) in rooms)
    return number


def test_imports_go_down() -> None:
    for module in MODULES:
        for name in ours(module):
            inside = room(name) == room(module) != "tasks"
            assert floor(name) > floor(module) or inside, f"{module} must not import {name}"


def test_prefect_git_and_dvc_stay_in_their_rooms() -> None:
    for module in MODULES:
        stays_in_its_room(module)


def stays_in_its_room(module: str) -> None:
    tops = {name.split(".")[0] for name in imports(module)}
    if room(module) not in ("cli", "flows", "service", "ratchet.stage", "ratchet.prefect_task"):
        assert "prefect" not in tops, module
    if room(module) not in ("ratchet.store", "ratchet.out_of_date"):
        assert not {name for name in tops if name.split("_")[0] in ("dvc", "scmrepo", "pygit2")}, (
            module
        )
    if room(module) in LEARNING:
        names = {node.value for node in ast.walk(tree(module)) if isinstance(node, ast.Constant)}
        assert not {"git", "dvc"} & {name for name in names if isinstance(name, str)}, (
            f"{module} names git or dvc"
        )


def test_no_circles() -> None:
    """graphlib names the circle."""
    TopologicalSorter({module: ours(module) for module in MODULES}).prepare()


def dep(module: str) -> str:
    """How dvc.yaml lists a module: by the folder of its room, or by itself."""
    return (
        room(module).replace(".", "/")
        if room(module).count(".")
        else f"{module.replace('.', '/')}.py"
    )


@pytest.mark.parametrize("stage", GRAPH)
def test_code_deps_are_the_import_closure(stage: str) -> None:
    """A dep is the folder of a room, or a module of the ground floor.

    A room has its templates with it.
    """
    modules = closure(f"tasks.{stage}")
    expected = {dep(name) for name in modules}
    expected |= {folder for loader, folder in OWN_CODE.items() if loader in modules}
    expected |= {"custom/__init__.py"} if modules & OWN_CODE.keys() else set()
    listed = {
        dep for dep in GRAPH[stage]["deps"] if dep.startswith(("tasks/", "custom", "ratchet/"))
    }
    assert listed == expected, f"{stage}: in dvc.yaml put\n" + "\n".join(
        f"      - {dep}" for dep in sorted(expected)
    )


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_reads_the_params_that_it_lists(stage: str) -> None:
    read = {
        node.attr
        for node in ast.walk(tree(f"tasks.{stage}"))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "params"
    }
    assert read - {"run", "Params"} == set(GRAPH[stage]["params"])


@pytest.mark.parametrize("stage", GRAPH)
def test_a_stage_is_static(stage: str) -> None:
    assert GRAPH[stage]["cmd"] == f"python -m tasks.{stage}"


def test_the_flow_calls_the_stages_in_the_order_of_the_graph() -> None:
    function = next(
        n
        for n in ast.walk(tree("flows.training"))
        if isinstance(n, ast.FunctionDef) and n.name == "training"
    )
    calls = [
        n.func.id
        for n in ast.walk(function)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    order = [name for name in calls if name in GRAPH]
    assert sorted(order) == sorted(GRAPH)
    made: set[str] = set()
    for name in order:
        outs = {path for other in GRAPH if other != name for path in outputs(other)}
        needed = {
            dep
            for dep in GRAPH[name]["deps"]
            if any(dep == out or dep.startswith(out + "/") for out in outs)
        }
        missing = {
            dep
            for dep in needed
            if not any(dep == out or dep.startswith(out + "/") for out in made)
        }
        assert not missing, f"{name} comes before what makes {missing}"
        made |= outputs(name)


def outputs(stage: str) -> set[str]:
    entries = [entry for key in ("outs", "metrics", "plots") for entry in GRAPH[stage].get(key, [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        (
            "cli.__main__",
            {"torch", "torchvision", "prefect", "dvc", "pandera", "polars", "matplotlib"},
        ),
        ("ratchet.registry.versions", {"torch", "prefect", "dvc", "polars"}),
        ("tasks.promote", {"torch", "prefect", "dvc", "polars"}),
        ("tasks.train", {"prefect", "dvc", "torchvision"}),
        (
            "flows.training",
            {
                "torch",
                "torchvision",
                "pandera",
                "matplotlib",
                "sklearn",
                "torchmetrics",
                "datasets",
            },
        ),
    ],
)
def test_importing_is_light(module: str, banned: set[str]) -> None:
    code = f"import sys, {module}; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not banned & set(loaded.split())
