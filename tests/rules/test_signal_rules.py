"""Each rule on the signal fires at the layer that has its fault, with a cure that cures, and not on healthy twins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initaudit
from tests.rules.nets import alarms, batch, cured, found, net, roots, scale

SIGNAL_CODES = """IA101 IA102 IA103 IA104 IA105 IA201 IA202 IA301 IA302 IA303 IA307 IA401 IA402""".split()
MIDDLE = 14  # the module at that index is the eighth of twelve layers


def audit(model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None = None) -> initaudit.Report:
    return initaudit.audit(model, batch() if inputs is None else inputs)


class TestHealthyTwins:
    """The author's choice of depth, width, activation and batch is no fault."""

    @pytest.mark.parametrize(
        ("activation", "gain"),
        [
            (nn.ReLU, 2**0.5),
            (lambda: nn.LeakyReLU(0.1), (2 / 1.01) ** 0.5),
            (nn.Tanh, 1.0),
            (nn.GELU, 1.5335),
            (nn.SiLU, 1.6765),
            (nn.ELU, 1.2452),
            (nn.SELU, 1.0),
            (nn.Identity, 1.0),
        ],
    )
    def test_activations(self, activation: Callable[[], nn.Module], gain: float) -> None:
        assert not audit(net(8, 128, activation, gain)).findings

    @pytest.mark.parametrize(("depth", "width"), [(1, 64), (3, 32), (6, 64), (24, 64), (40, 256)])
    def test_depths_and_widths(self, depth: int, width: int) -> None:
        report = audit(net(depth, width), batch(width))
        assert not [f.code for f in report.findings if f.code in SIGNAL_CODES]

    @pytest.mark.parametrize("samples", [2, 3, 8, 256])
    def test_batches(self, samples: int) -> None:
        assert not alarms(audit(net(), batch(samples=samples)))

    @pytest.mark.parametrize("seed", range(4))
    def test_seeds(self, seed: int) -> None:
        assert not alarms(audit(net(10, 32, seed=seed), batch(32, 16, seed=seed + 100)))

    @pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
    def test_the_scale_of_the_input_is_not_the_nets_fault(self, size: float) -> None:
        model = net(6)
        codes = {f.code for f in alarms(audit(model, batch() * size))}
        assert codes <= {"IA401"}  # only the size of the output follows it

    def test_torchs_default_in_three_layers_is_no_more_than_a_note(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
        assert not alarms(audit(model))

    def test_normalization_takes_any_scale_away(self) -> None:
        torch.manual_seed(0)
        steps: list[nn.Module] = []
        for _ in range(16):
            layer = nn.Linear(128, 128)
            nn.init.normal_(layer.weight, std=3.0)
            steps += [layer, nn.LayerNorm(128), nn.ReLU()]
        assert not alarms(audit(nn.Sequential(*steps, nn.Linear(128, 10))))

    def test_torchs_own_gain_for_tanh(self) -> None:
        assert not alarms(audit(net(6, 128, nn.Tanh, 5 / 3)))


class TestVanishingActivations:
    @pytest.mark.parametrize("depth", [20, 30])
    def test_default_initialization_of_a_deep_relu_net(self, depth: int) -> None:
        torch.manual_seed(0)
        steps: list[nn.Module] = []
        for _ in range(depth):
            steps += [nn.Linear(128, 128), nn.ReLU()]
        model = nn.Sequential(*steps, nn.Linear(128, 10))
        report = audit(model)
        finding = found(report, "IA101") if any(f.code == "IA101" for f in report.findings) else found(report, "IA105")
        assert (finding.fqn, finding.severity.value, finding.root_cause) == ("0", "error", True)
        assert set(finding.affected) >= {str(2 * i) for i in range(1, depth)}
        assert finding.advice is not None
        assert finding.advice.scheme == "kaiming_normal_"
        assert finding.advice.std == pytest.approx((2 / 128) ** 0.5)
        assert not alarms(cured(model, report, batch()))

    def test_xavier_before_relu_is_named_with_its_gain(self) -> None:
        model = net(30, gain=1.0)
        report = audit(model)
        assert roots(report)[0][0] == "IA101"
        advice = report.findings[0].advice
        assert advice is not None
        assert advice.gain == pytest.approx(2**0.5)
        assert not alarms(cured(model, report, batch()))

    def test_one_layer_in_the_middle(self) -> None:
        model = net()
        scale(model[MIDDLE], 1e-4)
        report = audit(model)
        assert roots(report) == [("IA101", str(MIDDLE))]
        assert found(report, "IA101").affected == ()
        assert not cured(model, report, batch()).findings

    def test_the_observed_factor_is_that_of_the_net(self) -> None:
        model = net()
        scale(model[MIDDLE], 1e-4)
        finding = found(audit(model), "IA101")
        assert finding.observed == pytest.approx(1e-4, rel=0.9)
        assert finding.limit is not None
        assert finding.observed < finding.limit < 1


class TestExplodingActivations:
    def test_every_layer_too_large(self) -> None:
        model = net(20, gain=3.5)
        report = audit(model)
        assert roots(report)[0] == ("IA102", "0")
        assert report.verdict == "fail"
        finding = found(report, "IA102")
        assert finding.observed is not None
        assert finding.limit is not None
        assert finding.observed > finding.limit > 1
        assert not alarms(cured(model, report, batch()))

    def test_one_layer_in_the_middle(self) -> None:
        model = net()
        scale(model[MIDDLE], 3000)
        report = audit(model)
        assert ("IA102", str(MIDDLE)) in roots(report)
        assert found(report, "IA102").affected == ()
        assert not alarms(cured(model, report, batch()))

    def test_one_constant_factor_is_named_at_its_place(self) -> None:
        class Tempered(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = net(3)

            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = self.body(x) / 1e-3
                return result

        finding = found(audit(Tempered()), "IA102")
        assert (finding.fqn, finding.affected) == ("body.6", ())
        assert "most of it is one step: `div` behind body.6 makes a factor of 1e+03" in finding.message
        assert "per layer" not in finding.message

    def test_unnormalized_residual_net(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.up, self.down = nn.Linear(64, 64), nn.Linear(64, 64)
                nn.init.kaiming_normal_(self.up.weight)
                nn.init.kaiming_normal_(self.down.weight)

            def forward(self, x: Tensor) -> Tensor:
                return x + self.down(F.relu(self.up(x)))

        torch.manual_seed(0)
        report = audit(nn.Sequential(*(Block() for _ in range(40)), nn.Linear(64, 10)), batch(64))
        assert found(report, "IA102").severity.value == "error"


class TestDeadUnits:
    @pytest.mark.parametrize("index", [0, 6])
    def test_a_bias_far_below_zero(self, index: int) -> None:
        model = net(8)
        nn.init.constant_(model[index].bias, -5.0)
        report = audit(model)
        finding = found(report, "IA103")
        assert (finding.fqn, finding.root_cause) == (str(index), True)
        assert finding.observed is not None
        assert finding.observed > 0.9
        assert "bias" in finding.message
        assert finding.advice is not None
        assert finding.advice.code == f"nn.init.zeros_(m[{index}].bias)"

    def test_all_negative_weights_on_positive_inputs(self) -> None:
        model = net(2)
        with torch.no_grad():
            model[0].weight.copy_(-model[0].weight.abs())
        report = audit(model, batch().abs())
        assert "0" in {f.fqn for f in alarms(report)}
        assert report.verdict == "fail"

    def test_channels_of_a_convolution(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 4)
        )
        for layer in (model[0], model[2]):
            nn.init.kaiming_normal_(layer.weight)
        nn.init.constant_(model[2].bias, -20.0)
        x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        assert found(audit(model, x), "IA103").fqn == "2"
        nn.init.zeros_(model[2].bias)
        assert not alarms(audit(model, x))


class TestSaturatedUnits:
    @pytest.mark.parametrize(("gain", "fires"), [(1.0, False), (4.0, True)])
    def test_a_standard_normal_at_the_ends_of_hardtanh_is_its_own(self, gain: float, fires: bool) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(128, 256), nn.BatchNorm1d(256), nn.Hardtanh(), nn.Linear(256, 10))
        nn.init.constant_(model[1].weight, gain)
        report = audit(model, batch(samples=128))
        assert ("IA104" in {f.code for f in report.findings}) == fires
        if fires:
            assert "its pre-activation has rms 4" in found(report, "IA104").message  # the norm's, not the layer's

    @pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Softsign])
    def test_weights_too_large_for_a_function_with_flat_ends(self, activation: Callable[[], nn.Module]) -> None:
        model = net(3, 128, activation, 20.0)
        finding = found(audit(model), "IA104")
        assert (finding.fqn, finding.severity.value) == ("0", "warning")
        assert finding.observed is not None
        assert finding.observed > 0.5

    @pytest.mark.parametrize("index", [4, 8])
    def test_one_layer(self, index: int) -> None:
        model = net(6, 128, nn.Tanh, 1.0)
        scale(model[index], 12)
        report = audit(model)
        assert roots(report)[0] == ("IA104", str(index))
        assert not alarms(cured(model, report, batch()))

    def test_one_layer_behind_one_that_is_nearly_too_large(self) -> None:
        model = net(6, 128, nn.Tanh, 5 / 3)
        scale(model[8], 10)
        assert roots(audit(model))[0] == ("IA104", "8")

    def test_large_inputs_saturate_the_first_layer(self) -> None:
        assert found(audit(net(3, 128, nn.Tanh, 1.0), batch() * 30), "IA104").fqn == "0"


