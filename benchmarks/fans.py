"""Are the fans that initaudit gives those that a layer works with?

    python benchmarks/fans.py [--quick] [--draws 16]

For each kind of layer: what torch.nn.init reads off the shape of its weight, what an audit says, and what the same
audit measures: fan_in as E[out^2] / (Var[w] E[in^2]), fan_out as E[grad_in^2] / (Var[w] E[grad_out^2]), means over
draws of normal weights. A recurrent layer runs one step with weights so small that its gates stand at 1/2, which a
known factor undoes. Where zero padding takes from the sums, the measured fans are below the exact ones.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from _common import environment, parser, quiet, show

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initaudit
from initaudit.records import Layer, Report, Role, Stats

IMAGE, ROWS, SEQUENCE = (8, 16, 24, 24), (512, 64), (8, 32, 64)


class Bare(nn.Module):
    """A function of a bare parameter ``w``, as models write it that use no layer for it."""

    def __init__(self, shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.w, x)


class Conv1D(nn.Module):
    """GPT-2's layer, whose weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Packed(nn.Module):
    """Queries, keys and values from one Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(64, 192, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(64, 4, batch_first=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


class Tied(nn.Module):
    """An embedding that is the head's weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(500, 64), nn.Linear(64, 500, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens))


class Recurrent(nn.Module):
    """The first output of a recurrent layer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Subject(nn.Module):
    """The layer behind a factor of one, so that its input has a gradient for the audit to see."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.one = layer, nn.Parameter(torch.ones(()))

    def forward(self, *given: Tensor) -> Tensor:
        first, *rest = given
        return self.layer(first * self.one if first.is_floating_point() else first, *rest)


@dataclass(frozen=True)
class Kind:
    """``which`` of the audit's layers is meant; ``std`` of the weights; ``share`` of them in the output."""

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...] = (ROWS,)
    which: int = 0
    std: float = 0.1
    share: float = 1.0


def conv(*args: int, **options: Any) -> Kind:
    """A convolution without a border, so that every pixel sees the whole fan."""
    options = {"padding": 1, "padding_mode": "circular", **options}
    return Kind(lambda: nn.Conv2d(*args, bias=False, **options), (IMAGE,))


def bare(shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor], given: tuple[int, ...] = ROWS) -> Kind:
    return Kind(lambda: Bare(shape, function), (given,))


