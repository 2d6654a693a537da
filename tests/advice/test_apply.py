"""Applying advice in place: what is touched, what is not, and what is returned."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from initaudit import audit
from initaudit.advice.apply import apply_, reinitialize_
from initaudit.advice.recommend import advise
from initaudit.advice.settings import Setting, constant
from initaudit.curing import cure
from initaudit.errors import UsageError
from initaudit.records import Environment, Failure, Finding, Layer, Report, Severity, Trace
from tests.advice.layers import RELU, layer_of


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(128, 128) for _ in range(4)])


def layers_of(model: nn.Sequential) -> list[Layer]:
    return [layer_of(part, RELU, fqn=str(i)) for i, part in enumerate(model)]


def report_on(layers: list[Layer], *findings: Finding) -> Report:
    parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p]
    trace = Trace(
        "m", Environment("2", "cpu", "float32", 0), "", "", "", True, (), tuple(layers), tuple(parameters)
    )  # fmt: skip
    return Report("m", findings, trace)


def finding(layer: Layer, *affected: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding("IA101", "x", severity, layer.fqn, "", affected=affected, advice=advise(layer))


def test_cause_and_affected_are_drawn_anew_and_the_rest_stays() -> None:
    model = make()
    layers = layers_of(model)
    before = [part.weight.detach().clone() for part in model]
    changed = reinitialize_(model, report_on(layers, finding(layers[0], "1", "2")))
    assert list(changed) == [f"{i}.{n}" for i in range(3) for n in ("weight", "bias")]
    target = math.sqrt(2 / 128)
    for i in range(3):
        assert changed[f"{i}.weight"][0] == pytest.approx(before[i].std(correction=0).item(), rel=1e-6)
        assert changed[f"{i}.weight"][1] == pytest.approx(target, rel=0.03)
        assert model[i].weight.std().item() == pytest.approx(target, rel=0.03)
        assert not model[i].bias.any()
        assert changed[f"{i}.bias"][1] == 0.0
    assert torch.equal(model[3].weight, before[3])
    assert model[3].bias.any()


def test_a_layer_that_is_right_already_stays() -> None:
    model = make()
    nn.init.kaiming_uniform_(model[1].weight, nonlinearity="relu")
    before = model[1].weight.detach().clone()
    layers = layers_of(model)
    assert "1.weight" not in reinitialize_(model, report_on(layers, finding(layers[0], "1")))
    assert torch.equal(model[1].weight, before)


def test_zeros_that_are_only_affected_are_on_purpose() -> None:
    model = make()
    for i in (1, 2):
        nn.init.zeros_(model[i].weight)
    layers = layers_of(model)
    changed = reinitialize_(model, report_on(layers, finding(layers[0], "1"), finding(layers[2])))
    assert not model[1].weight.any()
    assert changed["2.weight"] == (0.0, pytest.approx(math.sqrt(2 / 128), rel=0.03))


@pytest.mark.parametrize("spoil", ["identical", "mean", "nonfinite"])
def test_a_right_std_does_not_excuse_other_faults(spoil: str) -> None:
    model = make()
    with torch.no_grad():
        weight = nn.init.kaiming_normal_(model[0].weight)
        if spoil == "identical":
            weight.copy_(weight[:1].expand(128, 128).clone())
        elif spoil == "mean":
            weight += 0.1
        else:
            weight[0, 0] = math.nan
    layers = layers_of(model)
    reinitialize_(model, report_on(layers, finding(layers[0])))
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.03)
    assert abs(model[0].weight.mean().item()) < 0.01


def test_notes_and_findings_without_advice_change_nothing() -> None:
    model = make()
    layers = layers_of(model)
    bare = replace(finding(layers[1]), advice=None)
    assert reinitialize_(model, report_on(layers, finding(layers[0], severity=Severity.NOTE), bare)) == {}


def test_tied_weights_are_drawn_once() -> None:
    model = make()
    model[1].weight = model[0].weight
    layers = layers_of(model)
    changed = reinitialize_(model, report_on(layers, finding(layers[0], "1")))
    assert "0.weight" in changed
    assert "1.weight" not in changed


def test_a_generator_makes_it_repeatable_and_leaves_the_global_one() -> None:
    results = []
    for _ in range(2):
        model = make()
        layers = layers_of(model)
        state = torch.get_rng_state()
        reinitialize_(model, report_on(layers, finding(layers[0])), generator=torch.Generator().manual_seed(3))
        assert torch.equal(torch.get_rng_state(), state)
        results.append(model[0].weight.detach().clone())
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_orthogonal_weights_stay_orthogonal(dtype: torch.dtype) -> None:
    model = make()
    nn.init.orthogonal_(model[0].weight)
    model.to(dtype)
    layers = layers_of(model)
    reinitialize_(model, report_on(layers, finding(layers[0])))
    gram = (model[0].weight @ model[0].weight.T).float()
    assert torch.allclose(gram, 2 * torch.eye(128), atol=0.05)


def test_padding_of_an_embedding_stays_zero() -> None:
    model = nn.Sequential(nn.Embedding(500, 16, padding_idx=3))
    with torch.no_grad():
        model[0].weight *= 100
    layers = [layer_of(model[0])]
    reinitialize_(model, report_on(layers, finding(layers[0])))
    assert not model[0].weight[3].any()
    assert model[0].weight.std().item() == pytest.approx(1.0, rel=0.05)


def test_gradient_state_is_kept() -> None:
    model = make()
    model[0].weight.requires_grad_(False)
    layers = layers_of(model)
    reinitialize_(model, report_on(layers, finding(layers[0], "1")))
    assert (model[0].weight.requires_grad, model[1].weight.requires_grad) == (False, True)
    model(torch.randn(2, 128)).sum().backward()


def test_a_report_of_another_model() -> None:
    layers = layers_of(make())
    with pytest.raises(UsageError, match=r"it has a parameter '3\.weight', this model has none"):
        reinitialize_(make()[:3], report_on(layers, finding(layers[0])))
    other = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    with pytest.raises(UsageError, match=r"'0\.weight' was of shape \(128, 128\), here it is \(64, 64\)"):
        reinitialize_(other, report_on(layers, finding(layers[0])))


def test_a_report_without_an_audit() -> None:
    with pytest.raises(UsageError, match=r"the report of net holds no audit \(no such file\): audit the model again"):
        reinitialize_(make(), Report("net", error=Failure("load", "no such file")))


def he(depth: int = 8) -> nn.Sequential:
    """A healthy stack with ReLU."""
    torch.manual_seed(0)
    model = nn.Sequential(*[part for _ in range(depth) for part in (nn.Linear(64, 64), nn.ReLU())])
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return model


@pytest.mark.parametrize("places", [(6,), (0, 2, 4, 6, 8, 10, 12, 14)])
def test_biases_that_shut_every_unit_are_set_to_zero(places: tuple[int, ...]) -> None:
    model = he()
    for place in places:
        nn.init.constant_(model[place].bias, -10.0)
    inputs = torch.randn(32, 64)
    report = audit(model, inputs)
    assert report.verdict == "fail"
    changed = reinitialize_(model, report)
    assert changed[f"{places[0]}.bias"] == (10.0, 0.0)
    assert audit(model, inputs).verdict == "pass"
    assert not any(layer.bias.any() for layer in model[::2])


def test_norm_gains_that_were_drawn_are_set_to_one_everywhere() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *[part for _ in range(5) for part in (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())], nn.Linear(64, 10)
    )
    for norm in model[1::3]:
        nn.init.normal_(norm.weight, std=0.02)
    report = audit(model, torch.randn(32, 64))
    assert "IA309" in [f.code for f in report.findings]
    reinitialize_(model, report)
    assert all(norm.weight.eq(1).all() for norm in model[1::3])


def test_settings_are_carried_out_weights_before_what_follows_from_them() -> None:
    model = nn.Sequential(nn.Linear(16, 16))
    settings = [
        Setting("0.bias", "centre", value=0.5, of="0.weight"),
        Setting("0.weight", "orthogonal_", "gain=2.0", 0.5),
    ]
    changed = apply_(model, settings, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model[0].weight @ model[0].weight.T, 4 * torch.eye(16), atol=1e-4)
    assert torch.allclose(model[0].bias, -model[0].weight.sum(1) / 2)
    assert changed["0.weight"][1] == pytest.approx(0.5, rel=0.01)


def test_rows_and_blocks_are_set_apart() -> None:
    model = nn.LSTM(4, 8)
    apply_(
        model,
        [
            constant("bias_ih_l0", 0.0),
            replace(constant("bias_ih_l0", 1.0), rows=(8, 16)),
            Setting("weight_hh_l0", "orthogonal_", blocks=4),
        ],
    )
    assert model.bias_ih_l0.tolist() == [0.0] * 8 + [1.0] * 8 + [0.0] * 16
    for gate in model.weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)


class Scales(nn.Module):
    """Layers that are each multiplied by a learned scale of zero, held as attributes or in a list."""

    def __init__(self, *, listed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(4))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        scales = [nn.Parameter(torch.zeros(64)) for _ in range(4)]
        if listed:
            self.scale = nn.ParameterList(scales)
        for i, scale in enumerate(() if listed else scales):
            self.register_parameter(f"scale{i}", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scales = [p for name, p in self.named_parameters() if name.startswith("scale")]
        for layer, scale in zip(self.layers, scales, strict=True):
            x = torch.relu(layer(x)) * scale
        return x


@pytest.mark.parametrize("listed", [True, False])
def test_all_scales_that_a_finding_affects_are_set(listed: bool) -> None:
    model, inputs = Scales(listed=listed), torch.randn(64, 64)
    changed = reinitialize_(model, audit(model, inputs))
    assert len(changed) == 4
    assert audit(model, inputs).verdict == "pass"
    assert cure(lambda: Scales(listed=listed), inputs).after is not None
