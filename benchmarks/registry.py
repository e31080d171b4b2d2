"""What a long history costs: 10,000 versions and 10,000 promotions, beside GTO on the same repository.

    python -m benchmarks.registry [--versions 10000] [--gto 500]

Prints a table in Markdown (docs and `benchmarks/results.md` quote it). GTO is timed on a history of
its own size, since its time grows with the square of it. Best of three, whole processes where it
says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ratchet.git import git
from ratchet.registry import tags
from ratchet.registry.versions import Registry
from tasks.promote import promote, rollback
from tests.helpers.toy import BIN, Toy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--gto", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.versions, arguments.gto)


def measure(folder: Path, many: int, few: int) -> None:
    """Make both repositories and print the table."""
    large, small = grown(folder / "large", many), grown(folder / "small", few)
    print(f"| {many:,} versions, {many:,} promotions | seconds |\n|---|---|")
    row(
        "what serves in prod (`Registry.serving`, in-process)",
        lambda: Registry(large.tree).serving("prod"),
    )
    row("all versions (`Registry.versions`)", lambda: Registry(large.tree).versions())
    row("history of prod (`Registry.history`)", lambda: Registry(large.tree).history("prod"))
    turn = (f"v1.{many - 1}.0", f"v1.{many - 2}.0")
    row("promote, in-process", lambda: promote.fn(large.tree, turn[0], "prod"), lambda: back(large))
    row(
        "roll back, in-process",
        lambda: back(large),
        lambda: promote.fn(large.tree, turn[0], "prod"),
    )
    command = [str(BIN / "ratchet"), "rollback", "--json"]
    row(
        "`ratchet rollback`, whole process",
        lambda: run(command, large.tree),
        lambda: again(large, turn[0]),
    )
    print(f"\n| {few:,} versions, {few:,} promotions | ratchet | gto |\n|---|---|---|")
    ours = (
        best(lambda: Registry(small.tree).versions()),
        best(lambda: back(small), lambda: again(small, f"v1.{few - 1}.0")),
    )
    theirs = gto(small.tree, few)
    print(f"| list what there is (`show`), in-process | {ours[0]:.3f} | {theirs['show']:.3f} |")
    print(f"| change what serves (`assign`), in-process | {ours[1]:.3f} | {theirs['assign']:.3f} |")


def grown(tree: Path, count: int) -> Toy:
    """A checkout with `count` versions, each promoted to prod once, in packed references."""
    toy = Toy.make(tree)
    first = toy.release("weights")
    base = first.date
    lines = []
    for n in range(1, count):
        put = {"action": "promote", "version": f"v1.{n}.0", "under": n, "reason": "", "by": "flow"}
        lines += [
            f"commit refs/heads/growing\nmark :{n}\ncommitter Ada <ada@localhost> {base + 2 * n} +0000",
            text(f"classifier v1.{n}.0\n") + f"\nfrom {first.commit}\n",
            tag(
                f"classifier@v1.{n}.0",
                n,
                base + 2 * n,
                tags.message(f"classifier v1.{n}.0", ["Grown."], first.data),
            ),
            tag(
                f"classifier#prod#{n + 1}", n, base + 2 * n + 1, tags.message("into prod", [], put)
            ),
        ]
    git("fast-import", "--quiet", "--force", cwd=tree, input="\n".join(lines) + "\n")
    git("update-ref", "-d", "refs/heads/growing", cwd=tree)
    git("pack-refs", cwd=tree)
    return toy


def tag(name: str, mark: int, date: int, message: str) -> str:
    return f"tag {name}\nfrom :{mark}\ntagger Ada <ada@localhost> {date} +0000\n{text(message)}"


def text(content: str) -> str:
    return f"data {len(content.encode())}\n{content}"


def back(toy: Toy) -> None:
    rollback.fn(toy.tree, "prod")


def again(toy: Toy, version: str) -> None:
    promote.fn(toy.tree, version, "prod")


def run(command: list[str], cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def best(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """The least of three times, in seconds; `before` is not counted."""
    times = []
    for _ in range(3):
        before()
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def row(name: str, work: Callable[[], object], before: Callable[[], object] = lambda: None) -> None:
    print(f"| {name} | {best(work, before):.3f} |", flush=True)


def gto(tree: Path, count: int) -> dict[str, float]:
    """Seconds of GTO's Python API for the same, once each."""
    code = f"""
import json, time
from gto import api
def timed(work):
    started = time.perf_counter(); work(); return time.perf_counter() - started
print(json.dumps({{
    "show": timed(lambda: api.show(".")),
    "assign": timed(lambda: api.assign(".", "classifier", "prod", version="v1.{count - 3}.0", force=True)),
}}))"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
