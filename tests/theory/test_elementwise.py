"""Gains through the public functions: the reference table, names, modules, hand-written functions, errors."""

import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import initaudit
from initaudit.errors import UnknownActivationError
from initaudit.theory.activations import KNOWN
from initaudit.theory.elementwise import analyse, describe, gain, is_elementwise, saturation_bounds
from initaudit.theory.gains import FixedPoint, Stability

# Reference: mpmath with 30 digits, panel edges on the kinks.
ROWS = list(csv.DictReader((Path(__file__).parent / "data" / "gains.csv").read_text().splitlines()))

MODULES: dict[str, nn.Module | Callable[[Tensor], Tensor]] = {
    "Identity": nn.Identity(),
    "ReLU": nn.ReLU(),
    "ReLU6": nn.ReLU6(),
    "LeakyReLU(0.01)": nn.LeakyReLU(),
    "LeakyReLU(0.2)": nn.LeakyReLU(0.2),
    "PReLU(0.25)": nn.PReLU(),
    "RReLU eval": nn.RReLU().eval(),
    "RReLU train": nn.RReLU(),
    "ELU(1)": nn.ELU(),
    "CELU(1)": nn.CELU(),
    "SELU": nn.SELU(),
    "GELU": nn.GELU(),
    "GELU(tanh)": nn.GELU(approximate="tanh"),
    "SiLU": nn.SiLU(),
    "Mish": nn.Mish(),
    "Hardswish": nn.Hardswish(),
    "Tanh": nn.Tanh(),
    "Hardtanh(-1,1)": nn.Hardtanh(),
    "erf(sqrt(pi)/2*x)": lambda x: torch.erf(math.sqrt(math.pi) / 2 * x),
    "Sigmoid": nn.Sigmoid(),
    "Hardsigmoid": nn.Hardsigmoid(),
    "LogSigmoid": nn.LogSigmoid(),
    "Softplus(1)": nn.Softplus(),
    "Softsign": nn.Softsign(),
    "Tanhshrink": nn.Tanhshrink(),
    "Hardshrink(0.5)": nn.Hardshrink(),
    "Softshrink(0.5)": nn.Softshrink(),
    "Threshold(0,0)": nn.Threshold(0, 0),
    "Threshold(0.1,20)": nn.Threshold(0.1, 20),
    "GLU": nn.GLU(),
}
BY_NAME_TOO = [
    r["activation"] for r in ROWS if "erf(sqrt" not in r["activation"] and not r["activation"].startswith("RReLU")
]


def ids(row: dict[str, str]) -> str:
    return row["activation"]


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_both_gains_of_the_reference_table(row: dict[str, str]) -> None:
    spec = MODULES.get(row["activation"], row["activation"])
    assert initaudit.gain(spec) == pytest.approx(float(row["gain"]), rel=1e-8)
    # torch's hardsigmoid backward rounds 1/6 to single precision.
    assert initaudit.gain(spec, backward=True) == pytest.approx(float(row["backward_gain"]), rel=1e-7)


@pytest.mark.parametrize("name", BY_NAME_TOO)
def test_every_row_is_found_by_its_name(name: str) -> None:
    row = next(r for r in ROWS if r["activation"] == name)
    assert gain(name) == pytest.approx(float(row["gain"]), rel=1e-8)


def assert_point(point: FixedPoint | None, row: dict[str, str], prefix: str) -> None:
    q = row[f"{prefix}q"]
    if q == "" or point is None:
        return
    if q == "none":
        assert point.q is None
    elif q == "every":
        assert point.stability is Stability.NEUTRAL
        assert point.slope == pytest.approx(1, abs=1e-9)
    else:
        loose = prefix == "backward_" and row["activation"] == "ReLU6"  # its map crosses the diagonal at 1e-9
        assert point.q == pytest.approx(float(q), rel=1e-3 if loose else 1e-5)
        assert point.slope == pytest.approx(float(row[f"{prefix}slope"]), abs=6e-5)
        assert point.chi1 == pytest.approx(float(row[f"{prefix}chi1"]), abs=6e-5)


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_moments_and_fixed_points_of_the_reference_table(row: dict[str, str]) -> None:
    analysis = analyse(MODULES.get(row["activation"], row["activation"]))
    assert analysis.second_moment == pytest.approx(float(row["E_phi2"]), rel=1e-8)
    assert analysis.derivative_second_moment == pytest.approx(float(row["E_dphi2"]), rel=1e-6)
    assert analysis.kappa == pytest.approx(float(row["kappa"]), rel=1e-7)
    assert_point(analysis.fixed_point, row, "")
    assert_point(analysis.backward_fixed_point, row, "backward_")
    if row["torch_q"]:
        assert analysis.torch_fixed_point is not None
        assert_point(analysis.torch_fixed_point, row, "torch_")


