"""wandb.watch with all histograms, in a run that is kept on this machine: what it costs, as it judges nothing."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory

import wandb
from serving import Complaint, serve
from torch import Tensor, nn
from torch.nn import functional as F


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    with TemporaryDirectory() as folder, wandb.init(mode="offline", dir=folder) as run:
        run.watch(model, log="all", log_freq=1)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        run.log({"loss": loss.item()})
    yield from ()


serve(look)
