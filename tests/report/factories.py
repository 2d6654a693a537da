"""Hand-made records: a network whose signal follows a law that the test chooses."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from initaudit.records import (
    Activation,
    Advice,
    Environment,
    Failure,
    Finding,
    Histogram,
    Layer,
    LayerCall,
    Parameter,
    Report,
    Severity,
    Stats,
    Trace,
    Unjudged,
)

RELU = Activation("relu", gain=math.sqrt(2), backward_gain=math.sqrt(2), torch_name="relu")
TANH = Activation("tanh", gain=1.5925374, backward_gain=1.4674, torch_name="tanh", saturating=True)
BINS = 64


def gaussian_histogram(std: float, *, bins: int = BINS, total: int = 100_000) -> Histogram:
    """What a large sample of ``N(0, std^2)`` gives, out to 4 standard deviations."""
    limit = 2.0 ** math.ceil(math.log2(4 * std)) if std > 0 else 1.0
    edges = [limit * (2 * i / bins - 1) for i in range(bins + 1)]
    below = [0.5 * (1 + math.erf(edge / (std * math.sqrt(2)))) if std > 0 else float(edge > 0) for edge in edges]
    return Histogram(limit, tuple(round(total * (b - a)) for a, b in pairwise(below)))


def rectified_histogram(std: float, *, bins: int = BINS, total: int = 100_000) -> Histogram:
    """The same after a ReLU: the negative half sits at zero, which is the first bin right of the middle."""
    histogram = gaussian_histogram(std, bins=bins, total=total)
    counts = list(histogram.counts)
    counts[bins // 2] += sum(counts[: bins // 2])
    counts[: bins // 2] = [0] * (bins // 2)
    return Histogram(histogram.limit, tuple(counts))


def stats(std: float, *, histogram: Histogram | None = None, **changes: Any) -> Stats:
    """Statistics of a centred Gaussian tensor ``(32, 256)``."""
    values: dict[str, Any] = {
        "count": 8192,
        "sampled": 8192,
        "mean": 0.0,
        "std": std,
        "rms": std,
        "min": -4 * std,
        "max": 4 * std,
        "kappa": 2.0,
        "samples": 32,
        "units": 256,
        "sample_std": std,
        "cosine": 0.0,
        "histogram": histogram or gaussian_histogram(std),
    }
    return Stats(**(values | changes))


def parameter(fqn: str, *, std: float = 0.0361, shape: tuple[int, ...] = (256, 256), **changes: Any) -> Parameter:
    values: dict[str, Any] = {
        "dtype": "float32",
        "mean": 0.0,
        "std": std,
        "rms": std,
        "min": -2 * std,
        "max": 2 * std,
        "init": "kaiming_uniform(a=sqrt(5))",
        "grad_rms": 1.0,
    }
    return Parameter(fqn, shape, **(values | changes))


def layer(
    fqn: str,
    *,
    forward: float = 1.0,
    gradient: float | None = 1.0,
    std: float = 0.0361,
    activation: Activation | None = RELU,
    after: Stats | None = None,
    calls: int = 1,
    **changes: Any,
) -> Layer:
    """A ``Linear(256, 256)`` whose pre-activations have std ``forward`` and its gradients std ``gradient``."""
    if after is None and activation is not None:
        after = stats(forward * math.sqrt(0.5), histogram=rectified_histogram(forward), dead_units=0.0)
    call = LayerCall(
        op=0,
        input=stats(1.0),
        pre_activation=stats(forward),
        activation=after,
        gradient=None if gradient is None else stats(gradient),
        nonlinearity=activation,
    )
    values: dict[str, Any] = {
        "kind": "Linear",
        "fan_in": 256.0,
        "fan_out": 256.0,
        "weight": parameter(f"{fqn}.weight", std=std),
        "bias": parameter(f"{fqn}.bias", shape=(256,)),
        "calls": (call,) * calls,
        "access": f"m.{fqn}",
        "weight_access": f"m.{fqn}.weight",
    }
    return Layer(fqn, **(values | changes))


def finding(code: str = "IA101", fqn: str = "body.0", severity: Severity = Severity.ERROR, **changes: Any) -> Finding:
    values: dict[str, Any] = {
        "name": "vanishing-activations",
        "message": "The signal shrinks by 0.41 per layer from here on.",
        "observed": 1.2e-9,
        "limit": 1e-4,
        "unit": "times the first layer's rms",
    }
    return Finding(code=code, severity=severity, fqn=fqn, **(values | changes))


def kaiming(access: str = "m.body[0]") -> Advice:
    return Advice(
        scheme="kaiming_normal_",
        gain=math.sqrt(2),
        std=math.sqrt(2 / 256),
        code=f'nn.init.kaiming_normal_({access}.weight, nonlinearity="relu")',
        why="A ReLU halves the second moment, so the weights need variance 2/fan_in = 2/256 to keep it.",
    )


def trace(*layers: Layer, target: str = "model.py::Net", **changes: Any) -> Trace:
    values: dict[str, Any] = {
        "environment": Environment(torch="2.13.0", device="cpu", dtype="float32", seed=0),
        "inputs": "float32[32,256]",
        "inputs_source": "inferred from Linear(256, 256)",
        "loss": "seeded Gaussian cotangent",
        "training": True,
        "ops": (),
        "layers": layers,
        "parameters": tuple(p for each in layers for p in (each.weight, each.bias) if p),
        "seconds": 0.4,
        "model_seconds": 0.21,
    }
    return Trace(target, **(values | changes))


def report(*layers: Layer, findings: tuple[Finding, ...] = (), target: str = "model.py::Net", **changes: Any) -> Report:
    return Report(target, findings, trace(*layers, target=target, **changes), seconds=0.42)


def failed(stage: str = "input", message: str = "no sample input was found", target: str = "bad.py::Net") -> Report:
    return Report(target, error=Failure(stage, message), seconds=0.1)


def vanishing(depth: int = 12) -> Report:
    """A deep ReLU network with torch's default: the signal falls by 0.41 per layer, the gradient likewise."""
    names = [f"body.{2 * i}" for i in range(depth)]
    layers = [
        layer(name, forward=0.577 * 0.41**i, gradient=0.41 ** (depth - i), activation=RELU if i < depth - 1 else None)
        for i, name in enumerate(names)
    ]
    cause = finding(affected=tuple(names[1:]), advice=kaiming())
    consequence = finding(
        "IA201",
        "body.10",
        Severity.WARNING,
        name="vanishing-gradients",
        message="The gradient shrinks by 0.41 per layer.",
        root_cause=False,
    )
    note = finding("IA501", "body.4", Severity.NOTE, name="torch-default-init", message="As torch left it.")
    unjudged = (Unjudged("head", "never called"),)
    return report(*layers, findings=(cause, consequence, note), unjudged=unjudged, uncalled=("head",))


def glorot() -> Report:
    """Five layers of a thousand tanh units under the standard init, with the published activation stds."""
    levels = (0.460, 0.250, 0.141, 0.081, 0.047)
    layers = [
        layer(
            f"layers.{2 * i}",
            forward=level * 1.1,
            gradient=0.02 * 0.6 ** (4 - i),
            activation=TANH,
            after=stats(level, saturated_units=0.0, dead_units=0.0),
            std=1 / math.sqrt(3000),
            fan_in=1000.0,
            fan_out=1000.0,
        )
        for i, level in enumerate(levels)
    ]
    return report(*layers, target="examples/lecture.py::build_standard")