@pytest.mark.parametrize(
    ("name", "stability"),
    [("gelu", "unstable"), ("silu", "unstable"), ("relu2", "unstable"), ("tanh", "stable"), ("selu", "stable"),
     ("elu", "stable"), ("relu", "neutral"), ("leaky_relu", "neutral")],
)  # fmt: skip
def test_which_fixed_points_hold(name: str, stability: str) -> None:
    assert analyse(name).fixed_point.stability.value == stability


@pytest.mark.parametrize("name", ["linear", "relu", "tanh", "sigmoid", "selu", "leaky_relu"])
def test_torchs_gain_is_quoted_where_it_exists(name: str) -> None:
    assert analyse(name).torch_gain == pytest.approx(nn.init.calculate_gain(name))  # type: ignore[arg-type]


def test_torch_has_no_gain_for_gelu() -> None:
    assert analyse("gelu").torch_gain is None


NFNET = {
    "identity": 1.0, "celu": 1.270926833, "elu": 1.271600485, "gelu": 1.701504350, "leaky_relu": 1.705903411,
    "logsigmoid": 1.919348478, "relu": 1.713958859, "relu6": 1.713148475, "selu": 1.000851512, "sigmoid": 4.803835392,
    "silu": 1.788129330, "softsign": 2.338853121, "softplus": 1.920332313, "tanh": 1.593911767,
}  # fmt: skip


@pytest.mark.parametrize("name", NFNET)
def test_variance_gains_agree_with_nfnet(name: str) -> None:
    """Brock et al. 2021, whose constants were sampled, hence 1e-3."""
    assert analyse(name).variance_gain == pytest.approx(NFNET[name], rel=1e-3)


# Laws


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 20), st.sampled_from(["tanh", "gelu", "relu", "hardshrink", "softplus"]))
def test_a_scaled_function_needs_the_gain_divided(scale: float, name: str) -> None:
    module = {"tanh": torch.tanh, "gelu": F.gelu, "relu": F.relu, "hardshrink": F.hardshrink, "softplus": F.softplus}[
        name
    ]

    def scaled(x: Tensor) -> Tensor:
        return scale * module(x)

    for backward in (False, True):
        assert gain(scaled, backward=backward) == pytest.approx(gain(name, backward=backward) / scale, rel=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([n for n in KNOWN if n not in ("glu", "geglu", "swiglu", "reglu", "bilinear")]))
def test_a_mirrored_function_has_the_same_gain(name: str) -> None:
    from initaudit.theory.elementwise import resolve_activation

    fn = resolve_activation(name).fn
    assert gain(lambda x: fn(-x)) == pytest.approx(gain(name), rel=1e-8)
    assert gain(lambda x: -fn(x), backward=True) == pytest.approx(gain(name, backward=True), rel=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.9, 0.9))
def test_leaky_relu_in_closed_form(slope: float) -> None:
    assert gain(nn.LeakyReLU(slope)) == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-9)


# Recognition


def lecun_tanh(x: Tensor) -> Tensor:
    return 1.7159 * torch.tanh(2 / 3 * x)


WRITTEN_OUT: list[tuple[Callable[[Tensor], Tensor], str, str | None]] = [
    (lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), "gelu(tanh)", None),
    (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "gelu", None),
    (lambda x: x * torch.sigmoid(1.702 * x), "quick_gelu", None),
    (lambda x: x * torch.sigmoid(x), "silu", None),
    (lambda x: x * torch.sigmoid(1.5 * x), "swish(1.5)", None),
    (lambda x: x * torch.tanh(F.softplus(x)), "mish", None),
    (lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()), "tanh", "tanh"),
    (lambda x: 1 / (1 + torch.exp(-x)), "sigmoid", "sigmoid"),
    (lambda x: x.clamp(min=0), "relu", "relu"),
    (lambda x: x * (x > 0), "relu", "relu"),
    (lambda x: x.relu_(), "relu", "relu"),
    (lambda x: x.clamp(0, 6), "relu6", None),
    (lambda x: x.clamp(-2, 2), "hardtanh(-2, 2)", None),
    (lambda x: torch.maximum(x, 0.1 * x), "leaky_relu", "leaky_relu"),
    (lambda x: F.relu(x).square(), "relu2", None),
    (lambda x: x / (1 + x.abs()), "softsign", None),
    (lambda x: torch.sin(30 * x), "sin(30)", None),
    (nn.ELU(0.5), "elu(0.5)", None),
    (nn.CELU(2.0), "celu(2)", None),
    (nn.Softplus(3.0), "softplus(3)", None),
    (nn.Softshrink(0.2), "softshrink(0.2)", None),
    (lecun_tanh, "1.716*tanh(0.6667*x)", None),
    (lambda x: 1.7881 * F.silu(x), "1.788*silu", None),
    (lambda x: -torch.tanh(x), "-1*tanh", None),
    (lambda x: torch.exp(-x * x), "custom", None),
    (lambda x: x, "linear", "linear"),
    (lambda x: 3 * x + 1, "linear", None),
    (lambda x: 0 * x, "zero", None),
    (lambda x: F.gelu(x.float()), "gelu", None),
    (lambda x: F.gelu(x.float()).to(x.dtype), "gelu", None),
    (lambda x: F.relu(x.bfloat16()).to(x.dtype), "relu", "relu"),
    (lambda x: torch.relu(x @ torch.eye(x.shape[0], dtype=torch.float32)), "relu", "relu"),
]


