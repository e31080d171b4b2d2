#!/bin/sh
# Makes versions with an old Ratchet's own code, in a repository in the new folder FOLDER, and from it what
# tests/golden keeps. Usage, with the virtual environment's folder `bin` on the PATH:
#     tests/golden/old.sh REVISION FOLDER
set -eu
revision=$1 folder=$2 golden=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
git -C "$golden/../.." archive "$revision" | tar -x -C "$folder" --exclude=tests --exclude=docs \
  --exclude=benchmarks --exclude='*.md' --exclude=.ci
cd "$folder"
git init --quiet --initial-branch main
git config user.name Ada
git config user.email ada@localhost
python - <<'PYTHON'
import random
from pathlib import Path
from ruamel.yaml import YAML

random.seed(0)
rows = [(random.uniform(-1, 1), random.uniform(0, 1000)) for _ in range(240)]
lines = [f"{x:.3f},{y:.1f},{'right' if x > 0 else 'left'}" for x, y in rows]
Path("points.csv").write_text("x,y,side\n" + "\n".join(lines) + "\n5.0,1.0,left\n")
yaml = YAML()
params = yaml.load(Path("params.yaml"))
params["ingest"]["sources"] = [{"type": "csv", "path": "points.csv", "label": "side", "features": ["x", "y"]}]
rules = {"dtype": None, "min": -1.0, "max": 1.0, "allowed": None, "nullable": True}
params["validate"]["columns"] = {"x": rules}
params["model"] |= {"name": "mlp", "arguments": {"widths": [4]}}
params["train"] |= {"epochs": 6, "batch_size": 16, "lr": 0.05, "threads": 1}
params["train"]["augment"]["flip"] = False
params["evaluate"]["resamples"] = 50
params["gate"] |= {"min_accuracy": 0.5, "on_undecided": "promote"}
params["run"]["workers"] = 1
yaml.dump(params, Path("params.yaml"))
PYTHON
python -m flows refresh
git add --all
git commit --quiet --message "Begin"
python -m flows train
python - <<'PYTHON'
from pathlib import Path
text = Path("params.yaml").read_text()
assert "\n  seed: 0 " in text
Path("params.yaml").write_text(text.replace("\n  seed: 0 ", "\n  seed: 1 "))
PYTHON
git commit --quiet --all --message "Try another seed"
python -m flows train
python -m flows rollback --reason "worse on {x}"
python "$golden/keep.py" . "$golden"
