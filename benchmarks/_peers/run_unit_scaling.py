"""unit-scaling's table of the scale of every operation, forward and backward: what it costs, as it judges nothing."""

from collections.abc import Iterator

import torch
from serving import Complaint, serve
from torch import Tensor, nn
from unit_scaling.utils import analyse_module


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    given = x.requires_grad_() if x.is_floating_point() else x
    with torch.no_grad():
        shape = model(x).shape
    analyse_module(model, given, torch.randn(shape), syntax_highlight=False)
    yield from ()


serve(look)
