"""The fans of a bare parameter, by the operation that uses it, beside the factor that the same audit measures."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initaudit

ROWS, SEQUENCE, IMAGE = (512, 64), (8, 32, 64), (4, 16, 24, 24)


class Bare(nn.Module):
    def __init__(self, shape: tuple[int, ...], function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.w = nn.Parameter(0.1 * torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.w, x)


Use = tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor], tuple[int, ...], tuple[float, float]]
USES: dict[str, Use] = {
    "F.linear": ((128, 64), lambda w, x: F.linear(x, w), ROWS, (64, 128)),
    "x @ w": ((64, 128), lambda w, x: x @ w, ROWS, (64, 128)),
    "x @ w.T": ((128, 64), lambda w, x: x @ w.T, ROWS, (64, 128)),
    "x @ w.mT": ((128, 64), lambda w, x: x @ w.mT, ROWS, (64, 128)),
    "x @ w.transpose": ((128, 64), lambda w, x: x @ w.transpose(0, 1), ROWS, (64, 128)),
    "w @ x.T": ((128, 64), lambda w, x: (w @ x.T).T, ROWS, (64, 128)),
    "matmul": ((64, 128), lambda w, x: torch.matmul(x, w), ROWS, (64, 128)),
    "matmul by keyword": ((64, 128), lambda w, x: torch.matmul(x, other=w), ROWS, (64, 128)),
    "mm": ((64, 128), lambda w, x: torch.mm(x, w), ROWS, (64, 128)),
    "addmm": ((64, 128), lambda w, x: torch.addmm(x.new_zeros(128), x, w), ROWS, (64, 128)),
    "bmm": ((8, 64, 128), lambda w, x: torch.bmm(x, w), SEQUENCE, (64, 128)),
    "bmm from the left": ((8, 128, 64), lambda w, x: torch.bmm(w, x.mT), SEQUENCE, (64, 128)),
    "baddbmm": ((8, 64, 128), lambda w, x: torch.baddbmm(x.new_zeros(1), x, w), SEQUENCE, (64, 128)),
    "tensordot": ((64, 128), lambda w, x: torch.tensordot(x, w, dims=1), ROWS, (64, 128)),
    "tensordot of pairs": (
        (4, 16, 64), lambda w, x: torch.tensordot(x.unflatten(-1, (4, 16)), w, ([2, 3], [0, 1])), SEQUENCE, (64, 64),
    ),
    "tensordot from the left": ((128, 64), lambda w, x: torch.tensordot(w, x, ([1], [1])).T, ROWS, (64, 128)),
    "unfold": ((32, 144), lambda w, x: w @ F.unfold(x, 3), IMAGE, (144, 32)),
    "permuted kernel": ((3, 3, 16, 32), lambda w, x: F.conv2d(x, w.permute(3, 2, 0, 1)), IMAGE, (144, 288)),
    "reshaped": ((4, 16, 64), lambda w, x: F.linear(x, w.reshape(64, 64)), ROWS, (64, 64)),
    "einsum to heads": ((64, 4, 16), lambda w, x: torch.einsum("btd,dhk->bthk", x, w), SEQUENCE, (64, 64)),
    "einsum from heads": (
        (4, 16, 64), lambda w, x: torch.einsum("bthk,hkd->btd", x.unflatten(-1, (4, 16)), w), SEQUENCE, (64, 64),
    ),
    "einsum without arrow": ((64, 128), lambda w, x: torch.einsum("ij,jk", x, w), ROWS, (64, 128)),
    "einsum with ellipsis": ((64, 128), lambda w, x: torch.einsum("...i,io->...o", x, w), SEQUENCE, (64, 128)),
    "experts": ((8, 64, 32), lambda w, x: torch.einsum("ecd,edh->ech", x, w), SEQUENCE, (64, 32)),
    "every expert": ((4, 64, 32), lambda w, x: torch.einsum("bd,edh->beh", x, w), ROWS, (64, 128)),
    "an expert at a time": ((4, 64, 32), lambda w, x: torch.cat([x[i::4] @ w[i] for i in range(4)]), ROWS, (64, 32)),
    "gathered experts": (
        (4, 64, 32), lambda w, x: torch.bmm(x[:, None], w[torch.arange(len(x)) % 4]), ROWS, (64, 32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_the_fans_are_those_of_the_use_and_agree_with_what_is_measured(use: str) -> None:
    shape, function, given, fans = USES[use]
    torch.manual_seed(0)
    report = initaudit.audit(Bare(shape, function), torch.randn(given))
    (layer,) = report.layers
    assert (layer.fan_in, layer.fan_out) == fans
    assert layer.measured_factor is not None
    assert layer.measured_factor == pytest.approx(layer.declared_factor, rel=0.12)
    assert "IA310" not in [f.code for f in report.findings]


@pytest.mark.parametrize(("mode", "fan_in"), [("sum", 12), ("mean", 1 / 12)])
@pytest.mark.parametrize("offsets", [False, True])
def test_a_bag_sums_its_rows(mode: str, fan_in: float, offsets: bool) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(2000, (64, 12))
    given = (tokens.flatten(), torch.arange(64) * 12) if offsets else tokens
    (layer,) = initaudit.audit(nn.EmbeddingBag(2000, 32, mode=mode), given).layers
    assert layer.fan_in == pytest.approx(fan_in)
    out = layer.calls[0].pre_activation
    assert out is not None
    assert out.rms**2 / layer.weight.rms**2 == pytest.approx(fan_in, rel=0.15)


def test_what_is_added_by_baddbmm_is_its_bias() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = nn.Parameter(0.1 * torch.randn(8, 64, 128)), nn.Parameter(torch.full((8, 1, 128), 0.3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.baddbmm(self.b, x, self.w)

    torch.manual_seed(0)
    (layer,) = initaudit.audit(Experts(), torch.randn(SEQUENCE)).layers
    assert layer.bias is not None
    assert layer.bias.fqn == "b"
    assert layer.measured_factor == pytest.approx(layer.declared_factor, rel=0.15)


def test_attention_scores_by_baddbmm_have_no_weight() -> None:
    class Scores(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return torch.baddbmm(q.new_zeros(1), q, q.mT)

    assert initaudit.audit(Scores(), torch.randn(2, 8, 16, requires_grad=True)).layers == ()


def test_torchs_default_in_a_layer_three_times_as_wide_is_no_fan_out_rule() -> None:
    """1/(3 fan_in) equals 1/fan_out there: a packed query, key and value at torch's default."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 192), nn.Linear(192, 64))
    assert "IA307" not in [f.code for f in initaudit.audit(model, torch.randn(64, 64)).findings]
