"""Encoded images to arrays, with one rule for each way that images differ.

many frames    the first one counts
EXIF rotation  is applied
palette        its colours, with their alpha if any
alpha          laid over white
CMYK, YCbCr…   Pillow's conversion to RGB
16-bit         divided by 257: 0..65535 becomes 0..255
float          refused: it has no fixed range
colour to grey ITU-R 601-2 luma; grey to colour: three equal channels
size           bilinear with antialiasing, the sides independently of each other
"""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from tasks.errors import CorruptData

MAX_PIXELS = 178_956_970  # of one image; Pillow's own limit
MODES = {1: "L", 3: "RGB"}
PNG = b"\x89PNG\r\n\x1a\n"
PLAIN = {(8, 0, 0, 0, 0): "L", (8, 2, 0, 0, 0): "RGB"}  # IHDR's depth, colour type, compression, filter, interlace
START = PNG + b"\0\0\0\rIHDR"
HEAD = struct.Struct(">16x2I5BI I4s")  # after START: width, height, those five, CRC; length and name of the next chunk
END = b"\0\0\0\0IEND\xaeB`\x82"


class BadImage(CorruptData):
    """An image that cannot be used; `reason` is a code of the quarantine."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def load(encoded: bytes | None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode the first frame to its last pixel.

    Raises:
        BadImage: there is nothing, it is cut or no image, or it has more than `max_pixels`.
    """
    if encoded is None:
        raise BadImage("image_null", "no image")
    if not encoded:
        raise BadImage("image_empty", "0 bytes")
    file = io.BytesIO(encoded)
    try:
        if (plain := _plain(encoded, max_pixels)) is not None:
            mode, size, data = plain
            with contextlib.suppress(ValueError):  # of damaged data; what follows says what is wrong
                return Image.frombytes(mode, size, data, "zip", mode, 0)
        image = PngImagePlugin.PngImageFile(file) if encoded.startswith(PNG) else _open(file)
        if image.width * image.height > max_pixels:
            raise BadImage("image_bomb", f"{image.width} x {image.height} pixels; at most {max_pixels:,} are decoded")
        image.load()
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("image_corrupt", f"no known image format; begins with {encoded[:8].hex(' ')}") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsing runs into
        raise BadImage("image_corrupt", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
    if image.mode == "F":
        raise BadImage("image_mode", "floating-point pixels have no fixed range")
    return image


def probe(encoded: bytes | None, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], str]:
    """Width and height, and Pillow's mode, of an image that decodes to its last pixel.

    Raises:
        BadImage: as `load` does.
    """
    if encoded and (plain := _plain(encoded, max_pixels)) is not None:
        mode, (width, height), data = plain
        line = 1 + width * len(mode)  # of a filter's number and pixels; no filter can fail
        inflate = zlib.decompressobj()
        with contextlib.suppress(zlib.error):
            lines = inflate.decompress(data, line * height + 1)
            if inflate.eof and len(lines) == line * height and max(lines[::line]) <= 4:
                return (width, height), mode
    image = load(encoded, max_pixels)
    return image.size, image.mode


def _plain(encoded: bytes, max_pixels: int) -> tuple[str, tuple[int, int], bytes] | None:
    """Mode, size and compressed data of a PNG of the plainest kind (8-bit grey or RGB, one IDAT chunk and nothing else).

    None for any other, and for one that does not match its checksums. Small images take Pillow as long to open as to decode.
    """
    if len(encoded) < HEAD.size or not encoded.startswith(START):
        return None
    width, height, *kind, crc, size, name = HEAD.unpack_from(encoded)
    mode, end = PLAIN.get(tuple(kind)), HEAD.size + size
    if mode is None or name != b"IDAT" or encoded[end + 4 :] != END:
        return None
    if zlib.crc32(encoded[12:29]) != crc or zlib.crc32(encoded[37:end]) != int.from_bytes(encoded[end : end + 4]):
        return None
    return (mode, (width, height), encoded[HEAD.size : end]) if 0 < width * height <= max_pixels else None


def _open(file: io.BytesIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's own limit: ours is lower and is checked next
        return Image.open(file)


def pixels(image: Image.Image, size: Sequence[int], channels: int) -> np.ndarray:
    """An image under the rules above: uint8 (C, H, W); `size` is (height, width)."""
    return stacked([image], 1, size, channels).reshape(channels, *size)


def brightness(image: Image.Image) -> int:
    """The mean of a grey copy, 0 to 255."""
    mean: int = image.convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # type: ignore[assignment]
    return mean


def stacked(images: Iterable[Image.Image], count: int, size: Sequence[int], channels: int) -> np.ndarray:
    """`count` images under the rules above: uint8 (N, C, H, W). They meet on one canvas: to leave Pillow singly is slow."""
    height, width = size
    canvas = Image.new(MODES[channels], (width, height * count))
    for place, image in enumerate(images):
        canvas.paste(_brought(image, size, channels), (0, place * height))
    return np.asarray(canvas).reshape(count, height, width, channels).transpose(0, 3, 1, 2)


def _brought(image: Image.Image, size: Sequence[int], channels: int) -> Image.Image:
    bare = image.format in (None, "PNG") and not image.info.keys() & {"exif", "transparency"}
    if bare and image.mode == MODES[channels] and image.size == (size[1], size[0]):
        return image
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    wanted = (size[1], size[0])
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.BILINEAR)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])
