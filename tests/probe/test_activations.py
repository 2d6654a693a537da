"""The activation behind a layer is found by data flow, whichever way it is written, and its gain computed."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initaudit
from tests.probe.probing import Call, audit, by_fqn, randn

# The second-moment gains of science's tables: 1/sqrt(E[phi(z)^2]), z ~ N(0, 1), by quadrature to 16 digits.
WRITTEN_BY_HAND: dict[str, tuple[Callable[[Tensor], Tensor], str, float]] = {
    "silu, x * sigmoid": (lambda x: x * torch.sigmoid(x), "silu", 1.6765325),
    "silu, sigmoid * x": (lambda x: torch.sigmoid(x) * x, "silu", 1.6765325),
    "silu, x / (1 + exp(-x))": (lambda x: x / (1 + torch.exp(-x)), "silu", 1.6765325),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), "mish", 1.4868476),
    "gelu, erf": (lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))), "gelu", 1.5335304),
    "gelu, tanh": (lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))), "gelu", 1.5335805),
    "leaky relu, where": (lambda x: torch.where(x >= 0, x, 0.2 * x), "leaky_relu", 1.3867505),
    "leaky relu, maximum": (lambda x: torch.maximum(x, 0.2 * x), "leaky_relu", 1.3867505),
    "relu, squared difference": (lambda x: (x + x.abs()) / 2, "relu", 1.4142136),
    "tanh, by exp": (lambda x: 2 * torch.sigmoid(2 * x) - 1, "tanh", 1.5925374),
    "softsign": (lambda x: x / (1 + x.abs()), "softsign", 2.3375334),
    "hardtanh, clamp": (lambda x: x.clamp(-1, 1), "hardtanh", 1.3920361),
    "softplus": (lambda x: torch.log1p(torch.exp(x)), "softplus", 1.0418668),
    "sine": (lambda x: torch.sin(x), "sin", 1.5208666),
}


@pytest.mark.parametrize("spelling", WRITTEN_BY_HAND)
def test_written_by_hand(spelling: str) -> None:
    function, name, gain = WRITTEN_BY_HAND[spelling]
    model = Call(lambda m, x: m.b(function(m.a(x))), a=nn.Linear(32, 32), b=nn.Linear(32, 4))
    found = by_fqn(audit(model, randn(16, 32)))["a"].nonlinearity
    assert found is not None
    assert found.name.startswith(name)
    assert found.gain == pytest.approx(gain, rel=1e-6)


def test_an_unknown_function_has_its_gain_computed_and_its_operations_as_a_name() -> None:
    model = Call(lambda m, x: m.b(torch.relu(m.a(x)) ** 2), a=nn.Linear(32, 32), b=nn.Linear(32, 4))
    found = by_fqn(audit(model, randn(16, 32)))["a"].nonlinearity
    assert found is not None
    assert found.gain == pytest.approx(math.sqrt(2 / 3), rel=1e-6)  # E[relu(z)^4] = 3/2
    assert found.backward_gain == pytest.approx(1 / math.sqrt(2), rel=1e-6)
    assert found.torch_name is None


MODULES = {
    "relu": nn.ReLU(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "elu": nn.ELU(),
    "selu": nn.SELU(),
    "celu": nn.CELU(),
    "mish": nn.Mish(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "softsign": nn.Softsign(),
    "softplus": nn.Softplus(),
    "logsigmoid": nn.LogSigmoid(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "prelu": nn.PReLU(),
    "hardtanh": nn.Hardtanh(),
    "relu6": nn.ReLU6(),
    "tanhshrink": nn.Tanhshrink(),
    "hardshrink": nn.Hardshrink(),
    "softshrink": nn.Softshrink(),
}
SAME_FUNCTION = {"celu": "elu", "prelu": "leaky_relu"}  # as they start


@pytest.mark.parametrize("name", MODULES)
def test_module_and_direct_gain_agree(name: str) -> None:
    module = MODULES[name]
    found = by_fqn(audit(nn.Sequential(nn.Linear(16, 16), module, nn.Linear(16, 4)), randn(8, 16)))["0"].nonlinearity
    assert found is not None
    assert found.name.partition("(")[0] == SAME_FUNCTION.get(name, name)
    assert found.gain == pytest.approx(initaudit.gain(module), rel=1e-7)


def test_one_module_in_many_places_belongs_to_each_layer() -> None:
    act = nn.Tanh()
    report = audit(nn.Sequential(nn.Linear(8, 8), act, nn.Linear(8, 8), act, nn.Linear(8, 8), act), randn(8, 8))
    assert [layer.nonlinearity and layer.nonlinearity.name for layer in report.layers] == ["tanh"] * 3


@pytest.mark.parametrize(
    "between",
    [
        lambda x: F.dropout(x, 0.1),
        lambda x: x.reshape(-1, 4, 8).transpose(1, 2).contiguous(),
        lambda x: x.float(),
        lambda x: x.unsqueeze(-1).squeeze(-1),
        lambda x: x * 1.0,
        lambda x: x + 0.0,
    ],
    ids=["dropout", "reshape", "cast", "unsqueeze", "scale", "shift"],
)
def test_found_behind_what_does_not_bend(between: Callable[[Tensor], Tensor]) -> None:
    model = Call(lambda m, x: torch.tanh(between(m.a(x))), a=nn.Linear(32, 32))
    found = by_fqn(audit(model, randn(16, 32)))["a"].nonlinearity
    assert found is not None
    assert found.name == "tanh"


def test_in_place_on_a_view_leaves_the_rest_of_the_tensor() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        hidden = m.a(x)
        hidden[:, :16].relu_()
        return m.b(hidden)

    report = audit(Call(forward, a=nn.Linear(32, 32), b=nn.Linear(32, 4)), randn(64, 32))
    source = by_fqn(report)["b"].calls[0].input
    assert source is not None
    assert source.zero_fraction == pytest.approx(0.25, abs=0.05)
    assert source.min < -0.5


def test_in_place_activation_does_not_change_what_was_seen_before_it() -> None:
    report = audit(nn.Sequential(nn.Linear(32, 32), nn.ReLU(inplace=True)), randn(64, 32))
    call = report.layers[0].calls[0]
    assert call.pre_activation is not None
    assert call.activation is not None
    assert call.pre_activation.min < 0 <= call.activation.min
    assert call.gradient is not None
    assert call.gradient.zero_fraction == pytest.approx(0.5, abs=0.1)  # the gradient of the value before the ReLU


def test_a_residual_add_is_no_activation() -> None:
    report = audit(
        Call(lambda m, x: x + m.b(torch.relu(m.a(x))), a=nn.Linear(16, 16), b=nn.Linear(16, 16)), randn(8, 16)
    )
    layers = by_fqn(report)
    assert layers["a"].nonlinearity is not None
    assert layers["b"].nonlinearity is None


def test_a_gated_unit_is_no_elementwise_activation_of_its_value() -> None:
    model = Call(
        lambda m, x: m.c(F.silu(m.a(x)) * m.b(x)), a=nn.Linear(16, 32), b=nn.Linear(16, 32), c=nn.Linear(32, 4)
    )
    layers = by_fqn(audit(model, randn(8, 16)))
    assert layers["a"].nonlinearity is not None
    assert layers["a"].nonlinearity.name == "silu"
    assert layers["b"].nonlinearity is None


def test_learned_number_inside_a_function_is_taken_at_its_initial_value() -> None:
    model = Call(
        lambda m, x: m.b((h := m.a(x)) * torch.sigmoid(F.softplus(m.beta) * h)),
        a=nn.Linear(16, 16),
        b=nn.Linear(16, 4),
        beta=nn.Parameter(torch.tensor(math.log(math.e - 1))),  # whose softplus is 1
    )
    found = by_fqn(audit(model, randn(8, 16)))["a"].nonlinearity
    assert found is not None
    assert found.gain == pytest.approx(1.6765325, rel=1e-5)


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_learned_factor_behind_a_function_is_no_part_of_it(start: float) -> None:
    model = Call(
        lambda m, x: x + m.alpha * torch.relu(m.a(x)), a=nn.Linear(16, 16), alpha=nn.Parameter(torch.tensor(start))
    )
    layer = by_fqn(audit(model, randn(64, 16)))["a"]
    assert layer.nonlinearity is not None
    assert layer.nonlinearity.gain == pytest.approx(2**0.5)
    assert layer.calls[0].activation is not None
    assert layer.calls[0].activation.dead_units == 0


def test_normalization_written_by_hand_is_no_activation() -> None:
    def rms_norm(m: Call, x: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))

    report = audit(Call(rms_norm, a=nn.Linear(32, 32), b=nn.Linear(32, 4)), randn(16, 32))
    assert by_fqn(report)["a"].nonlinearity is None
    assert report.trace is not None
    assert any(op.role.value == "norm" for op in report.trace.ops)


@pytest.mark.parametrize("activation", [nn.Hardtanh(), nn.Hardtanh(-0.5, 2.0), nn.Hardtanh(min_val=-2, max_val=2)])
def test_the_flat_ends_of_hardtanh_are_those_it_was_given(activation):
    layer, x = nn.Linear(8, 64), randn(64, 8)
    with torch.no_grad():
        out = activation(layer(x))
    flat = (out <= activation.min_val) | (out >= activation.max_val)
    call = initaudit.audit(nn.Sequential(layer, activation), x).layers[0].calls[0]
    assert call.activation.saturated == pytest.approx(flat.float().mean().item())


def test_relu6_is_no_saturating_function():
    call = initaudit.audit(nn.Sequential(nn.Linear(8, 64), nn.ReLU6()), randn(64, 8)).layers[0].calls[0]
    assert call.activation.saturated is None


@pytest.mark.parametrize("zero", [lambda m, x: x * m.zero, lambda m, x: 0.0 * x], ids=["a buffer", "a number"])
def test_a_zero_behind_a_function_is_no_part_of_it(zero: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Call(lambda m, x: m.b(zero(m, F.relu(m.a(x)))), a=nn.Linear(32, 32), b=nn.Linear(32, 4))
    model.register_buffer("zero", torch.tensor(0.0))
    report = audit(model, randn(16, 32))
    found = by_fqn(report)["a"].nonlinearity
    assert found is not None
    assert (found.name, report.verdict) == ("relu", "fail")
