"""The advice: the line of code, run on a real module, gives the std that is promised and the signal that is meant."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import initaudit
from initaudit.advice.recommend import advise
from initaudit.records import Activation
from tests.advice.layers import GELU, LEAKY, RELU, SELU, SIGMOID, TANH, layer_of


def run(code: str, module: nn.Module) -> nn.Module:
    exec(code, {"nn": nn, "m": nn.Sequential(module)})
    return module


CASES: list[tuple[Callable[[], nn.Module], Activation | None, str]] = [
    (lambda: nn.Linear(256, 256), RELU, 'nn.init.kaiming_normal_(m[0].weight, nonlinearity="relu")'),
    (lambda: nn.Linear(256, 256), LEAKY, 'nn.init.kaiming_normal_(m[0].weight, a=0.2, nonlinearity="leaky_relu")'),
    (lambda: nn.Linear(256, 256), TANH, "nn.init.xavier_normal_(m[0].weight, gain=1.593)"),
    (lambda: nn.Linear(256, 250), SIGMOID, "nn.init.xavier_normal_(m[0].weight, gain=1.846)"),
    (lambda: nn.Linear(256, 64), TANH, "nn.init.normal_(m[0].weight, std=0.09953)"),
    (lambda: nn.Linear(256, 256), SELU, 'nn.init.kaiming_normal_(m[0].weight, nonlinearity="linear")'),
    (lambda: nn.Linear(256, 256), GELU, "nn.init.normal_(m[0].weight, std=0.09585)"),
    (lambda: nn.Linear(256, 256), None, 'nn.init.kaiming_normal_(m[0].weight, nonlinearity="linear")'),
    (lambda: nn.Conv2d(32, 64, 3), RELU, 'nn.init.kaiming_normal_(m[0].weight, nonlinearity="relu")'),
]


@pytest.mark.parametrize(("make", "activation", "code"), CASES)
def test_code_and_the_std_it_gives(make: Callable[[], nn.Module], activation: Activation | None, code: str) -> None:
    torch.manual_seed(0)
    module = make()
    advice = advise(layer_of(module, activation))
    assert advice.code == code
    assert advice.gain == (activation.gain if activation else 1.0)
    assert code.startswith(f"nn.init.{advice.scheme}(")
    assert run(code, module).weight.std().item() == pytest.approx(advice.std, rel=0.02)


@pytest.mark.parametrize("activation", [RELU, LEAKY, TANH, GELU, SELU, None])
def test_a_deep_stack_keeps_its_signal(activation: Activation | None) -> None:
    functions = {"relu": torch.relu, "tanh": torch.tanh, "gelu": nn.functional.gelu, "selu": nn.functional.selu}
    functions["leaky_relu"] = lambda x: nn.functional.leaky_relu(x, 0.2)
    phi = functions[activation.name] if activation else (lambda x: x)
    torch.manual_seed(0)
    x = phi(torch.randn(64, 600))
    start = x.square().mean()
    for _ in range(6):
        linear = nn.Linear(600, 600, bias=False)
        run(advise(layer_of(linear, activation)).code, linear)
        x = phi(linear(x)).detach()
    assert 0.5 < (x.square().mean() / start).item() < 2.0


def test_the_law_stays_that_of_the_model() -> None:
    torch.manual_seed(0)
    module = nn.Linear(300, 200)
    nn.init.xavier_uniform_(module.weight)
    assert advise(layer_of(module, RELU)).code == 'nn.init.kaiming_uniform_(m[0].weight, nonlinearity="relu")'
    advice = advise(layer_of(module, GELU))
    assert advice.code == "nn.init.uniform_(m[0].weight, -0.1534, 0.1534)"
    assert run(advice.code, module).weight.std().item() == pytest.approx(advice.std, rel=0.02)
    nn.init.normal_(module.weight, std=0.01)
    assert advise(layer_of(module, RELU)).code == 'nn.init.kaiming_normal_(m[0].weight, nonlinearity="relu")'
    nn.init.orthogonal_(module.weight)
    assert advise(layer_of(module, RELU)).code == "nn.init.orthogonal_(m[0].weight, gain=1.414)"


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (200, 200)])
def test_orthogonal_where_the_layer_widens(shape: tuple[int, int]) -> None:
    module = nn.Linear(*shape)
    nn.init.orthogonal_(module.weight)
    advice = advise(layer_of(module, GELU))
    assert advice.scheme == "orthogonal_"
    assert run(advice.code, module).weight.std().item() == pytest.approx(GELU.gain / math.sqrt(shape[0]), rel=0.01)


def test_a_fan_that_torch_misreads_gets_a_plain_std() -> None:
    module = nn.ConvTranspose2d(64, 32, 4, stride=2)
    advice = advise(layer_of(module, RELU, fans=(64 * 4.0, 32 * 16.0)))
    assert advice.scheme == "normal_"
    assert advice.std == pytest.approx(math.sqrt(2 / 256))
    assert "torch.nn.init would read fan_in 512 off the shape" in advice.why
    run(advice.code, module)
    out = module(torch.randn(8, 64, 24, 24))[..., 4:-4, 4:-4]
    assert out.square().mean().item() == pytest.approx(2.0, rel=0.15)


def test_packed_gates_get_no_xavier() -> None:
    advice = advise(layer_of(nn.Linear(128, 512), TANH, fans=(128.0, 128.0), repeats=4))
    assert advice.scheme == "normal_"
    assert advice.std == pytest.approx(TANH.gain / math.sqrt(128))
    assert "fan_out 512 off the shape" in advice.why


def test_embedding_copies_rows() -> None:
    embedding = nn.Embedding(1000, 64)
    advice = advise(layer_of(embedding))
    assert (advice.code, advice.std) == ("nn.init.normal_(m[0].weight, std=1)", 1.0)
    layer = layer_of(embedding)
    tied = advise(replace(layer, weight=replace(layer.weight, aliases=("head.weight",))))
    assert tied.code == "nn.init.normal_(m[0].weight, std=0.125)"
    assert "head.weight" in tied.why


def test_a_gain_that_is_given_replaces_the_activation_s() -> None:
    layer = layer_of(nn.Linear(256, 256), GELU)
    assert advise(layer, gain=1.0).code == 'nn.init.kaiming_normal_(m[0].weight, nonlinearity="linear")'
    assert advise(layer, gain=0.1).std == pytest.approx(0.1 / 16)


def test_why_is_the_variance_rule_with_both_numbers() -> None:
    torch.manual_seed(0)
    module = nn.Linear(256, 256)
    nn.init.constant_(module.weight, 0.0)
    assert advise(layer_of(module, RELU)).why == (
        "Var[z] = fan_in·Var[w]·E[x²] + Var[b] with fan_in 256 and relu after it (gain 1.414) "
        "asks for std 1.414/√256 = 0.08839; found 0."
    )


def test_a_layer_without_inputs() -> None:
    layer = replace(layer_of(nn.Linear(4, 4)), fan_in=0.0)
    assert advise(layer).code == "nn.init.zeros_(m[0].weight)"


@settings(max_examples=50, deadline=None)
@given(
    fan_in=st.integers(1, 5000),
    fan_out=st.integers(1, 5000),
    gain=st.floats(0.05, 5),
    activation=st.sampled_from([RELU, LEAKY, TANH, SIGMOID, GELU, SELU, None]),
)
def test_std_is_gain_over_the_root_of_the_fan(
    fan_in: int, fan_out: int, gain: float, activation: Activation | None
) -> None:
    layer = replace(
        layer_of(nn.Linear(8, 8), activation),
        fan_in=float(fan_in), fan_out=float(fan_out), torch_fan_in=fan_in, torch_fan_out=fan_out,
    )  # fmt: skip
    advice = advise(layer, gain=gain)
    mean_of_fans = advice.scheme.startswith("xavier")
    fan = (fan_in + fan_out) / 2 if mean_of_fans else fan_in
    assert advice.std == pytest.approx(gain / math.sqrt(fan), rel=1e-9)
    assert advice.std == pytest.approx(gain / math.sqrt(fan_in), rel=0.15 if mean_of_fans else 1e-9)


@pytest.mark.parametrize(("mode", "std"), [("sum", 1 / math.sqrt(20)), ("mean", math.sqrt(20))])
def test_a_bag_of_rows_is_a_sum_of_them(mode: str, std: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(2000, 64, mode=mode))
    tokens = torch.randint(2000, (64, 20))
    advice = advise(initaudit.audit(model, tokens).layers[0])
    assert advice.std == pytest.approx(std)
    run(advice.code, model[0])
    assert model(tokens).square().mean().item() == pytest.approx(1, rel=0.1)
