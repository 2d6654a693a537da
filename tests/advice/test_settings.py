"""Reading a line of advice: it names a parameter and a call, and is never run."""

import pytest

from initaudit.advice.settings import Setting, arguments_of, constant, from_advice
from initaudit.records import Advice

NORMALIZED = {"n.parametrizations.weight.original1", "o.weight_v"}
NAMES = frozenset({"a.0.weight", "a.0.bias", "rnn.bias_ih_l0", "cls", "blocks.x y.gain", *NORMALIZED})


def read(code: str, std: float | None = None) -> Setting | None:
    return from_advice(Advice("", None, std, code), NAMES)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("nn.init.zeros_(m.a[0].bias)", Setting("a.0.bias", "zeros_")),
        ('nn.init.ones_(m.get_parameter("cls"))', Setting("cls", "ones_", value=1.0)),
        ('nn.init.constant_(m.get_parameter("cls"), 0.25)', Setting("cls", "constant_", "0.25", 0.25)),
        ("nn.init.ones_(m.rnn.bias_ih_l0[8:16])", Setting("rnn.bias_ih_l0", "ones_", value=1.0, rows=(8, 16))),
        ('nn.init.zeros_(m.blocks["x y"].gain)', Setting("blocks.x y.gain", "zeros_")),
        ('nn.init.zeros_(m.a.get_submodule("0").bias)', Setting("a.0.bias", "zeros_")),
        (
            "m.n.weight = nn.init.zeros_(torch.empty_like(m.n.weight))",
            Setting("n.parametrizations.weight.original1", "zeros_"),
        ),
        ("nn.init.zeros_(m.o.weight_v); m.o.weight_g.data.copy_(0)", Setting("o.weight_v", "zeros_")),
    ],
)
def test_a_line_is_read(code: str, expected: Setting) -> None:
    assert read(code) == expected


def test_a_draw_has_the_std_of_the_advice() -> None:
    setting = read('nn.init.kaiming_normal_(m.a[0].weight, nonlinearity="relu")', std=0.1)
    assert setting is not None
    assert (setting.scheme, setting.value, setting.draws) == ("kaiming_normal_", 0.1, True)
    assert arguments_of(setting) == ([], {"nonlinearity": "relu"})


def test_powers_are_understood_in_arguments() -> None:
    assert arguments_of(Setting("x", "kaiming_uniform_", "a=5 ** 0.5")) == ([], {"a": 5**0.5})
    assert arguments_of(Setting("x", "uniform_", "-0.5, 0.5")) == ([-0.5, 0.5], {})


@pytest.mark.parametrize("code", ["nn.init.zeros_(m.other)", "m.a[0].bias", "not python (", "f(x)", 'open("file")'])
def test_what_names_no_parameter_is_left_alone(code: str) -> None:
    assert read(code) is None


def test_constants_have_torch_s_shortest_name() -> None:
    assert constant("b", 0.0).scheme == "zeros_"
    assert constant("b", 1.0).scheme == "ones_"
    assert (constant("b", 0.3).scheme, constant("b", 0.3).arguments) == ("constant_", "0.3")
