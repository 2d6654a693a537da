"""Which activation an audit sees where a model writes it out, wraps it, casts it, compiles it or learns it."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initaudit
from initaudit.theory.elementwise import gain

WIDTH = 64


class Net(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor], out: int = WIDTH) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Linear(WIDTH, out), nn.Linear(WIDTH, WIDTH), act

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))  # type: ignore[no-any-return]


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)  # type: ignore[attr-defined]
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * (ctx.saved_tensors[0] > 0)  # type: ignore[attr-defined, no-any-return]


class Snake(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.a * x) ** 2 / self.a


class Swish(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.full(shape, 1.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


def by_hand(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


def quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def snake(x: Tensor) -> Tensor:
    return x + torch.sin(x) ** 2


def squareplus(x: Tensor) -> Tensor:
    return (x + torch.sqrt(x * x + 4)) / 2


def straight_through(x: Tensor) -> Tensor:
    return x + (x.sign() - x).detach()


def nested(x: Tensor) -> Tensor:
    return torch.utils.checkpoint.checkpoint(F.gelu, x, use_reentrant=False)  # type: ignore[no-any-return]


# name of the function, the function, and where no name is known ("custom") the function whose gain it has
SEEN: dict[str, tuple[str, Callable[[Tensor], Tensor], object]] = {
    "gelu by tanh": ("gelu(tanh)", by_hand, None),
    "gelu by erf": ("gelu", lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), None),
    "quick gelu": ("quick_gelu", quick, None),
    "mish": ("mish", lambda x: F.softplus(x).tanh() * x, None),
    "mish by log": ("mish", lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))), None),
    "snake": ("custom", snake, snake),
    "learned snake": ("custom", Snake(), snake),
    "learned snake (1)": ("custom", Snake(1), snake),
    "learned snake (64)": ("custom", Snake(WIDTH), snake),
    "learned snake (1, 64)": ("custom", Snake(1, WIDTH), snake),
    "learned swish": ("swish(1.5)", Swish(1), None),
    "learned swish (64)": ("swish(1.5)", Swish(WIDTH), None),
    "relu**2": ("relu2", lambda x: F.relu(x) ** 2, None),
    "relu.square": ("relu2", lambda x: torch.square(F.relu(x)), None),
    "relu*relu": ("relu2", lambda x: F.relu(x) * F.relu(x), None),
    "x*x": ("square", lambda x: x * x, None),
    "x**2": ("square", lambda x: x**2, None),
    "x*(x>0)": ("relu", lambda x: x * (x > 0), None),
    "x*(x>0).float()": ("relu", lambda x: x * (x > 0).float(), None),
    "x*(x>0).to(dtype)": ("relu", lambda x: x * (x > 0).to(x.dtype), None),
    "where": ("leaky_relu", lambda x: torch.where(x > 0, x, 0.1 * x), "leaky_relu(0.1)"),
    "where zeros_like": ("relu", lambda x: torch.where(x > 0, x, torch.zeros_like(x)), None),
    "max(x, 0)": ("relu", lambda x: torch.max(x, torch.zeros_like(x)), None),
    "max(x, 0.2x)": ("leaky_relu", lambda x: torch.max(x, 0.2 * x), "leaky_relu(0.2)"),
    "maximum": ("leaky_relu", lambda x: torch.maximum(x, 0.2 * x), "leaky_relu(0.2)"),
    "clamp": ("relu6", lambda x: x.clamp(0, 6), None),
    "masked_fill": ("relu", lambda x: x.masked_fill(x < 0, 0.0), None),
    "(x+|x|)/2": ("relu", lambda x: (x + x.abs()) / 2, None),
    "sigmoid by exp": ("sigmoid", lambda x: 1 / (1 + torch.exp(-x)), None),
    "expit": ("sigmoid", torch.special.expit, None),
    "tanh by sigmoid": ("tanh", lambda x: 2 * torch.sigmoid(2 * x) - 1, None),
    "lecun": (
        "1.716*tanh(0.6667*x)",
        lambda x: 1.7159 * torch.tanh(2 / 3 * x),
        lambda x: 1.7159 * torch.tanh(2 / 3 * x),
    ),
    "elu by where": ("elu", lambda x: torch.where(x > 0, x, torch.exp(x.clamp(max=0)) - 1), None),
    "hardswish": ("hardswish", lambda x: x * F.relu6(x + 3) / 6, None),
    "softsign": ("softsign", lambda x: x / (1 + x.abs()), None),
    "squareplus": ("custom", squareplus, squareplus),
    "prelu": ("leaky_relu", nn.PReLU(), "prelu"),
    "prelu (64)": ("leaky_relu", nn.PReLU(WIDTH), "prelu"),
    "rrelu": ("leaky_relu", nn.RReLU(), nn.RReLU().eval()),
    "F.rrelu": ("leaky_relu", lambda x: F.rrelu(x, 0.1, 0.3, training=True), "leaky_relu(0.2)"),
    "scaled": ("1.788*silu", lambda x: F.silu(x) * 1.7881293, "1.7881293*silu"),
    "stretched": ("2*relu", lambda x: F.relu(x * 2), None),
    "shifted": ("custom", lambda x: F.relu(x) - 0.4, lambda x: F.relu(x) - 0.4),
    "dropout behind": ("relu", lambda x: F.dropout(F.relu(x), 0.1, True), None),
    "dropout before": ("relu", lambda x: F.relu(F.dropout(x, 0.1, True)), None),
    "cast": ("gelu", lambda x: F.gelu(x.float()).type_as(x), None),
    "bfloat16": ("gelu", lambda x: F.gelu(x.bfloat16()).to(x.dtype), None),
    "in place": ("relu", lambda x: x.relu_(), None),
    "checkpointed": ("gelu", nested, None),
    "autograd.Function": ("relu", Clipped.apply, None),
    "compiled": ("quick_gelu", torch.compile(quick, backend="eager"), None),
    "straight through": ("custom", straight_through, straight_through),
}


@pytest.mark.parametrize("case", SEEN)
def test_an_activation_is_seen_with_its_gain(case: str) -> None:
    name, act, like = SEEN[case]
    torch.manual_seed(0)
    layer = initaudit.audit(Net(act), torch.randn(32, WIDTH)).layers[0]
    assert layer.nonlinearity is not None
    assert layer.nonlinearity.name == name
    assert layer.nonlinearity.gain == pytest.approx(gain(like or name), rel=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "out"),
    [
        (lambda x: x, WIDTH),
        (lambda x: F.dropout(x, 0.1, True), WIDTH),
        (lambda x: x.softmax(-1), WIDTH),
        (lambda x: x.view(len(x), -1, 2).amax(-1), 2 * WIDTH),
        (lambda x: torch.cat([x[:, :32].relu(), x[:, 32:].tanh()], -1), WIDTH),
    ],
    ids=["nothing", "dropout", "softmax", "maxout", "halves"],
)
def test_what_is_no_single_function_of_a_unit_gets_no_name(act: Callable[[Tensor], Tensor], out: int) -> None:
    assert initaudit.audit(Net(act, out), torch.randn(32, WIDTH)).layers[0].nonlinearity is None


@pytest.mark.parametrize(
    "act",
    [
        nn.GLU(),
        lambda x: x.chunk(2, -1)[0] * torch.sigmoid(x.chunk(2, -1)[1]),
        lambda x: F.silu(x[..., :WIDTH]) * x[..., WIDTH:],
    ],
    ids=["nn.GLU", "chunk", "slices"],
)
def test_the_gate_of_a_packed_layer_leaves_it_at_gain_one(act: Callable[[Tensor], Tensor]) -> None:
    """Both halves want a pre-activation of variance 1; the gate's own gain belongs to the layer that reads it."""
    torch.manual_seed(0)
    net = Net(act, 2 * WIDTH)
    nn.init.normal_(net.first.weight, std=1 / math.sqrt(WIDTH))
    report = initaudit.audit(net, torch.randn(32, WIDTH))
    assert not [f for f in report.findings if f.fqn == "first" and f.code.startswith("IA30")]
