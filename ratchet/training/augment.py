"""Augment a batch on its device, each image independently.

`torchvision.transforms.v2` flips or crops all images of a batch in the same way. All random numbers
come from torch's global generator, which `seed_step` seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ratchet.train_params import Augment


def augment(images: Tensor, settings: Augment) -> Tensor:
    """Shift, flip and erase.

    Args:
        images: (N, C, H, W) of any dtype; erased pixels become 0.
        settings: the section `train.augment`.

    Returns:
        The same shape and dtype.
    """
    if settings.crop:
        images = crop(images, settings.crop)
    if settings.flip:
        images = flip(images)
    if settings.erase:
        images = erase(images, settings.erase)
    return images


def flip(images: Tensor) -> Tensor:
    """Mirror each image of (N, C, H, W) left to right with probability ½."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return images.flip(3).where(mirrored, images)


def crop(images: Tensor, pad: int) -> Tensor:
    """Shift each image of (N, C, H, W) by up to `pad` pixels each way; the new pixels are 0."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (pad, pad, pad, pad))
    # (N, C, 2·pad+1, 2·pad+1, H, W), a view
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * pad + 1, (2, count), device=images.device)
    return windows[torch.arange(count, device=images.device), :, down, right]


def erase(images: Tensor, share: float) -> Tensor:
    """Blank a rectangle in `share` of the images (Zhong et al., 2017, arXiv:1708.04896).

    The rectangle covers 2 to 33% of the area, and its aspect ratio is 0.3 to 3.3.
    """
    count, _, height, width = images.shape
    draw = torch.rand(5, count, device=images.device)
    area = (0.02 + 0.31 * draw[0]) * height * width
    ratio = 0.3 * (3.3 / 0.3) ** draw[1]
    high, wide = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
    top, left = draw[2] * (height - high), draw[3] * (width - wide)
    rows = _between(height, top, high, images.device)[:, None, :, None]
    columns = _between(width, left, wide, images.device)[:, None, None, :]
    return images.masked_fill(rows & columns & (draw[4] < share)[:, None, None, None], 0)


def _between(extent: int, start: Tensor, length: Tensor, device: torch.device) -> Tensor:
    """Return which of `extent` places are in each interval: (N, extent) bool."""
    places = torch.arange(extent, device=device)[None]
    return (places >= start[:, None]) & (places < (start + length)[:, None])


def mixer(
    settings: Augment, classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return a function that applies mixup or cutmix to a batch, or None if both are off.

    The function takes (N, C, H, W) float inputs and (N,) int64 targets. The targets become
    (N, classes) float shares.
    """
    if not settings.mixup and not settings.cutmix:
        return None
    from torchvision.transforms import v2  # takes 3 s to import, and only mixing needs it

    mixers = []
    if settings.mixup:
        mixers.append(v2.MixUp(alpha=settings.mixup, num_classes=classes))
    if settings.cutmix:
        mixers.append(v2.CutMix(alpha=settings.cutmix, num_classes=classes))
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.RandomChoice(mixers)
    return mix
