"""From what a user types or passes to a function: spellings, arguments, files' attributes, learned slopes, refusals."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from initaudit.errors import UnknownActivationError
from initaudit.theory.elementwise import analyse, describe, gain
from initaudit.theory.resolve import find_in, resolve_activation
from initaudit.theory.spelling import spelled, why_no_gain

# Arguments


@pytest.mark.parametrize(
    ("spec", "function"),
    [
        ("leaky_relu(0.2)", nn.LeakyReLU(0.2)),
        ("leaky_relu(negative_slope=0.2)", nn.LeakyReLU(0.2)),
        ("LeakyReLU(.2)", nn.LeakyReLU(0.2)),
        ("nn.LeakyReLU(0.2, inplace=True)", nn.LeakyReLU(0.2)),
        ("nn.LeakyReLU(0.2, True)", nn.LeakyReLU(0.2)),
        ("torch.nn:LeakyReLU(negative_slope=0.2)", nn.LeakyReLU(0.2)),
        ("torch.nn.functional:leaky_relu(0.2)", nn.LeakyReLU(0.2)),
        ("elu(alpha=0.5)", nn.ELU(0.5)),
        ("ELU(0.5)", nn.ELU(0.5)),
        ("celu(2)", nn.CELU(2.0)),
        ("hardtanh(min_val=-2, max_val=3)", nn.Hardtanh(-2, 3)),
        ("Hardtanh(-2, 3)", nn.Hardtanh(-2, 3)),
        ("softplus(2, 20)", nn.Softplus(2, 20)),
        ("softplus(beta=2)", nn.Softplus(2)),
        ("softshrink(lambd=0.3)", nn.Softshrink(0.3)),
        ("Hardshrink(0.3)", nn.Hardshrink(0.3)),
        ("threshold(0.1, 20)", nn.Threshold(0.1, 20)),
        ("torch.nn:Threshold(0.1, 20)", nn.Threshold(0.1, 20)),
        ("gelu(approximate='tanh')", nn.GELU(approximate="tanh")),
        ('nn.GELU(approximate="tanh")', nn.GELU(approximate="tanh")),
        ("prelu(0.1)", nn.PReLU(init=0.1)),
        ("PReLU(0.25)", nn.PReLU()),
        ("nn.PReLU(init=0.1)", nn.PReLU(init=0.1)),
        ("nn.PReLU(4)", nn.PReLU(4)),
        ("rrelu", nn.RReLU()),
        ("RReLU(0.1, 0.3)", nn.RReLU(0.1, 0.3)),
        ("rrelu(0.1, 0.3)", nn.RReLU(0.1, 0.3)),
        ("sin(30)", lambda x: torch.sin(30 * x)),
        ("swish(1.5)", lambda x: x * torch.sigmoid(1.5 * x)),
        ("1.788*silu", lambda x: 1.788 * F.silu(x)),
        ("-1 * tanh", lambda x: -torch.tanh(x)),
        ("2*leaky_relu(0.2)", lambda x: 2 * F.leaky_relu(x, 0.2)),
        ("SELU()", nn.SELU()),
        ("cos", torch.cos),
        ("asinh", torch.asinh),
        ("sign", torch.sign),
    ],
)
def test_what_is_typed_is_what_it_says(spec: str, function: object) -> None:
    for backward in (False, True):
        assert gain(spec, backward=backward) == pytest.approx(gain(function, backward=backward), rel=1e-7)  # type: ignore[arg-type]


@settings(max_examples=6, deadline=None)
@given(st.floats(0.01, 0.9))
def test_the_name_that_a_report_gives_can_be_typed(slope: float) -> None:
    for module in (nn.ELU(slope), nn.Softshrink(slope), nn.Hardtanh(-slope, 2 * slope)):
        activation = describe(module)
        assert gain(activation.name) == pytest.approx(activation.gain, rel=2e-3)  # four digits in the name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("leaky_relu(0.2, 0.3)", r"0\.3 is given for inplace, expected True or False"),
        ("relu(3)", "3 is given for inplace"),
        ("nn.ReLU(2)", "2 is given for inplace"),
        ("elu(alhpa=0.5)", r"unexpected keyword argument 'alhpa'\. Its signature is \(.*alpha"),
        ("identity(3)", "too many positional arguments"),
        ("relu2(3)", "too many positional arguments"),
        ("leaky_relu(open('x'))", "cannot read the arguments"),
        ("leaky_relu(__import__('os').system('true'))", "cannot read the arguments"),
        ("sin(x*30)", "cannot read the arguments"),
        ("leaky_relu(", "cannot read the arguments"),
        ("elu(**{})", "cannot read the arguments"),
        ("1.5*swiglu", "unknown activation"),
        ("leaky_relu 0.2", r"did you mean 'leaky_relu'.*Numbers go in brackets"),
        ("manual_seed", "unknown activation"),
        ("torch.nn:Threshold", r"without arguments.*give its arguments"),
        ("torch.nn:GELUU", "did you mean GELU"),
        ("", "unknown activation"),
        ("not_there_at_all:f", "ModuleNotFoundError"),
        ("act.py::f", "pass the function itself"),
    ],
)
def test_what_does_not_fit_is_said(spec: str, message: str) -> None:
    with pytest.raises(UnknownActivationError, match=message):
        analyse(spec)


def test_nothing_that_was_typed_runs() -> None:
    with pytest.raises(UnknownActivationError, match="expected literals"):
        spelled("f(exec('raise SystemExit'))")
    taken_apart = spelled("-2.5e-1 * a.b( 1, 'x', k=[2, 3] )")
    assert (taken_apart.factor, taken_apart.head, taken_apart.args) == (-0.25, "a.b", (1, "x"))
    assert taken_apart.kwargs == {"k": [2, 3]}


# What goes by the name of an activation and has no gain


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("softmax", "weights that sum to one"),
        ("torch.nn:Softmax(dim=-1)", "weights that sum to one"),
        (nn.Softmax2d(), "weights that sum to one"),
        (nn.LogSoftmax(-1), "weights that sum to one"),
        (F.gumbel_softmax, "weights that sum to one"),
        (nn.MultiheadAttention, "layer with weights of its own.*fan_in_and_fan_out"),
        (nn.MultiheadAttention(8, 2), "layer with weights of its own"),
        (nn.Linear(4, 4), "Linear has no gain: it is a layer"),
        ("nn.Conv2d(1, 1, 1)", "layer with weights of its own"),
        (nn.Dropout(0.3), r"sqrt\(1 - p\) times the gain"),
        (F.dropout, r"sqrt\(1 - p\)"),
        (nn.AlphaDropout(), "SELU keeps its gain of 1"),
        (nn.LayerNorm(64), "sets the scale anew"),
        (nn.BatchNorm1d(64), "sets the scale anew"),
        ("normalize", "sets the scale anew"),
        ("maxout", "one output of several inputs"),
        (nn.MaxPool1d(2), "one output of several inputs"),
    ],
)
def test_what_has_no_gain_is_told_what_it_is(spec: object, message: str) -> None:
    with pytest.raises(UnknownActivationError, match=message):
        analyse(spec)  # type: ignore[arg-type]


def test_dropout_that_does_nothing_is_the_identity() -> None:
    assert gain(nn.Dropout(0.5).eval()) == 1
    assert gain(nn.Dropout(0.0)) == 1
    assert gain(nn.Sequential(nn.ReLU(), nn.Dropout(0.5)).eval()) == pytest.approx(math.sqrt(2))


def test_a_users_own_layer_of_that_name_is_not_taken_for_torchs() -> None:
    class Softmax(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x)

    assert why_no_gain("Softmax") is not None
    assert describe(Softmax()).name == "tanh"


# Things that are applied in other ways


def test_an_autograd_function_and_a_callable_object_are_activations() -> None:
    class Clipped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient

    class Squash:
        def __call__(self, x: Tensor) -> Tensor:
            return torch.tanh(x)

    assert gain(Clipped) == pytest.approx(math.sqrt(2))  # type: ignore[arg-type]
    assert gain(Clipped, backward=True) == pytest.approx(1)  # type: ignore[arg-type]
    assert describe(Squash).name == describe(Squash()).name == "tanh"  # type: ignore[arg-type]


def test_scripted_traced_and_compiled_functions() -> None:
    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    traced = torch.jit.trace(swish, torch.randn(3))  # type: ignore[no-untyped-call]
    assert describe(traced).name == "silu"
    assert describe(torch.compile(swish, backend="eager")).name == "silu"


class Snake(nn.Module):
    """``x + sin(a x)^2 / a`` with a learned frequency per channel, in the shape that the model's layout wants."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.linspace(0.5, 2, 8).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.a * x) ** 2 / self.a