TOKENS = (64, 20)
ONE_STEP: Any = {"inputs": ((512, 1, 64),), "std": 1e-3}
KINDS: dict[str, Kind] = {
    "Linear": Kind(lambda: nn.Linear(64, 128, bias=False)),
    "Conv1d": Kind(lambda: nn.Conv1d(16, 32, 5, padding=2, padding_mode="circular", bias=False), ((32, 16, 40),)),
    "Conv2d": conv(16, 32, 3),
    "Conv2d, zero padding": conv(16, 32, 3, padding_mode="zeros"),
    "Conv2d, padding='same'": conv(16, 32, 3, padding="same", padding_mode="zeros"),
    "Conv2d, reflected": conv(16, 32, 3, padding_mode="reflect"),
    "Conv2d, stride 2": conv(16, 32, 3, 2),
    "Conv2d, dilation 2": conv(16, 32, 3, padding=2, dilation=2),
    "Conv2d, 4 groups": conv(16, 32, 3, groups=4),
    "Conv2d, depthwise": conv(16, 16, 3, groups=16),
    "Conv2d, patches of 4": conv(16, 64, 4, 4, padding=0),
    "Conv3d, stride (1, 2, 2)": Kind(
        lambda: nn.Conv3d(4, 8, 3, (1, 2, 2), padding=1, padding_mode="circular", bias=False), ((8, 4, 8, 8, 8),)
    ),
    "ConvTranspose2d, stride 2": Kind(lambda: nn.ConvTranspose2d(16, 32, 4, 2, padding=1, bias=False), (IMAGE,)),
    "ConvTranspose2d, 4 groups": Kind(
        lambda: nn.ConvTranspose2d(16, 32, 4, 2, padding=1, groups=4, bias=False), (IMAGE,)
    ),
    "ConvTranspose2d, 3 by stride 2": Kind(lambda: nn.ConvTranspose2d(16, 32, 3, 2, padding=1, bias=False), (IMAGE,)),
    "Bilinear": Kind(lambda: nn.Bilinear(32, 48, 64, bias=False), ((512, 32), (512, 48))),
    "Embedding": Kind(lambda: nn.Embedding(500, 64), (TOKENS,)),
    "EmbeddingBag of 20, sum": Kind(lambda: nn.EmbeddingBag(500, 64, mode="sum"), (TOKENS,)),
    "EmbeddingBag of 20, mean": Kind(lambda: nn.EmbeddingBag(500, 64, mode="mean"), (TOKENS,)),
    "RNN, input": Kind(lambda: Recurrent(nn.RNN(64, 96, bias=False, batch_first=True)), **ONE_STEP),
    "LSTM, input, each gate": Kind(
        lambda: Recurrent(nn.LSTM(64, 96, bias=False, batch_first=True)), share=1 / 16, **ONE_STEP
    ),
    "GRU, input, each gate": Kind(
        lambda: Recurrent(nn.GRU(64, 96, bias=False, batch_first=True)), share=1 / 4, **ONE_STEP
    ),
    "MultiheadAttention, q, k, v": Kind(Attention, (SEQUENCE,)),
    "MultiheadAttention, out_proj": Kind(Attention, (SEQUENCE,), which=1),
    "packed q, k, v": Kind(Packed, (SEQUENCE,)),
    "GPT-2's Conv1D": Kind(lambda: Conv1D(256, 64)),
    "tied, as embedding": Kind(Tied, ((64, 8),)),
    "tied, as head": Kind(Tied, ((64, 8),), which=1),
    "F.linear(x, w)": bare((128, 64), lambda w, x: F.linear(x, w)),
    "x @ w": bare((64, 128), lambda w, x: x @ w),
    "x @ w.T": bare((128, 64), lambda w, x: x @ w.T),
    "(w @ x.T).T": bare((128, 64), lambda w, x: (w @ x.T).T),
    "torch.matmul": bare((64, 128), lambda w, x: torch.matmul(x, w)),
    "torch.bmm": bare((8, 64, 128), lambda w, x: torch.bmm(x, w), SEQUENCE),
    "torch.baddbmm": bare((8, 64, 128), lambda w, x: torch.baddbmm(x.new_zeros(1), x, w), SEQUENCE),
    "torch.tensordot": bare((64, 128), lambda w, x: torch.tensordot(x, w, dims=1)),
    "F.unfold, matmul": bare((32, 144), lambda w, x: w @ F.unfold(x, 3), IMAGE),
    "kernel (3, 3, in, out)": bare((3, 3, 16, 32), lambda w, x: F.conv2d(x, w.permute(3, 2, 0, 1), padding=1), IMAGE),
    "einsum to heads": bare((64, 4, 16), lambda w, x: torch.einsum("btd,dhk->bthk", x, w), SEQUENCE),
    "einsum from heads": bare(
        (4, 16, 64), lambda w, x: torch.einsum("bthk,hkd->btd", x.unflatten(-1, (4, 16)), w), SEQUENCE
    ),
    "einsum, implicit": bare((64, 128), lambda w, x: torch.einsum("ij,jk", x, w)),
    "experts, each its tokens": bare((8, 64, 32), lambda w, x: torch.einsum("ecd,edh->ech", x, w), SEQUENCE),
    "experts, all tokens": bare((4, 64, 32), lambda w, x: torch.einsum("bd,edh->beh", x, w)),
    "experts, w[i]": bare((4, 64, 32), lambda w, x: torch.cat([x[i::4] @ w[i] for i in range(4)])),
    "experts, gathered": bare((4, 64, 32), lambda w, x: torch.bmm(x[:, None], w[torch.arange(len(x)) % 4])),
}
QUICK = ("Linear", "ConvTranspose2d, stride 2", "LSTM, input, each gate", "torch.baddbmm")


