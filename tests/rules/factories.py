"""Hand-made traces: a small builder, so that a rule is tested on numbers that are written down.

net = Net()
x = net.input()
x = net.layer("body.0", x, nonlinearity=RELU)
x = net.relu(x)
net.layer("head", x, output=True)
trace = net.trace()
"""

import math
from dataclasses import replace
from typing import Any

from initaudit.records import (
    Activation,
    Environment,
    Layer,
    LayerCall,
    Op,
    Parameter,
    Role,
    Stats,
    Trace,
)
from initaudit.rules.flow import Flow

RELU = Activation("relu", math.sqrt(2), math.sqrt(2), torch_name="relu")
TANH = Activation("tanh", 1.5925374, 1.4674136, torch_name="tanh", saturating=True)
SIGMOID = Activation("sigmoid", 1.8462285, 4.7226461, torch_name="sigmoid", saturating=True)
GELU = Activation("gelu", 1.5335304, 1.4811144)


def stats(rms: float = 1.0, **fields: Any) -> Stats:
    """Healthy statistics of a batch of 32 with 64 units: zero mean, every sample different."""
    defaults: dict[str, Any] = {
        "count": 2048, "sampled": 2048, "mean": 0.0, "std": rms, "rms": rms, "min": -3 * rms, "max": 3 * rms,
        "samples": 32, "units": 64, "sample_std": rms, "cosine": 0.0,
    }  # fmt: skip
    return Stats(**{**defaults, **fields})


def parameter(fqn: str, shape: tuple[int, ...] = (64, 64), **fields: Any) -> Parameter:
    """A normal weight of std 1/sqrt(shape[1]) (a bias of std 0.1) that got a gradient."""
    std = fields.pop("std", shape[1] ** -0.5 if len(shape) > 1 else 0.1)
    defaults: dict[str, Any] = {
        "fqn": fqn, "shape": shape, "dtype": "float32", "mean": 0.0, "std": std, "rms": std, "min": -4 * std,
        "max": 4 * std, "init": f"normal(std={std:.3g})", "kurtosis": 3.0,
        "std_uncertainty": math.sqrt(0.5 / math.prod(shape)), "grad_rms": 0.1,
    }  # fmt: skip
    return Parameter(**{**defaults, **fields})


def constant(fqn: str, shape: tuple[int, ...] = (64, 64), value: float = 0.0, **fields: Any) -> Parameter:
    """A parameter that is ``value`` everywhere."""
    return parameter(
        fqn, shape, std=0.0, mean=value, rms=abs(value), min=value, max=value, constant=True, kurtosis=None,
        identical_rows=len(shape) > 1 and shape[0] > 1, zero_fraction=float(value == 0), std_uncertainty=0.0,
        init="zeros" if value == 0 else f"constant({value:.4g})", **fields,
    )  # fmt: skip


class Net:
    """Builds a trace operation by operation; every method returns the id of the operation it adds."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.layers: list[Layer] = []
        self.parameters: list[Parameter] = []

    def op(self, name: str, role: Role, *inputs: int, **fields: Any) -> int:
        fields = {"scope": "", "stats": stats(), "gradient": stats(), **fields}
        self.ops.append(Op(id=len(self.ops), name=name, role=role, inputs=inputs, **fields))
        return len(self.ops) - 1

    def input(self, **fields: Any) -> int:
        return self.op("input", Role.INPUT, **{"gradient": None, **fields})

    def relu(self, x: int, **fields: Any) -> int:
        return self.op("relu", Role.ACTIVATION, x, **{"activation": RELU, **fields})

    def add(self, x: int, y: int, **fields: Any) -> int:
        return self.op("add", Role.JOIN, x, y, **fields)

    def layer(
        self,
        fqn: str,
        x: int,
        *,
        weight: Parameter | None = None,
        bias: Parameter | None = None,
        nonlinearity: Activation | None = None,
        layer: dict[str, Any] | None = None,
        role: Role = Role.LAYER,
        **fields: Any,
    ) -> int:
        """One call of a layer; ``layer`` sets fields of its record, other keywords those of its operation."""
        weight = weight or parameter(f"{fqn}.weight")
        own = [p for p in (weight, bias) if p]
        self.parameters += [p for p in own if p not in self.parameters]
        call = len(self.layers)
        op = self.op(
            "linear", role, x,
            **{"layer": fqn, "scope": fqn, "call": call, "parameters": tuple(p.fqn for p in own), **fields},
        )  # fmt: skip
        done = self.ops[op]
        defaults: dict[str, Any] = {
            "kind": "Linear", "fan_in": float(math.prod(weight.shape[1:])), "fan_out": float(weight.shape[0]),
            "access": f"m.{fqn}", "weight_access": f"m.{weight.fqn}",
            "torch_fan_in": math.prod(weight.shape[1:]), "torch_fan_out": weight.shape[0],
        }  # fmt: skip
        source = self.ops[x].stats
        recorded = LayerCall(op, source, done.stats, done.stats, done.gradient, nonlinearity, input_op=x)
        self.layers.append(
            Layer(**{"fqn": fqn, "weight": weight, "bias": bias, "calls": (recorded,), **defaults, **(layer or {})})
        )
        return op

    def output(self, x: int) -> None:
        """Mark an operation as what the model returns."""
        self.ops[x] = replace(self.ops[x], output=True)

    def trace(self, **fields: Any) -> Trace:
        defaults: dict[str, Any] = {
            "target": "model.py::Net", "environment": Environment("2.4", "cpu", "float32", 0),
            "inputs": "float32[32,64]", "inputs_source": "given", "loss": "seeded Gaussian cotangent", "training": True,
            "ops": tuple(self.ops), "layers": tuple(self.layers), "parameters": tuple(self.parameters),
        }  # fmt: skip
        return Trace(**{**defaults, **fields})

    def flow(self, **fields: Any) -> Flow:
        return Flow(self.trace(**fields))


class Wired(Net):
    """A net whose layers read their weights from operations of their own, as those of a real trace do."""

    def leaf(self, of: Parameter) -> int:
        """The operation that stands for a parameter."""
        self.parameters += [] if of in self.parameters else [of]
        return self.op(
            "parameter", Role.PARAMETER, parameters=(of.fqn,), shape=of.shape, stats=None, gradient=None, moving=False
        )

    def layer(self, fqn: str, x: int, *, weight: Parameter | None = None, **fields: Any) -> int:
        weight = weight or parameter(f"{fqn}.weight")
        leaf = self.leaf(weight)
        op = super().layer(fqn, x, weight=weight, **fields)
        self.ops[op] = replace(self.ops[op], inputs=(x, leaf))
        return op


def parameters_only(*parameters: Parameter, **fields: Any) -> Flow:
    """A flow with parameters and no operations."""
    net = Net()
    net.parameters = list(parameters)
    return net.flow(**fields)


def chain(*weights: Parameter, nonlinearity: Activation | None = RELU, **fields: Any) -> Flow:
    """The flow of a plain net ``0``, ``2``, ``4`` ... of these weights with an activation between them."""
    net = Net()
    x = net.input()
    for i, weight in enumerate(weights):
        last = i == len(weights) - 1
        x = net.layer(str(2 * i), x, weight=weight, nonlinearity=None if last else nonlinearity)
        if not last:
            x = net.relu(x)
    net.output(x)
    return net.flow(**fields)
