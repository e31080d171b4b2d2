"""A small checkout with real git and a real DVC cache, whose runs cost milliseconds: stages are not run, their outputs
are written, put into the cache and locked as DVC would.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from ratchet import params
from ratchet.gate.decisions import Decision, write
from ratchet.git import git, head
from ratchet.registry.records import Version
from ratchet.registry.versions import Registry
from ratchet.store.cache import Cache
from tasks.promote import promote
from tasks.register import register

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
GRAPH = """\
stages:
  ingest:
    cmd: python -m code.ingest
    deps: [code/ingest.py, source.lock]
    params: [ingest]
    outs: [data/raw]
  train:
    cmd: python -m code.train
    deps: [code/train.py, custom, data/raw]
    params: [prepare, train, validate]
    outs:
      - models/classifier.json
      - models/classifier.pt
    plots:
      - reports/training: {cache: false}
  evaluate:
    cmd: python -m code.evaluate
    deps: [models/classifier.pt]
    metrics:
      - reports/metrics.json: {cache: false}
    outs:
      - data/prepared: {push: false}
      - reports/predictions.parquet
artifacts:
  classifier: {path: models/classifier.pt, type: model}
"""
IGNORED = """\
/data/raw
/data/prepared
/models/classifier.*
/reports/predictions.parquet
__pycache__/
/.dvc/cache
/.dvc/tmp
/.dvc/config.local
"""


class Toy:
    """A checkout at `tree`; `run` makes what a run of the stages would leave."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    @classmethod
    def make(cls, tree: Path) -> Toy:
        toy = cls(tree)
        (tree / ".dvc").mkdir(parents=True)
        toy.write(
            {
                "dvc.yaml": GRAPH,
                ".gitignore": IGNORED,
                ".dvc/config": "",
                ".dvcignore": "__pycache__\n",
            }
        )
        toy.write(
            {f"code/{name}.py": f"# {name}\n" for name in ("ingest", "train")}
            | {"custom/__init__.py": ""}
        )
        toy.write({"source.lock": '{"rows": 1}\n'})
        shutil.copy(ROOT / "params.yaml", tree)
        git("init", "--quiet", "--initial-branch=main", cwd=tree)
        git("config", "user.name", "Ada", cwd=tree)
        git("config", "user.email", "ada@localhost", cwd=tree)
        toy.commit("Begin")
        return toy

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_text(text)

    def commit(self, message: str) -> str:
        git("add", "--all", cwd=self.tree)
        git("commit", "--quiet", "-m", message, cwd=self.tree)
        return head(self.tree)

    def set(self, key: str, value: Any) -> None:
        section, name = key.split(".")
        yaml = YAML()
        content = yaml.load((self.tree / "params.yaml").read_text())
        content[section][name] = value
        with (self.tree / "params.yaml").open("w") as file:
            yaml.dump(content, file)

    def remote(self, folder: Path) -> None:
        """Make a folder the DVC remote, and commit that."""
        config = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {folder}\n"
        self.write({".dvc/config": config})
        self.commit("Set a remote")

    def copy(self, tree: Path) -> Toy:
        return Toy(shutil.copytree(self.tree, tree, symlinks=True))

    def clone(self, tree: Path) -> Toy:
        """A clone with the versions and an empty cache."""
        git("clone", "--quiet", str(self.tree), str(tree), cwd=self.tree)
        git("config", "user.name", "Bob", cwd=tree)
        git("config", "user.email", "bob@localhost", cwd=tree)
        return Toy(tree)

    @property
    def params(self) -> params.Params:
        return params.load(self.tree)

    @property
    def registry(self) -> Registry:
        return Registry(self.tree)

    def run(
        self, weights: str, accuracy: float = 0.9, classes: tuple[str, ...] = ("cat", "dog")
    ) -> str:
        """Leave what a run leaves; returns the weights' SHA-256."""
        sha256 = hashlib.sha256(weights.encode()).hexdigest()
        spec = {
            "kind": "image",
            "input_shape": [1, 2, 2],
            "classes": list(classes),
            "features": None,
        }
        source = (self.tree / "source.lock").read_text()
        self.write({"data/raw/a/rows": source, "data/raw/b": "rows", "data/prepared/x": source})
        self.write({"reports/predictions.parquet": f"by {weights}"})
        self.write(
            {
                "models/classifier.pt": weights,
                "reports/training/curves.tsv": f"epoch\n{len(weights)}\n",
            }
        )
        self.write({"models/classifier.json": json.dumps({"spec": spec, "weights_sha256": sha256})})
        metrics = {
            "rows": 1000,
            "accuracy": accuracy,
            "loss": 0.5,
            "per_class": {name: {"recall": accuracy, "rows": 500} for name in classes},
            "intervals": {"accuracy": [accuracy - 0.02, accuracy + 0.02]},
        }
        self.write({"reports/metrics.json": json.dumps(metrics) + "\n"})
        self.lock()
        return sha256

    def lock(self) -> None:
        """Put the outputs into the cache and write dvc.lock, as `dvc commit --force` would."""
        graph = YAML(typ="safe", pure=True).load((self.tree / "dvc.yaml").read_text())
        values = YAML(typ="safe", pure=True).load((self.tree / "params.yaml").read_text())
        stages = {name: self._locked(stage, values) for name, stage in graph["stages"].items()}
        yaml = YAML()
        yaml.default_flow_style = False
        with (self.tree / "dvc.lock").open("w") as file:
            yaml.dump({"schema": "2.0", "stages": stages}, file)

    def _locked(self, stage: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        listed = [out if isinstance(out, dict) else {out: {}}
                  for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]  # fmt: skip
        outs = {path: flags.get("cache", True) for out in listed for path, flags in out.items()}
        entry: dict[str, Any] = {
            "cmd": stage["cmd"],
            "deps": [self._hashed(dep, False) for dep in sorted(stage["deps"])],
        }
        if "params" in stage:
            entry["params"] = {"params.yaml": {name: values[name] for name in stage["params"]}}
        return entry | {"outs": [self._hashed(out, outs[out]) for out in sorted(outs)]}

    def _hashed(self, path: str, keep: bool) -> dict[str, Any]:
        whole = self.tree / path
        if whole.is_file():
            return {
                "path": path,
                "hash": "md5",
                "md5": self.cache(whole.read_bytes(), keep=keep),
                "size": whole.stat().st_size,
            }
        files = sorted(
            file for file in whole.rglob("*") if file.is_file() and "__pycache__" not in file.parts
        )
        listing = [
            {
                "md5": self.cache(file.read_bytes(), keep=keep),
                "relpath": file.relative_to(whole).as_posix(),
            }
            for file in files
        ]
        md5 = self.cache(json.dumps(listing, sort_keys=True).encode(), ".dir", keep)
        size = sum(file.stat().st_size for file in files)
        return {"path": path, "hash": "md5", "md5": md5, "size": size, "nfiles": len(files)}

    def cache(self, content: bytes, suffix: str = "", keep: bool = True) -> str:
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + suffix
        file = self.object(md5)
        if keep and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o444)
        return md5

    def object(self, md5: str) -> Path:
        return Cache(self.tree).path(md5)

    def decide(self, sha256: str, verdict: Any = "promote", environment: str = "prod") -> Decision:
        champion = self.registry.serving(environment)
        decision = Decision(
            verdict=verdict,
            reason="a toy",
            environment=environment,
            weights_sha256=sha256,
            rows=1000,
            accuracy=0.9,
            champion=champion.name if champion else None,
        )
        write(decision, self.tree)
        return decision

    def register(self, weights: str, **run: Any) -> Version:
        """Run and register, past the gate."""
        sha256 = self.run(weights, **run)
        return register.fn(self.params, self.tree, self.decide(sha256), head(self.tree))

    def release(self, weights: str, environment: str = "prod", **run: Any) -> Version:
        """Run, register and promote."""
        version = self.register(weights, **run)
        promote.fn(self.tree, version.name, environment)
        return version

    def serves(self, environment: str = "prod") -> str | None:
        version = self.registry.serving(environment)
        return version.name if version else None


