"""Weights that no module of torch owns, and weights made from other weights, are layers like any other."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from initaudit.records import Role
from tests.probe.probing import Call, audit, by_fqn, parameter, randn

BATCH = randn(16, 32)


def test_bare_parameter_in_linear() -> None:
    model = Call(lambda m, x: F.linear(x, m.kernel, m.offset), kernel=parameter(8, 32), offset=parameter(8))
    layer = by_fqn(audit(model, BATCH))["kernel"]
    assert (layer.kind, layer.fan_in, layer.fan_out) == ("linear", 32, 8)
    assert layer.bias is not None
    assert layer.bias.fqn == "offset"
    assert layer.weight_access == "m.kernel"


def test_bare_parameter_named_weight_in_a_submodule() -> None:
    inner = Call(lambda m, x: F.linear(x, m.weight), weight=parameter(8, 32))
    layer = by_fqn(audit(Call(lambda m, x: m.inner(x), inner=inner), BATCH))["inner"]
    assert (layer.fan_in, layer.fan_out) == (32, 8)


@pytest.mark.parametrize("side", ["right", "left"])
def test_product_with_a_parameter(side: str) -> None:
    if side == "right":
        model = Call(lambda m, x: x @ m.w, w=parameter(32, 8))
    else:
        model = Call(lambda m, x: (m.w @ x.T).T, w=parameter(8, 32))
    layer = by_fqn(audit(model, BATCH))["w"]
    assert (layer.fan_in, layer.fan_out) == (32, 8)


@pytest.mark.parametrize("add", [lambda h, b: h + b, lambda h, b: b + h, lambda h, b: h.add_(b)])
def test_bias_added_by_hand_is_part_of_the_layer(add: object) -> None:
    model = Call(lambda m, x: torch.tanh(add(x @ m.w, m.b)), w=parameter(32, 8), b=nn.Parameter(torch.full((8,), 5.0)))  # type: ignore[operator]
    layer = by_fqn(audit(model, BATCH))["w"]
    assert layer.bias is not None
    assert layer.bias.fqn == "b"
    assert layer.calls[0].pre_activation is not None
    assert layer.calls[0].pre_activation.mean == pytest.approx(5, abs=0.3)
    assert layer.nonlinearity is not None
    assert layer.nonlinearity.name == "tanh"


@pytest.mark.parametrize("call", [torch.addmm, lambda b, x, w: b.addmm(x, w)])
def test_addmm(call: object) -> None:
    model = Call(lambda m, x: call(m.b, x, m.w), w=parameter(32, 8), b=parameter(8))  # type: ignore[operator]
    layer = by_fqn(audit(model, BATCH))["w"]
    assert (layer.fan_in, layer.fan_out) == (32, 8)
    assert layer.bias is not None


def test_experts_in_einsum_have_the_fans_of_one_expert() -> None:
    model = Call(
        lambda m, x: torch.einsum("ebh,ehd->ebd", F.relu(torch.einsum("bd,edh->ebh", x, m.up)), m.down).mean(0),
        up=parameter(4, 32, 64),
        down=parameter(4, 64, 32),
    )
    layers = by_fqn(audit(model, BATCH))
    assert (layers["up"].fan_in, layers["up"].fan_out) == (32, 4 * 64)  # every sample goes to all four
    assert (layers["down"].fan_in, layers["down"].fan_out) == (64, 32)
    assert layers["up"].nonlinearity is not None


def test_experts_in_bmm() -> None:
    model = Call(lambda m, x: torch.bmm(x.expand(4, -1, -1), m.w).sum(0), w=parameter(4, 32, 8))
    layer = by_fqn(audit(model, BATCH))["w"]
    assert (layer.fan_in, layer.fan_out) == (32, 8)


def test_a_slice_of_a_stacked_parameter() -> None:
    model = Call(lambda m, x: x @ m.w[0] @ m.w[1], w=parameter(2, 32, 32))
    layer = by_fqn(audit(model, BATCH))["w"]
    assert (layer.fan_in, len(layer.calls)) == (32, 2)


def test_tied_embedding_and_head_are_two_layers_with_one_weight() -> None:
    model = Call(lambda m, x: m.head(m.embed(x)), embed=nn.Embedding(50, 16), head=nn.Linear(16, 50, bias=False))
    model.head.weight = model.embed.weight
    report = audit(model, torch.randint(50, (4, 7), generator=torch.Generator().manual_seed(0)))
    assert [(layer.fqn, layer.kind, layer.fan_in) for layer in report.layers] == [
        ("embed", "Embedding", 1.0),
        ("head", "Linear", 16.0),
    ]
    assert report.trace is not None
    assert [p.fqn for p in report.trace.parameters] == ["embed.weight"]
    assert report.trace.parameters[0].aliases == ("head.weight",)
    assert not report.trace.uncalled


def test_embedding_weight_used_as_head_by_hand() -> None:
    model = Call(lambda m, x: F.linear(m.embed(x), m.embed.weight), embed=nn.Embedding(50, 16))
    report = audit(model, torch.randint(50, (4, 7), generator=torch.Generator().manual_seed(0)))
    assert [op.role for op in report.trace.ops if op.layer] == [Role.EMBEDDING, Role.LAYER]  # type: ignore[union-attr]
    assert [layer.kind for layer in report.layers] == ["Embedding", "linear"]


@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
def test_parametrized_weight_is_judged_as_it_is_used(wrap: object) -> None:
    torch.manual_seed(0)
    linear = wrap(nn.Linear(32, 24))  # type: ignore[operator]
    used = linear.weight.detach().clone()
    layer = by_fqn(audit(nn.Sequential(linear, nn.ReLU()), BATCH))["0"]
    assert (layer.fan_in, layer.fan_out) == (32, 24)
    assert layer.weight.std == pytest.approx(used.std().item(), rel=0.05)  # spectral norm takes a step of its own


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_weight_computed_by_an_old_style_hook(wrap: object) -> None:
    torch.manual_seed(0)
    linear = wrap(nn.Linear(32, 8))  # type: ignore[operator]
    report = audit(nn.Sequential(linear), BATCH)
    assert [(layer.fan_in, layer.fan_out) for layer in report.layers] == [(32, 8)]


def test_own_parametrization_of_one_parameter() -> None:
    class Double(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    linear = nn.Linear(32, 8)
    stored = linear.weight.std(correction=0).item()
    parametrize.register_parametrization(linear, "weight", Double())
    layer = by_fqn(audit(nn.Sequential(linear), BATCH))["0"]
    assert layer.weight.std == pytest.approx(2 * stored, rel=1e-5)


def test_weight_standardization() -> None:
    def conv(m: Call, x: Tensor) -> Tensor:
        w = m.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True) / math.sqrt(3 * 9)
        return F.conv2d(x, w, padding=1)

    report = audit(Call(conv, weight=parameter(16, 3, 3, 3, std=7.0)), randn(4, 3, 8, 8))
    (layer,) = report.layers
    assert layer.fan_in == 27
    assert layer.weight.std == pytest.approx(27**-0.5, rel=0.03)


def test_low_rank_adapter_beside_its_base() -> None:
    model = Call(
        lambda m, x: m.base(x) + m.b(m.a(x)) * 2.0,
        base=nn.Linear(32, 32),
        a=nn.Linear(32, 4, bias=False),
        b=nn.Linear(4, 32, bias=False),
    )
    nn.init.zeros_(model.b.weight)
    report = audit(model, BATCH)
    assert set(by_fqn(report)) == {"base", "a", "b"}
    assert report.verdict == "pass"


def test_low_rank_adapter_merged_into_its_base() -> None:
    model = Call(
        lambda m, x: F.linear(x, m.w + m.b @ m.a),
        w=parameter(32, 32),
        a=parameter(4, 32),
        b=nn.Parameter(torch.zeros(32, 4)),
    )
    report = audit(model, BATCH)
    assert [layer.fan_in for layer in report.layers] == [32]


def test_lazy_modules_are_materialized_in_a_copy() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(4))
    report = audit(model, randn(4, 3, 8, 8))
    assert [layer.fan_in for layer in report.layers] == [27, 8 * 36]
    assert isinstance(model[2], nn.LazyLinear)


@pytest.mark.parametrize(
    ("conv", "shape", "fan_in"),
    [
        (nn.Conv1d(8, 16, 3), (4, 8, 20), 24),
        (nn.Conv3d(4, 8, 3), (2, 4, 6, 6, 6), 108),
        (nn.Conv2d(8, 16, 3, groups=4), (4, 8, 9, 9), 18),
        (nn.ConvTranspose2d(8, 16, 4, stride=2), (4, 8, 5, 5), 8 * 16 / 4),
        (nn.Conv2d(8, 16, 3, padding_mode="circular", padding=1), (4, 8, 9, 9), 72),
    ],
)
def test_effective_fan_in_of_convolutions(conv: nn.Module, shape: tuple[int, ...], fan_in: float) -> None:
    assert by_fqn(audit(nn.Sequential(conv), randn(*shape)))["0"].fan_in == fan_in


def test_bilinear() -> None:
    layer = by_fqn(audit(Call(lambda m, x: m.bi(x, x), bi=nn.Bilinear(32, 32, 8)), BATCH))["bi"]
    assert layer.calls[0].pre_activation is not None


def test_every_layer_of_a_complex_tree_has_an_expression_that_evaluates_to_its_weight() -> None:
    model = nn.Module()
    model.blocks = nn.ModuleList(
        nn.ModuleDict({"a-b": nn.Linear(8, 8), "c": nn.Sequential(nn.Linear(8, 8))}) for _ in range(2)
    )
    model.forward = lambda x: sum(b["c"](b["a-b"](x)) for b in model.blocks)  # type: ignore[method-assign]
    report = audit(model, randn(4, 8))
    named = dict(model.named_parameters())
    assert len(report.layers) == 4
    for layer in report.layers:
        assert eval(layer.weight_access, {"m": model}) is named[layer.weight.fqn]
        assert eval(layer.access, {"m": model}) is model.get_submodule(layer.fqn)


class Lists(nn.Module):
    """Weights under names that stand behind no dot: entries of lists, keys, words of the language, quotes."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList(torch.randn(8, 8) for _ in range(2))
        self.dict = nn.ParameterDict({name: torch.randn(8, 8) for name in ("0", "a-b", "in", "plain")})
        for name in ("class", 'it"s', "a\\b", "{m}"):
            self.add_module(name, nn.Linear(8, 8))
        self.register_parameter("lambda", nn.Parameter(torch.randn(8, 8)))
        self.gone = nn.Sequential(nn.Identity(), nn.Identity(), nn.Linear(8, 8))
        del self.gone._modules["1"]  # what is named 2 is the second now

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in (*self.list, *self.dict.values(), self.get_parameter("lambda")):
            x = torch.relu(x @ weight)
        for name in ("class", 'it"s', "a\\b", "{m}"):
            x = torch.relu(self.get_submodule(name)(x))
        return self.gone(x)


def test_names_that_cannot_stand_behind_a_dot_have_an_expression() -> None:
    model = Lists()
    report = audit(model, randn(4, 8))
    named = dict(model.named_parameters())
    assert {layer.weight.fqn for layer in report.layers} == {n for n, p in named.items() if p.dim() == 2}
    for layer in report.layers:
        assert eval(layer.weight_access, {"m": model}) is named[layer.weight.fqn]
