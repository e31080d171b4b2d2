"""The same bytes wherever the work runs."""

from __future__ import annotations

import importlib.machinery
import os
import shutil
import subprocess
import sys
import threading
import time
import types
from dataclasses import replace

import pytest

from ratchet.errors import ParamsError, Unreachable
from ratchet.files import sha256
from ratchet.shards import executor as execution
from ratchet.shards.executor import executor
from tasks.ingest import ingest
from tasks.prepare import prepare
from tasks.refresh import refresh
from tasks.validate import validate
from tests.helpers.data_samples import REPOSITORY, image_file, pictures

pytest_plugins = ["tests.helpers.data_fixtures"]


def outputs(params, tree):
    shutil.rmtree(tree / ".memo", ignore_errors=True)
    refresh.fn(params, tree)
    for stage in (ingest, validate, prepare):
        stage.fn(params, tree)
    folders = [tree / "data/raw", tree / "data/prepared", tree / "reports"]
    files = [
        tree / "data/quarantine.parquet",
        *(file for folder in folders for file in folder.rglob("*") if file.is_file()),
    ]
    return {str(file.relative_to(tree)): sha256(file) for file in files}


@pytest.fixture
def small(configured, parquet, tree):
    for part in range(4):
        images = pictures(50, seed=part)
        images[3] = images[2][:50] if part else images[2]
        image_file(tree / f"data/incoming/{part}.parquet", images, [row % 5 for row in range(50)])
    return configured(parquet(), validate={"max_bad_fraction": 0.1}, prepare={"size": [8, 8]})


@pytest.mark.long  # starts two processes for each of three stages
def test_processes_make_the_same_bytes_as_one(small, tree):
    assert outputs(replace(small, run=replace(small.run, workers=2)), tree) == outputs(small, tree)


def test_a_cluster_that_is_not_there(sample, monkeypatch):
    distributed = pytest.importorskip("distributed")
    waits, client = [], distributed.Client

    def impatient(address, timeout):
        waits.append(timeout)
        return client(address, timeout="0.2s")

    monkeypatch.setattr(distributed, "Client", impatient)
    message = (
        r"^no Dask scheduler responds at run\.cluster tcp://127\.0\.0\.1:9: .*; start one, or set"
    )
    with (
        pytest.raises(Unreachable, match=message),
        executor(replace(sample.run, cluster="tcp://127.0.0.1:9")),
    ):
        pass
    assert waits == ["5s"]


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers on loopback, as processes of their own."""
    pytest.importorskip("distributed")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    file = tmp_path / "scheduler.json"
    base = [sys.executable, "-m", "distributed.cli"]
    commands = [
        [
            "dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        ]
    ]
    worker = [
        "dask_worker",
        "--scheduler-file",
        str(file),
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
    ]
    processes = [
        subprocess.Popen(
            [base[0], base[1], f"{base[2]}.{command[0]}", *command[1:]],
            env=environment,
            cwd=tmp_path,
        )
        for command in [*commands, worker, worker]
    ]
    deadline = time.monotonic() + 30
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    import json

    yield json.loads(file.read_text())["address"], processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.long
def test_a_cluster_makes_the_same_bytes_though_a_worker_is_killed(small, tree, cluster):
    address, processes = cluster

    def kill_half_way():
        while len(list((tree / ".memo/ingest").glob("[!.]*"))) < 2:
            time.sleep(0.005)
        processes[-1].kill()

    expected = outputs(small, tree)
    shutil.rmtree(tree / ".memo")
    killer = threading.Thread(target=kill_half_way)
    killer.start()
    assert outputs(replace(small, run=replace(small.run, cluster=address)), tree) == expected
    killer.join()
    assert processes[-1].wait(5) == -9


def test_one_worker_is_this_process_and_more_are_others(sample) -> None:
    with executor(replace(sample.run, workers=1)) as pool:
        assert pool.submit(os.getpid).result() == os.getpid()
        assert pool.submit(threading.get_ident).result() != threading.get_ident()
    with executor(replace(sample.run, workers=2)) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()


@pytest.mark.parametrize(
    ("main", "platform", "start"),
    [
        ("tasks.prepare", "linux", "fork"),
        ("cli.__main__", "linux", "spawn"),
        ("tasksmith", "linux", "spawn"),
        (None, "linux", "spawn"),
        ("tasks.prepare", "darwin", "spawn"),
    ],
)
def test_only_a_stage_forks_and_only_on_linux(main, platform, start, monkeypatch) -> None:
    """Any other process may hold locks of threads, which a fork would copy."""
    spec = main and importlib.machinery.ModuleSpec(main, None)
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__spec__=spec))
    monkeypatch.setattr(sys, "platform", platform)
    assert execution._start_method() == start


def test_without_dask_the_command_that_installs_it_is_named(sample, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    cluster = replace(sample.run, cluster="tcp://127.0.0.1:9")
    message = r"^run\.cluster needs Dask; run `pip install .*`, or set run\.cluster to null"
    with pytest.raises(ParamsError, match=message), executor(cluster):
        pass