def contents(tree: Path) -> dict[str, bytes]:
    """Every file of a checkout except those of git, DVC and Python's cache, by its path."""
    hidden = {".git", ".dvc", "__pycache__"}
    paths = [path.relative_to(tree) for path in sorted(tree.rglob("*")) if path.is_file()]
    return {
        path.as_posix(): (tree / path).read_bytes() for path in paths if not hidden & {*path.parts}
    }


def tool(*arguments: str, cwd: Path, check: bool = True) -> str:
    """Run a stock tool (gto, dvc) of this virtual environment and return its standard output."""
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", "PYTHONWARNINGS": "ignore",
           "DVC_SITE_CACHE_DIR": str(cwd / ".dvc/tmp/site")}  # fmt: skip
    done = subprocess.run(
        [BIN / arguments[0], *arguments[1:]], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 or not check, done.stderr + done.stdout
    return done.stdout


def dvc_status(tree: Path) -> dict[str, Any]:
    """What `dvc status --json` prints, without the second that the command takes to start."""
    from dvc.repo import Repo

    with contextlib.chdir(tree), Repo() as repo:
        status: dict[str, Any] = repo.status()
    return status


def gto_stages(tree: Path) -> dict[str, str]:
    """What `gto show` says serves: environment to version."""
    import gto.api

    found = gto.api.show(str(tree)).get("classifier", {}).get("stage", {})
    return {environment: version for environment, version in found.items() if version}
