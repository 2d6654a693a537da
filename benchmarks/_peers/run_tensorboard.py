"""Histograms of every output, weight and gradient, written for TensorBoard: what it costs, as it judges nothing."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory

from serving import Complaint, serve
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter


def look(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Complaint]:
    with TemporaryDirectory() as folder, SummaryWriter(folder) as writer:

        def write(name: str, value: object) -> None:
            if isinstance(value, Tensor) and value.is_floating_point():
                writer.add_histogram(name, value.detach(), 0)

        leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
        for name, module in leaves:
            module.register_forward_hook(lambda _, args, out, name=name: write(f"output/{name}", out))
        F.cross_entropy(model(x), y).backward()
        for name, parameter in model.named_parameters():
            write(f"weight/{name}", parameter)
            write(f"gradient/{name}", parameter.grad)
    yield from ()


serve(look)
