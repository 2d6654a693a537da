"""Architectures written by hand as their papers and reference codes do, each at the initialization they prescribe.

Healthy, all of them: whatever an audit says above a note is a false alarm, or a fault of the paper. `names()` and
`build(name, seed)` are what benchmarks/zoo.py asks of a collection.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from _models import (
    adapters,
    agents,
    convolutional,
    density,
    generative,
    language,
    mixers,
    patches,
    sets,
    unnormalized,
)
from _models._family import Family

FAMILIES: dict[str, Family] = {
    name: family
    for group in (convolutional, patches, language, mixers, unnormalized, adapters, generative, density, sets, agents)
    for name, family in group.FAMILIES.items()
}


def names() -> list[str]:
    """Every family, group by group."""
    return list(FAMILIES)


def build(name: str, seed: int = 0) -> tuple[nn.Module, Any]:
    """The model and an input, both drawn under ``seed``."""
    torch.manual_seed(seed)
    family = FAMILIES[name]
    return family.make(), family.draw()