class TestIndistinguishableSamples:
    def test_deep_sigmoid_net(self) -> None:
        torch.manual_seed(0)
        steps: list[nn.Module] = []
        for _ in range(12):
            steps += [nn.Linear(64, 64), nn.Sigmoid()]
        report = audit(nn.Sequential(*steps, nn.Linear(64, 10)), batch(64))
        finding = found(report, "IA105")
        assert (finding.fqn, finding.severity.value) == ("0", "error")
        assert "IA101" not in {f.code for f in report.findings}

    def test_biases_that_keep_the_size(self) -> None:
        torch.manual_seed(0)
        steps: list[nn.Module] = []
        for _ in range(20):
            layer = nn.Linear(64, 64)
            nn.init.normal_(layer.weight, std=0.3 / 8)
            nn.init.normal_(layer.bias, std=0.7)
            steps += [layer, nn.Tanh()]
        report = audit(nn.Sequential(*steps, nn.Linear(64, 10)), batch(64))
        assert "IA105" in {f.code for f in alarms(report)}
        assert report.verdict == "fail"


class TestGradients:
    def test_vanishing_with_a_signal_that_lives(self) -> None:
        """Sigmoid with large weights: the signal is bounded and stays, the slope does not."""
        report = audit(net(12, 128, nn.Sigmoid, 1.0))
        assert "IA201" in {f.code for f in alarms(report)}

    def test_exploding_in_a_chaotic_tanh_net(self) -> None:
        report = audit(net(40, 128, nn.Tanh, 3.0))
        assert "IA202" in {f.code for f in alarms(report)}
        assert "IA102" not in {f.code for f in report.findings}

    def test_critical_tanh_net_has_neither(self) -> None:
        report = audit(net(40, 128, nn.Tanh, 1.0))
        assert not {"IA201", "IA202"} & {f.code for f in report.findings}

    def test_a_scaled_layer_in_a_linear_net(self) -> None:
        model = net(12, 128, nn.Identity, 1.0)
        scale(model[MIDDLE], 1e4)
        assert str(MIDDLE) in {f.fqn for f in alarms(audit(model))}


