"""Decode images to 8-bit pixels, with one rule for each way that images differ.

formats          PNG, JPEG, GIF, BMP, WebP, TIFF, PNM, AVIF; HEIC with the extra `heif`; no others
several frames   the first one is used
EXIF rotation    is applied; if the EXIF data cannot be read, the pixels stay unchanged
palette          its colours, with their alpha if any
alpha            composited over white
CMYK, LAB...     Pillow's conversion to RGB
16 bits          divided by 257: 0..65535 becomes 0..255
32 bits, float   refused: they have no fixed range
colour to grey   ITU-R 601-2 luma; grey to colour: three equal channels
size             bilinear with antialiasing, each side scaled by itself

Validation and preparation both use `decode`, so that they accept the same images.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from ratchet.errors import CorruptData

MAX_PIXELS = 178_956_970  # pixels of one image; Pillow refuses more
MODES = {1: "L", 3: "RGB"}
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
HEIF_EXTRA = "the extra `heif` (pip install -c constraints.txt -e '.[heif]')"
TURNS = {  # EXIF orientation: what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SAMPLE = 32  # side of the sample in which `in_colour` looks for colour, in pixels


class BadImage(CorruptData):
    """An image that cannot be used; `reason` is a code of the quarantine."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image."""

    image: Image.Image  # upright and opaque, of mode L or RGB
    mode: str  # Pillow's name for the pixels in the file, such as RGB, P or I;16


@functools.cache
def formats() -> tuple[str, ...]:
    """The supported formats, by Pillow's names."""
    try:
        import pillow_heif
    except ImportError:
        return FORMATS
    pillow_heif.register_heif_opener()
    return (*FORMATS, "HEIF")


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of files in these formats, in lower case."""
    readable = {*formats(), "MPO"}  # MPO is a JPEG with several frames
    extensions = Image.registered_extensions()
    return frozenset(suffix for suffix, name in extensions.items() if name in readable)


def decode(encoded: bytes | None, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode the first frame to its last pixel.

    Raises:
        BadImage: there is no image, it is damaged, its format or mode is not supported, or it has
            more than `max_pixels`. Nothing else is raised, whatever the bytes are.
    """
    if encoded is None:
        raise BadImage("image_null", "no image")
    if not encoded:
        raise BadImage("image_empty", "0 bytes")
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged metadata, and of images beyond its own limit of pixels.
            warnings.simplefilter("ignore")
            return _decode(encoded, max_pixels)
    except BadImage:
        raise
    except Image.DecompressionBombError:
        size = f"more than {MAX_PIXELS:,} pixels"
        raise BadImage("image_bomb", f"{size}; at most {max_pixels:,} are decoded") from None
    except UnidentifiedImageError:
        raise _unidentified(encoded) from None
    except Exception as error:  # Pillow's plugins raise whatever error their parser hits
        message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise BadImage("image_corrupt", message.removesuffix(":")) from None


def _decode(encoded: bytes, max_pixels: int) -> Picture:
    image = Image.open(io.BytesIO(encoded), formats=formats())
    if image.width * image.height > max_pixels:
        raise BadImage(
            "image_bomb",
            f"{image.width} x {image.height} pixels; at most {max_pixels:,} are decoded",
        )
    if not image.width * image.height:
        raise BadImage("image_corrupt", f"{image.width} x {image.height} pixels")
    image.load()
    opaque = _opaque(image)
    turn = _turn(image)
    return Picture(opaque if turn is None else opaque.transpose(turn), image.mode)


def _opaque(image: Image.Image) -> Image.Image:
    """The pixels as L or RGB."""
    mode = image.mode
    if mode in MODES.values() and "transparency" not in image.info:
        return image
    if mode == "F":
        raise BadImage("image_mode", "floating-point pixels have no fixed range")
    if mode == "I" and image.format not in ("PNG", "PPM"):  # in these formats, I holds 16 bits
        raise BadImage("image_mode", "32-bit pixels have no fixed range")
    if mode.startswith("I"):
        return _from_16_bits(image)
    try:
        if mode in ("La", "RGBa"):  # alpha is multiplied into the colours
            image = image.convert(mode.upper())
        if image.has_transparency_data:
            clear = image.convert("RGBA")
            white = Image.new("RGBA", clear.size, "white")
            return Image.alpha_composite(white, clear).convert("RGB")
        return image.convert("L" if mode == "1" else "RGB")
    except ValueError:
        raise BadImage("image_mode", f"Pillow cannot convert {mode} pixels to RGB") from None