@pytest.mark.parametrize(("fn", "name", "torch_name"), WRITTEN_OUT, ids=lambda v: v if isinstance(v, str) else "")
def test_a_function_is_named_by_its_values(fn: Callable[[Tensor], Tensor], name: str, torch_name: str | None) -> None:
    activation = describe(fn)
    assert (activation.name, activation.torch_name) == (name, torch_name)


@pytest.mark.parametrize("name", [n for n in KNOWN if n not in ("prelu", "celu", "threshold", "identity")])
def test_every_known_activation_is_recognised(name: str) -> None:
    activation = describe(name)
    assert activation.name == name
    assert activation.gain == pytest.approx(analyse(name).gain, rel=1e-9)


def test_the_fitted_slope_is_given() -> None:
    assert describe(nn.LeakyReLU(0.3)).negative_slope == pytest.approx(0.3)
    assert describe(nn.LeakyReLU()).negative_slope == pytest.approx(0.01)
    assert describe(nn.PReLU()).negative_slope == pytest.approx(0.25)
    assert describe(nn.ReLU()).negative_slope is None


def test_gelus_forms_are_kept_apart() -> None:
    assert {describe(f).name for f in (F.gelu, lambda x: F.gelu(x, approximate="tanh"))} == {"gelu", "gelu(tanh)"}


def test_a_function_without_gradient_has_no_backward_gain() -> None:
    step = describe(lambda x: (x > 0).to(x.dtype))
    assert step.gain == pytest.approx(math.sqrt(2))
    assert step.backward_gain == math.inf


def test_a_straight_through_gradient_is_taken_as_autograd_has_it() -> None:
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.sign()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:  # type: ignore[override]
            return grad / 2

    assert gain(Sign.apply, backward=True) == pytest.approx(2)


# Saturation


@pytest.mark.parametrize(
    ("name", "lower", "upper"),
    [("tanh", -math.sqrt(0.97), math.sqrt(0.97)), ("hardtanh", -1, 1),
     ("softsign", -(1 - math.sqrt(0.03)), 1 - math.sqrt(0.03)),
     ("sigmoid", 0.5 - math.sqrt(0.97) / 2, 0.5 + math.sqrt(0.97) / 2), ("hardsigmoid", 0, 1)],
)  # fmt: skip
def test_bounded_functions_saturate_where_three_percent_of_the_slope_is_left(
    name: str, lower: float, upper: float
) -> None:
    assert saturation_bounds(name) == pytest.approx((lower, upper), abs=2e-4)
    assert describe(name).saturating


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "gelu", "silu", "mish", "hardswish", "softplus", "logsigmoid",
                                  "relu2", "identity", "sin", "tanhshrink", "hardshrink", "square", "glu"])  # fmt: skip
def test_open_functions_do_not_saturate(name: str) -> None:
    assert saturation_bounds(name) == (None, None)
    assert not describe(name).saturating


def test_one_flat_end_alone() -> None:
    lower, upper = saturation_bounds("elu")
    assert lower == pytest.approx(-0.97, abs=1e-4)
    assert upper is None
    assert saturation_bounds("relu6") == pytest.approx((None, 6), abs=1e-3)
    assert not describe("elu").saturating


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 100))
def test_saturation_is_free_of_scale(scale: float) -> None:
    plain = saturation_bounds("tanh")
    scaled = saturation_bounds(lambda x: scale * torch.tanh(x))
    assert [b / scale for b in scaled if b is not None] == pytest.approx(list(plain), rel=1e-9)


def test_slow_growth_and_bumps_are_not_saturation() -> None:
    assert saturation_bounds(lambda x: torch.asinh(x)) == (None, None)
    assert saturation_bounds(lambda x: torch.exp(-x * x)) == (None, None)


def test_a_flat_end_inside_the_range_of_outputs_tells_nothing() -> None:
    """A clipped GELU: outputs just below 0 come from its dip as well as from its flat end."""
    lower, upper = saturation_bounds(lambda x: F.gelu(x).clamp(-10, 10))
    assert lower is None
    assert upper == pytest.approx(10, abs=1e-2)