def audited(kind: Kind, seed: int) -> tuple[Report, Layer]:
    torch.manual_seed(2_000_000 + seed)  # the audit seeds its cotangent with the seed itself
    model = Subject(kind.build())
    for name, parameter in model.layer.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=kind.std if "_hh" not in name else 0.0)
    generator = torch.Generator().manual_seed(1_000_000 + seed)
    tokens = "mbedding" in type(model.layer).__name__ or isinstance(model.layer, Tied)
    given = [
        torch.randint(500, shape, generator=generator) if tokens else torch.randn(shape, generator=generator)
        for shape in kind.inputs
    ]
    with quiet():
        report = initaudit.audit(model, tuple(given), seed=seed)
    layers = [layer for layer in report.layers if "_hh" not in layer.weight.fqn]
    return report, layers[kind.which]


def measured(kind: Kind, report: Report, layer: Layer) -> tuple[float | None, float | None]:
    """Forward and backward fan of one draw."""
    call, variance = layer.calls[0], layer.weight.rms**2 * kind.share
    assert report.trace is not None
    assert call.pre_activation is not None
    tokens = call.input is None or layer.kind.lower().startswith("embedding")
    source = call.input.rms if call.input and not tokens else 1.0
    before = _gradient_at(report, call.input_op)
    forward = call.pre_activation.rms**2 / source**2 / variance
    if before is None or call.gradient is None or tokens:
        return forward, None
    return forward, before.rms**2 / call.gradient.rms**2 / variance


def _gradient_at(report: Report, at: int | None) -> Stats | None:
    """That of an op, or of what it is a view of all elements of, or was made of by padding."""
    assert report.trace is not None
    ops = report.trace.ops
    while at is not None and (ops[at].name == "pad" or (ops[at].gradient is None and ops[at].role is Role.VIEW)):
        inner = ops[at].inputs[0]
        same = ops[at].name == "pad" or math.prod(ops[inner].shape) == math.prod(ops[at].shape)
        at = inner if same else None
    return ops[at].gradient if at is not None else None


def apart(found: float | None, said: float | None) -> str:
    return "-" if found is None or not said else f"{said / found - 1:+.0%}"


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--draws", type=int, default=16)
    given = options.parse_args(arguments)
    names = QUICK if given.quick else tuple(KINDS)
    draws = 1 if given.quick else given.draws
    print(environment(draws=draws))
    rows, ours, torchs = [], [], []
    for name in names:
        kind = KINDS[name]
        found = [audited(kind, seed) for seed in range(draws)]
        layer = found[0][1]
        pairs = [measured(kind, *draw) for draw in found]
        forward = statistics.fmean(f for f, _ in pairs if f is not None)
        backward = [b for _, b in pairs if b is not None]
        back = statistics.fmean(backward) if backward else None
        fan_out = layer.fan_out * (layer.repeats if kind.share == 1 else 1)
        ours.append(max(abs(layer.fan_in / forward - 1), abs(fan_out / back - 1) if back else 0))
        if layer.torch_fan_in and layer.torch_fan_out:
            torchs.append(
                max(abs(layer.torch_fan_in / forward - 1), abs(layer.torch_fan_out / back - 1) if back else 0)
            )
        said = f"{layer.fan_out:g}" + (f" x {layer.repeats}" if layer.repeats > 1 else "")
        rows.append(
            [name, f"{layer.torch_fan_in}, {layer.torch_fan_out}", f"{layer.fan_in:g}, {said}", figure(forward),
             figure(back), apart(forward, layer.fan_in), apart(back, fan_out), apart(forward, layer.torch_fan_in),
             apart(back, layer.torch_fan_out)]
        )  # fmt: skip
    show(
        ("layer", "torch: in, out", "initaudit: in, out", "measured in", "measured out", "in off", "out off",
         "torch in off", "torch out off"),
        rows,
    )  # fmt: skip
    print(
        f"\nfans: {len(rows)} kinds; within 10% of what is measured: initaudit {sum(x < 0.1 for x in ours)}, "
        f"torch {sum(x < 0.1 for x in torchs)}; largest error {max(ours):.0%} and {max(torchs):.0%}"
    )


if __name__ == "__main__":
    main()
