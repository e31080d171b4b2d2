"""Data: what validation and preparation cost beside the obvious way, in bounded memory, and which damage they let pass.

    python -m benchmarks.data [PART ...] [--write]

Parts: speed, memory, damage, hostile, growth, same; all of them by default. Fashion-MNIST is read
as `ratchet refresh` finds it. `--write` puts the figures into `benchmarks/results.md`, section
"Data".
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ratchet import images
from ratchet import params as parameters
from ratchet.errors import RatchetError
from ratchet.files import sha256
from ratchet.params import Params
from ratchet.shards import shards
from ratchet.shards.shards import Shards
from ratchet.source_params import ImageFolderSource, ParquetSource
from ratchet.sources.base import IMAGE
from ratchet.stage import Stage
from tasks.ingest import ingest
from tasks.refresh import refresh

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results.md"
STAGES = ("ingest", "validate", "prepare")
COPIES = 10
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Bench:
    """Checkouts on one scratch disk, and the figures."""

    def __init__(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="ratchet-bench-"))
        self.params = parameters.load(ROOT)
        self.figures: list[str] = []

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.figures.append(line)

    def tree(self, name: str) -> Path:
        """An empty checkout with the downloads of this one."""
        tree = self.scratch / name
        subprocess.run(["git", "init", "--quiet", str(tree)], check=True)
        (tree / "data").mkdir()
        (tree / "data/downloads").symlink_to(self._downloads())
        shutil.copy(ROOT / "dvc.yaml", tree)
        return tree

    def _downloads(self) -> Path:
        (self.scratch / "downloads").mkdir(exist_ok=True)
        return self.scratch / "downloads"

    @functools.cached_property
    def fashion(self) -> Path:
        """A checkout with Fashion-MNIST ingested."""
        tree = self.tree("fashion")
        save(self.params, tree)
        refresh.fn(self.params, tree)
        timed(ingest, self.params, tree)
        return tree

    @functools.cached_property
    def large(self) -> Path:
        """Parquet files of Fashion-MNIST ten times over.

        Nine of them with noise of their own, so that no image is twice.
        """
        folder = self.scratch / "large"
        folder.mkdir()
        with ProcessPoolExecutor() as pool:
            list(
                pool.map(
                    noisy, range(COPIES), [self.fashion / "data/raw"] * COPIES, [folder] * COPIES
                )
            )
        return folder


def noisy(copy: int, raw: Path, folder: Path) -> None:
    rows = np.random.default_rng(copy)
    for number, shard in enumerate(Shards.open(raw)):
        made = []
        for table in shard.batches(["label", "split", "image"]):
            images = []
            for image in table["image"].combine_chunks().field("bytes"):
                pixels = np.asarray(Image.open(io.BytesIO(image.as_py())))
                noise = rows.integers(0, 4, pixels.shape, np.uint8) * (pixels > 0) * (copy > 0)
                images.append({"bytes": png((pixels ^ noise).astype(np.uint8)), "path": None})
            made.append(table.set_column(2, "image", pa.array(images, IMAGE)))
        pq.write_table(
            pa.concat_tables(made), folder / f"{copy}-{number}.parquet", row_group_size=1000
        )


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def timed(stage: Stage, params: Params, tree: Path) -> float:
    """Seconds of a stage in this process; its lines go nowhere."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        stage.fn(params, tree)
    return time.perf_counter() - began


# ── speed ─────────────────────────────────────────────────────────────────────────────────────────


