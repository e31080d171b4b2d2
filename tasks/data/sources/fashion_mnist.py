"""Fashion-MNIST's files: from an earlier download, Debian's package, or torchvision's hosts, checked by content."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import zlib
from pathlib import Path

from tasks.data.files import sha256, writing
from tasks.errors import SourceMissing

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
FILES = {  # unpacked name: SHA-256
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def get(downloads: Path) -> None:
    """Have the four files, right, in `downloads/FashionMNIST/raw`.

    Raises:
        SourceMissing: nowhere to be had, or what came is not Fashion-MNIST.
    """
    raw = downloads / "FashionMNIST" / "raw"
    if _right(raw) or _unpack(DEBIAN, raw):
        return
    hosts, cause = _download(downloads)
    if _right(raw):
        return
    if cause and _install() and _unpack(DEBIAN, raw):
        return
    raise SourceMissing(
        f"Fashion-MNIST is not here: {DEBIAN} is missing or not what it should be, and {', '.join(hosts)} gave "
        f"{cause or 'other bytes'}. Three ways on: `apt-get install {PACKAGE}`; or set `root` of the source in "
        "params.yaml to a folder with FashionMNIST/raw/; or put parquet files in data/incoming/ and name them there"
    )


def _right(raw: Path) -> bool:
    return all((raw / name).is_file() and sha256(raw / name) == digest for name, digest in FILES.items())


def _unpack(folder: Path, raw: Path) -> bool:
    """Unpack the `.gz` files of Debian's package; says whether `raw` is right then."""
    try:
        with writing(raw) as made:
            made.mkdir()
            for name in FILES:
                with gzip.open(folder / f"{name}.gz") as packed, (made / name).open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
            return _right(made)
    except (OSError, EOFError, zlib.error):
        return False


def _download(downloads: Path) -> tuple[list[str], str]:
    """torchvision's own download; returns the hosts and, if they failed, why."""
    import tempfile

    from torchvision.datasets import FashionMNIST

    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".") as temporary:
        try:
            FashionMNIST(temporary, download=True)
        except (OSError, RuntimeError) as error:
            return list(FashionMNIST.mirrors), " ".join(str(error).split())
        fetched = Path(temporary) / "FashionMNIST" / "raw"
        with writing(downloads / "FashionMNIST" / "raw") as made:
            made.mkdir()
            for name in FILES:
                shutil.copyfile(fetched / name, made / name)
    return list(FashionMNIST.mirrors), ""


def _install() -> bool:
    """As root on Debian and its kin, install the package; says whether that went well."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    print(f"refresh: torchvision's hosts do not answer; installing Debian's package {PACKAGE}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", PACKAGE]):
        done = subprocess.run(command, env=environment, capture_output=True, timeout=600, check=False)
    return done.returncode == 0
