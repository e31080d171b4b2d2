"""One rule for each way that images differ."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tasks.data import images
from tests.data.samples import png

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (6, 4, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (6, 4), np.uint8)


def brought(encoded, size=(6, 4), channels=3):
    return images.pixels(images.load(encoded), size, channels)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_what_fits_is_untouched():
    assert np.array_equal(brought(png(COLOUR)), COLOUR.transpose(2, 0, 1))
    assert np.array_equal(brought(png(GREY), channels=1), GREY[None])


@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_plain_png_is_read_as_pillow_reads_it_damaged_or_not(array):
    def read(reader, content):
        try:
            found = reader(content)
            return found if isinstance(found, tuple) else np.asarray(found).tolist()
        except (images.BadImage, OSError, SyntaxError, ValueError):
            return None

    def pillow(content):
        image = Image.open(io.BytesIO(content))
        image.load()
        return image

    whole = png(array)
    assert images._plain(whole, images.MAX_PIXELS) is not None
    cut = [whole[:at] for at in range(len(whole))]
    flipped = [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in range(len(whole))]
    for content in [whole, *cut, *flipped]:
        expected = read(pillow, content)
        assert read(images.load, content) == expected
        assert read(images.probe, content) == (None if expected is None else ((4, 6), pillow(content).mode))


def test_grey_and_colour():
    assert np.array_equal(brought(png(GREY)), np.stack([GREY] * 3))
    luma = COLOUR @ np.array([0.299, 0.587, 0.114])
    assert np.abs(brought(png(COLOUR), channels=1)[0] - luma).max() <= 1


def test_palette_and_one_bit():
    palette = Image.fromarray(GREY).convert("P")
    assert np.array_equal(brought(saved(palette)), np.stack([GREY] * 3))
    assert set(np.unique(brought(saved(Image.fromarray(GREY).convert("1")), channels=1))) == {0, 255}


def test_alpha_lies_over_white():
    clear = Image.fromarray(np.dstack([COLOUR, np.zeros((6, 4), np.uint8)]))
    assert (brought(saved(clear)) == 255).all()
    hidden = Image.fromarray(GREY)
    hidden.info["transparency"] = int(GREY[0, 0])
    assert brought(saved(hidden, transparency=int(GREY[0, 0])), channels=1)[0, 0, 0] == 255


def test_cmyk_goes_by_the_conversion_of_pillow():
    ink = Image.fromarray(COLOUR).convert("CMYK")
    assert np.array_equal(brought(saved(ink, "TIFF")), np.asarray(ink.convert("RGB")).transpose(2, 0, 1))


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


def test_floating_point_is_refused():
    with pytest.raises(images.BadImage, match="image_mode: floating-point pixels have no fixed range"):
        images.load(saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_12_cut_images_are_found(kind):
    whole = saved(Image.fromarray(RANDOM.integers(0, 256, (40, 40, 3), np.uint8)), kind)
    images.load(whole)
    for length in (len(whole) // 4, len(whole) // 2, len(whole) * 9 // 10):
        with pytest.raises(images.BadImage, match="image_corrupt"):
            images.load(whole[:length])


def test_13_a_bomb_is_refused_before_it_is_decoded():
    bomb = saved(Image.new("1", (12_000, 12_000)))
    with pytest.raises(images.BadImage, match="image_bomb: 12000 x 12000 pixels; at most 36,000,000 are decoded"):
        images.load(bomb, 36_000_000)