def speed(bench: Bench) -> None:
    """Ours (as the processes that DVC starts, nothing remembered) in turns with the obvious way in one process; no imports."""
    raw = bench.fashion / "data/raw"
    files = sorted(str(file) for file in raw.glob("*.parquet"))
    rows = Shards.open(raw).info["rows"]
    ours: list[float] = []
    whole: list[float] = []
    limits: list[float] = []
    obvious: dict[str, list[float]] = {"validation": [], "preparation": []}
    for _ in range(3):
        shutil.rmtree(bench.fashion / ".memo", ignore_errors=True)
        runs = [run(stage, bench.fashion) for stage in ("validate", "prepare")]
        ours.append(sum(rows / rate for _, rate in runs))
        whole.append(sum(seconds for seconds, _ in runs))
        with ProcessPoolExecutor(bench.params.run.workers) as pool:
            list(pool.map(abs, range(8)))
            began = time.perf_counter()
            list(pool.map(decode, files))
            limits.append(2 * (time.perf_counter() - began))
        for name in obvious:
            code = f"from benchmarks.data import {name}; print({name}({files!r}))"
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
            )
            obvious[name].append(float(done.stdout.split()[-1]))
    best = {name: rows / statistics.median(times) for name, times in obvious.items()}
    both = rows / sum(map(statistics.median, obvious.values()))
    rate, limit = rows / statistics.median(ours), rows / statistics.median(limits)
    workers = bench.params.run.workers
    usual = f"pandera on pandas with PIL ({best['validation']:,.0f} rows/s), then `load_dataset` and `map` with PIL "
    usual += f"({best['preparation']:,.0f} rows/s), one process"
    ceiling = f"the limit: each image decoded twice on {workers} processes, and nothing else"
    bench.say(
        f"| validation with full decode, then preparation, of {rows:,} images | rows/s | times |\n|---|---|---|"
    )
    bench.say(f"| {usual} | {both:,.0f} | 1.0 |")
    bench.say(
        f"| Ratchet, {workers} workers, their start included | {rate:,.0f} | {rate / both:.1f} |"
    )
    bench.say(f"| {ceiling} | {limit:,.0f} | {limit / both:.1f} |")
    imports = statistics.median(whole) - statistics.median(ours)
    bench.say(
        f"\nMedians of three turns. The imports of the two stage processes come on top: {imports:.1f} s."
    )


