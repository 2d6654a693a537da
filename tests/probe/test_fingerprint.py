"""Every initializer of torch.nn.init, and every layer's default, is recognized from the values alone."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.init import _calculate_fan_in_and_fan_out

from initaudit.probe.weights import parameter_record

SHAPES = [(256, 128), (128, 256), (300, 784), (512, 512), (64, 48), (64, 32, 3, 3), (96, 40, 5), (32, 16, 3, 3, 3)]
SEEDS = range(6)


def init_of(tensor: Tensor, fans: tuple[float, float] | None = None, repeats: int = 1) -> str:
    torch_fans = _calculate_fan_in_and_fan_out(tensor) if tensor.dim() > 1 else None
    return parameter_record("w", tensor, fans=fans, torch_fans=torch_fans, repeats=repeats).init


def truncated(tensor: Tensor, std: float) -> None:
    nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std)


# name of the case, initializer, the names that are right for it
SCHEMES: list[tuple[Callable[[Tensor], object], set[str]]] = [
    (lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)), {"kaiming_uniform(a=sqrt(5))"}),
    (lambda w: nn.init.kaiming_uniform_(w), {"kaiming_uniform"}),
    (lambda w: nn.init.kaiming_normal_(w), {"kaiming_normal"}),
    (lambda w: nn.init.kaiming_normal_(w, mode="fan_out"), {"kaiming_normal(mode=fan_out)"}),
    (lambda w: nn.init.kaiming_uniform_(w, mode="fan_out"), {"kaiming_uniform(mode=fan_out)"}),
    (lambda w: nn.init.xavier_normal_(w), {"xavier_normal"}),
    (lambda w: nn.init.xavier_uniform_(w), {"xavier_uniform"}),
    (lambda w: nn.init.xavier_uniform_(w, gain=5 / 3), {"xavier_uniform(gain=5/3)"}),
    (lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"), {"lecun_normal"}),
    (lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"), {"lecun_uniform"}),
    (lambda w: nn.init.normal_(w, std=0.02), {"normal(std=0.02)"}),
    (lambda w: nn.init.trunc_normal_(w, std=0.02), {"normal(std=0.02)"}),
    (lambda w: truncated(w, 0.02), {"trunc_normal(std=0.02)"}),
    (lambda w: nn.init.uniform_(w, -0.3, 0.3), {"uniform(-0.3, 0.3)"}),
    (lambda w: nn.init.uniform_(w), {"uniform(0, 1)"}),
    (lambda w: nn.init.zeros_(w), {"zeros"}),
    (lambda w: nn.init.ones_(w), {"ones"}),
    (lambda w: nn.init.constant_(w, 0.25), {"constant(0.25)"}),
    (lambda w: nn.init.orthogonal_(w), {"orthogonal"}),
    (lambda w: nn.init.orthogonal_(w, gain=math.sqrt(2)), {"orthogonal(gain=sqrt(2))"}),
]


def same_name(shape: tuple[int, ...], right: set[str]) -> set[str]:
    """Schemes of one law and one std, which no look at the values can tell apart."""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(torch.empty(shape))
    law = "uniform" if "uniform" in next(iter(right)) else "normal"
    std = {
        f"kaiming_{law}": math.sqrt(2 / fan_in),
        f"kaiming_{law}(mode=fan_out)": math.sqrt(2 / fan_out),
        f"xavier_{law}": math.sqrt(2 / (fan_in + fan_out)),
        f"xavier_{law}(gain=sqrt(2))": math.sqrt(4 / (fan_in + fan_out)),
        f"lecun_{law}": math.sqrt(1 / fan_in),
    }
    mine = [std[name] for name in right if name in std]
    return right | {name for name, s in std.items() if any(math.isclose(s, m, rel_tol=0.01) for m in mine)}


def test_every_scheme_on_every_shape() -> None:
    wrong, total = [], 0
    for case, (initialize, right) in enumerate(SCHEMES):
        for shape in SHAPES:
            names = same_name(shape, right)
            for seed in SEEDS:
                torch.manual_seed(1000 * case + seed)
                weight = torch.empty(shape)
                initialize(weight)
                total += 1
                if (found := init_of(weight)) not in names:
                    wrong.append((shape, seed, sorted(right), found))
    assert len(wrong) <= 0.02 * total, wrong


DEFAULTS: list[tuple[Callable[[], nn.Module], str, str]] = [
    (lambda: nn.Linear(200, 100), "weight", "kaiming_uniform(a=sqrt(5))"),
    (lambda: nn.Linear(64, 64), "weight", "kaiming_uniform(a=sqrt(5))"),
    (lambda: nn.Conv2d(16, 32, 3), "weight", "kaiming_uniform(a=sqrt(5))"),
    (lambda: nn.Conv1d(32, 32, 5, groups=32), "weight", "kaiming_uniform(a=sqrt(5))"),
    (lambda: nn.ConvTranspose2d(32, 16, 4, stride=2), "weight", "kaiming_uniform(a=sqrt(5))"),
    (lambda: nn.Embedding(500, 64), "weight", "normal(std=1)"),
    (lambda: nn.Embedding(500, 64, padding_idx=0), "weight", "normal(std=1), 1 zero row"),
    (lambda: nn.MultiheadAttention(96, 4), "in_proj_weight", "xavier_uniform"),
    (lambda: nn.LayerNorm(64), "weight", "ones"),
    (lambda: nn.BatchNorm2d(64), "bias", "zeros"),
    (lambda: nn.PReLU(), "weight", "constant(0.25)"),
]


@pytest.mark.parametrize(("make", "name", "right"), DEFAULTS, ids=[d[2] + f"-{i}" for i, d in enumerate(DEFAULTS)])
def test_layer_defaults(make: Callable[[], nn.Module], name: str, right: str) -> None:
    found = []
    for seed in range(20):
        torch.manual_seed(seed)
        found.append(init_of(dict(make().named_parameters())[name].detach()))
    normal = right.startswith("normal")  # the std of a normal law is known to its sampling error only
    good = sum(f.startswith("normal(std=") and f.endswith(right[13:]) if normal else f == right for f in found)
    assert good >= 20 if not normal else good >= 19, found


def test_recurrent_default_is_told_by_the_hidden_size() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(40, 64)
    assert init_of(lstm.weight_ih_l0.detach(), fans=(40, 64), repeats=4) == "torch recurrent default"
    assert init_of(lstm.weight_hh_l0.detach(), fans=(64, 64), repeats=4) == "kaiming_uniform(a=sqrt(5))"


def test_gates_initialized_one_by_one() -> None:
    torch.manual_seed(0)
    gates = torch.cat([nn.init.xavier_uniform_(torch.empty(64, 64)) for _ in range(4)])
    assert init_of(gates, fans=(64.0, 64.0), repeats=4) == "xavier_uniform(effective fans)"
    orthogonal = torch.cat([nn.init.orthogonal_(torch.empty(64, 64)) for _ in range(4)])
    assert init_of(orthogonal, fans=(64.0, 64.0), repeats=4) == "orthogonal(per block)"


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_eye(shape: tuple[int, int]) -> None:
    assert init_of(nn.init.eye_(torch.empty(shape))) == "eye"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_dirac(groups: int) -> None:
    assert init_of(nn.init.dirac_(torch.empty(16, 8, 3, 3), groups=groups)) == "dirac"


def test_permutation_is_not_the_identity() -> None:
    assert init_of(torch.eye(8).roll(1, dims=1)) == "orthogonal"


def test_sparse() -> None:
    torch.manual_seed(0)
    assert init_of(nn.init.sparse_(torch.empty(400, 300), sparsity=0.9, std=0.01)).startswith(
        "sparse(sparsity=0.9, std=0.01"
    )


def test_few_zeros_are_told_by_their_share_or_not_at_all() -> None:
    torch.manual_seed(0)
    weight = nn.init.kaiming_normal_(torch.empty(256, 512))
    few, many = (weight.where(torch.rand(256, 512) > share, torch.zeros(())) for share in (0.003, 0.1))
    assert init_of(few) == "kaiming_normal"
    assert init_of(many).endswith(", 10% zeros")


def test_identical_rows() -> None:
    torch.manual_seed(0)
    assert init_of(torch.randn(1, 64).repeat(32, 1) / 8).startswith("identical rows of ")


def test_few_values_name_no_scheme() -> None:
    torch.manual_seed(0)
    for initialize in (nn.init.kaiming_normal_, nn.init.xavier_normal_):
        assert init_of(initialize(torch.empty(8, 12))).split("(")[0] in {"normal", "uniform", "trunc_normal"}
    assert init_of(torch.randn(5, 2)) == "unknown"


def test_other_laws_are_unknown() -> None:
    torch.manual_seed(0)
    heavy = torch.distributions.Laplace(0.0, 1.0).sample((256, 256))
    mixed = torch.cat([torch.randn(256, 128), 30 * torch.randn(256, 128)], 1)
    assert {init_of(heavy), init_of(mixed)} == {"unknown"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.empty(256, 320)
    for initialize, right in (
        (nn.init.kaiming_uniform_, "kaiming_uniform"),
        (nn.init.xavier_normal_, "xavier_normal"),
        (nn.init.orthogonal_, "orthogonal"),
    ):
        assert init_of(initialize(weight).to(dtype)) == right


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(16, 4096), (4096, 64), (3, 2000), (2, 5000)])
def test_long_rows_that_are_nearly_orthogonal_by_chance_are_no_orthogonal_matrix(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
    assert "normal" in init_of(draw.to(dtype))
    torch.manual_seed(0)
    assert init_of(nn.init.orthogonal_(torch.empty(shape)).to(dtype)) == "orthogonal"


@settings(max_examples=60, deadline=None)
@given(scale=st.floats(1e-4, 1e3), seed=st.integers(0, 2**31), uniform=st.booleans())
def test_the_law_does_not_depend_on_the_scale(scale: float, seed: int, uniform: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(120, 90, generator=generator) * 2 - 1 if uniform else torch.randn(120, 90, generator=generator)
    found = parameter_record("w", draw * scale, fans=None, torch_fans=None).init
    assert found.startswith("uniform(-" if uniform else "normal(std=")
