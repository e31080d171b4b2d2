"""Augmentation works image by image, on the batch, and keeps shape and type."""

from __future__ import annotations

import pytest
import torch

from ratchet.train_params import Augment
from ratchet.training.augment import augment, crop, erase, flip, mixer


def chosen(**values: float) -> Augment:
    return Augment(
        **{"flip": False, "crop": 0, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, **values}
    )


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(1, 256, (400, 2, 6, 8), dtype=torch.uint8)


def test_half_the_images_are_mirrored(images: torch.Tensor) -> None:
    found = flip(images)
    mirrored = (found == images.flip(3)).all((1, 2, 3))
    assert ((found == images).all((1, 2, 3)) ^ mirrored).all()
    assert 160 < mirrored.sum() < 240


def test_each_image_is_shifted_by_its_own_amount(images: torch.Tensor) -> None:
    found = crop(images, 1)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    windows = [padded[:, :, y : y + 6, x : x + 8] for y in range(3) for x in range(3)]
    hits = torch.stack([(found == window).all((1, 2, 3)) for window in windows])
    assert hits.any(0).all()
    assert (hits.sum(1) > 15).all()


def test_rectangles_of_the_paper_are_erased_in_their_share() -> None:
    """Zhong et al.: 2 to 33% of the area, sides of 0.3 to 3.3 to one another, anywhere in the image."""
    torch.manual_seed(0)
    images = torch.ones(2000, 1, 120, 80, dtype=torch.uint8)
    gone = erase(images, 0.5)[:, 0] == 0
    hit = gone.flatten(1).any(1)
    assert 920 < hit.sum() < 1080
    rows, columns = gone[hit].any(2), gone[hit].any(1)
    high, wide = rows.sum(1), columns.sum(1)
    assert torch.equal(gone[hit].sum((1, 2)), high * wide), "it is not one rectangle"
    area, ratio = high * wide / (120 * 80), high / wide
    free = wide < 80  # where the image's edge does not cut it
    assert 0.017 < area.min() < 0.03 and 0.3 < area.max() < 0.34
    assert 0.27 < ratio.min() < 0.35 and 2.9 < ratio[free].max() < 3.7
    assert 0.9 < ratio[free].median() < 1.1
    top, left = rows.int().argmax(1), columns.int().argmax(1)
    for start, length, extent in ((top, high, 120), (left, wide, 80)):
        place = start / (extent - length).clamp(min=1)
        assert (
            place.min() < 0.05
            and 0.4 < place[length < extent].median() < 0.6
            and place.max() > 0.95
        )


def test_each_augmentation_is_drawn_where_it_is_chosen(images: torch.Tensor) -> None:
    steps = {
        "crop": (2, lambda x: crop(x, 2)),
        "flip": (True, flip),
        "erase": (0.3, lambda x: erase(x, 0.3)),
    }
    assert augment(images, chosen()) is images
    expected = images
    torch.manual_seed(1)
    for _, step in steps.values():
        expected = step(expected)
    torch.manual_seed(1)
    found = augment(images, chosen(**{name: value for name, (value, _) in steps.items()}))
    assert torch.equal(found, expected) and found.dtype == torch.uint8
    for name, (value, step) in steps.items():
        torch.manual_seed(2)
        alone = step(images)
        torch.manual_seed(2)
        assert torch.equal(augment(images, chosen(**{name: value})), alone)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_blends_neighbours_and_their_targets_alike(images: torch.Tensor, kind: str) -> None:
    torch.manual_seed(0)
    inputs, targets = images[:399].float(), torch.arange(399) % 3
    mix = mixer(chosen(**{kind: 1.0}), 3)
    assert mix is not None
    mixed, shares = mix(inputs, targets)
    own = shares[0, targets[0]]
    assert 0.05 < own < 0.95
    rows = torch.arange(399)
    expected = torch.zeros(399, 3)
    expected[rows, targets] = own
    expected[rows, targets.roll(1)] = 1 - own
    assert torch.allclose(shares, expected)
    if kind == "mixup":
        assert torch.allclose(mixed, own * inputs + (1 - own) * inputs.roll(1, 0), atol=1e-3)
    else:
        kept = mixed == inputs
        assert (kept | (mixed == inputs.roll(1, 0))).all()
        assert kept.float().mean() == pytest.approx(float(own), abs=0.02)


def test_mixers_have_the_alpha_of_their_params() -> None:
    mix = mixer(chosen(mixup=0.2, cutmix=0.4), 7)
    assert [(type(each).__name__, each.alpha, each.num_classes) for each in mix.transforms] == [  # type: ignore[union-attr]
        ("MixUp", 0.2, 7),
        ("CutMix", 0.4, 7),
    ]
    assert mixer(chosen(), 3) is None