class TestNotesOnSingleWeights:
    @pytest.mark.parametrize(("factor", "code"), [(0.3, "IA301"), (3.0, "IA302"), (0.7, "IA303"), (1.4, "IA303")])
    def test_one_layer_of_a_shallow_net(self, factor: float, code: str) -> None:
        model = net(3)
        scale(model[2], factor)
        report = audit(model)
        finding = found(report, code)
        assert (finding.fqn, finding.severity.value, finding.affected) == ("2", "note", ())
        assert finding.observed == pytest.approx(factor, rel=0.05)
        assert finding.advice is not None
        assert finding.advice.std == pytest.approx((2 / 128) ** 0.5)
        exec(finding.advice.code, {"nn": nn, "m": model})
        assert not audit(model).findings

    @pytest.mark.parametrize(("factor", "code"), [(0.1, "IA301"), (8.0, "IA302")])
    def test_a_slip_among_layers_that_keep_to_the_rule_is_a_warning(self, factor: float, code: str) -> None:
        model = net(3)
        scale(model[2], factor)
        finding = found(audit(model), code)
        assert (finding.fqn, finding.severity.value) == ("2", "warning")

    def test_a_habit_is_no_slip(self) -> None:
        model = net(3)
        for layer in model[::2]:
            scale(layer, 0.1)
        assert not [f for f in audit(model).findings if f.code == "IA301" and f.severity.value == "warning"]

    def test_torchs_default_among_he_is_a_slip(self) -> None:
        model = net(3)
        model[2].reset_parameters()
        assert found(audit(model), "IA301").severity.value == "warning"

    @pytest.mark.parametrize("factor", [0.95, 1.0, 1.05])
    def test_chance_is_no_deviation(self, factor: float) -> None:
        model = net(3)
        scale(model[2], factor)
        assert not audit(model).findings

    def test_fan_out_is_recognized(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 8))
        for layer in model[::2]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        report = audit(model, batch(64))
        assert found(report, "IA307").severity.value == "note"
        assert not alarms(report)

    def test_square_layers_have_no_fan_out_to_confuse(self) -> None:
        model = net(3)
        scale(model[2], 0.5)
        assert "IA307" not in {f.code for f in audit(model).findings}

    @pytest.mark.parametrize("init", [nn.init.kaiming_uniform_, nn.init.orthogonal_, nn.init.kaiming_normal_])
    def test_the_law_does_not_matter_when_the_variance_fits(self, init: Callable[..., Tensor]) -> None:
        model = net(4)
        for layer in model[:-1:2]:
            init(layer.weight, **({"gain": 2**0.5} if init is nn.init.orthogonal_ else {"nonlinearity": "relu"}))
        assert not audit(model).findings


