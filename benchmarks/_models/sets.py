"""Graphs, sets, point clouds and tables: what is gathered, scattered and pooled."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

from _models._family import Family, he_, noise


class GCN(nn.Module):
    """Kipf & Welling 2017 over an edge list: symmetric normalization, index_add, Glorot, three layers."""

    def __init__(self, width: int = 128, classes: int = 7) -> None:
        super().__init__()
        shapes = ((64, width), (width, width), (width, classes))
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(after)) for _, after in shapes)
        for weight in self.weights:
            init.xavier_uniform_(weight)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        degree = torch.zeros(x.shape[0]).index_add(0, target, torch.ones(target.shape[0])).clamp(min=1)
        norm = (degree[source] * degree[target]).rsqrt()[:, None]
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = x @ weight
            x = torch.zeros_like(h).index_add(0, target, norm * h[source]) + bias
            if i < 2:
                x = F.dropout(F.relu(x), 0.5, self.training)
        return x


class GIN(nn.Module):
    """Xu et al. 2019: sums over neighbours, an MLP with batch norm per layer, every layer's sum read by its own head;
    torch's defaults."""

    def __init__(self, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(layers))
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(32 if i == 0 else width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width),
                nn.BatchNorm1d(width), nn.ReLU(),
            )
            for i in range(layers)
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Linear(32 if i == 0 else width, 2) for i in range(layers + 1))

    def read(self, head: nn.Module, x: Tensor, graph: Tensor) -> Tensor:
        pooled = torch.zeros(8, x.shape[1]).index_add(0, graph, x)
        return F.dropout(head(pooled), 0.5, self.training)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        source, target = edges
        score = self.read(self.heads[0], x, graph)
        for mlp, eps, head in zip(self.mlps, self.eps, self.heads[1:], strict=True):
            summed = torch.zeros_like(x).scatter_add_(0, target[:, None].expand(-1, x.shape[1]), x[source])
            x = mlp((1 + eps) * x + summed)
            score = score + self.read(head, x, graph)
        return score


class DeepSets(nn.Module):
    """Zaheer et al. 2017: an MLP on each element, a mean, an MLP on that; He."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.rho = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
        he_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(self.phi(x).mean(dim=1))


class PointNet(nn.Module):
    """Qi et al. 2017: shared convolutions, a maximum over points, and a learned 3x3 transform that starts as the
    identity because its last layer is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.local = self.shared(3, 64, 128)
        self.transform = nn.Linear(128, 9)
        self.features = self.shared(3, 64, 128, 256)
        self.fc1, self.bn1 = nn.Linear(256, 128), nn.BatchNorm1d(128)
        self.fc2 = nn.Linear(128, 40)
        init.zeros_(self.transform.weight)
        init.zeros_(self.transform.bias)

    @staticmethod
    def shared(*widths: int) -> nn.Sequential:
        steps = ((nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU(inplace=True)) for a, b in pairwise(widths))
        return nn.Sequential(*(module for step in steps for module in step))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.transform(self.local(x).max(dim=2)[0]).view(-1, 3, 3) + torch.eye(3)
        x = self.features(torch.bmm(matrix, x))
        x = F.relu(self.bn1(self.fc1(torch.max(x, 2)[0])))
        return self.fc2(F.dropout(x, 0.3, self.training))


class TwoTower(nn.Module):
    """Two-tower retrieval (Yi et al. 2019): bags of ids and dense features, two ReLU towers, cosine similarity."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.user, self.history = nn.Embedding(1000, width), nn.EmbeddingBag(500, width, mode="mean")
        self.item, self.tags = nn.Embedding(500, width), nn.EmbeddingBag(100, width, mode="sum")
        self.user_tower, self.item_tower = self.tower(2 * width + 8), self.tower(2 * width)
        self.log_scale = nn.Parameter(torch.tensor(2.66))
        for table in (self.user, self.history, self.item, self.tags):
            init.normal_(table.weight, std=0.05)

    @staticmethod
    def tower(before: int) -> nn.Sequential:
        tower = nn.Sequential(nn.Linear(before, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64))
        he_(tower)
        return tower

    def forward(self, user: Tensor, history: Tensor, dense: Tensor, item: Tensor, tags: Tensor) -> Tensor:
        u = self.user_tower(torch.cat([self.user(user), self.history(history), dense], dim=1))
        v = self.item_tower(torch.cat([self.item(item), self.tags(tags)], dim=1))
        return self.log_scale.exp() * F.normalize(u, dim=1) @ F.normalize(v, dim=1).T


class DLRM(nn.Module):
    """Naumov et al. 2019: bottom MLP, tables U(±1/sqrt(rows)), pairwise dot products, top MLP; their normal draws."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, 32, mode="sum") for rows in (100, 400, 1000))
        self.bottom = nn.Sequential(nn.Linear(13, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(32 + 6, 128), nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid())
        for table in self.tables:
            bound = table.num_embeddings**-0.5
            init.uniform_(table.weight, -bound, bound)
        for m in (*self.bottom, *self.top):
            if isinstance(m, nn.Linear):
                init.normal_(m.weight, std=(2 / (m.in_features + m.out_features)) ** 0.5)
                init.normal_(m.bias, std=m.out_features**-0.5)

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        bags = [table(sparse[:, i]) for i, table in enumerate(self.tables)]
        stacked = torch.stack([x, *bags], dim=1)
        products = torch.einsum("bid,bjd->bij", stacked, stacked)
        i, j = torch.tril_indices(4, 4, -1)
        return self.top(torch.cat([x, products[:, i, j]], dim=1))


def graph() -> tuple[Tensor, Tensor]:
    return torch.randn(120, 64), torch.randint(120, (2, 600))


def graphs() -> tuple[Tensor, Tensor, Tensor]:
    inside = torch.randint(20, (2, 8, 60)) + 20 * torch.arange(8)[:, None]
    return torch.randn(160, 32), inside.flatten(1), torch.arange(8).repeat_interleave(20)


def visits() -> tuple[Tensor, ...]:
    whole = [torch.randint(n, shape) for n, shape in ((1000, (64,)), (500, (64, 10)), (500, (64,)), (100, (64, 5)))]
    return whole[0], whole[1], torch.randn(64, 8), whole[2], whole[3]


FAMILIES = {
    "GCN": Family(GCN, graph),
    "GIN": Family(GIN, graphs),
    "DeepSets": Family(DeepSets, noise(32, 20, 8)),
    "PointNet": Family(PointNet, noise(16, 3, 128)),
    "two towers": Family(TwoTower, visits),
    "DLRM": Family(DLRM, lambda: (torch.rand(64, 13), torch.randint(100, (64, 3, 4)))),
}
