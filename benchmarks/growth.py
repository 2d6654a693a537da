"""How does the cost of an audit grow with the number of layers and of calls?

    python benchmarks/growth.py [--quick] [--sizes 100 1000 10000]

Networks of tiny layers, `x + tanh(linear(x))`, so that nearly all of the time is the audit's own: one of n layers, one
of n layers without the sum, of which there is much to tell, and one whose single layer is called n times. CPU
microseconds per operation of each stage, and the slope of log seconds over log operations between the two largest
sizes: 1 is linear, 2 is quadratic.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Sequence

from _common import environment, parser, quiet, show

# isort: split
import torch
from rich.console import Console
from torch import Tensor, nn

from initaudit.codec import decode, encode
from initaudit.probe.run import probe
from initaudit.records import Report, Trace
from initaudit.rules import diagnose

WIDTH, BATCH = 8, 16
STAGES = ("forward+backward", "probe", "rules", "table", "table -v", "json", "codec")
STEEP = 1.3  # a slope above this is told


class Chain(nn.Module):
    """``layers`` one after the other, each of them ``calls`` times; ``residual`` adds each to what it was given."""

    def __init__(self, layers: int, calls: int = 1, residual: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))
        self.calls, self.residual = calls, residual

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for _ in range(self.calls):
                y = torch.tanh(layer(x))
                x = x + y if self.residual else y
        return x


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "n layers": lambda n: Chain(n),
    "n layers, vanishing": lambda n: Chain(n, residual=False),
    "one layer, n calls": lambda n: Chain(1, n),
}


def seconds(model: nn.Module) -> tuple[int, list[float]]:
    """How many operations were recorded, and the CPU seconds of each of :data:`STAGES`."""
    x, taken = torch.randn(BATCH, WIDTH), []

    def timed(action: Callable[[], object]) -> object:
        started = time.process_time()
        result = action()
        taken.append(time.process_time() - started)
        return result

    timed(lambda: model(x).sum().backward())
    model.zero_grad(set_to_none=True)
    trace = timed(lambda: probe(model, (x,), {}))
    assert isinstance(trace, Trace)
    findings = timed(lambda: diagnose(trace))
    report = Report(target="chain", findings=findings, trace=trace)  # type: ignore[arg-type]
    timed(lambda: Console(file=io.StringIO(), width=100).print(report))
    timed(lambda: _verbose(report))
    timed(report.to_json)
    timed(lambda: decode(Trace, json.loads(json.dumps(encode(trace)))))
    return len(trace.ops), taken


def _verbose(report: Report) -> None:
    from initaudit.report.glyphs import UNICODE
    from initaudit.report.layers import layer_lines

    console = Console(file=io.StringIO(), width=100)
    for line in layer_lines(report, UNICODE, width=100, verbose=1):
        console.print(line)


def slope(points: Sequence[tuple[int, float]]) -> float:
    """Of log seconds over log operations, through the last two points."""
    (ops, taken), (more, longer) = points[-2:]
    return math.log(max(longer, 1e-6) / max(taken, 1e-6)) / math.log(more / ops)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[100, 1_000, 10_000])
    given = options.parse_args(arguments)
    if len(given.sizes) < 2:
        options.error(f"--sizes is {given.sizes}, expected two sizes or more: growth is told from the two largest")
    sizes = [4, 40] if given.quick else sorted(given.sizes)
    print(environment(width=WIDTH, batch=BATCH))
    with quiet():
        seconds(Chain(4))  # what is imported and compiled once
    steep: dict[str, float] = {}
    for name, build in NETWORKS.items():
        rows: list[list[object]] = []
        measured: list[tuple[int, list[float]]] = []
        for size in sizes:
            torch.manual_seed(0)
            with quiet():
                ops, taken = seconds(build(size))
            measured.append((ops, taken))
            rows.append([size, ops, *(f"{1e6 * t / ops:.0f}" for t in taken)])
        slopes = [slope([(ops, taken[i]) for ops, taken in measured]) for i in range(len(STAGES))]
        print(f"\n{name}: CPU microseconds per operation")
        show(("n", "operations", *STAGES), [*rows, ["slope", "", *(f"{s:.2f}" for s in slopes)]])
        steep |= {f"{stage} of {name}": s for stage, s in zip(STAGES, slopes, strict=True) if s > STEEP}
    told = ", ".join(f"{what} {s:.2f}" for what, s in steep.items()) or f"no stage has a slope above {STEEP}"
    print(f"growth: {told}")


if __name__ == "__main__":
    main()
