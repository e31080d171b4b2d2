"""Augmentation of a batch on its device, by images (`torchvision.transforms.v2` flips or crops a whole batch alike).

Everything random is drawn from torch's global generator, which `seed_step` sets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ratchet.params import Augment


def augment(images: Tensor, chosen: Augment) -> Tensor:
    """Flip, shift and erase.

    Args:
        images: (N, C, H, W) of any type; erased pixels become 0.

    Returns:
        The same shape and type.
    """
    if chosen.crop:
        images = crop(images, chosen.crop)
    if chosen.flip:
        images = flip(images)
    if chosen.erase:
        images = erase(images, chosen.erase)
    return images


def flip(images: Tensor) -> Tensor:
    """Mirror each image left to right with probability ½."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return images.flip(3).where(mirrored, images)


def crop(images: Tensor, pad: int) -> Tensor:
    """Shift each image by up to `pad` pixels each way; what comes in is 0."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (pad, pad, pad, pad))
    windows = padded.unfold(2, height, 1).unfold(
        3, width, 1
    )  # (N, C, 2·pad+1, 2·pad+1, H, W), a view
    down, right = torch.randint(2 * pad + 1, (2, count), device=images.device)
    return windows[torch.arange(count, device=images.device), :, down, right]


def erase(images: Tensor, share: float) -> Tensor:
    """Blank a rectangle in `share` of the images (Zhong et al., 2017, arXiv:1708.04896).

    It covers 2 to 33% of the area, with a ratio of its sides of 0.3 to 3.3.
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
    places = torch.arange(extent, device=device)[None]
    return (places >= start[:, None]) & (places < (start + length)[:, None])


def mixer(
    chosen: Augment, classes: int
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Mixup or cutmix of (N, C, H, W) float inputs and (N,) targets, which become (N, classes) shares; or None."""
    if not chosen.mixup and not chosen.cutmix:
        return None
    from torchvision.transforms import v2  # 3 s of import that only mixing needs

    mixers = []
    if chosen.mixup:
        mixers.append(v2.MixUp(alpha=chosen.mixup, num_classes=classes))
    if chosen.cutmix:
        mixers.append(v2.CutMix(alpha=chosen.cutmix, num_classes=classes))
    mix: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = v2.RandomChoice(mixers)
    return mix
