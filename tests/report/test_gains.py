"""What ``initaudit gain`` shows, as text of fixed width."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from initaudit.report.gains import gain_renderable, gain_table, init_line
from initaudit.theory.activations import KNOWN
from initaudit.theory.elementwise import analyse


def shown(renderable: object, width: int = 80) -> str:
    """The rendered text without padding at line ends."""
    file = StringIO()
    Console(file=file, width=width, color_system=None).print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


TANH = """\
tanh

forward gain   1.59254   1/sqrt(E[phi(z)^2]), z ~ N(0, 1): keeps the signal
backward gain  1.46741   1/sqrt(E[phi'(z)^2]): keeps the gradient
variance gain  1.59254   1/sqrt(Var[phi(z)]): for standardized weights alone
torch's gain   1.66667   calculate_gain("tanh"), 4.7% above the forward gain
mean of phi    0
kappa          0.6273   over n units the mean square varies by sqrt(kappa/n)

 with              gain  fixed point q*   slope  chi_1
 forward gain   1.59254               1  0.4611  1.178  stable
 backward gain  1.46741          0.7249  0.5219  1.126  stable
 torch's gain   1.66667           1.178  0.4309   1.21  stable

torch's 5/3 was found by experience: the signal settles a little above 1, and
gradients grow faster than with either gain above. Take the forward gain to keep
the signal, the backward gain where the network is deep.

A deviation is multiplied by 0.461 per layer: depth pulls the signal to its
fixed point. Gradients grow: times 1.09 per layer, tenfold every 28 layers.

in the layers it feeds  nn.init.normal_(w, std=1.59254 / math.sqrt(fan_in))
in the first layer      nn.init.normal_(w, std=1 / math.sqrt(fan_in))

The first layer reads data, which have passed no activation: its gain is 1. With
1.59 there too, the signal starts at q = 2.54, from where depth brings it back.
"""

GELU = """\
gelu

forward gain   1.53353   1/sqrt(E[phi(z)^2]), z ~ N(0, 1): keeps the signal
backward gain  1.48111   1/sqrt(E[phi'(z)^2]): keeps the gradient
variance gain  1.70093   1/sqrt(Var[phi(z)]): for standardized weights alone
torch's gain   none: calculate_gain raises ValueError for it
mean of phi    0.282095
kappa          6.216   over n units the mean square varies by sqrt(kappa/n)

 with              gain  fixed point q*  slope  chi_1
 forward gain   1.53353               1  1.144  1.072  unstable
 backward gain  1.48111           1.773  1.099  1.064  unstable

A deviation is multiplied by 1.14 per layer: even with the right gain a deep net
drifts away from its fixed point, so use norm layers or residual branches.
Gradients grow: times 1.04 per layer, tenfold every 66 layers.

in the layers it feeds  nn.init.normal_(w, std=1.53353 / math.sqrt(fan_in))
in the first layer      nn.init.normal_(w, std=1 / math.sqrt(fan_in))

The first layer reads data, which have passed no activation: its gain is 1. With
1.53 there too, the signal starts at q = 2.35, beside an unstable fixed point,
and drifts away.
"""

TABLE = """\
 activation     gain  backward    torch  chi_1   slope  q = 1 is
 relu        1.41421   1.41421  1.41421      1       1  neutral
 gelu        1.53353   1.48111        -  1.072   1.144  unstable
 tanh        1.59254   1.46741  1.66667  1.178  0.4611  stable
 swiglu      1.67653   1.16622        -  2.067   2.173  unstable

gain = 1/sqrt(E[phi^2]); std of the weights = gain/sqrt(fan_in). chi_1: factor
per layer of a gradient's mean square. slope: of the length map at q = 1; above
1 the signal drifts away with depth.
"""


@pytest.mark.parametrize(("name", "text"), [("tanh", TANH), ("gelu", GELU)])
def test_one_activation_in_full(name: str, text: str) -> None:
    assert shown(gain_renderable(analyse(name))) == text


def test_the_table() -> None:
    assert shown(gain_table(map(analyse, ["relu", "gelu", "tanh", "swiglu"]))) == TABLE


def test_the_table_of_all_fits_in_80_columns() -> None:
    lines = shown(gain_table(map(analyse, KNOWN))).splitlines()
    assert max(map(len, lines)) <= 80
    first_words = [line.split()[0] for line in lines if line.strip()]
    assert first_words[1 : 1 + len(KNOWN)] == list(KNOWN)


def test_a_gate_says_that_it_is_one() -> None:
    text = shown(gain_renderable(analyse("glu")))
    assert "a * phi(b) over two independent halves" in text
    assert "both halves" in text


def test_a_loss_of_gradient_is_said() -> None:
    text = shown(gain_renderable(analyse("sigmoid")))
    assert "Gradients shrink: times 0.391 per layer, tenfold every 2.5 layers." in text
    assert "45.8% below the forward gain" in text


def test_every_scale_is_kept_by_relu() -> None:
    text = shown(gain_renderable(analyse("relu")))
    assert "Every scale is kept" in text
    assert "Gradients keep their size." in " ".join(text.split())
    assert 'calculate_gain("relu"), the same' in text


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("relu", 'nn.init.kaiming_normal_(w, nonlinearity="relu")'),
        ("leaky_relu(0.2)", 'nn.init.kaiming_normal_(w, a=0.2, nonlinearity="leaky_relu")'),
        ("linear", 'nn.init.kaiming_normal_(w, nonlinearity="linear")'),
        ("tanh", "nn.init.normal_(w, std=1.59254 / math.sqrt(fan_in))"),
        ("selu", "nn.init.normal_(w, std=1 / math.sqrt(fan_in))"),
        ("silu", "nn.init.normal_(w, std=1.67653 / math.sqrt(fan_in))"),
    ],
)
def test_the_line_to_use(name: str, line: str) -> None:
    assert init_line(analyse(name)) == line


def test_torchs_word_is_not_used_where_its_gain_is_off() -> None:
    relu = analyse("relu")
    assert "kaiming" not in init_line(replace(relu, torch_gain=1.5))


def test_a_function_that_is_zero_everywhere() -> None:
    analysis = analyse(lambda x: x * 0)
    assert init_line(analysis) == "no gain restores the signal: E[phi(z)^2] is 0"
    assert "No gain gives this activation a fixed point" in shown(gain_renderable(analysis))


def test_a_function_that_passes_no_gradient() -> None:
    text = shown(gain_renderable(analyse(lambda x: (x > 0.5).to(x.dtype))))
    assert "No gradient passes." in text
    assert "backward gain  inf" in text


def test_a_gain_of_its_own_in_the_first_layer() -> None:
    assert "stays there: one factor, whatever the depth" in " ".join(shown(gain_renderable(analyse("relu"))).split())
    assert "in the first layer      the same" in shown(gain_renderable(analyse("selu")))


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("tanh", "5/3 was found by experience"),
        ("selu", "3/4 was found by experience"),
        ("sigmoid", "takes the sigmoid for"),
    ],
)
def test_what_torchs_odd_gains_are_for(name: str, meaning: str) -> None:
    assert meaning in " ".join(shown(gain_renderable(analyse(name))).split())


def test_a_function_of_another_name_is_told_to_be_the_same() -> None:
    analysis = replace(analyse("relu2"), name="act.py::mine", same_as="relu2")
    assert shown(gain_renderable(analysis)).startswith("act.py::mine   the same function as relu2\n")


def test_a_gradient_without_bound() -> None:
    text = shown(gain_renderable(analyse(lambda x: x.abs().sqrt())))
    assert "no gain bounds the gradient" in text
    assert "backward gain  0 " in text
