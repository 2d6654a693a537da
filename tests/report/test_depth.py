"""What ``initaudit gain --depth`` shows below the gains."""

import pytest

from initaudit.report.depth import depth_renderable, shown_layers
from initaudit.theory.depth import schemes_for, through_depth
from initaudit.theory.elementwise import analyse, moments_of
from tests.report.test_gains import shown

TANH = """\
20 layers of 256 units with tanh, inputs of rms 1: rms of the pre-activations
 weights drawn with        gain  layer 1      5     10     20  gradient
 torch's default         0.5774     0.58  0.064  0.044  0.044   2.1e-05
 Xavier                       1        1   0.36   0.24   0.17      0.19
 He (relu)                1.414      1.4   0.82   0.79   0.79       1.7
 calculate_gain           1.667      1.7    1.1    1.1    1.1       4.6
 forward gain             1.593      1.6      1      1      1       3.4
 forward gain, first 1    1.593        1      1      1      1       4.7
 backward gain, first 1   1.467        1   0.86   0.85   0.85       2.8

gain: std of the weights times sqrt(fan_in). gradient: its rms at the first
layer over that at the last. 'first 1': gain 1 in the first layer, whose input
has passed no activation. This is theory, for wide layers: of one draw the log
of the mean square varies by about 0.22.
"""


def view(name: str, depth: int) -> str:
    analysis, moments = analyse(name), moments_of(name)
    rows = [(s, through_depth(moments, s, depth=depth, width=256)) for s in schemes_for(analysis, 256)]
    return shown(depth_renderable(analysis, rows, depth=depth, width=256))


def test_the_view_of_tanh() -> None:
    assert view("tanh", 20) == TANH


@pytest.mark.parametrize("name", ["gelu", "swiglu", "sigmoid", "relu"])
@pytest.mark.parametrize("depth", [2, 100, 1_000])
def test_it_fits_in_80_columns(name: str, depth: int) -> None:
    text = view(name, depth)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text


def test_an_unstable_fixed_point_is_told() -> None:
    assert "as the fixed point is unstable" in " ".join(view("gelu", 20).split())
    assert "unstable" not in view("tanh", 20)


@pytest.mark.parametrize(
    ("depth", "layers"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (20, [1, 5, 10, 20]), (7000, [1, 2000, 5000, 7000])]
)
def test_which_layers_are_shown(depth: int, layers: list[int]) -> None:
    assert shown_layers(depth) == layers
