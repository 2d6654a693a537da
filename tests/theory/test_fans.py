"""Fans against what layers do: measured mean squares forward and backward, and the counts of each kind."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import initaudit
from initaudit.errors import UnknownLayerError
from initaudit.theory.fans import fan_in_and_fan_out, fans_of_op, torch_fans


class Conv1D(nn.Module):
    """GPT-2's layer: weight (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.empty(nx, nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def one_hot_embedding(layer: nn.Embedding, x: Tensor) -> Tensor:
    return x @ layer.weight  # a lookup is a product with a one-hot row


def run(layer: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = layer(x)
    return out


def inner(layer: nn.Module, x: Tensor) -> Tensor:
    """A transposed convolution without the border, which fewer inputs reach."""
    out: Tensor = layer(x)
    return out[:, :, 8:-8, 8:-8] if out.dim() == 4 else out[:, :, 8:-8]


IMAGE = (8, 16, 24, 24)
AROUND: dict[str, object] = {
    "padding_mode": "circular",
    "bias": False,
}  # no border, so that every pixel sees the whole fan


def circular(out: int, kernel: int = 3, stride: int = 1, **options: int) -> nn.Conv2d:
    return nn.Conv2d(16, out, kernel, stride, padding=options.pop("padding", 1), **options, **AROUND)  # type: ignore[arg-type]


MEASURED: list[tuple[str, nn.Module, tuple[int, ...], Callable[[nn.Module, Tensor], Tensor], tuple[float, float]]] = [
    ("linear", nn.Linear(64, 128, bias=False), (512, 64), run, (64, 128)),
    ("conv1d", nn.Conv1d(16, 32, 5, padding=2, **AROUND), (32, 16, 40), run, (80, 160)),  # type: ignore[arg-type]
    ("conv2d", circular(32), IMAGE, run, (144, 288)),
    ("stride", circular(32, stride=2), IMAGE, run, (144, 72)),
    ("dilation", circular(32, padding=2, dilation=2), IMAGE, run, (144, 288)),
    ("groups", circular(32, groups=4), IMAGE, run, (36, 72)),
    ("depthwise", circular(16, groups=16), IMAGE, run, (9, 9)),
    ("patchify", circular(64, 4, 4, padding=0), IMAGE, run, (256, 64)),
    ("conv3d", nn.Conv3d(4, 8, 3, (1, 2, 2), padding=1, **AROUND), (8, 4, 8, 8, 8), run, (108, 54)),  # type: ignore[arg-type]
    ("transposed", nn.ConvTranspose2d(16, 32, 4, 2, bias=False), IMAGE, inner, (64, 512)),
    ("transposed groups", nn.ConvTranspose2d(16, 32, 4, 2, groups=4, bias=False), IMAGE, inner, (16, 128)),
    ("transposed 1d", nn.ConvTranspose1d(16, 32, 3, 1, bias=False), (32, 16, 60), inner, (48, 96)),
    ("gpt2", Conv1D(256, 64), (512, 64), run, (64, 256)),
]


@pytest.mark.parametrize(("layer", "shape", "call", "fans"), [m[1:] for m in MEASURED], ids=[m[0] for m in MEASURED])
def test_fans_are_what_is_measured(
    layer: nn.Module, shape: tuple[int, ...], call: Callable[[nn.Module, Tensor], Tensor], fans: tuple[float, float]
) -> None:
    generator = torch.Generator().manual_seed(0)
    forward, backward = [], []
    for _ in range(12):
        nn.init.normal_(layer.weight, generator=generator)  # type: ignore[arg-type]
        x = torch.randn(shape, generator=generator, requires_grad=True)
        forward.append(call(layer, x).square().mean().item())
        whole = layer(x)
        (gradient,) = torch.autograd.grad(whole, x, torch.randn(whole.shape, generator=generator))
        backward.append(float(gradient.square().mean()))
    assert initaudit.fan_in_and_fan_out(layer) == fans
    assert sum(forward) / 12 == pytest.approx(fans[0], rel=0.08)
    assert sum(backward) / 12 == pytest.approx(fans[1], rel=0.08)


def test_a_bilinear_layer_sums_every_pair() -> None:
    torch.manual_seed(0)
    layer = nn.Bilinear(32, 48, 64, bias=False)
    nn.init.normal_(layer.weight)
    a = torch.randn(256, 32, requires_grad=True)
    out = layer(a, torch.randn(256, 48))
    (gradient,) = torch.autograd.grad(out, a, torch.randn_like(out))
    fan_in, fan_out = fan_in_and_fan_out(layer)
    assert (fan_in, fan_out) == (32 * 48, 64 * 48)
    assert out.square().mean().item() == pytest.approx(fan_in, rel=0.1)
    assert float(gradient.square().mean()) == pytest.approx(fan_out, rel=0.1)


def test_an_embedding_copies_a_row() -> None:
    torch.manual_seed(0)
    layer = nn.Embedding(1000, 64)
    fan_in, fan_out = fan_in_and_fan_out(layer)
    assert (fan_in, fan_out) == (1, 64)
    tokens = torch.randint(1000, (512,))
    assert layer(tokens).square().mean().item() == pytest.approx(fan_in, rel=0.05)
    rows = F.one_hot(tokens, 1000).float().requires_grad_()
    out = one_hot_embedding(layer, rows)
    (gradient,) = torch.autograd.grad(out, rows, torch.randn_like(out))
    assert float(gradient.square().mean()) == pytest.approx(fan_out, rel=0.05)
    assert fan_in_and_fan_out(nn.EmbeddingBag(10, 6)) == (1, 6)


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers_count_one_gate(kind: type[nn.RNNBase], gates: int) -> None:
    layer = kind(10, 20, num_layers=2, bidirectional=True)
    assert layer.weight_ih_l0.shape[0] == 20 * gates  # type: ignore[union-attr]
    assert fan_in_and_fan_out(layer, "weight_ih_l0") == (10, 20)
    assert fan_in_and_fan_out(layer, "weight_hh_l0_reverse") == (20, 20)
    assert fan_in_and_fan_out(layer, "weight_ih_l1") == (40, 20)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_count_one_gate(kind: type[nn.RNNCellBase]) -> None:
    assert fan_in_and_fan_out(kind(10, 20), "weight_ih") == (10, 20)  # type: ignore[call-arg, arg-type]


def test_a_projected_lstm() -> None:
    layer = nn.LSTM(10, 20, proj_size=5)
    assert fan_in_and_fan_out(layer, "weight_hr_l0") == (20, 5)
    assert fan_in_and_fan_out(layer, "weight_hh_l0") == (5, 20)


def test_attention_counts_q_k_and_v_apart() -> None:
    attention = nn.MultiheadAttention(32, 4)
    assert fan_in_and_fan_out(attention, "in_proj_weight") == (32, 32)
    assert fan_in_and_fan_out(attention, "out_proj.weight") == (32, 32)
    assert fan_in_and_fan_out(nn.MultiheadAttention(32, 4, kdim=7, vdim=9), "k_proj_weight") == (7, 32)


def test_a_weight_is_found_by_its_path_in_a_model() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Conv2d(4, 8, 3)))
    assert fan_in_and_fan_out(model, "1.0.weight") == (36, 72)


