"""Small networks, and the ways to spread each over the processes of a job."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COLUMNS = ("fc1", "fc3", ".q", ".k", ".v", ".up")  # layers whose outputs tensor parallelism cuts
ROWS = ("fc2", "fc4", ".o", ".down")  # and those that take such inputs


class MLP(nn.Module):
    def __init__(self, std: float | None = None, *, norm: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 64), nn.Linear(64, 32)
        self.norm = nn.BatchNorm1d(32) if norm else nn.Identity()
        self.fc3, self.fc4 = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 5)
        for parameter in self.parameters() if std is not None else ():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=std)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.fc2(torch.relu(self.fc1(x)))))
        return self.head(torch.relu(self.fc4(torch.tanh(self.fc3(x)))))


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8, 10)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.one(x)))
        return self.head((x + F.relu(self.two(x))).mean((2, 3)))


class Recurrent(nn.Module):
    """What is asked for learned values when the run is over: the mean slope, and the biases of the gates."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.slope = nn.Linear(16, 32), nn.PReLU(32)
        self.cells, self.head = nn.LSTM(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(self.slope(self.embed(x)).unsqueeze(1).expand(-1, 6, -1).transpose(0, 1))[0][-1])


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        heads = [f(y).view(*y.shape[:2], -1, self.head_width).transpose(1, 2) for f in (self.q, self.k, self.v)]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(*y.shape[:2], -1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, words: int = 20, width: int = 16, heads: int = 4, length: int = 8) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) + 0.0  # a view of it FSDP warns of


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A network with its default values or a fault, and a whole batch for it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    if name == "conv":
        return Conv(), torch.randn(4, 3, 6, 6, generator=generator)
    if name == "transformer":
        return Transformer(), torch.randint(20, (4, 8), generator=generator)
    if name == "recurrent":
        return Recurrent(), torch.randn(16, 16, generator=generator)
    model = {"mlp": MLP, "exploding": lambda: MLP(0.8), "batch norm": lambda: MLP(norm=True)}[name]()
    return model, torch.randn(16, 16, generator=generator)


TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


def can_spread(how: str) -> bool:
    """Whether this torch spreads a model on the CPU in that way.

    Before torch 2.7 ``fully_shard`` asks for CUDA's streams, and before 2.9 gloo sums where an average is asked for,
    so that gradients are too large by the number of processes.
    """
    return "fsdp" not in how or TORCH >= (2, 9)


def spread(model: nn.Module, how: str) -> nn.Module:
    """The model as a job of this process group trains it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if how == "fsdp":
        return _shard(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    if how == "tensor":
        return _cut(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    if how == "fsdp and tensor":
        mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("data", "tensor"))
        return _shard(_cut(model, mesh["tensor"]), mesh["data"])
    return model


def _shard(model: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for module in (m for m in model.modules() if isinstance(m, Block) or m is getattr(model, "fc1", None)):
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _cut(model: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    names = [name for name, _ in model.named_modules()]
    plan: dict[str, Any] = {name: ColwiseParallel() for name in names if name.endswith(COLUMNS)}
    plan |= {name: RowwiseParallel() for name in names if name.endswith(ROWS)}
    return parallelize_module(model, mesh, plan)
