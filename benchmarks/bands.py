"""Do signal and gradient keep their size through deep networks without normalization, after `initaudit fix`?

    python benchmarks/bands.py [--quick] [--depths 5 10 20 30 50] [--activations ...] [--families ...] [--inits ...]
                               [--draws 5] [--list]

Plain and convolutional stacks and residual ones, with every activation whose length map has a stable or a neutral
fixed point, at inits that are wrong: torch's default, one std for all, Xavier's and He's rule with a gain of another
activation. Each is cured, and each draw of what the code makes of a new build is measured: the smallest and the
largest rms of what an activation reads, or what a residual branch is added to, should lie within [0.5, 2], and the
gradient's root of the sum of squares, at the first layer over that at the last of these values, within [0.1, 10].

A finite network is one draw: ln of the mean square at the end of a ReLU stack has the variance `sum of 5/width`
(Hanin & Rolnick 2018, arXiv:1803.01719), half of which is also its mean's shift downwards. So the medians over the
draws are judged, and single draws are counted beside them. What `fix` leaves as it is, for nothing is found in it, is
counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from statistics import median

from _common import environment, parser, show  # first: it sets the environment of torch

# isort: split
import torch
from torch import Tensor, nn
from torch.nn import init

from initaudit import audit
from initaudit.curing import cure, run
from initaudit.records import Role, Trace

RMS, GRADIENT = (0.5, 2.0), (0.1, 10.0)
WIDTH, CHANNELS, SIDE = 256, 64, 8
BATCH = {"mlp": 16, "residual": 16, "cnn": 4}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "prelu": nn.PReLU,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "softsign": nn.Softsign,
    "sigmoid": nn.Sigmoid,
    "erf": lambda: Function(torch.erf),
    "sin": lambda: Function(torch.sin),
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
}
UNSTABLE: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "silu": nn.SiLU, "mish": nn.Mish}


class Function(nn.Module):
    """An activation that torch has no module for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Plain(nn.Module):
    """``depth`` hidden layers, and a head."""

    def __init__(self, activation: Callable[[], nn.Module], depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.activations = nn.ModuleList(activation() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer, activation in zip(self.layers, self.activations, strict=True):
            x = activation(layer(x))
        return self.head(x)


class Convolutional(nn.Module):
    """``depth`` convolutions with padding, as many pixels in as out, and a head."""

    def __init__(self, activation: Callable[[], nn.Module], depth: int) -> None:
        super().__init__()
        channels = [3, *[CHANNELS] * depth]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.activations = nn.ModuleList(activation() for _ in range(depth))
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer, activation in zip(self.layers, self.activations, strict=True):
            x = activation(layer(x))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """``x + down(phi(up(x)))``, two layers to a block, between a stem and a head."""

    def __init__(self, activation: Callable[[], nn.Module], depth: int) -> None:
        super().__init__()
        blocks = max(1, (depth - 1) // 2)
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.up = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(blocks))
        self.activations = nn.ModuleList(activation() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for up, activation, down in zip(self.up, self.activations, self.down, strict=True):
            x = x + down(activation(up(x)))
        return self.head(x)


FAMILIES: dict[str, Callable[..., nn.Module]] = {"mlp": Plain, "cnn": Convolutional, "residual": Residual}
INITS: dict[str, Callable[[Tensor], object] | None] = {
    "default": None,
    "std 0.02": lambda w: init.normal_(w, std=0.02),
    "std 1": lambda w: init.normal_(w, std=1.0),
    "Xavier": init.xavier_uniform_,
    "He, gain x1.5": lambda w: init.normal_(w, std=1.5 * math.sqrt(2 / w[0].numel())),
}


@dataclass(frozen=True)
class Network:
    """One network at one init."""

    family: str
    activation: str
    depth: int
    init: str

    def __str__(self) -> str:
        return f"{self.family} {self.activation} {self.depth}, {self.init}"

    def build(self) -> nn.Module:
        make = {**ACTIVATIONS, **UNSTABLE}[self.activation]
        model = FAMILIES[self.family](make, self.depth)
        initialize = INITS[self.init]
        for module in model.modules() if initialize else ():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                initialize(module.weight)  # type: ignore[misc]
                init.zeros_(module.bias)
        return model

    def inputs(self, seed: int = 0) -> Tensor:
        shape = (3, SIDE, SIDE) if self.family == "cnn" else (WIDTH,)
        return torch.randn(BATCH[self.family], *shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Figures:
    """Of one draw: the smallest and the largest rms inside, and the gradient's size, first over last."""

    smallest: float
    largest: float
    gradient: float

    @property
    def in_band(self) -> bool:
        rms = RMS[0] <= self.smallest and self.largest <= RMS[1]
        return rms and GRADIENT[0] <= self.gradient <= GRADIENT[1]


def figures_of(trace: Trace) -> Figures:
    """Of the values inside the network: what activations read, and the sums that residual branches end in."""
    calls = {call.op: call for layer in trace.layers for call in layer.calls}
    inside = [op for op in trace.ops if op.moving and op.role is Role.JOIN and op.layer is None and op.stats]
    inside += [trace.ops[i] for i, call in calls.items() if call.nonlinearity]
    sizes = [op.stats.rms for op in inside if op.stats]
    first = trace.ops[min(calls)]
    last = max(inside, key=lambda op: op.id)
    return Figures(min(sizes), max(sizes), _energy(first.gradient) / _energy(last.gradient))


def _energy(gradient: object) -> float:
    rms, count = getattr(gradient, "rms", math.nan), getattr(gradient, "count", 0)
    return float(rms) * math.sqrt(count)


@dataclass(frozen=True)
class Result:
    """What became of a network: the code's verdict, whether anything was changed, and its draws."""

    network: Network
    changed: bool
    left: tuple[str, ...]  # what is still found above a note
    draws: tuple[Figures, ...]

    @property
    def typical(self) -> Figures:
        """The medians over the draws."""
        return Figures(
            median(d.smallest for d in self.draws),
            median(d.largest for d in self.draws),
            median(d.gradient for d in self.draws),
        )


def measure(network: Network, draws: int) -> Result:
    """Cure the network, and audit new builds that run the code."""
    torch.manual_seed(0)
    found = cure(network.build, network.inputs())
    after = found.after or found.before
    left = tuple(f"{f.code} {f.fqn}" for f in after.findings if f.severity.rank < 2)
    figures = []
    for seed in range(100, 100 + draws):
        torch.manual_seed(seed)
        model = network.build()
        if found.code:
            run(found.code, model)
        trace = audit(model, network.inputs(seed)).trace
        assert trace is not None
        figures.append(figures_of(trace))
    return Result(network, bool(found.code), left, tuple(figures))


def _row(results: Sequence[Result]) -> tuple[object, ...]:
    typical = [r.typical for r in results]
    single = [d for r in results for d in r.draws]
    return (
        f"{sum(t.in_band for t in typical)}/{len(typical)}",
        f"{sum(d.in_band for d in single)}/{len(single)}",
        f"{min(t.smallest for t in typical):.2f}",
        f"{max(t.largest for t in typical):.2f}",
        f"{min(t.gradient for t in typical):.2f}",
        f"{max(t.gradient for t in typical):.2f}",
    )


def _tables(results: Sequence[Result]) -> Iterator[tuple[str, list[Sequence[object]]]]:
    for title, key in (
        ("activation", lambda n: n.activation),
        ("depth", lambda n: n.depth),
        ("network", lambda n: n.family),
    ):
        rows: list[Sequence[object]] = []
        for value in dict.fromkeys(key(r.network) for r in results):
            rows.append((value, *_row([r for r in results if key(r.network) == value])))
        yield title, rows


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--depths", type=int, nargs="*", default=[5, 10, 20, 30, 50])
    options.add_argument("--activations", nargs="*", choices=[*ACTIVATIONS, *UNSTABLE], default=list(ACTIVATIONS))
    options.add_argument("--families", nargs="*", choices=list(FAMILIES), default=list(FAMILIES))
    options.add_argument("--inits", nargs="*", choices=list(INITS), default=list(INITS))
    options.add_argument("--draws", type=int, default=5)
    options.add_argument("--list", action="store_true", help="print every network as it is measured")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    print(environment())
    choices = product(given.families, given.activations, given.depths, given.inits)
    networks = [Network("mlp", "tanh", 24, "default")] if given.quick else [Network(*choice) for choice in choices]
    results = []
    for network in networks:
        result = measure(network, 1 if given.quick else given.draws)
        results.append(result)
        typical = result.typical
        if given.list or (result.changed and not typical.in_band):
            state = "changed" if result.changed else "left"
            print(
                f"  {network}: {state}, rms {typical.smallest:.3g} to {typical.largest:.3g}, gradient "
                f"{typical.gradient:.3g}, {sum(d.in_band for d in result.draws)}/{len(result.draws)} draws, open: "
                f"{', '.join(result.left) or 'nothing'}",
                flush=True,
            )
    changed, left = [r for r in results if r.changed], [r for r in results if not r.changed]
    columns = ("in band", "single draws", "smallest rms", "largest rms", "smallest ratio", "largest ratio")
    for title, rows in _tables(changed) if changed else ():
        show((title, *columns), rows)
        print()
    print(
        f"left as they were: {len(left)}, of which {sum(not r.typical.in_band for r in left)} are outside of the bands"
    )
    inside = sum(r.typical.in_band for r in changed)
    draws = [d for r in changed for d in r.draws]
    print(
        f"bands: of {len(changed)} networks that fix changes {inside} lie within both bands by the median of their "
        f"draws, {sum(d.in_band for d in draws)} of {len(draws)} single draws do"
    )


if __name__ == "__main__":
    main()
