"""Is the gain that initaudit gives the right one, and is calculate_gain's?

    python benchmarks/gains.py [--quick] [--samples 10000000] [--seed 0]

Three tables. The gain of every known activation by quadrature, from independent samples (with the difference in
standard errors), and as an audit measures it in one wide layer whose pre-activations have rms 1; the same of the
backward gain. Then chi_1, the factor per layer of a gradient's mean square, by autograd in a stack of such layers. And
where torch.nn.init.calculate_gain says another number or raises, what 20 layers make of the signal and of the gradient
with each of the gains: predicted, and the median over draws.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from _common import environment, parser, quiet, show

# isort: split
import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Report
from initaudit.theory.activations import GATES, KNOWN
from initaudit.theory.depth import Scheme, schemes_for, through_depth
from initaudit.theory.elementwise import analyse, moments_of
from initaudit.theory.gains import GainAnalysis
from initaudit.theory.resolve import resolve_activation

NAMES = (*KNOWN, "rrelu")
CONTESTED = ("tanh", "selu", "sigmoid", "gelu", "silu", "elu", "softplus")
QUICK = ("relu", "gelu", "glu")
CHUNK, DEPTH = 1 << 20, 20


class Act(nn.Module):
    """An activation by name; a gate takes its two halves from the last dimension."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.halves = 2 if name in GATES else 1
        own = {"rrelu": nn.RReLU(), "identity": nn.Identity()}
        self.function: Callable[[Tensor], Tensor] = own.get(name) or resolve_activation(name).fn

    def forward(self, x: Tensor) -> Tensor:
        if self.halves == 1:
            return self.function(x)
        a, b = x.chunk(2, -1)
        return a * self.function(b)


def sampled(act: Act, samples: int, seed: int) -> list[tuple[float, float]]:
    """Forward and backward gain from samples, each with its relative standard error."""
    generator = torch.Generator().manual_seed(seed)
    sums = torch.zeros(2, 2, dtype=torch.float64)
    for start in range(0, samples, CHUNK):
        n = min(CHUNK, samples - start)
        z = torch.randn(n, act.halves, generator=generator, dtype=torch.float64).requires_grad_()
        y = act(z)
        (slope,) = torch.autograd.grad(y.sum(), z)
        for i, squares in enumerate((y.detach().square().sum(1), slope.square().sum(1))):
            sums[i] += torch.stack([squares.sum(), squares.square().sum()])
    means = sums / samples
    return [(float(m) ** -0.5, math.sqrt(float(s / m**2 - 1) / samples) / 2) for m, s in means]


def stack(name: str, depth: int, width: int, scheme: Scheme) -> nn.Sequential:
    """``depth`` layers with the activation behind each, and one more of the same shape that reads the last."""
    layers: list[nn.Module] = []
    for i in range(depth + 1):
        act = Act(name)
        layers.append(nn.Linear(width, act.halves * width))
        nn.init.normal_(layers[-1].weight, std=scheme.first_std if i == 0 else scheme.std)
        nn.init.normal_(layers[-1].bias, std=scheme.bias_std)
        layers.append(act)
    return nn.Sequential(*layers[:-1])


def audited(model: nn.Module, width: int, batch: int, seed: int) -> Report:
    with quiet():
        return initaudit.audit(model, inputs(batch, width, seed), seed=seed)


def inputs(batch: int, width: int, seed: int) -> Tensor:
    """Normal numbers that have nothing to do with the weights that the same seed draws."""
    return torch.randn(batch, width, generator=torch.Generator().manual_seed(1_000_000 + seed))


def level(model: nn.Sequential, x: Tensor) -> nn.Sequential:
    """Scale each layer so that its pre-activations have rms 1: of one draw it is off by sqrt(kappa/width)."""
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Linear):
                module.weight /= module(x).square().mean().sqrt()
            x = module(x)
    return model


def measured(name: str, width: int, batch: int, seed: int) -> tuple[float, float]:
    """Forward and backward gain as one audit measures them in a layer of ``width`` units."""
    torch.manual_seed(2_000_000 + seed)  # the audit seeds its cotangent with the seed itself
    model = level(stack(name, 1, width, Scheme("", width**-0.5, width**-0.5)), inputs(batch, width, seed))
    report = audited(model, width, batch, seed)
    before, after = (layer.calls[0] for layer in report.layers)
    assert report.trace is not None
    assert before.pre_activation is not None
    assert before.gradient is not None
    assert after.input is not None
    assert after.input_op is not None
    behind = report.trace.ops[after.input_op].gradient
    assert behind is not None
    halves = 2 if name in GATES else 1
    return before.pre_activation.rms / after.input.rms, behind.rms / before.gradient.rms / math.sqrt(halves)


def profile(
    name: str, scheme: Scheme, depth: int, width: int, seed: int, levelled: bool = False
) -> tuple[float, float]:
    """Of one draw: the rms of the last pre-activation, and the gradient's at the first layer over that at the last."""
    torch.manual_seed(2_000_000 + seed)
    model = stack(name, depth - 1, width, scheme)
    if levelled:
        level(model, inputs(64, width, seed))
    calls = [layer.calls[0] for layer in audited(model, width, 64, seed).layers]
    first, last = calls[0].gradient, calls[-1].gradient
    signal = calls[-1].pre_activation
    assert first is not None
    assert last is not None
    assert signal is not None
    return signal.rms, first.rms / last.rms if last.rms else math.nan