def test_a_falling_function_keeps_lower_below_upper() -> None:
    lower, upper = saturation_bounds(lambda x: -torch.tanh(x))
    assert lower is not None
    assert upper is not None
    assert lower < 0 < upper


# Leaving things alone


def test_modules_hooks_and_generators_are_left_as_they_were() -> None:
    calls: list[str] = []
    module = nn.Sequential(nn.PReLU(), nn.Dropout(0.5).eval())
    module.register_forward_hook(lambda *_: calls.append("top"))
    module[0].register_forward_hook(lambda *_: calls.append("inner"))
    state = torch.random.get_rng_state()
    analyse(module)
    describe(module)
    describe(nn.RReLU())
    assert not calls
    assert torch.equal(torch.random.get_rng_state(), state)
    assert module[0].weight.dtype is torch.float32
    assert module[0].weight.grad is None
    assert module.training


def test_a_random_function_does_not_move_the_generator() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(UnknownActivationError, match="random"):
        analyse(lambda x: x + torch.rand_like(x))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_works_without_gradients() -> None:
    with torch.no_grad():
        assert gain("tanh", backward=True) == pytest.approx(1.467413591630795, rel=1e-9)


def test_a_product_is_not_rounded_by_a_surrounding_autocast() -> None:
    def relu(x: Tensor) -> Tensor:
        return torch.relu(x.float()[:, None] @ torch.ones(1, 1))[:, 0]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gain(relu) == pytest.approx(math.sqrt(2), rel=1e-6)


def test_it_works_in_inference_mode() -> None:
    module = nn.PReLU()
    with torch.inference_mode():
        assert gain(module) == pytest.approx(1.371988681140071, rel=1e-9)


def test_a_slope_per_channel_is_averaged_over_channels() -> None:
    module = nn.PReLU(2)
    module.weight.data = torch.tensor([0.0, 1.0])
    assert gain(module) == pytest.approx(1 / math.sqrt((0.5 + 1) / 2), rel=1e-9)


# What is found, and what is refused


@pytest.mark.parametrize(
    "spec",
    ["gelu", "GELU", "nn.GELU", "F.gelu", "torch.nn.functional:gelu", "torch.nn:GELU", nn.GELU, nn.GELU(), F.gelu],
    ids=str,
)
def test_the_ways_to_say_gelu(spec: object) -> None:
    assert gain(spec) == pytest.approx(1.533530441195535, rel=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize(("alias", "name"), [("swish", "silu"), ("relu^2", "relu2"), ("gelu_new", "gelu(tanh)"),
                                             ("hard_swish", "hardswish"), ("log_sigmoid", "logsigmoid")])  # fmt: skip
def test_other_names(alias: str, name: str) -> None:
    assert gain(alias) == gain(name)


def test_a_module_of_ones_own_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_activations.py").write_text("class Box:\n    half = staticmethod(lambda x: x / 2)\n")
    monkeypatch.chdir(tmp_path)
    assert gain("own_activations:Box.half") == pytest.approx(2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("geluu", r"unknown activation 'geluu': did you mean 'gelu'"),
        ("zzzzzz", "`initaudit gain` lists the names"),
        ("relu(nope)", "cannot read the arguments of 'relu\\(nope\\)': expected literals"),
        ("torch.nn:GELUX", r"cannot import 'torch.nn:GELUX'.*did you mean GELU"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        (3, "3 is not an activation"),
        (lambda x: x.softmax(0), "depends on the whole input"),
        (nn.LayerNorm(64), "LayerNorm"),
        (nn.Threshold, "pass an instance"),
        (nn.Sequential(nn.ReLU(), nn.Dropout()), r"random.*eval\(\)"),
        (nn.Flatten(), "Flatten fails on float64"),
        (lambda x: x.sum(), "not elementwise: it made"),
        (lambda x: x.cumsum(0), "not elementwise"),
        (lambda x: x * torch.arange(len(x)) if len(x) == 64 else x, "places of the input are treated differently"),
        (lambda x: x.numpy(), "Can't call numpy"),
        (torch.log, "not finite for x < 0"),
        (lambda x: 1 / (x - 2).clamp(max=0), "not finite"),
        (lambda x: x / 0, "not finite anywhere"),
        (lambda x: 1, "made <class 'int'>"),
    ],
)
def test_what_has_no_gain_says_why(spec: object, message: str) -> None:
    with pytest.raises(UnknownActivationError, match=message):
        analyse(spec)  # type: ignore[arg-type]


def test_is_elementwise() -> None:
    assert is_elementwise(torch.tanh)
    with pytest.raises(UnknownActivationError):
        is_elementwise(lambda x: torch.softmax(x, 0))
