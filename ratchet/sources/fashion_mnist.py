"""Fashion-MNIST's files: from an earlier download, Debian's package or torchvision's hosts."""

from __future__ import annotations

import gzip
import shutil
import zlib
from pathlib import Path

from ratchet.errors import SourceMissing
from ratchet.files import FULL, beside, sha256, writing

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
FILES = {  # unpacked name: SHA-256
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def get(downloads: Path) -> None:
    """Put the four files into `downloads/FashionMNIST/raw`, unless the right ones are there.

    Raises:
        SourceMissing: they are unavailable, or what came is not Fashion-MNIST.
    """
    raw = downloads / "FashionMNIST" / "raw"
    if _complete(raw) or _unpack(DEBIAN, raw):
        return
    hosts, cause = _download(downloads)
    if not cause:
        return
    raise SourceMissing(
        f"Fashion-MNIST is unavailable: {DEBIAN} is missing or damaged, and the download from "
        f"{', '.join(hosts)} failed ({cause}). As root on Debian or Ubuntu, run `apt-get install "
        f"{PACKAGE}`; or set `root` of the source in params.yaml to a folder that contains "
        "FashionMNIST/raw; or use your own data (see docs/data.md)"
    )


def _complete(raw: Path) -> bool:
    """Whether `raw` holds the four files with their published hashes."""
    return all(
        (raw / name).is_file() and sha256(raw / name) == digest for name, digest in FILES.items()
    )


def _unpack(folder: Path, raw: Path) -> bool:
    """Unpack the `.gz` files of Debian's package into `raw`; returns whether they are right."""
    downloads = raw.parents[1]
    downloads.mkdir(parents=True, exist_ok=True)
    with beside(downloads / "FashionMNIST") as temporary:
        for name in FILES:
            try:
                with (
                    gzip.open(folder / f"{name}.gz") as packed,
                    (temporary / name).open("wb") as plain,
                ):
                    shutil.copyfileobj(packed, plain)
            except (FileNotFoundError, EOFError, gzip.BadGzipFile, zlib.error):
                return False
        return _take(temporary, raw)


def _download(downloads: Path) -> tuple[list[str], str]:
    """Use torchvision's own download; returns its hosts and, if it failed, why."""
    from torchvision.datasets import FashionMNIST

    hosts = list(FashionMNIST.mirrors)
    downloads.mkdir(parents=True, exist_ok=True)
    with beside(downloads / "FashionMNIST") as temporary:
        try:
            FashionMNIST(temporary, download=True)
        except (OSError, RuntimeError, EOFError, zlib.error) as error:
            if getattr(error, "errno", None) in FULL:
                raise
            return hosts, " ".join(str(error).split())
        fetched = temporary / "FashionMNIST" / "raw"
        taken = _take(fetched, downloads / "FashionMNIST" / "raw")
    return hosts, "" if taken else "its content is not Fashion-MNIST"


def _take(folder: Path, raw: Path) -> bool:
    """Move the files to `raw` if they are right; returns whether they are."""
    if not _complete(folder):
        return False
    with writing(raw) as complete:
        complete.mkdir()
        for name in FILES:
            (folder / name).rename(complete / name)
    return True
