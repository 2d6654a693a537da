"""The cure of whole models: the code runs elsewhere, does what the plan says, and a second audit likes what it did."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from initaudit import audit
from initaudit.advice.apply import reinitialize_
from initaudit.curing import cure, run
from initaudit.records import Cure, Report, Severity
from tests.advice.models import FAULTY, Decoder, Normalized, Recurrent, Residual, Stack, Tied, vectors


def alarms(report) -> list[str]:
    return [f"{f.code} {f.fqn}" for f in report.findings if f.severity is not Severity.NOTE]


@pytest.fixture(scope="module")
def cures() -> dict[str, Cure]:
    return {name: cure(build, inputs()) for name, (build, inputs) in FAULTY.items()}


@pytest.mark.parametrize("name", [name for name in FAULTY if name != "sigmoid"])
def test_nothing_is_left_after_the_cure(cures: dict[str, Cure], name: str) -> None:
    found = cures[name]
    assert alarms(found.before), "the model has a fault to mend"
    assert found.after is not None
    assert alarms(found.after) == []
    assert found.remarks == ()
    assert [v.seed for v in found.vitals_after] == [0, 1, 2]


@pytest.mark.parametrize("name", FAULTY)
def test_the_signal_and_the_gradient_keep_their_size(cures: dict[str, Cure], name: str) -> None:
    for figures in cures[name].vitals_after:
        assert figures.smallest is not None
        assert figures.largest is not None
        assert figures.gradient_ratio is not None
        assert 0.02 < figures.smallest < figures.largest < 20
        assert 0.01 < figures.gradient_ratio < 100


def test_what_the_zeros_around_a_small_map_take_off_is_given_back(cures: dict[str, Cure]) -> None:
    """Of three taps in a row two lie on two pixels, so that a layer keeps 4/9 of the mean square."""
    found = cures["padded"]
    assert "# the zeros around the map take off 56% at each layer" in found.code
    model = FAULTY["padded"][0]()
    run(found.code, model)
    assert model.layers[3].weight.std().item() == pytest.approx((2 / 144 * 9 / 4) ** 0.5, rel=0.05)
    for figures in found.vitals_after:
        assert figures.smallest is not None
        assert figures.largest is not None
        assert 0.3 < figures.smallest < figures.largest < 5


def test_what_the_rule_leaves_outside_its_band_is_measured(cures: dict[str, Cure]) -> None:
    found = cures["mixed"]
    assert found.measured
    assert "# measured on the sample input" in found.code
    assert found.code.count("nn.init.normal_") == 1, "layers that start alike share one figure"
    for figures in found.vitals_after:
        assert figures.smallest is not None
        assert figures.smallest > 0.4
        assert figures.largest is not None
        assert figures.largest < 12
    assert sum(other.measured for other in cures.values()) == 1


def test_sigmoids_are_centred(cures: dict[str, Cure]) -> None:
    found = cures["sigmoid"]
    assert found.before.verdict == "fail"
    assert found.after is not None
    assert found.after.verdict == "pass"
    model = Stack(torch.sigmoid, depth=10)
    run(found.code, model)
    weight, bias = model.layers[4].weight, model.layers[4].bias
    assert torch.allclose(bias, -weight.sum(1) / 2, atol=1e-5)
    x = torch.sigmoid(torch.randn(4096, 64))
    z = model.layers[4](x)
    assert z.mean().abs().item() < 0.1
    assert z.square().mean().item() == pytest.approx(1.0, rel=0.25)


def test_the_code_runs_when_pasted(cures: dict[str, Cure], tmp_path: Path) -> None:
    """Each function in one fresh process: it gives the parameters that it gave here."""
    blocks = []
    for name, found in cures.items():
        path = tmp_path / f"{name}_init.py"
        path.write_text(found.code, encoding="utf-8")
        blocks.append(
            f"model = FAULTY[{name!r}][0]()\n"
            f"from {name}_init import init_weights\n"
            "torch.manual_seed(7)\n"
            "init_weights(model)\n"
            f"states[{name!r}] = model.state_dict()\n"
        )
    script = tmp_path / "pasted.py"
    script.write_text(
        "import torch\nfrom tests.advice.models import FAULTY\nstates = {}\ntorch.manual_seed(5)\n"
        + "".join(blocks)
        + f"torch.save(states, {str(tmp_path / 'states.pt')!r})\n"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, str(script)], check=True, env={"PYTHONPATH": f"{root}:{tmp_path}", "PATH": ""})
    states = torch.load(tmp_path / "states.pt", weights_only=True)
    torch.manual_seed(5)
    for name, found in cures.items():
        model = FAULTY[name][0]()
        torch.manual_seed(7)
        run(found.code, model)
        for parameter, value in model.state_dict().items():
            assert torch.equal(value, states[name][parameter]), f"{name}: {parameter}"


def test_the_shortest_code_groups_by_class_and_activation(cures: dict[str, Cure]) -> None:
    assert cures["relu"].code == (
        "import torch\n"
        "from torch import nn\n\n\n"
        "@torch.no_grad()\n"
        "def init_weights(model: nn.Module) -> None:\n"
        '    """Initialization by initaudit, checked by a second audit."""\n'
        "    for module in model.modules():\n"
        "        if isinstance(module, nn.Linear):\n"
        '            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")\n'
        "            nn.init.zeros_(module.bias)\n"
        '    nn.init.kaiming_normal_(model.head.weight, nonlinearity="linear")\n'
    )


def test_gelu_starts_with_gain_one(cures: dict[str, Cure]) -> None:
    """What comes before the first layer has passed no activation (its fixed point is unstable)."""
    model = Stack(F.gelu)
    run(cures["gelu"].code, model)
    assert model.layers[0].weight.std().item() * 8 == pytest.approx(1.0, rel=0.05)
    assert model.layers[1].weight.std().item() * 8 == pytest.approx(1.5335, rel=0.05)


def test_branches_are_scaled_by_their_number(cures: dict[str, Cure]) -> None:
    model = Residual()
    run(cures["residual"].code, model)
    assert model.up[3].weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert model.down[3].weight.std().item() == pytest.approx((1 / 64 / 48) ** 0.5, rel=0.05)
    assert "24" in cures["residual"].code, "the code says how many sums there are"


def test_norms_are_set_back_and_their_layers_stay(cures: dict[str, Cure]) -> None:
    model = Normalized()
    before = model.layers[3].weight.detach().clone()
    run(cures["normalized"].code, model)
    assert all(not norm.bias.any() for norm in model.norms)
    assert torch.equal(model.layers[3].weight, before)


def test_recurrences_are_orthogonal_with_an_open_forget_gate(cures: dict[str, Cure]) -> None:
    model = Recurrent()
    run(cures["recurrent"].code, model)
    gate = model.rnn.weight_hh_l1[32:64]
    assert torch.allclose(gate @ gate.T, torch.eye(32), atol=1e-4)
    assert model.rnn.weight_ih_l0.std().item() == pytest.approx(0.25, rel=0.05)
    total = model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0
    assert total[32:64].eq(1).all()
    assert not total[:32].any()
    assert not total[64:].any()


def test_a_fan_that_torch_misreads_is_written_out(cures: dict[str, Cure]) -> None:
    model = Decoder()
    run(cures["decoder"].code, model)
    assert model.layers[0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.05)
    assert "torch.nn.init reads another fan_in" in cures["decoder"].code


def test_a_tied_embedding_gets_the_std_of_a_head_and_keeps_its_padding(cures: dict[str, Cure]) -> None:
    model = Tied()
    run(cures["tied"].code, model)
    assert model.embedding.weight is model.head.weight
    assert model.embedding.weight.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert not model.embedding.weight[3].any()


def test_a_healthy_model_has_nothing_to_fix() -> None:
    found = cure(lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), vectors())
    assert (found.after, found.code, found.changed, found.remarks) == (None, "", (), ())


def test_what_is_healthy_stays() -> None:
    """One layer among good ones: nothing else is set."""

    def build() -> nn.Module:
        model = Stack(F.relu, depth=6)
        for layer in model.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.constant_(model.layers[3].bias, -10.0)
        return model

    found = cure(build, vectors())
    assert found.after is not None
    assert found.after.verdict == "pass"
    assert found.changed == ("layers.3.bias",)


def test_an_instance_is_left_as_it_was() -> None:
    model = Stack(F.relu)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    found = cure(model, vectors())
    assert found.after is not None
    assert found.after.verdict == "pass"
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_no_initialization_mends_is_told() -> None:
    def build() -> nn.Module:
        parts = [part for _ in range(80) for part in (nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU())]
        return nn.Sequential(*parts)

    found = cure(build, vectors(32))
    assert found.after is None
    assert found.code == ""
    (remark,) = found.remarks
    assert "batch normalization makes gradients grow at every layer" in remark
    assert "residual connections" in remark


@pytest.mark.parametrize(
    "call",
    [
        'module.weight = nn.init.kaiming_normal_(torch.empty_like(module.weight), nonlinearity="relu")',
        "module.weight_g.copy_(torch.norm_except_dim(module.weight_v, 2, 0))",
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weight_norm_is_mended_through_its_parameters(call: str) -> None:
    normed = nn.utils.weight_norm if "weight_g" in call else nn.utils.parametrizations.weight_norm

    def build() -> nn.Module:
        parts = [part for _ in range(16) for part in (normed(nn.Linear(64, 64)), nn.ReLU())]
        return nn.Sequential(*parts, nn.Linear(64, 10))

    found = cure(build, vectors())
    assert found.before.verdict == "fail"
    assert found.after is not None
    assert alarms(found.after) == []
    assert call in found.code
    assert len(found.code.splitlines()) < 16, "the plain layer at the end is no reason to name all"


def pasted(model: nn.Module, inputs: torch.Tensor) -> Report:
    """The audit of the model after it has run one line of advice after the other, until none is left."""
    for _ in range(40):
        report = audit(model, inputs)
        lines = [f.advice.code for f in report.findings if f.severity is not Severity.NOTE and f.advice]
        if not lines:
            break
        exec(lines[0], {"m": model, "nn": nn, "torch": torch})
    return report


def normed_stack(call: str, *, std: float = 0.01) -> nn.Module:
    layers = [nn.Linear(64, 64) for _ in range(8)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)
        (nn.utils.weight_norm if call == "weight_norm" else getattr(nn.utils.parametrizations, call[2:]))(layer)
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())], nn.Linear(64, 10))


@pytest.mark.parametrize("call", ["weight_norm", "p.weight_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_line_of_advice_under_weight_norm_changes_the_weight(call: str) -> None:
    torch.manual_seed(0)
    model = normed_stack(call)
    assert audit(model, vectors()).verdict == "fail"
    assert alarms(pasted(model, vectors())) == []
    model(vectors())  # which computes the weight, with the old hook
    assert model[0].weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


@pytest.mark.parametrize("call", ["weight_norm", "p.weight_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_gain_that_a_finding_asks_for_reaches_a_normalized_weight(call: str) -> None:
    torch.manual_seed(0)
    stds = (0.02, 0.02, 0.16, 0.02, 0.02, 0.02)
    model = nn.Sequential(*[nn.Sequential(nn.LayerNorm(64), normed_stack(call, std=std)[0]) for std in stds])
    report = audit(model, vectors())
    assert "IA503 2.1" in alarms(report)
    reinitialize_(model, report)
    model(vectors())
    assert model[2][1].weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_of_a_weight_under_spectral_norm_nothing_but_the_shape_is_drawn() -> None:
    torch.manual_seed(0)
    found = [f for f in audit(normed_stack("p.spectral_norm"), vectors()).findings if f.advice]
    assert found
    assert {f.advice.scheme for f in found} == {"orthogonal_"}


class Stacked(nn.Module):
    """Weights that are slices of one parameter, whose shape tells torch another fan_in."""

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.stack = nn.Parameter(0.02 * torch.randn(8, 64, 64))
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.stack:
            x = torch.relu(x @ (self.scale * weight if self.scale != 1 else weight))
        return x


def test_slices_of_a_stack_are_drawn_with_the_std_of_each() -> None:
    torch.manual_seed(0)
    model = Stacked()
    assert alarms(pasted(model, vectors())) == []
    assert model.stack.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_a_weight_that_is_computed_in_another_way_gets_no_line() -> None:
    torch.manual_seed(0)
    found = audit(Stacked(scale=0.3), vectors()).findings
    assert any(f.code == "IA101" for f in found)
    assert [f.advice for f in found if f.advice] == []


def test_spectral_norm_gets_what_there_is_and_the_rest_is_told() -> None:
    normed = nn.utils.parametrizations.spectral_norm

    def build() -> nn.Module:
        return nn.Sequential(*[part for _ in range(16) for part in (normed(nn.Linear(64, 64)), nn.ReLU())])

    found = cure(build, vectors())
    assert found.after is not None
    assert (found.before.verdict, found.after.verdict) == ("fail", "pass")
    assert "module.weight = nn.init.orthogonal_(torch.empty_like(module.weight))" in found.code
    assert "spectral normalization divides the weight" in found.remarks[0]


def test_a_parametrization_without_a_plan_is_told() -> None:
    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.tril() + x.triu()

    def build() -> nn.Module:
        layers = [nn.Linear(64, 64) for _ in range(16)]
        for layer in layers:
            nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
        return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())])

    assert any("a parametrization that no plan is made for" in remark for remark in cure(build, vectors()).remarks)


@pytest.mark.parametrize("is_factory", [True, False])
def test_lazy_parameters_are_set_after_the_first_run(is_factory: bool) -> None:
    def build() -> nn.Module:
        return nn.Sequential(*[p for _ in range(16) for p in (nn.LazyLinear(64), nn.ReLU())], nn.LazyLinear(5))

    model = build()
    found = cure(build if is_factory else model, vectors())
    assert found.lazy
    assert found.before.verdict == "fail"
    assert found.after is not None
    assert alarms(found.after) == []
    assert "Call it after the first run" in found.code.splitlines()[6]
    assert all(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
    model(vectors())
    run(found.code, model)
    assert model[4].weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_the_figures_are_those_of_an_audit(cures: dict[str, Cure]) -> None:
    found = cures["relu"]
    torch.manual_seed(0)
    model = FAULTY["relu"][0]()
    report = audit(model, FAULTY["relu"][1]())
    sizes = [call.pre_activation.rms for layer in report.layers for call in layer.calls if call.pre_activation]
    assert found.vitals_before[0].smallest == pytest.approx(min(sizes), rel=1e-3)
    assert found.vitals_before[0].largest == pytest.approx(max(sizes), rel=1e-3)


class Named(nn.Module):
    """A deep stack of weights that stand in a list, in a dictionary and in modules named as words of the language."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList(0.02 * torch.randn(64, 64) for _ in range(4))
        self.dict = nn.ParameterDict({name: 0.02 * torch.randn(64, 64) for name in ("0", "a-b", "{b}", "d")})
        for name in ("class", 'it"s', "in"):
            self.add_module(name, nn.Linear(64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in (*self.list, *self.dict.values()):
            x = torch.relu(x @ weight)
        for name in ("class", 'it"s', "in"):
            x = torch.relu(self.get_submodule(name)(x))
        return x


def test_weights_of_any_name_are_mended() -> None:
    found = cure(Named, vectors())
    assert found.after is not None, "no code was found that helps"
    assert alarms(found.after) == []
    assert "for tensor in model.list:" in found.code
    advised = [f.advice.code for f in found.before.findings if f.advice]
    assert advised
    for code in advised:
        exec(code, {"m": Named(), "nn": nn})


def test_code_that_is_no_python_is_a_defect_and_not_a_cure_that_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initaudit.curing.init_function", lambda *_, **__: "def init_weights(model): model.in.weight")
    with pytest.raises(RuntimeError, match="a bug in initaudit"):
        cure(Named, vectors())
