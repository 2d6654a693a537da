"""Figures of papers, and of mean-field theory, reproduced through the public API."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initaudit
from initaudit.records import LayerCall, Report, Stats
from initaudit.theory.variance import dead_unit_probability

SEED = 0


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stack(
    depth: int, width: int, activation: Callable[[], nn.Module], init: Callable[[Tensor], object], *, bias: bool = False
) -> nn.Sequential:
    """``depth`` square layers, each followed by its activation."""
    torch.manual_seed(SEED)
    steps: list[nn.Module] = []
    for _ in range(depth):
        layer = nn.Linear(width, width, bias=bias)
        init(layer.weight)
        steps += [layer, activation()]
    return nn.Sequential(*steps)


def kept(weight: Tensor) -> Tensor:
    """torch's default."""
    return weight


def calls(report: Report) -> list[LayerCall]:
    return [call for layer in report.layers for call in layer.calls]


def after(report: Report) -> list[Stats]:
    """Statistics of each layer's activation."""
    found = [call.activation for call in calls(report)]
    assert all(found)
    return found  # type: ignore[return-value]


def before(report: Report) -> list[Stats]:
    found = [call.pre_activation for call in calls(report)]
    assert all(found)
    return found  # type: ignore[return-value]


def gradients(report: Report) -> list[Stats]:
    found = [call.gradient for call in calls(report)]
    assert all(found)
    return found  # type: ignore[return-value]


def ratios(values: list[float]) -> list[float]:
    return [b / a for a, b in itertools.pairwise(values)]


class TestGlorotAndBengio2010:
    """Five layers of 1,000 tanh units on N(0, 1) inputs, sections 4.2.1 and 4.2.2."""

    @pytest.fixture(scope="class")
    @staticmethod
    def standard() -> Report:
        return initaudit.audit(
            stack(5, 1000, nn.Tanh, lambda w: w.data.uniform_(-(1000**-0.5), 1000**-0.5)), noise(64, 1000)
        )

    @pytest.fixture(scope="class")
    @staticmethod
    def normalized() -> Report:
        return initaudit.audit(stack(5, 1000, nn.Tanh, nn.init.xavier_uniform_), noise(64, 1000))

    def test_activations_shrink_under_the_standard_initialization(self, standard: Report) -> None:
        assert [s.std for s in after(standard)] == pytest.approx([0.460, 0.250, 0.141, 0.081, 0.047], rel=0.05)

    def test_activations_keep_their_size_under_the_normalized_one(self, normalized: Report) -> None:
        assert [s.std for s in after(normalized)] == pytest.approx([0.630, 0.487, 0.409, 0.359, 0.322], rel=0.05)

    def test_gradients_shrink_on_their_way_back(self, standard: Report, normalized: Report) -> None:
        for report, expected in ((standard, 0.082), (normalized, 0.405)):
            stds = [s.std for s in gradients(report)]
            assert stds[0] / stds[-1] == pytest.approx(expected, rel=0.06)

    def test_sigmoid_loses_the_gradient_at_once(self) -> None:
        report = initaudit.audit(stack(5, 500, nn.Sigmoid, nn.init.xavier_uniform_), noise(64, 500))
        stds = [s.rms for s in gradients(report)]
        assert stds[0] / stds[-1] == pytest.approx(0.0027, rel=0.15)
        assert {"IA105", "IA201"} & {f.code for f in report.findings if f.severity.value == "warning"}