def _from_16_bits(image: Image.Image) -> Image.Image:
    array = np.clip(np.asarray(image), 0, 65535)
    transparent = image.info.get("transparency")
    if transparent is not None:
        array = np.where(array == transparent, 65535, array)
    return Image.fromarray((array // 257).astype(np.uint8))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition that makes the image upright.

    This does not use `ImageOps.exif_transpose`, which also rewrites the EXIF data and fails if
    they are damaged.
    """
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the EXIF data are damaged, but the pixels may still be good
        return None


def _unidentified(encoded: bytes) -> BadImage:
    """What is wrong with bytes that none of the formats accepts."""
    prefix = encoded[:16]
    name = _format(prefix)
    if name == "HEIC":
        return BadImage("image_format", f"HEIC images need {HEIF_EXTRA}")
    if name in formats():
        return BadImage("image_corrupt", f"the header of this {name} file is damaged")
    if name:
        return BadImage("image_format", f"{name} files are not read; convert them to PNG or JPEG")
    return BadImage("image_corrupt", f"no known image format; the file begins with {prefix!r}")


def _format(prefix: bytes) -> str | None:
    """The format that the first bytes of a file claim. This opens nothing."""
    if prefix.startswith(b"%PDF"):
        return "PDF"
    if prefix[4:8] == b"ftyp" and prefix[8:12] in HEIC_BRANDS and "HEIF" not in formats():
        return "HEIC"
    Image.init()
    for name, (_, accept) in Image.OPEN.items():
        with contextlib.suppress(Exception):  # a prefix that is too short for the check
            if accept and accept(prefix):
                return "CUR or TGA" if name == "CUR" else name  # TGA files can begin the same way
    return None


def in_colour(image: Image.Image) -> bool:
    """Whether the channels of an L or RGB image differ in a sample of SAMPLE x SAMPLE pixels."""
    if image.mode == "L":
        return False
    small = image.resize((SAMPLE, SAMPLE), Image.Resampling.NEAREST)
    sample = np.asarray(small)  # (SAMPLE, SAMPLE, 3)
    return bool((sample != sample[:, :, :1]).any())


def brightness(image: Image.Image) -> int:
    """The mean of a grey copy, 0 to 255."""
    mean: int = image.convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[assignment]
    return mean


def pixels(
    encoded: bytes | None, size: Sequence[int], channels: int, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decode an image to a model's input, uint8 (C, H, W).

    Args:
        encoded: the bytes of an image file.
        size: (height, width) of the input.
        channels: 1 or 3.
        max_pixels: images with more pixels are refused.

    Raises:
        BadImage: as `decode` does.
    """
    array: np.ndarray = stacked([encoded], size, channels, max_pixels)[0]
    return array


def stacked(
    encoded: Sequence[bytes | None],
    size: Sequence[int],
    channels: int,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode images to a model's inputs, uint8 (N, C, H, W).

    They are pasted onto one canvas, because Pillow exports one large image faster than many small
    ones.

    Args:
        encoded: the bytes of image files.
        size: (height, width) of the inputs.
        channels: 1 or 3.
        max_pixels: images with more pixels are refused.

    Raises:
        BadImage: as `decode` does, for the first bad image.
    """
    height, width = size
    canvas = Image.new(MODES[channels], (width, height * len(encoded)))
    for index, content in enumerate(encoded):
        image = decode(content, max_pixels).image
        canvas.paste(_fitted(image, (width, height), channels), (0, index * height))
    array = np.asarray(canvas).reshape(len(encoded), height, width, channels)
    return array.transpose(0, 3, 1, 2)


def _fitted(image: Image.Image, size: tuple[int, int], channels: int) -> Image.Image:
    """Resize an L or RGB image to `size` (width, height) and convert it to `channels`."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])
