"""Every architecture of torchvision that fits into 4 GiB: a collection for `zoo.py --module`.

Detection models are given images and targets, as in training, and so return their losses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision import models

_LARGE = ("vit_h", "vit_l", "regnet_y_128", "convnext_large", "swin_b", "swin3d_b", "efficientnet_v2_l",
          "efficientnet_b7", "wide_resnet101", "resnext101_64", "quantized_")  # fmt: skip
_OF_224 = ("vit_", "maxvit", "swin", "alexnet", "vgg")


def names() -> list[str]:
    return [name for name in models.list_models() if not name.startswith(_LARGE)]


def build(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    make = models.get_model_builder(name)
    if hasattr(models.detection, name):
        return make(weights=None, weights_backbone=None).train(), _detection(people="keypoint" in name)
    if hasattr(models.segmentation, name):
        return make(weights=None, weights_backbone=None).train(), (torch.randn(4, 3, 128, 128),)
    if hasattr(models.video, name):
        size, samples = (224, 1) if name.startswith(("mvit", "swin3d", "s3d")) else (112, 2)
        return make(weights=None).train(), (torch.randn(samples, 3, 16, size, size),)
    if hasattr(models.optical_flow, name):
        return make(weights=None).train(), (torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128))
    size = 224 if name.startswith(_OF_224) else 299 if name.startswith("inception") else 128
    return make(weights=None).train(), (torch.randn(4, 3, size, size),)


def _detection(people: bool) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Two images, with two boxes, masks and sets of keypoints on each."""
    images = [torch.rand(3, 160, 160) for _ in range(2)]
    boxes = torch.tensor([[10.0, 10.0, 60.0, 70.0], [40.0, 40.0, 120.0, 140.0]])
    targets = [
        {
            "boxes": boxes,
            "labels": torch.tensor([1, 1 if people else 2]),
            "masks": torch.ones(2, 160, 160, dtype=torch.uint8),
            "keypoints": torch.cat([torch.rand(2, 17, 2) * 50 + 20, torch.ones(2, 17, 1)], 2),
        }
        for _ in images
    ]
    return images, targets