def gains(names: Sequence[str], samples: int, width: int, batch: int, seed: int) -> tuple[float, float]:
    """Print the first table; the largest difference from the samples in standard errors, and from an audit."""
    rows: list[list[object]] = []
    worst_sample = worst_audit = 0.0
    for name in names:
        act = Act(name)
        found = sampled(act, samples, seed)
        in_audit = measured(name, width, batch, seed)
        cells: list[object] = [name]
        for backward in (False, True):
            value, (sample, error) = initaudit.gain(name, backward=backward), found[backward]
            off = abs(sample / value - 1)
            errors = off / error if error > 0 else 0.0
            apart = in_audit[backward] / value - 1
            cells += [f"{value:.6g}", f"{sample:.6g}", f"{errors:.1f}", f"{in_audit[backward]:.4g}", f"{apart:+.2%}"]
            worst_sample, worst_audit = max(worst_sample, errors), max(worst_audit, abs(apart))
        rows.append(cells)
    columns = ("gain", "sampled", "errors", "audit", "apart")
    show(("activation", *columns, *(f"backward {c}" if c == "gain" else c for c in columns)), rows)
    return worst_sample, worst_audit


def gradients(names: Sequence[str], width: int, depth: int, draws: int) -> float:
    """Print the second table; the largest relative difference of chi_1."""
    rows, worst = [], 0.0
    for name in names:
        analysis = analyse(name)
        scheme = Scheme("", analysis.gain / math.sqrt(width), 1 / math.sqrt(width))
        ratios = [profile(name, scheme, depth, width, seed, levelled=True)[1] for seed in range(draws)]
        found = (
            math.exp(statistics.fmean(2 * math.log(r) for r in ratios if r > 0) / (depth - 1)) if all(ratios) else 0.0
        )
        chi1 = analysis.fixed_point.chi1 or 0.0
        apart = found / chi1 - 1 if chi1 else 0.0
        worst = max(worst, abs(apart))
        rows.append([name, f"{chi1:.4g}", f"{found:.4g}", f"{apart:+.1%}", analysis.fixed_point.stability.value])
    show(("activation", "chi_1", "autograd", "apart", "q = 1 is"), rows)
    return worst


def contest(names: Sequence[str], width: int, depth: int, draws: int) -> int:
    """Print the third table; of how many activations the forward gain, or one that equals it, ends nearest to rms 1."""
    rows, kept = [], 0
    for name in names:
        analysis, moments = analyse(name), moments_of(name)
        off: dict[str, float] = {}
        for scheme in schemes_for(analysis, width):
            expected = through_depth(moments, scheme, depth=depth, width=width)
            drawn = [profile(name, scheme, depth, width, seed) for seed in range(draws)]
            signal, gradient = (statistics.median(values) for values in zip(*drawn, strict=True))
            off[scheme.label] = abs(math.log(max(signal, 1e-300)))
            rows.append(
                [name, _torch_says(analysis) if scheme.label == "calculate_gain" else scheme.label,
                 f"{scheme.std * math.sqrt(width):.4g}", f"{expected.rms[-1]:.3g}", f"{signal:.3g}",
                 f"{expected.gradient[0]:.3g}", f"{gradient:.3g}"]
            )  # fmt: skip
        kept += min(off["forward gain"], off["forward gain, first 1"]) <= min(off.values()) + 1e-3
    head = (
        "activation",
        "weights drawn with",
        "gain",
        "rms, theory",
        "rms, median",
        "gradient, theory",
        "gradient, median",
    )
    show(head, rows)
    return kept


def _torch_says(analysis: GainAnalysis) -> str:
    return f'calculate_gain("{analysis.torch_name}")'


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=10_000_000)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args(arguments)
    small = given.quick
    samples, width, batch, draws = (20_000, 64, 16, 1) if small else (given.samples, 4096, 256, 8)
    names = QUICK if small else NAMES
    print(environment(samples=samples, width=width, batch=batch, seed=given.seed))
    print("\nGain by quadrature, by sampling, and in an audit")
    errors, apart = gains(names, samples, width, batch, given.seed)
    stacked = 64 if small else 1024
    print(f"\nGradients per layer, 5 layers of {stacked} units, {draws} draws")
    chi = gradients(names, stacked, 5, draws)
    contested, deep, wide = (CONTESTED[:1], 4, 32) if small else (CONTESTED, DEPTH, 512)
    print(f"\nAfter {deep} layers of {wide} units, {draws} draws")
    kept = contest(contested, wide, deep, draws)
    raising = sum(analyse(name).torch_gain is None for name in names)
    print(
        f"\ngains: {len(names)} activations, within {errors:.1f} standard errors of {samples:,} samples and "
        f"{apart:.1%} of an audit; chi_1 within {chi:.1%}; calculate_gain raises for {raising}; the forward gain "
        f"keeps the signal best in {kept} of {len(contested)} contested"
    )


if __name__ == "__main__":
    main()
