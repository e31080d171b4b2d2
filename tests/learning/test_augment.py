"""Augmentation works image by image, on the batch, and keeps shape and type."""

from __future__ import annotations

import pytest
import torch

from tasks.learning.augment import augment, crop, erase, flip, mixer
from tasks.params import Augment


def chosen(**values: float) -> Augment:
    return Augment(**{"flip": False, "crop": 0, "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, **values})


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(1, 256, (400, 2, 6, 8), dtype=torch.uint8)


def test_half_the_images_are_mirrored(images: torch.Tensor) -> None:
    found = flip(images)
    mirrored = (found == images.flip(3)).all((1, 2, 3))
    assert ((found == images).all((1, 2, 3)) ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_each_image_is_shifted_by_its_own_amount(images: torch.Tensor) -> None:
    found = crop(images, 1)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    windows = [padded[:, :, y : y + 6, x : x + 8] for y in range(3) for x in range(3)]
    hits = torch.stack([(found == window).all((1, 2, 3)) for window in windows])
    assert hits.any(0).all()
    assert (hits.sum(1) > 15).all()


def test_a_rectangle_is_erased_in_its_share(images: torch.Tensor) -> None:
    found = erase(images, 0.5)
    gone = (found == 0).float().mean((1, 2, 3))
    assert 130 < (gone > 0).sum() < 260
    assert gone.max() < 0.6
    assert torch.equal(found[found != 0], images[found != 0])


def test_all_at_once_keep_shape_and_type(images: torch.Tensor) -> None:
    found = augment(images, chosen(flip=True, crop=2, erase=0.3))
    assert (found.shape, found.dtype) == (images.shape, images.dtype)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_gives_shares_of_classes(images: torch.Tensor, kind: str) -> None:
    mix = mixer(chosen(**{kind: 1.0}), 3)
    assert mix is not None
    mixed, shares = mix(images.float(), torch.arange(400) % 3)
    assert mixed.shape == images.shape
    assert shares.shape == (400, 3)
    assert torch.allclose(shares.sum(1), torch.ones(400))
    assert mixer(chosen(), 3) is None
