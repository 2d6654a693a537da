"""Two architectures, the smallest, of every family of timm: a collection for `zoo.py --module`."""

from __future__ import annotations

import timm
import torch
from torch import nn

_LARGEST = 120_000_000  # parameters
_SIZE = 128  # of the images, where a model takes any size
_LARGE = ("large", "huge", "giant", "xl", "_l_", "base")


def names() -> list[str]:
    chosen: dict[str, None] = {}
    for module in timm.list_modules():
        families: dict[str, list[str]] = {}
        for name in timm.list_models(module=module):
            families.setdefault(name.split("_")[0].rstrip("0123456789"), []).append(name)
        for members in families.values():
            small = sorted(members, key=lambda name: (any(part in name for part in _LARGE), len(name)))[:2]
            chosen.update(dict.fromkeys(small))
    return list(chosen)


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if (count := _count(name)) > _LARGEST:
        raise LookupError(f"too large: {count / 1e6:.0f} million parameters")
    model = timm.create_model(name, pretrained=False)
    channels, *size = model.default_cfg["input_size"]
    if max(size) > _SIZE and not model.default_cfg.get("fixed_input_size", False):
        with torch.no_grad():
            try:
                model.eval()(torch.randn(1, channels, _SIZE, _SIZE))
                size = [_SIZE, _SIZE]
            except (RuntimeError, AssertionError):  # windows and position embeddings are of one size
                pass
    return model.train(), torch.randn(4, channels, *size)


def _count(name: str) -> int:
    """How many parameters it has, without the memory for them."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, pretrained=False).parameters())
    except (RuntimeError, NotImplementedError):  # its constructor computes with numbers
        return 0
