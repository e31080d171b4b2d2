"""One rule for each way that images differ."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ratchet import images
from tests.helpers.data_samples import png

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 4, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (6, 4), np.uint8)


def brought(encoded, size=(6, 4), channels=3):
    return images.pixels(encoded, size, channels)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_what_fits_is_untouched():
    assert np.array_equal(brought(png(COLOUR)), COLOUR.transpose(2, 0, 1))
    assert np.array_equal(brought(png(GREY), channels=1), GREY[None])


def test_grey_and_colour():
    assert np.array_equal(brought(png(GREY)), np.stack([GREY] * 3))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(brought(png(COLOUR), channels=1)[0] - luma).max() <= 1


def test_palette_and_one_bit():
    palette = Image.fromarray(GREY).convert("P")
    assert np.array_equal(brought(saved(palette)), np.stack([GREY] * 3))
    assert set(np.unique(brought(saved(Image.fromarray(GREY).convert("1")), channels=1))) == {
        0,
        255,
    }


def test_alpha_is_laid_over_white():
    clear = Image.fromarray(np.dstack([COLOUR, np.zeros((6, 4), np.uint8)]))
    assert (brought(saved(clear)) == 255).all()
    hidden = Image.fromarray(GREY)
    hidden.info["transparency"] = int(GREY[0, 0])
    assert brought(saved(hidden, transparency=int(GREY[0, 0])), channels=1)[0, 0, 0] == 255


def test_cmyk_goes_by_the_conversion_of_pillow():
    ink = Image.fromarray(COLOUR).convert("CMYK")
    assert np.array_equal(
        brought(saved(ink, "TIFF")), np.asarray(ink.convert("RGB")).transpose(2, 0, 1)
    )


def test_sixteen_bits_become_eight():
    deep = (GREY.astype(np.uint16) * 257).astype(np.uint16)
    assert np.array_equal(brought(saved(Image.fromarray(deep)), channels=1)[0], GREY)


def test_the_rotation_of_a_camera_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    turned = brought(saved(Image.fromarray(COLOUR), exif=exif), size=(4, 6))
    assert np.array_equal(turned, np.rot90(COLOUR, -1).transpose(2, 0, 1))


def test_the_first_frame_counts():
    frames = [Image.fromarray(np.full((6, 4), value, np.uint8)) for value in (10, 200)]
    gif = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (brought(gif, channels=1) == 10).all()


def test_the_size_is_bilinear():
    wanted = Image.fromarray(COLOUR).resize((2, 3), Image.Resampling.BILINEAR)
    assert np.array_equal(brought(png(COLOUR), size=(3, 2)), np.asarray(wanted).transpose(2, 0, 1))


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "HEIF"]
)
def test_cut_images_are_found(kind):
    whole = saved(Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3), np.uint8)), kind)
    images.decode(whole)
    for length in (len(whole) // 4, len(whole) // 2, len(whole) * 9 // 10):
        with pytest.raises(images.BadImage, match="image_corrupt"):
            images.decode(whole[:length])


# ── one bad image is one row with a reason ────────────────────────────────────────────────────────

PHOTO = Image.fromarray(RANDOM.integers(0, 256, (40, 30, 3), np.uint8))
WHOLE = saved(PHOTO)
LIMIT = 36_000_000  # validate.max_pixels as it comes


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(name, data):
    """The PNG with one more chunk after its header."""
    return WHOLE[:33] + chunk(name, data) + WHOLE[33:]


def png_header(width, height):
    return (
        WHOLE[:8] + chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)) + WHOLE[33:]
    )


def exif(orientation, *entries, rest=b""):
    """EXIF data with an orientation and more entries: tag, type, count, 4 bytes."""
    fields = [(0x0112, 3, 1, struct.pack(">HH", orientation, 0)), *entries]
    head = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(fields))
    return (
        head
        + b"".join(struct.pack(">HHI", *field[:3]) + field[3] for field in fields)
        + b"\0" * 4
        + rest
    )


def bmp(width, height):
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + sizes + bytes(100)


def jpeg(width, height):
    content = bytearray(saved(PHOTO, "JPEG"))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def gif(width, height):
    content = saved(PHOTO, "GIF")
    return content[:6] + struct.pack("<HH", width, height) + content[10:]


def webp(width, height):
    content = saved(PHOTO, "WEBP", lossless=True)
    return content[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + content[25:]


def tiff(width, height):
    content = saved(PHOTO, "TIFF")
    for tag, before, after in ((256, 30, width), (257, 40, height)):
        for kind, form in ((3, "<HHIHxx"), (4, "<HHII")):
            content = content.replace(
                struct.pack(form, tag, kind, 1, before), struct.pack("<HHII", tag, 4, 1, after)
            )
    return content


UPRIGHT, TURNED = (30, 40), (40, 30)


@pytest.mark.parametrize(
    ("encoded", "size"),
    [
        # EXIF data that cannot be read: the pixels stay as they are
        (with_chunk(b"tEXt", b"Raw profile type exif\0garbage zz\nexif\n  9\nzzzz"), UPRIGHT),
        (
            with_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 8\nzz")),
            UPRIGHT,
        ),
        (with_chunk(b"eXIf", b"garbage"), UPRIGHT),  # python-pillow/Pillow#5528
        (with_chunk(b"eXIf", b""), UPRIGHT),  # python-pillow/Pillow#4676
        (with_chunk(b"eXIf", b"II*\0"), UPRIGHT),
        (saved(PHOTO, "JPEG", exif=b"Exif\0\0"), UPRIGHT),  # python-pillow/Pillow#4852
        (saved(PHOTO, "JPEG", exif=b"Exif\0\0garbage"), UPRIGHT),
        (saved(PHOTO, "WEBP", exif=b"Exif\0\0garbage"), UPRIGHT),
        (saved(PHOTO, "JPEG", exif=exif(9)), UPRIGHT),
        (saved(PHOTO, "JPEG", xmp=b"<x \xa8/>"), UPRIGHT),  # huggingface/datasets#7668
        (saved(PHOTO, "TIFF", tiffinfo={34665: 999_999}), UPRIGHT),
        # an orientation that can be read counts, even if other EXIF data cannot be written again
        (saved(PHOTO, "JPEG", exif=exif(6)), TURNED),
        (  # python-pillow/Pillow#8965
            saved(
                PHOTO,
                "JPEG",
                exif=exif(
                    6, (0x011A, 10, 1, struct.pack(">I", 38)), rest=struct.pack(">ii", -1, 0)
                ),
            ),
            TURNED,
        ),
        (with_chunk(b"eXIf", exif(8)[6:]), TURNED),
        (saved(PHOTO, "WEBP", exif=exif(6)), TURNED),
        (saved(PHOTO, "AVIF", exif=exif(6)), TURNED),
        (saved(PHOTO, "TIFF", tiffinfo={0x0112: 6}), TURNED),
    ],
)
def test_damaged_exif_data_say_nothing_about_the_pixels(encoded, size):
    assert images.decode(encoded).image.size == size
    assert images.pixels(encoded, (28, 28), 1).shape == (1, 28, 28)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_camera(orientation):
    from PIL import ImageOps

    encoded = saved(PHOTO, "PNG", exif=exif(orientation)[6:])
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    assert np.array_equal(np.asarray(images.decode(encoded).image), np.asarray(upright))


DEEP = GREY.astype(np.uint16) * 257
RGB_16 = RANDOM.integers(0, 256, (4, 4, 6), np.uint8)


def png_16(transparent):
    lines = b"".join(b"\0" + line.tobytes() for line in RGB_16)
    head = chunk(b"IHDR", struct.pack(">2I5B", 4, 4, 16, 2, 0, 0, 0))
    return (
        WHOLE[:8] + head + transparent + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("encoded", "mode", "grey"),
    [
        (saved(Image.fromarray(DEEP)), "I;16", GREY),  # python-pillow/Pillow#2574
        (saved(Image.fromarray(DEEP), "TIFF"), "I;16", GREY),  # python-pillow/Pillow#1108
        (
            saved(Image.frombytes("I;16B", (4, 6), DEEP.astype(">u2").tobytes()), "TIFF"),
            "I;16B",  # python-pillow/Pillow#5991
            GREY,
        ),
        (b"P5 4 6 65535\n" + DEEP.astype(">u2").tobytes(), "I", GREY),
        (b"P5 4 6 255\n" + GREY.tobytes(), "L", GREY),
        (
            saved(Image.fromarray(DEEP), transparency=int(DEEP[0, 0])),
            "I;16",
            np.where(np.equal(GREY, GREY[0, 0]), 255, GREY),
        ),
        (saved(Image.fromarray(GREY).convert("P"), "GIF"), "P", GREY),
        (saved(Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]))), "LA", GREY),
        (saved(Image.fromarray(GREY > 127)), "1", np.where(GREY > 127, 255, 0)),
        (saved(Image.fromarray(GREY > 127), transparency=0), "1", np.full_like(GREY, 255)),
    ],
)
def test_grey_pixels_of_every_mode(encoded, mode, grey):
    picture = images.decode(encoded)
    assert picture.mode == mode and not images.in_colour(picture.image)
    assert np.array_equal(brought(encoded, channels=1)[0], grey)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_colour_spaces_become_rgb_as_pillow_converts_them(mode):
    image = Image.frombytes(
        mode, (4, 6), RANDOM.integers(0, 256, (6, 4, len(mode) if mode == "CMYK" else 3), np.uint8)
    )
    encoded = saved(image, "TIFF")
    expected = Image.open(io.BytesIO(encoded)).convert("RGB")
    assert np.array_equal(brought(encoded), np.asarray(expected).transpose(2, 0, 1))
    assert brought(encoded, channels=1).shape == (1, 6, 4)


@pytest.mark.parametrize("transparent", [b"", chunk(b"tRNS", struct.pack(">3H", 65535, 300, 1))])
def test_sixteen_bits_of_colour(transparent):
    assert np.array_equal(
        brought(png_16(transparent), (4, 4)), RGB_16[:, :, ::2].transpose(2, 0, 1)
    )


def test_premultiplied_alpha_is_laid_over_white():
    alpha = np.full((6, 4), 128, np.uint8)
    encoded = saved(Image.fromarray(np.dstack([COLOUR // 2, alpha])), "TIFF")
    extra_samples = [
        struct.pack("<HHIH", 338, 3, 1, kind) for kind in (2, 1)
    ]  # plain alpha, premultiplied alpha
    found = brought(encoded.replace(*extra_samples)).astype(int)
    assert np.abs(found - (COLOUR.transpose(2, 0, 1) // 2 + 127)).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_the_first_frame_of_an_animation_counts(kind):
    frames = [Image.fromarray(np.full((6, 4, 3), value, np.uint8)) for value in (10, 200)]
    encoded = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(brought(encoded).astype(int) - 10).max() <= 2


CUT = WHOLE[:500]


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (None, "image_null: no image"),
        (b"", "image_empty: 0 bytes"),
        (CUT, "image_corrupt: "),  # huggingface/datasets#6470
        (WHOLE[:8], "image_corrupt: the header of this PNG file is damaged"),
        (b"\x89", "image_corrupt: no known image format"),
        (bytes(1000), "image_corrupt: no known image format"),
        (png_header(0, 5), "image_corrupt: "),
        (bmp(0, 0), "image_corrupt: "),
        (jpeg(0, 0), "image_corrupt: "),
        (b"P6 0 0 255\n", "image_corrupt: "),
        (
            with_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(50_000_000))),
            "image_corrupt: ValueError: Decompressed",
        ),
        (
            b"<!DOCTYPE html><html>404</html>",
            r"image_corrupt: no known image format; .*<!DOCTYPE html>",
        ),
        (
            b"just a text",
            r"image_corrupt: no known image format; the file begins with b'just a text'",
        ),
        (saved(PHOTO, "AVIF")[:40], "image_corrupt: the header of this AVIF file is damaged"),
        # formats that are never opened; EPS would start Ghostscript
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            "image_format: EPS files are not read",
        ),
        (b"\xc5\xd0\xd3\xc6" + bytes(99), "image_format: EPS files are not read"),
        (saved(PHOTO, "PDF"), "image_format: PDF files are not read; convert them to PNG or JPEG"),
        (saved(PHOTO, "ICO"), "image_format: ICO files are not read"),
        (saved(PHOTO, "JPEG2000"), "image_format: JPEG2000 files are not read"),
        (
            struct.pack("<I6H", 200, 0xAF11, 1, 30, 40, 8, 0) + bytes(200),
            "image_format: FLI files are not read",
        ),
        (b"\xd7\xcd\xc6\x9a\0\0" + bytes(100), "image_format: WMF files are not read"),
        # pixels without a range
        (
            saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
            "image_mode: floating-point pixels have no fixed range",
        ),
        (
            b"Pf 4 6 -1.0\n" + GREY.astype("<f4").tobytes(),
            "image_mode: floating-point pixels have no fixed range",
        ),
        (
            saved(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
            "image_mode: 32-bit pixels have no fixed range",
        ),
        # more pixels than are decoded, by the header alone
        (bmp(10_000, 10_000), "image_bomb: 10000 x 10000 pixels; at most 36,000,000 are decoded"),
        (
            bmp(30_000, 30_000),
            "image_bomb: more than 178,956,970 pixels; at most 36,000,000 are decoded",
        ),
        (png_header(40_000, 40_000), "image_bomb: "),  # huggingface/dataset-viewer#1192
        (png_header(2**32 - 1, 2**32 - 1), "image_bomb: "),
        (jpeg(65_535, 65_535), "image_bomb: "),
        (gif(65_535, 65_535), "image_bomb: "),
        (webp(16_384, 16_384), "image_bomb: "),
        (tiff(60_000, 60_000), "image_bomb: "),
        (b"P6 60000 60000 255\n" + bytes(99), "image_bomb: "),
        (
            saved(Image.new("1", (12_000, 12_000))),
            "image_bomb: 12000 x 12000 pixels; at most 36,000,000 are decoded",
        ),
    ],
)
def test_a_bad_image_has_one_reason_and_raises_nothing_but_bad_image(encoded, message):
    for function in (
        images.decode,
        lambda encoded, limit: images.pixels(encoded, (5, 4), 3, limit),
    ):
        with pytest.raises(images.BadImage, match=message):
            function(encoded, LIMIT)


def test_ghostscript_is_never_started(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a: pytest.fail("started"))
    with pytest.raises(images.BadImage, match="image_format"):
        images.decode(saved(PHOTO, "EPS"))


@pytest.mark.fault(12, 40)
def test_random_damage_raises_nothing_but_bad_image():
    random = np.random.default_rng(1)
    wholes = [
        saved(PHOTO, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
    ]
    reasons = set()
    for whole in wholes * 60:
        content = bytearray(whole)
        for index in random.integers(0, min(len(content), 400), 3):
            content[index] = random.integers(0, 256)
        try:
            assert images.pixels(bytes(content), (5, 4), 1, LIMIT).shape == (1, 5, 4)
        except images.BadImage as error:
            reasons.add(error.reason)
    assert "image_corrupt" in reasons


# ── HEIC ──────────────────────────────────────────────────────────────────────────────────────────


def test_heic_is_read_with_the_extra():
    pytest.importorskip("pillow_heif")
    images.formats()
    image = Image.new("RGB", (64, 48), (200, 100, 50))
    found = brought(saved(image, "HEIF", quality=90), (48, 64)).reshape(3, -1).mean(1)
    assert np.abs(found - (200, 100, 50)).max() < 6


def test_heic_without_the_extra_names_the_remedy(monkeypatch):
    monkeypatch.setattr(images, "formats", lambda: images.FORMATS)
    for brand in (b"heic", b"mif1"):
        encoded = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(200)
        with pytest.raises(
            images.BadImage, match=r"image_format: HEIC images need .*pip install .*\[heif\]"
        ):
            images.decode(encoded)


# ── grey or colour ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("array", "colour"),
    [
        (GREY, False),
        (np.dstack([GREY] * 3), False),  # grey stored as RGB
        (COLOUR, True),
        (np.dstack([GREY, GREY, GREY, GREY]), False),
        (np.dstack([COLOUR, GREY]), True),
        (np.zeros((6, 4, 3), np.uint8), False),
    ],
)
def test_an_image_is_in_colour_if_its_channels_differ(array, colour):
    assert images.in_colour(images.decode(png(array)).image) is colour