def test_subclasses_and_lookalikes() -> None:
    class Mine(nn.Linear):
        pass

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_features, self.out_features = 3, 5
            self.weight = nn.Parameter(torch.empty(5, 3))

    class ForeignConv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_channels, self.out_channels, self.groups, self.stride = 8, 12, 2, (2, 2)
            self.weight = nn.Parameter(torch.empty(12, 4, 2, 2))

    assert fan_in_and_fan_out(Mine(3, 5)) == (3, 5)
    assert fan_in_and_fan_out(Foreign()) == (3, 5)
    assert fan_in_and_fan_out(ForeignConv()) == (16, 6)


def test_a_parametrized_weight_is_not_stepped() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert fan_in_and_fan_out(layer) == (6, 4)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "name", "message"),
    [
        (nn.LayerNorm(8), "weight", r"LayerNorm.weight of shape \[8\] has no fans"),
        (nn.BatchNorm2d(8), "weight", "norm gains are 1"),
        (nn.PReLU(), "weight", "PReLU"),
        (nn.Linear(3, 4), "bias", r"Linear.bias of shape \[4\]"),
        (nn.Linear(3, 4, bias=False), "bias", "has no parameter 'bias': its own parameters are 'weight'"),
        (nn.LSTM(3, 4), "weight", "its own parameters are 'weight_ih_l0'"),
        (nn.LSTM(3, 4), "bias_ih_l0", "has no fans"),
        (nn.ReLU(), "weight", "its own parameters are none"),
        (nn.LazyLinear(4), "weight", "run the module once"),
        (nn.Sequential(), "7.weight", "has no part '7'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_has_no_fans_says_why(layer: nn.Module, name: str, message: str) -> None:
    with pytest.raises(UnknownLayerError, match=message):
        fan_in_and_fan_out(layer, name)


@pytest.mark.parametrize(
    ("op", "shape", "options", "expected"),
    [
        ("linear", (128, 64), {}, (64, 128, 1)),
        ("linear", (64, 128), {"transposed_weight": True}, (64, 128, 1)),
        ("linear", (64,), {}, (64, 1, 1)),
        ("addmm", (64, 128), {}, (64, 128, 1)),
        ("matmul", (64, 128), {}, (64, 128, 1)),
        ("matmul", (128, 64), {"transposed_weight": True}, (64, 128, 1)),
        ("matmul", (64,), {}, (64, 1, 1)),
        ("bmm", (8, 64, 128), {}, (64, 128, 1)),
        ("conv2d", (32, 4, 3, 3), {"groups": 4, "stride": 2}, (36, 18, 1)),
        ("conv2d", (32, 16, 3, 3), {"stride": (2, 1)}, (144, 144, 1)),
        ("conv_transpose2d", (16, 32, 4, 4), {"stride": (2, 2)}, (64, 512, 1)),
        ("embedding", (1000, 64), {}, (1, 64, 1)),
        ("bilinear", (64, 32, 48), {}, (1536, 3072, 1)),
        ("lstm", (80, 10), {}, (10, 20, 4)),
        ("gru", (60, 10), {}, (10, 20, 3)),
        ("torch.nn.functional.linear", (128, 64), {}, (64, 128, 1)),
    ],
)
def test_fans_from_an_operation(
    op: str, shape: tuple[int, ...], options: dict[str, int], expected: tuple[float, float, int]
) -> None:
    assert fans_of_op(op, shape, **options) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("op", "shape"), [("layer_norm", (8,)), ("conv2d", (8, 4)), ("linear", ())])
def test_an_operation_without_fans(op: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UnknownLayerError, match=op):
        fans_of_op(op, shape)


@pytest.mark.parametrize("shape", [(5, 3), (32, 4, 3), (32, 16, 3, 3), (16, 32, 4, 4), (4, 2, 3, 3, 3)])
def test_torchs_fans(shape: tuple[int, ...]) -> None:
    assert torch_fans(shape) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_torch_has_no_fans_for_a_vector() -> None:
    assert torch_fans((5,)) is None


def depthwise() -> nn.Conv2d:
    return nn.Conv2d(32, 32, 3, groups=32)


TORCH_MISLEADS: list[tuple[nn.Module, str, tuple[int, int], tuple[float, float]]] = [
    # what torch reads off the shape, and what is right
    (nn.Linear(64, 128), "weight", (64, 128), (64, 128)),
    (nn.Conv2d(16, 32, 3), "weight", (144, 288), (144, 288)),
    (nn.Conv2d(16, 32, 3, 2), "weight", (144, 288), (144, 72)),
    (nn.Conv2d(16, 32, 3, dilation=2), "weight", (144, 288), (144, 288)),
    (nn.Conv2d(16, 32, 3, groups=4), "weight", (36, 288), (36, 72)),
    (depthwise(), "weight", (9, 288), (9, 9)),
    (nn.ConvTranspose2d(16, 32, 4, 2), "weight", (512, 256), (64, 512)),
    (nn.ConvTranspose2d(16, 32, 4, 2, groups=4), "weight", (128, 256), (16, 128)),
    (nn.Bilinear(32, 48, 64), "weight", (1536, 3072), (1536, 3072)),
    (nn.Embedding(1000, 64), "weight", (64, 1000), (1, 64)),
    (Conv1D(256, 64), "weight", (256, 64), (64, 256)),
    (nn.LSTM(64, 128), "weight_ih_l0", (64, 512), (64, 128)),
    (nn.GRU(64, 128), "weight_hh_l0", (128, 384), (128, 128)),
    (nn.MultiheadAttention(64, 4), "in_proj_weight", (64, 192), (64, 64)),
]


@pytest.mark.parametrize(("layer", "name", "by_shape", "fans"), TORCH_MISLEADS, ids=lambda v: type(v).__name__)
def test_where_the_shape_misleads(
    layer: nn.Module, name: str, by_shape: tuple[int, int], fans: tuple[float, float]
) -> None:
    assert nn.init._calculate_fan_in_and_fan_out(getattr(layer, name)) == by_shape
    assert fan_in_and_fan_out(layer, name) == fans


def test_the_part_of_a_parametrized_weight_has_its_fans() -> None:
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))
    assert fan_in_and_fan_out(new, "0.parametrizations.weight.original1") == (6, 4)
    spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 8, 3))
    assert fan_in_and_fan_out(spectral, "parametrizations.weight.original") == (36, 72)
    pruned = nn.Linear(6, 4)
    prune.identity(pruned, "weight")  # type: ignore[no-untyped-call]
    assert fan_in_and_fan_out(pruned, "weight_orig") == (6, 4)
    old = nn.Linear(6, 4)
    old.weight_v = nn.Parameter(old.weight.detach().clone())
    assert fan_in_and_fan_out(old, "weight_v") == (6, 4)


def test_a_bare_parameter_is_known_by_its_use_alone() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 64, 32))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("ecd,edh->ech", x, self.w)

    experts = Experts()
    with pytest.raises(UnknownLayerError, match=r"follow from what it is multiplied with.*audit"):
        fan_in_and_fan_out(experts, "w")
    (layer,) = initaudit.audit(experts, torch.randn(8, 4, 64)).layers
    assert (layer.fan_in, layer.fan_out) == (64, 32)
