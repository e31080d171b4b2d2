"""What orchestration costs when there is nothing to do, against the bare tools, side by side in one run.

    python benchmarks/orchestration.py        in a checkout where `ratchet train` has run

Bare DVC: `dvc repro` of five empty stages. Bare Prefect: a flow of as many empty tasks as the
training flow calls, on the same running server, as a whole process. Medians of seven, taken in
turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ratchet.stage import home
from service.server import server

ROUNDS = 7
EMPTY_STAGES = "stages:\n" + "".join(
    f"  stage{n}:\n    cmd: echo {n} > {n}.txt\n    outs: [{n}.txt]\n" for n in range(5)
)
EMPTY_FLOW = """
from service.server import prepare_prefect
from pathlib import Path
prepare_prefect(Path({home!r}))
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

@task(cache_policy=NO_CACHE, persist_result=False)
def nothing(): ...

@flow(persist_result=False)
def empty():
    for _ in range(7):  # refresh, five stages, compare
        nothing()

empty()
"""


def seconds(command: list[str], folder: Path) -> float:
    started = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.monotonic() - started


def side_by_side(ours: list[str], here: Path, bare: list[str], there: Path) -> tuple[float, float]:
    """Medians in seconds of two commands run in turn."""
    pairs = [(seconds(ours, here), seconds(bare, there)) for _ in range(ROUNDS)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(
        pair[1] for pair in pairs
    )


def main() -> None:
    here, python = Path.cwd(), sys.executable
    dvc = [python, "-m", "dvc", "repro"]
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        subprocess.run(["git", "init", "-q"], cwd=there, check=True)
        subprocess.run([python, "-m", "dvc", "init", "-q"], cwd=there, check=True)
        (there / "dvc.yaml").write_text(EMPTY_STAGES)
        subprocess.run(dvc, cwd=there, check=True, capture_output=True)
        ours, bare = side_by_side(dvc, here, dvc, there)
        print(
            f"dvc repro, nothing to do    {ours:5.2f} s   five empty stages        {bare:5.2f} s   ratio {ours / bare:.2f}"
        )
        with server(home(here)):
            os.environ["PYTHONPATH"] = str(here)
            flow = [python, "-c", EMPTY_FLOW.format(home=str(home(here)))]
            ours, bare = side_by_side([python, "-m", "cli", "train", "--json"], here, flow, there)
        print(
            f"the flow, nothing to do     {ours:5.2f} s   a flow of empty tasks    {bare:5.2f} s   ratio {ours / bare:.2f}"
        )


if __name__ == "__main__":
    main()