def snake(a: float) -> nn.Module:
    module = Snake(8)
    module.a = nn.Parameter(torch.tensor(a))
    return module


@pytest.mark.parametrize("shape", [(8,), (8, 1), (1, 8, 1, 1), (1, 8)])
def test_a_parameter_per_channel_is_averaged_over_the_channels(shape: tuple[int, ...]) -> None:
    each = [analyse(snake(a)) for a in torch.linspace(0.5, 2, 8).tolist()]
    analysis = analyse(Snake(*shape))
    assert analysis.second_moment == pytest.approx(sum(a.second_moment for a in each) / 8, rel=1e-6)
    assert analysis.derivative_second_moment == pytest.approx(
        sum(a.derivative_second_moment for a in each) / 8, rel=1e-6
    )


def test_a_slope_per_channel_inside_a_sequence() -> None:
    assert gain(nn.Sequential(nn.PReLU(4))) == pytest.approx(gain(nn.PReLU()), rel=1e-6)


def test_channels_that_see_each_other_are_no_activation() -> None:
    class Mixed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    with pytest.raises(UnknownActivationError):
        analyse(Mixed(64, 64))
    with pytest.raises(UnknownActivationError):
        analyse(Mixed(8, 8))


def test_an_attribute_of_a_module_with_arguments() -> None:
    def scaled(x: Tensor, factor: float = 2.0) -> Tensor:
        return factor * x

    module = SimpleNamespace(inner=SimpleNamespace(scaled=scaled, Snake=Snake))
    assert gain(find_in(module, "inner.scaled(4)", "acts.py::inner.scaled(4)").fn) == pytest.approx(0.25)
    resolved = find_in(module, "inner.Snake(8, 1)", "acts.py::inner.Snake(8, 1)")
    assert (resolved.name, resolved.channels) == ("acts.py::inner.Snake(8, 1)", 8)
    with pytest.raises(UnknownActivationError, match=r"cannot import 'acts.py::outer'"):
        find_in(module, "outer", "acts.py::outer")


def test_another_name_for_a_known_function_says_so() -> None:
    module = SimpleNamespace(my_act=lambda x: F.relu(x) ** 2)
    analysis = analyse(find_in(module, "my_act", "act.py::my_act"))
    assert (analysis.name, analysis.same_as) == ("act.py::my_act", "relu2")
    for spec in ("torch.nn:LeakyReLU(0.2)", "LogSigmoid", "torch.nn:SiLU", "prelu(0.1)"):
        assert analyse(spec).same_as in (None, "leaky_relu"), spec
    assert resolve_activation("gelu").name == "gelu"
    module = SimpleNamespace(ones=torch.ones_like, twice=lambda x: 2 * x, same=lambda x: 1 * x)
    named = [analyse(find_in(module, name, f"act.py::{name}")).same_as for name in ("ones", "twice", "same")]
    assert named == [None, None, "linear"]  # of affine maps only one is the identity