class TestHe2015:
    def test_he_conserves_the_mean_square_and_its_gradient(self) -> None:
        report = initaudit.audit(
            stack(20, 512, nn.ReLU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")), noise(64, 512)
        )
        squares = [s.rms**2 for s in before(report)]
        beta = 5 * 19 / 512  # Hanin 2018: the log of the ratio is N(-beta/2, beta)
        assert abs(math.log(squares[-1] / squares[0]) + beta / 2) < 3.3 * math.sqrt(beta)
        energy = [s.rms**2 for s in gradients(report)]
        assert abs(math.log(energy[0] / energy[-1]) + beta / 2) < 3.3 * math.sqrt(beta)
        assert report.verdict == "pass"
        assert not [f for f in report.findings if f.severity.value == "warning"]

    def test_xavier_loses_half_of_the_mean_square_per_relu_layer(self) -> None:
        report = initaudit.audit(stack(16, 512, nn.ReLU, nn.init.xavier_normal_), noise(64, 512))
        squares = [s.rms**2 for s in before(report)]
        assert (squares[-1] / squares[0]) ** (1 / 15) == pytest.approx(0.5, rel=0.05)
        rms = [s.rms for s in before(report)]
        assert math.prod(ratios(rms)) ** (1 / 15) == pytest.approx(1 / math.sqrt(2), rel=0.03)

    def test_leaky_gain_conserves_too(self) -> None:
        report = initaudit.audit(
            stack(12, 512, lambda: nn.LeakyReLU(0.2), lambda w: nn.init.kaiming_normal_(w, a=0.2)), noise(64, 512)
        )
        squares = [s.rms**2 for s in before(report)]
        assert abs(math.log(squares[-1] / squares[0])) < 3.3 * math.sqrt(4.56 * 11 / 512)

    def test_thirty_layers_of_xavier_stall_and_are_an_error(self) -> None:
        assert initaudit.audit(stack(30, 256, nn.ReLU, nn.init.xavier_normal_), noise(32, 256)).verdict == "fail"


class TestTorchDefaults:
    """``U(±1/sqrt(fan_in))``: Var[w] = 1/(3 fan_in)."""

    @pytest.mark.parametrize(
        ("activation", "factor"), [(nn.ReLU, 1 / 6), (lambda: nn.LeakyReLU(0.01), 0.16668), (nn.Identity, 1 / 3)]
    )
    def test_factor_of_the_mean_square_per_layer(self, activation: Callable[[], nn.Module], factor: float) -> None:
        report = initaudit.audit(stack(8, 512, activation, kept), noise(64, 512))
        squares = [s.rms**2 for s in before(report)]
        assert (squares[-1] / squares[0]) ** (1 / 7) == pytest.approx(factor, rel=0.08)
        assert squares[0] == pytest.approx(1 / 3, rel=0.05)

    def test_gradient_has_the_same_factor_in_a_relu_net(self) -> None:
        report = initaudit.audit(stack(8, 512, nn.ReLU, kept), noise(64, 512))
        energy = [s.rms**2 for s in gradients(report)]
        assert (energy[0] / energy[-1]) ** (1 / 7) == pytest.approx(1 / 6, rel=0.08)

    def test_biases_keep_the_size_while_the_samples_become_one(self) -> None:
        """The length and correlation maps with Var[b] = 1/(3n), which make the inputs alike."""
        report = initaudit.audit(stack(8, 512, nn.ReLU, kept, bias=True), noise(32, 512))
        expected, square, cosine = [], 1.0, 0.0
        for _ in range(8):
            before_bias = square / 3
            cosine = (before_bias * cosine + 1 / (3 * 512)) / (before_bias + 1 / (3 * 512))
            square = (before_bias + 1 / (3 * 512)) / 2
            cosine = (math.sqrt(1 - cosine**2) + (math.pi - math.acos(cosine)) * cosine) / math.pi
            expected.append(cosine)
        assert [s.cosine for s in after(report)] == pytest.approx(expected, abs=0.03)
        assert expected[-1] > 0.999
        assert before(report)[-1].rms ** 2 * 512 == pytest.approx(0.4, rel=0.1)  # the floor that the biases set

    @pytest.mark.parametrize(
        ("channels", "stride", "factor"), [((64, 64), 2, 1 / 12), ((128, 64), 2, 1 / 6), ((64, 64), 1, 1 / 3)]
    )
    def test_transposed_convolution(self, channels: tuple[int, int], stride: int, factor: float) -> None:
        torch.manual_seed(SEED)
        model = nn.Sequential(nn.ConvTranspose2d(*channels, 4, stride=stride, padding=0, bias=False))
        report = initaudit.audit(model, noise(8, channels[0], 24, 24))
        inner = factor * (24 * stride / (24 * stride + 4 - stride)) ** 2  # the border is reached by fewer taps
        assert before(report)[0].rms ** 2 == pytest.approx(inner, rel=0.05)
        layer = report.layers[0]
        assert layer.fan_in * layer.weight.std**2 == pytest.approx(factor, rel=0.02)

    def test_bilinear_explodes(self) -> None:
        torch.manual_seed(SEED)

        class Square(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Bilinear(64, 64, 64, bias=False)

            def forward(self, x: Tensor, y: Tensor) -> Tensor:
                return self.layer(x, y)

        report = initaudit.audit(Square(), (noise(256, 64), noise(256, 64, seed=2)))
        assert before(report)[0].rms ** 2 == pytest.approx(64 / 3, rel=0.05)

    @pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
    def test_recurrent_layers_are_uniform_over_hidden_size(self, kind: type[nn.RNNBase]) -> None:
        torch.manual_seed(SEED)

        class Last(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rnn = kind(16, 128, batch_first=True)

            def forward(self, x: Tensor) -> Tensor:
                return self.rnn(x)[0][:, -1]

        report = initaudit.audit(Last(), noise(16, 30, 16))
        for layer in report.layers:
            assert layer.weight.std == pytest.approx(128**-0.5 / math.sqrt(3), rel=0.03)
        recur = next(layer for layer in report.layers if "hh" in layer.fqn)
        assert recur.fan_in * recur.weight.std**2 == pytest.approx(1 / 3, rel=0.05)

    def test_attention_projections(self) -> None:
        torch.manual_seed(SEED)

        class SelfAttention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mha = nn.MultiheadAttention(256, 4, batch_first=True)

            def forward(self, x: Tensor) -> Tensor:
                return self.mha(x, x, x, need_weights=False)[0]

        report = initaudit.audit(SelfAttention(), noise(8, 32, 256))
        packed = next(layer for layer in report.layers if layer.repeats == 3)
        out = next(layer for layer in report.layers if "out_proj" in layer.fqn)
        assert packed.weight.std**2 == pytest.approx(1 / (2 * 256), rel=0.02)
        assert out.weight.std**2 == pytest.approx(1 / (3 * 256), rel=0.02)

    def test_identical_layers_of_a_transformer_encoder(self) -> None:
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3)
        report = initaudit.audit(encoder, noise(4, 8, 32))
        stds = [layer.weight.std for layer in report.layers if layer.fqn.endswith("linear1")]
        assert len(stds) == 3
        assert stds[0] == stds[1] == stds[2]


class TestMeanFieldTheory:
    """Poole et al. 2016, Schoenholz et al. 2017."""

    def test_correlation_map_of_relu(self) -> None:
        """c' = (sqrt(1 - c^2) + (pi - acos c) c) / pi, from c = 0: .3183, .4937, .6048, .6842."""
        he = stack(4, 2048, nn.ReLU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))
        found = [s.cosine for s in after(initaudit.audit(he, noise(16, 2048)))]
        assert found == pytest.approx([0.3183, 0.4937, 0.6048, 0.6842], abs=0.025)

    def test_selu_keeps_zero_mean_and_unit_variance(self) -> None:
        lecun = stack(16, 512, nn.SELU, lambda w: nn.init.normal_(w, std=512**-0.5))
        report = initaudit.audit(lecun, noise(64, 512))
        for stats in after(report)[4:]:
            assert stats.mean == pytest.approx(0, abs=0.12)
            assert stats.std == pytest.approx(1, abs=0.12)
        assert report.verdict == "pass"

    @pytest.mark.parametrize(
        ("weight_variance", "bias_variance", "chi"), [(1.5, 0.05, 0.9386), (2.5, 0.05, 1.1335), (1.7609546, 0.05, 1.0)]
    )
    def test_gradient_factor_of_tanh_is_chi(self, weight_variance: float, bias_variance: float, chi: float) -> None:
        net = stack(12, 512, nn.Tanh, lambda w: nn.init.normal_(w, std=math.sqrt(weight_variance / 512)), bias=True)
        for layer in net[::2]:
            nn.init.normal_(layer.bias, std=math.sqrt(bias_variance))
        energy = [s.rms**2 for s in gradients(initaudit.audit(net, noise(32, 512)))]
        assert (energy[1] / energy[9]) ** (1 / 8) == pytest.approx(chi, rel=0.06)

    def test_tanh_with_torchs_gain(self) -> None:
        """Gain 5/3: activation std .761, .693, .668, .659, .655; the gradient grows by 1.10 per layer."""
        report = initaudit.audit(
            stack(5, 1000, nn.Tanh, lambda w: nn.init.xavier_normal_(w, gain=5 / 3)), noise(64, 1000)
        )
        assert [s.std for s in after(report)] == pytest.approx([0.761, 0.693, 0.668, 0.659, 0.655], rel=0.03)
        assert report.verdict == "pass"

    def test_orthogonal_linear_nets_do_not_depend_on_depth(self) -> None:
        report = initaudit.audit(stack(30, 64, nn.Identity, nn.init.orthogonal_), noise(64, 64))
        squares = [s.rms**2 for s in before(report)]
        assert squares == pytest.approx([squares[0]] * 30, rel=1e-4)
        assert not report.findings

    def test_siren_fixed_point(self) -> None:
        """Uniform ±sqrt(6/n)/30 behind sin(30 x): the pre-activation settles at std .893 (q = 1 - exp(-2 q))."""

        class Sine(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return torch.sin(30 * x)

        bound = math.sqrt(6 / 512) / 30
        report = initaudit.audit(stack(6, 512, Sine, lambda w: nn.init.uniform_(w, -bound, bound)), noise(64, 512))
        assert 30 * before(report)[-1].rms == pytest.approx(0.893, rel=0.05)


class TestHealthyNetsAtDepth:
    @pytest.mark.parametrize("seed", [1, 2])
    def test_dead_units_of_a_healthy_relu_net_at_layer_twenty(self, seed: int) -> None:
        """29% of the units are dead on a batch of 32, for the samples have become alike: no alarm."""
        he = stack(20, 512, nn.ReLU, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))
        report = initaudit.audit(he, noise(32, 512, seed=seed))
        dead = after(report)[-1].dead_units
        assert dead == pytest.approx(0.30, abs=0.07)
        assert dead == pytest.approx(dead_unit_probability(32, before(report)[-1].cosine or 0), abs=0.08)
        assert "IA103" not in {f.code for f in report.findings}
        assert report.verdict == "pass"

    def test_batch_norm_explodes_by_1_21_per_layer_on_the_way_back(self) -> None:
        """Yang et al. 2019: the squared gradient grows by pi/(pi - 1) = 1.467 per layer, 1.478 at B = 128."""
        torch.manual_seed(SEED)
        steps: list[nn.Module] = []
        for _ in range(12):
            steps += [nn.Linear(512, 512), nn.BatchNorm1d(512, eps=1e-10), nn.ReLU()]
        report = initaudit.audit(nn.Sequential(*steps), noise(128, 512))
        energy = [s.rms**2 for s in gradients(report)]
        # A linear layer's own scale divides the gradient that comes out of its norm; all have the same here.
        assert (energy[1] / energy[10]) ** (1 / 9) == pytest.approx(1.478, rel=0.06)
        assert report.verdict == "pass"

    def test_pre_norm_residual_stream_grows_as_one_plus_depth(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.up, self.down = nn.LayerNorm(256), nn.Linear(256, 1024), nn.Linear(1024, 256)
                nn.init.kaiming_normal_(self.up.weight, nonlinearity="relu")
                nn.init.kaiming_normal_(self.down.weight, nonlinearity="linear")

            def forward(self, x: Tensor) -> Tensor:
                return x + self.down(F.relu(self.up(self.norm(x))))

        torch.manual_seed(SEED)
        depth = 12
        report = initaudit.audit(nn.Sequential(*(Block() for _ in range(depth))), noise(64, 256))
        assert report.trace is not None
        stream = [op.stats.rms**2 for op in report.trace.ops if op.role.value == "join" and op.stats]
        assert stream == pytest.approx([1 + i for i in range(1, depth + 1)], rel=0.1)
        assert report.verdict == "pass"

    def test_unnormalized_residual_stream_doubles_per_block(self) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.up, self.down = nn.Linear(512, 512), nn.Linear(512, 512)
                nn.init.kaiming_normal_(self.up.weight, nonlinearity="linear")
                nn.init.kaiming_normal_(self.down.weight, nonlinearity="relu")
                nn.init.zeros_(self.up.bias)
                nn.init.zeros_(self.down.bias)

            def forward(self, x: Tensor) -> Tensor:
                return x + self.down(F.relu(self.up(x)))

        torch.manual_seed(SEED)
        report = initaudit.audit(nn.Sequential(*(Block() for _ in range(8))), noise(64, 512))
        assert report.trace is not None
        stream = [op.stats.rms**2 for op in report.trace.ops if op.role.value == "join" and op.stats]
        assert math.prod(ratios(stream)) ** (1 / 7) == pytest.approx(2, rel=0.05)

    def test_attention_over_unrelated_tokens_averages_the_signal_away(self) -> None:
        """Mean square of the output: Var[v] (exp(s^2)/T + s^2/d); T times it is 1.284 Var[v] + ... with s^2 = 1/4."""
        torch.manual_seed(SEED)

        class SelfAttention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mha = nn.MultiheadAttention(256, 1, batch_first=True)

            def forward(self, x: Tensor) -> Tensor:
                return self.mha(x, x, x, need_weights=False)[0]

        report = initaudit.audit(SelfAttention(), noise(16, 64, 256))
        out = next(layer for layer in report.layers if "out_proj" in layer.fqn)
        assert out.calls[0].input is not None
        assert 64 * out.calls[0].input.rms ** 2 == pytest.approx(0.5 * (math.exp(0.25) + 64 * 0.25 / 256), rel=0.1)
        assert report.verdict == "pass"

    def test_gpt2_scales_its_residual_projections_and_starts_at_the_expected_size(self) -> None:
        transformers = pytest.importorskip("transformers")
        torch.manual_seed(SEED)
        config = transformers.GPT2Config(n_layer=12, n_embd=64, n_head=4, vocab_size=500, n_positions=32)
        model = transformers.GPT2LMHeadModel(config)
        report = initaudit.audit(model, torch.randint(500, (2, 16)))
        projections = [layer for layer in report.layers if layer.fqn.endswith("c_proj")]
        assert len(projections) == 24
        for layer in projections:
            assert layer.weight.std == pytest.approx(0.02 / math.sqrt(24), rel=0.05)


def test_cross_entropy_at_initialization_starts_at_the_log_of_the_classes() -> None:
    """Zhang et al. 2019: with the last layer at zero the loss is ln C; Gaussian logits of std s add s^2/2."""

    class Classifier(nn.Module):
        def __init__(self, std: float) -> None:
            super().__init__()
            self.head = nn.Linear(256, 100, bias=False)
            nn.init.normal_(self.head.weight, std=std)

        def forward(self, x: Tensor) -> Tensor:
            return F.cross_entropy(self.head(x), torch.arange(512) % 100)

    for std in (0.0, 0.02, 0.05):
        torch.manual_seed(SEED)
        report = initaudit.audit(Classifier(std), noise(512, 256))
        assert report.trace is not None
        assert report.trace.classes == 100
        assert report.trace.loss_value == pytest.approx(math.log(100) + 256 * std**2 / 2, rel=0.02)