def run(stage: str, tree: Path) -> tuple[float, float]:
    """Seconds of a stage as a process of its own, and the rows a second that it gives itself."""
    began = time.perf_counter()
    command = [sys.executable, "-m", f"tasks.{stage}"]
    done = subprocess.run(
        command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    rate = re.search(r"([\d,]+) rows/s", done.stdout)
    assert rate, done.stderr
    return time.perf_counter() - began, float(rate[1].replace(",", ""))


def decode(file: str) -> int:
    column = pq.read_table(file)["image"].combine_chunks().field("bytes").to_pylist()
    return len([images.decode(encoded) for encoded in column])


def validation(files: list[str]) -> float:
    """Seconds of the obvious way."""
    import pandas as pd  # type: ignore[import-untyped]
    import pandera.pandas as pandera

    def decodes(image: dict[str, bytes]) -> bool:
        try:
            Image.open(io.BytesIO(image["bytes"])).load()
        except Exception:
            return False
        return True

    classes = Shards.open(Path(files[0]).parent).info["classes"]
    rules = {
        "row_id": pandera.Column(str, unique=True),
        "label": pandera.Column(str, pandera.Check.isin(classes)),
        "split": pandera.Column(str, pandera.Check.isin(["train", "test"])),
        "image": pandera.Column(object, pandera.Check(decodes, element_wise=True)),
    }
    began = time.perf_counter()
    pandera.DataFrameSchema(rules).validate(pd.concat(map(pd.read_parquet, files)), lazy=True)
    return time.perf_counter() - began


def preparation(files: list[str]) -> float:
    """Seconds of the obvious way."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        data = data.cast_column("image", datasets.Image())
        data.map(
            lambda row: {"pixels": np.asarray(row["image"], np.uint8)}, remove_columns=["image"]
        )
        return time.perf_counter() - began


# ── memory ────────────────────────────────────────────────────────────────────────────────────────


def memory(bench: Bench) -> None:
    """Each stage as a process of its own, whole tree of processes, on one and on ten times Fashion-MNIST."""
    bench.say(
        f"| peak private memory (RssAnon of the process tree), MB | 70,000 rows | {70_000 * COPIES:,} rows | ratio |"
    )
    bench.say("|---|---|---|---|")
    trees = {}
    for name, pattern in (("one", "0-*.parquet"), ("ten", "*.parquet")):
        trees[name] = bench.tree(name)
        source = ParquetSource(
            type="parquet",
            path=f"{bench.large}/{pattern}",
            label="label",
            image="image",
            split="split",
        )
        save(
            replace(bench.params, ingest=replace(bench.params.ingest, sources=(source,))),
            trees[name],
        )
        refresh.fn(parameters.load(trees[name]), trees[name])
    for stage in STAGES:
        (one, first), (ten, second) = (peak(stage, tree) for tree in trees.values())
        bench.say(
            f"| {stage} ({first:.0f} s, {second:.0f} s) | {one:.0f} | {ten:.0f} | {ten / one:.2f} |"
        )


def save(params: Params, tree: Path) -> None:
    from pydantic import TypeAdapter
    from ruamel.yaml import YAML

    YAML().dump(TypeAdapter(Params).dump_python(params, mode="json"), tree / "params.yaml")


def peak(stage: str, tree: Path) -> tuple[float, float]:
    """Highest sum of RssAnon in MB, looked at every 20 ms, and seconds."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", f"tasks.{stage}"], cwd=tree, env=ENVIRONMENT)
    highest = 0.0
    while process.poll() is None:
        highest = max(highest, anonymous(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0
    return highest, time.perf_counter() - began


def anonymous(pid: int) -> float:
    """RssAnon of a process and all below it, in MB."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(OSError, AttributeError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                found = re.search(r"RssAnon:\s+(\d+)", status)
                total += int(found[1]) if found else 0
    return total / 1000


# ── damage ────────────────────────────────────────────────────────────────────────────────────────


def damage(bench: Bench) -> None:
    shard = next(iter(Shards.open(bench.fashion / "data/raw")))
    damaged = replace(shard, path=bench.scratch / "damaged.parquet")
    whole = pa.concat_tables(shard.batches())
    content = shard.path.read_bytes()
    random.seed(0)
    hashed, pages = 0, {"refused": 0, "silent": 0, "without effect": 0}
    for _ in range(200):
        at = random.randrange(len(content) * 8)
        flipped = bytes([content[at // 8] ^ 1 << at % 8])
        damaged.path.write_bytes(content[: at // 8] + flipped + content[at // 8 + 1 :])
        hashed += refused(damaged.verify)
        pages[fate(damaged, whole)] += 1
    bench.say(
        f"- 200 single-bit flips in a shard of {len(content):,} bytes: its SHA-256, checked before it is read, finds {hashed}. "
        f"Page checksums and structure alone: {pages['refused']} refused, {pages['without effect']} in bytes without effect, "
        f"{pages['silent']} silent."
    )
    cut = 0
    for _ in range(200):
        damaged.path.write_bytes(content[: random.randrange(len(content))])
        cut += fate(damaged, whole) == "refused"
    bench.say(f"- 200 parquet files cut at random places: {cut} refused.")
    bench.say(
        f"- 200 images (PNG, JPEG, GIF, BMP, WebP) cut at random places: {cut_pictures(bench)} quarantined with their row."
    )


def refused(work: Callable[[], Any]) -> bool:
    try:
        work()
    except RatchetError:
        return True
    return False


def fate(shard: shards.Shard, whole: pa.Table) -> str:
    """What reading it gives, its hash left aside."""
    try:
        read = pa.concat_tables(shard.batches())
    except RatchetError:
        return "refused"
    return "without effect" if read.equals(whole) else "silent"


def cut_pictures(bench: Bench) -> int:
    tree = bench.tree("cut")
    colours = np.random.default_rng(0).integers(0, 256, (201, 32, 32, 3), np.uint8)
    for number, array in enumerate(colours):
        kind = ("PNG", "JPEG", "GIF", "BMP", "WEBP")[number % 5]
        file = tree / f"pets/{('cat', 'dog')[number // 200]}/{number:03}.{kind.lower()}"
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = io.BytesIO()
        Image.fromarray(array).save(whole, kind)
        content = whole.getvalue()
        file.write_bytes(content if number == 200 else content[: random.randrange(len(content))])
    return quarantined(bench, tree)[0]


def quarantined(bench: Bench, tree: Path) -> tuple[int, float]:
    """Rows that validation sets aside of the folder `pets`, and the peak of private memory in MB."""
    source = ImageFolderSource(type="imagefolder", path="pets")
    checks = replace(bench.params.validate, max_bad_fraction=1.0)
    params = replace(
        bench.params, ingest=replace(bench.params.ingest, sources=(source,)), validate=checks
    )
    save(params, tree)
    refresh.fn(params, tree)
    highest = max(peak(stage, tree)[0] for stage in ("ingest", "validate"))
    return int(pq.read_metadata(tree / "data/quarantine.parquet").num_rows), highest


def hostile(bench: Bench) -> None:
    """Bombs, wrong extensions, links out of the folder, empty files, very long names."""
    tree = bench.tree("hostile")
    pets = tree / "pets/cat"
    pets.mkdir(parents=True)
    good = png(np.zeros((28, 28), np.uint8))
    (tree / "pets/dog").mkdir()
    (tree / "pets/dog/good.png").write_bytes(good)
    Image.new("1", (12_000, 12_000)).save(pets / "bomb.png")
    Image.new("RGB", (12_000, 12_000)).save(pets / "bomb.gif")
    Image.new("RGBA", (6_000, 6_000)).save(pets / "just-not-a-bomb.png")
    (pets / "text.jpg").write_text("no picture")
    (pets / "empty.png").touch()
    (pets / ("x" * 250 + ".png")).write_bytes(good + b"rest")
    (pets / "out.png").symlink_to("/etc/hostname")
    (pets / "round").symlink_to(pets)
    set_aside, highest = quarantined(bench, tree)
    rows = Shards.open(tree / "data/raw").info["rows"]
    bench.say(
        f"- A hostile folder: {rows} rows, {set_aside} quarantined, no link followed, peak {highest:.0f} MB."
    )


# ── growth ────────────────────────────────────────────────────────────────────────────────────────


def growth(bench: Bench) -> None:
    """1,000 rows more: what moves, and what it costs."""
    tree = bench.tree("growth")
    folder = tree / "incoming"
    folder.mkdir()
    for file in bench.large.glob("0-*.parquet"):
        table = pq.read_table(file, columns=["label", "image"])
        pq.write_table(table, folder / file.name, row_group_size=1000)
    source = ParquetSource(type="parquet", path="incoming", label="label", image="image")
    params = replace(bench.params, ingest=replace(bench.params.ingest, sources=(source,)))
    all_s, before = prepared(params, tree)
    extra = pq.read_table(bench.large / "1-0.parquet", columns=["label", "image"]).slice(0, 1000)
    pq.write_table(extra, folder / "new.parquet")
    more_s, after = prepared(params, tree)
    moved = sum(after[row] != split for row, split in before.items())
    nothing_s, _ = prepared(params, tree)
    bench.say(
        f"- 1,000 rows more in a file of their own: {moved} of {len(before):,} rows moved to another split. The stages took "
        f"{more_s:.1f} s instead of {all_s:.1f} s, and {nothing_s:.1f} s with nothing new, imports included."
    )


def prepared(params: Params, tree: Path) -> tuple[float, dict[str, str]]:
    """Seconds of the three stages, and the split of each row."""
    save(params, tree)
    refresh.fn(params, tree)
    seconds = sum(run(stage, tree)[0] for stage in STAGES)
    found = {}
    for split in ("train", "val", "test"):
        ids = pq.read_table(tree / "data/prepared" / split / "meta.parquet")["row_id"].to_pylist()
        found.update(dict.fromkeys(ids, split))
    return seconds, found


def same(bench: Bench) -> None:
    first, again = bench.fashion, bench.tree("again")
    refresh.fn(bench.params, again)
    timed(ingest, bench.params, again)
    files = sorted((first / "data/raw").iterdir())
    equal = sum(sha256(file) == sha256(again / "data/raw" / file.name) for file in files)
    bench.say(
        f"- The same source ingested twice, in two folders, nothing remembered: {equal} of {len(files)} files byte-identical."
    )


PARTS: dict[str, Callable[[Bench], None]] = {
    "speed": speed,
    "memory": memory,
    "damage": damage,
    "hostile": hostile,
    "growth": growth,
    "same": same,
}


@contextlib.contextmanager
def bench_on_scratch() -> Iterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        shutil.rmtree(bench.scratch)


def write(figures: str) -> None:
    text = RESULTS.read_text() if RESULTS.exists() else "# Results\n"
    rest = re.sub(r"\n## Data\n.*?(?=\n## |\Z)", "", text, flags=re.S).rstrip("\n")
    RESULTS.write_text(f"{rest}\n\n## Data\n\n{figures.strip()}\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument(
        "--write", action="store_true", help="put the figures into benchmarks/results.md"
    )
    arguments = parser.parse_args()
    with bench_on_scratch() as bench:
        bench.say(f"{os.cpu_count()} CPU cores, `python -m benchmarks.data`.\n")
        for part in arguments.parts or PARTS:
            PARTS[part](bench)
            bench.say("")
    if arguments.write:
        write("\n".join(bench.figures))


if __name__ == "__main__":
    main()
