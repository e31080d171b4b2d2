"""torchvision's classification data sets, by class name."""

from __future__ import annotations

import errno
import hashlib
import inspect
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from ratchet.errors import (
    CorruptData,
    DataError,
    ParamsError,
    SourceChanged,
    SourceMissing,
    Unreachable,
)
from ratchet.files import FULL, beside, sha256, writing
from ratchet.source_params import TorchvisionSource
from ratchet.sources import fashion_mnist
from ratchet.sources.base import Entry, Part, Places, Rows, array_id, encoded, image_table, pin

# Archives, which torchvision leaves beside the files that it unpacks.
ARCHIVES = (".gz", ".tgz", ".tar", ".zip")
# Ratchet's splits, each with torchvision's names for it. The first name that exists is used.
SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
ROWS = 100  # rows in one batch
CUT = (OSError, RuntimeError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
LOCAL = (*FULL, errno.EACCES, errno.EPERM, errno.EROFS)  # faults of this machine, not the network
Pinned = dict[str, Any]


def resolve(source: TorchvisionSource, places: Places) -> Entry:
    """Download the data set if it has no `root`, and pin its files.

    Raises:
        SourceMissing: the files are missing.
        Unreachable: the download failed.
    """
    if source.root is None:
        with _alone(places.downloads):
            _get(source, places.downloads)
    root, folder = _locate(source, places)
    names = _names(root, folder)
    if not names:
        raise SourceMissing(
            f"ingest.sources: {folder} holds no files of {source.name}; copy them there, or set "
            "`root: null` to download them"
        )
    return {"files": [pin(root / name, name) for name in names]}


def parts(source: TorchvisionSource, entry: Entry, places: Places) -> list[Part]:
    """List one part per split; each pins all files, because torchvision reads the whole folder."""
    files = tuple(entry["files"])
    root, folder = _locate(source, places)
    if source.root is None:  # it may not have been downloaded yet
        own = not files[0]["name"].startswith(f"{source.name}/raw/")
        root = places.downloads / source.name if own else places.downloads
    if folder.is_dir() and folder != places.downloads:
        _nothing_else(folder, {*_names(root, folder)} - {file["name"] for file in files})
    return [
        Part(source, root, files, {"split": split}, name=f"{source.name} {split}")
        for split in SPLITS
    ]


def _nothing_else(folder: Path, extra: set[str]) -> None:
    """Raise `SourceChanged` if the folder has `extra` files, which torchvision would read."""
    if extra:
        more = " and others" if len(extra) > 3 else ""
        raise SourceChanged(
            f"{folder} holds files that source.lock does not pin:"
            f" {', '.join(sorted(extra)[:3])}{more}; remove them, or run `ratchet refresh` to pin"
            " them"
        )


def fetch(part: Part) -> None:
    """Download the data set, unless the user set its `root`, and compare it with the pins."""
    source: TorchvisionSource = part.source
    if source.root is not None:
        return
    kin = part.files[0]["name"].startswith(f"{source.name}/raw/")
    downloads = part.root if kin else part.root.parent
    with _alone(downloads):
        try:
            part.verify()  # another worker may have fetched it in the meantime
        except DataError:
            _get(source, downloads, part.files)


def read(part: Part) -> Rows:
    """Read the rows of one split.

    Raises:
        CorruptData: torchvision cannot read the files.
    """
    name = part.source.name
    try:
        data = _dataset(part.source, part.root, part.detail["split"])
    except (OSError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise CorruptData(
            f"torchvision cannot read {name} in {part.root}: {cause}; correct ingest.sources"
        ) from None
    if data is None:
        return Rows(iter(()))
    if callable(getattr(data, "loader", None)):
        data.loader = _encoded  # keeps the bytes of image files unchanged
    classes = getattr(data, "classes", None)
    return Rows(_batches(data, part), list(map(str, classes)) if classes else None)


@contextmanager
def _alone(downloads: Path) -> Iterator[None]:
    """Lock the downloads, so that one process at a time changes them and the others wait."""
    downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / ".lock"):
        yield


def _get(source: TorchvisionSource, downloads: Path, pins: Sequence[Pinned] = ()) -> None:
    """Download the files: those that are missing or, with `pins`, all of them as pinned."""
    if source.name == "FashionMNIST":
        fashion_mnist.get(downloads)
    elif pins or not _here(source, downloads):
        _download(source, downloads, pins)


def _here(source: TorchvisionSource, downloads: Path) -> bool:
    """Whether the data set has been downloaded, with the files that its arguments need."""
    kin, own = _folders(downloads, source.name)
    if not own.is_dir():
        return False
    if not source.arguments:
        return True
    try:
        return _dataset(source, downloads if kin.is_dir() else own, "train") is not None
    except (OSError, RuntimeError):
        return False


def _folders(root: Path, name: str) -> tuple[Path, Path]:
    """MNIST and its relatives use `<name>/raw` of a shared root; the others have their own root."""
    return root / name / "raw", root / name


def _locate(source: TorchvisionSource, places: Places) -> tuple[Path, Path]:
    """The root to pass to torchvision, and the folder in it that has the files."""
    root = places.downloads if source.root is None else places.find(source.root)
    kin, own = _folders(root, source.name)
    if kin.is_dir():
        return root, kin
    return (own, own) if own.is_dir() else (root, root)


def _names(root: Path, folder: Path) -> list[str]:
    """The names of a data set's files, without the archives that they were unpacked from."""
    return sorted(
        file.relative_to(root).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in ARCHIVES
    )


def _download(source: TorchvisionSource, downloads: Path, pins: Sequence[Pinned]) -> None:
    """Let torchvision download into a temporary root, so that a failure leaves nothing behind.

    Raises:
        Unreachable: the download failed or was interrupted.
        SourceMissing: torchvision cannot download this data set.
        SourceChanged: the files are not those that are pinned. The old files stay.
    """
    from torchvision.datasets import MNIST

    dataset = _class(source.name)
    if "download" not in _keywords(dataset):
        raise SourceMissing(
            f"ingest.sources: torchvision cannot download {source.name}; set `root` of the source "
            "to a folder that holds it"
        )
    with beside(downloads / source.name) as temporary:
        kin = issubclass(dataset, MNIST)
        root = temporary if kin else temporary / source.name
        root.mkdir(exist_ok=True)
        try:
            for split in SPLITS:
                _dataset(source, root, split, download=True)
        except CUT as error:
            if getattr(error, "errno", None) in LOCAL:
                raise
            cause = " ".join(str(error).split()) or type(error).__name__
            raise Unreachable(
                f"torchvision could not download {source.name}: {cause}; try again later, or set "
                "`root` of the source to a folder that holds it"
            ) from None
        for pinned in pins:
            _compare(root / pinned["name"], pinned, source.name)
        with writing(downloads / source.name) as folder:
            (temporary / source.name).rename(folder)


def _compare(file: Path, pinned: Pinned, name: str) -> None:
    digest = sha256(file) if file.is_file() else "no such file"
    if digest != pinned["sha256"]:
        raise SourceChanged(
            f"torchvision now downloads another {name}: {pinned['name']} has SHA-256"
            f" {digest[:12]}…, but source.lock pins {pinned['sha256'][:12]}…; run `ratchet refresh`"
            " to pin the new one"
        )


def _class(name: str) -> Any:
    import torchvision.datasets

    listed = name in torchvision.datasets.__all__
    dataset = getattr(torchvision.datasets, name, None) if listed else None
    if not inspect.isclass(dataset):
        raise ParamsError(
            f"ingest.sources: torchvision has no data set {name!r}; see"
            " torchvision.datasets.__all__"
        )
    return dataset


def _keywords(dataset: Any) -> set[str]:
    return {name for base in inspect.getmro(dataset) for name in inspect.signature(base).parameters}


def _dataset(source: TorchvisionSource, root: Path, split: str, download: bool = False) -> Any:
    """Create torchvision's data set for one of our splits; None if it has no such split."""
    dataset = _class(source.name)
    names = _keywords(dataset)
    if unknown := sorted(source.arguments.keys() - names):
        raise ParamsError(
            f"ingest.sources: torchvision's {source.name} has no argument {', '.join(unknown)}; "
            "correct `arguments` of the source"
        )
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
    split = part.detail["split"] if _has_splits(data) else None
    for start in range(0, len(data), ROWS):
        rows = [data[index] for index in range(start, min(start + ROWS, len(data)))]
        if not all(isinstance(label, int) for _, label in rows):
            raise CorruptData(
                f"torchvision's {part.source.name} has labels that are not whole numbers, so it is"
                " not a classification data set; choose another one"
            )
        images, ids = zip(*(_bytes(image) for image, _ in rows), strict=True)
        columns = {"row_id": ids}
        if split:
            columns["split"] = (split,) * len(rows)
        yield image_table(images, pa.array([label for _, label in rows], pa.int64()), **columns)


def _has_splits(data: Any) -> bool:
    return hasattr(data, "train") or hasattr(data, "split") or hasattr(data, "_split")


def _encoded(path: Any) -> bytes:
    return Path(path).read_bytes()


def _bytes(image: Any) -> tuple[bytes, str]:
    """The encoded image and its row_id, which is a hash of the file or of the array's pixels."""
    if isinstance(image, bytes):
        return image, hashlib.blake2b(image, digest_size=16).hexdigest()
    array = np.asarray(image)
    return encoded(array), array_id(array)
