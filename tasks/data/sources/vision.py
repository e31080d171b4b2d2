"""torchvision's classification data sets, by class name."""

from __future__ import annotations

import hashlib
import inspect
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.data.sources import fashion_mnist
from tasks.data.sources.base import Entry, Part, Places, Rows, array_id, encoded, image_table, pin
from tasks.errors import CorruptData, ParamsError, SourceMissing, Unreachable
from tasks.params import TorchvisionSource

ARCHIVES = (".gz", ".tgz", ".tar", ".zip")  # what torchvision leaves beside the files that it unpacked
SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}  # ours: torchvision's, first wins
ROWS = 100  # in one batch


def resolve(source: TorchvisionSource, places: Places) -> Entry:
    if source.root is None and source.name == "FashionMNIST":
        fashion_mnist.get(places.downloads)
    elif source.root is None and not any(folder.is_dir() for folder in _folders(places.downloads, source.name)):
        _download(source, places.downloads)
    root, folder = _locate(source, places)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix not in ARCHIVES)
    if not files:
        raise SourceMissing(f"ingest.sources: no files of {source.name} in {folder}; put them there, or set root: null")
    return {"name": source.name, "files": [pin(file, file.relative_to(root).as_posix()) for file in files]}


def parts(source: TorchvisionSource, entry: Entry, places: Places) -> list[Part]:
    root, _ = _locate(source, places)
    return [Part(source, root, tuple(entry["files"]), {"split": split}) for split in SPLITS]


def read(part: Part) -> Rows:
    data = _dataset(part.source, part.root, part.detail["split"])
    if data is None:
        return Rows(iter(()))
    if callable(getattr(data, "loader", None)):
        data.loader = _encoded  # keeps the bytes of image files as they came
    classes = getattr(data, "classes", None)
    return Rows(_batches(data, part), list(map(str, classes)) if classes else None)


def _folders(root: Path, name: str) -> tuple[Path, Path]:
    """MNIST and its kin keep their files in `<name>/raw` of a root; the others get a folder of their own as root."""
    return root / name / "raw", root / name


def _locate(source: TorchvisionSource, places: Places) -> tuple[Path, Path]:
    """The root that torchvision is told, and the folder in it that holds the files."""
    root = places.downloads if source.root is None else places.find(source.root)
    kin, own = _folders(root, source.name)
    return (root, kin) if kin.is_dir() else (own, own) if own.is_dir() else (root, root)


def _download(source: TorchvisionSource, downloads: Path) -> None:
    """Let torchvision fetch into a temporary root, so that a cut download leaves nothing behind."""
    from torchvision.datasets import MNIST

    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".") as temporary:
        kin = issubclass(_class(source.name), MNIST)
        root = Path(temporary) if kin else Path(temporary) / source.name
        root.mkdir(exist_ok=True)
        try:
            for split in SPLITS:
                _dataset(source, root, split, download=True)
        except (OSError, RuntimeError) as error:
            cause = " ".join(str(error).split())
            raise Unreachable(
                f"torchvision could not download {source.name}: {cause}; try again, or set a root"
            ) from None
        (Path(temporary) / source.name).rename(downloads / source.name)


def _class(name: str) -> Any:
    import torchvision.datasets

    found = getattr(torchvision.datasets, name, None) if name in torchvision.datasets.__all__ else None
    if not inspect.isclass(found):
        raise ParamsError(f"ingest.sources: torchvision has no data set {name!r}; see torchvision.datasets.__all__")
    return found


def _dataset(source: TorchvisionSource, root: Path, split: str, download: bool = False) -> Any:
    """The data set's object for a split of ours, or None where it has no such split."""
    dataset = _class(source.name)
    names = {name for base in inspect.getmro(dataset) for name in inspect.signature(base).parameters}
    extra = {**source.arguments, **({"download": True} if download and "download" in names else {})}
    if "train" in names - extra.keys():
        return None if split == "val" else dataset(str(root), train=split == "train", **extra)
    if "split" not in names - extra.keys():
        return dataset(str(root), **extra) if split == "train" else None
    for name in SPLITS[split]:
        try:
            return dataset(str(root), split=name, **extra)
        except ValueError as error:
            if "split" not in str(error):
                raise
    return None


def _batches(data: Any, part: Part) -> Iterator[pa.Table]:
    given = part.detail["split"] if _splits(data) else None
    for start in range(0, len(data), ROWS):
        rows = [data[index] for index in range(start, min(start + ROWS, len(data)))]
        if not all(isinstance(label, int) for _, label in rows):
            raise CorruptData(
                f"torchvision's {part.source.name} has labels that are no whole numbers: no classification"
            )
        images, ids = zip(*(_bytes(image) for image, _ in rows), strict=True)
        columns = {"row_id": ids, **({"split": [given] * len(rows)} if given else {})}
        yield image_table(images, pa.array([label for _, label in rows], pa.int64()), **columns)


def _splits(data: Any) -> bool:
    return hasattr(data, "train") or hasattr(data, "split") or hasattr(data, "_split")


def _encoded(path: Any) -> bytes:
    return Path(path).read_bytes()


def _bytes(image: Any) -> tuple[bytes, str]:
    """The encoded image and its row_id: a file's own bytes, or an array as a PNG that is named by its pixels."""
    if isinstance(image, bytes):
        return image, hashlib.blake2b(image, digest_size=16).hexdigest()
    array = np.asarray(image)
    return encoded(array), array_id(array)