class TestOutput:
    def test_a_large_head(self) -> None:
        model = net(3)
        scale(model[6], 30)
        report = audit(model)
        assert roots(report) == [("IA401", "6")]
        assert not alarms(cured(model, report, batch()))

    def test_a_large_layer_in_the_middle_is_not_the_heads_fault(self) -> None:
        model = net()
        scale(model[MIDDLE], 30)
        report = audit(model)
        assert str(MIDDLE) == report.findings[0].fqn

    def test_a_size_that_comes_in_with_the_input_is_told(self) -> None:
        message = found(audit(net(3), 100 + 100 * batch()), "IA401").message
        assert "it comes in with the input (mean 10" in message
        assert message.endswith("normalize the input")

    def test_what_the_layers_or_a_bias_amplify_does_not_come_in_with_the_input(self) -> None:
        large, shifted = net(3), net(3)
        scale(large[6], 30)
        nn.init.constant_(shifted[6].bias, 110.0)
        for model in (large, shifted):
            assert "comes in" not in found(audit(model, 50 * batch()), "IA401").message

    def test_an_explosion_explains_the_size_of_the_output(self) -> None:
        assert roots(audit(net(20, gain=3.5))) == [("IA102", "0")]

    @pytest.mark.parametrize(("std", "fires"), [(0.0, False), (0.05, False), (1.0, True)])
    def test_loss_above_chance(self, std: float, fires: bool) -> None:
        class Classifier(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head = nn.Linear(64, 10)
                nn.init.normal_(self.head.weight, std=std)

            def forward(self, x: Tensor, labels: Tensor) -> Tensor:
                return F.cross_entropy(self.head(x), labels)

        torch.manual_seed(0)
        report = audit(Classifier(), (batch(64, 64), torch.arange(64) % 10))
        assert ("IA402" in {f.code for f in report.findings}) == fires
        if fires:
            finding = found(report, "IA402")
            assert finding.fqn == "head"
            assert "ln 10" in finding.message


class TestThroughNormalizations:
    def stack(self, depth: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
        torch.manual_seed(0)
        steps: list[nn.Module] = []
        for _ in range(depth):
            steps += [nn.Linear(128, 128), norm(128), nn.ReLU()]
        return nn.Sequential(*steps, nn.Linear(128, 10))

    def test_batch_norm_explodes_by_the_published_rate(self) -> None:
        # Yang et al. 2019, theorem 8: pi / (pi - 1) in squares per ReLU layer as the batch grows; 1.493 at 64.
        finding = found(audit(self.stack(60, nn.BatchNorm1d), batch(samples=64)), "IA202")
        assert (finding.fqn, finding.severity.value) == ("0", "error")
        assert finding.observed is not None
        assert finding.observed ** (2 / 61) == pytest.approx(1.493, rel=0.03)

    @pytest.mark.parametrize(("depth", "norm"), [(13, nn.BatchNorm1d), (30, nn.BatchNorm1d), (60, nn.LayerNorm)])
    def test_what_trains_is_left_alone(self, depth: int, norm: Callable[[int], nn.Module]) -> None:
        assert not alarms(audit(self.stack(depth, norm), batch(samples=64)))


class TestPositions:
    """What is added to tokens in front of a normalization must not outweigh them."""

    class Tokens(nn.Module):
        def __init__(self, tokens: float, positions: float, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.tokens, self.positions = nn.Embedding(50, 64), nn.Embedding(12, 64)
            self.norm, self.head = norm(64), nn.Linear(64, 50)
            nn.init.normal_(self.tokens.weight, std=tokens)
            nn.init.normal_(self.positions.weight, std=positions)

        def forward(self, ids: Tensor) -> Tensor:
            added = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
            result: Tensor = self.head(self.norm(added))
            return result

    def ids(self) -> Tensor:
        return torch.randint(50, (16, 12), generator=torch.Generator().manual_seed(1))

    @pytest.mark.parametrize("size", [1.0, 10.0])
    def test_positions_that_drown_the_tokens_are_named_and_cured(self, size: float) -> None:
        model = self.Tokens(0.02, size)
        report = audit(model, self.ids())
        finding = found(report, "IA105")
        assert (finding.fqn, finding.severity.value) == ("positions", "warning")
        assert finding.advice is not None
        exec(finding.advice.code, {"m": model, "nn": nn})
        assert "IA105" not in {f.code for f in audit(model, self.ids()).findings}

    @pytest.mark.parametrize(("tokens", "positions"), [(0.02, 0.02), (1.0, 1.0), (1.0, 0.02), (0.02, 0.1)])
    def test_positions_of_like_size_are_left_alone(self, tokens: float, positions: float) -> None:
        assert "IA105" not in {f.code for f in audit(self.Tokens(tokens, positions), self.ids()).findings}

    def test_sinusoids_that_are_not_trained_are_no_initialization(self) -> None:
        fixed, scaled = self.Tokens(0.02, 0.7), self.Tokens(0.02, 0.7)
        fixed.positions.weight.requires_grad_(False)
        table = torch.randn(12, 64, generator=torch.Generator().manual_seed(2))
        scaled.positions = nn.Linear(1, 1, bias=False)  # one learned factor of a table
        nn.init.ones_(scaled.positions.weight)
        scaled.forward = lambda ids: scaled.head(  # type: ignore[method-assign]
            scaled.norm(scaled.tokens(ids) + scaled.positions.weight.view(1) * table)
        )
        for model in (fixed, scaled):
            assert "IA105" not in {f.code for f in audit(model, self.ids()).findings}

    def test_latents_that_attend_to_the_input_may_be_larger_than_what_they_read(self) -> None:
        class Perceiver(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(0)
                self.latents, self.read = nn.Parameter(torch.randn(4, 64)), nn.MultiheadAttention(64, 4)
                self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

            def forward(self, x: Tensor) -> Tensor:
                latents = self.latents[:, None].expand(-1, x.shape[1], -1)
                result: Tensor = self.head(self.norm(latents + self.read(latents, x, x)[0])).mean(0)
                return result

        x = torch.randn(128, 16, 64, generator=torch.Generator().manual_seed(1))
        assert "IA105" not in {f.code for f in audit(Perceiver(), x).findings}
