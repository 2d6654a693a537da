"""Attention that has frozen onto one key: by hand-made numbers, and in models with a fault put in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit import audit
from initaudit.records import Attention, Finding, Role
from initaudit.rules import find_rule
from tests.probe.probing import Call
from tests.rules.factories import Net, parameter
from tests.rules.nets import alarms, cured, found, scale

WIDTH = 64


def attended(concentration: float, *, query: float = 0.125, key: float = 0.125) -> list[Finding]:
    """What the rule says of one attention with projections of these weights' std; 1/sqrt(64) is 0.125."""
    net = Net()
    x = net.input()
    q = net.layer("q", x, weight=parameter("q.weight", std=query))
    k = net.layer("k", x, weight=parameter("k.weight", std=key))
    v = net.layer("v", x)
    y = net.op("scaled_dot_product_attention", Role.ATTENTION, q, k, v, scope="attn", shape=(32, 8, 64))
    net.output(net.layer("head", y))
    attention = Attention(y, 16.0, 20.0, 0.1, concentration, 0.5, q, k, v, y, 1.0, 1.0, 0.9)
    flow = net.flow(attentions=(attention,))
    return list(find_rule("IA107").check(flow))  # type: ignore[arg-type]


@pytest.mark.parametrize(("concentration", "told"), [(0.0, False), (0.59, False), (0.61, True), (0.95, True)])
def test_limits(concentration: float, told: bool) -> None:
    assert bool(attended(concentration)) is told


def test_half_as_much_is_enough_beside_a_large_weight() -> None:
    assert not attended(0.3)
    (seen,) = attended(0.3, key=0.6)
    assert seen.fqn == "k"
    assert seen.limit == 0.25
    assert not attended(0.2, key=0.6)


def test_the_larger_weight_is_named() -> None:
    (seen,) = attended(0.95, query=3.0, key=0.5)
    assert seen.fqn == "q"
    assert "24 times" in seen.message
    (other,) = attended(0.95)
    assert "square root of the head's width" not in other.message or other.fqn in ("q", "k")


def heads(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x).unflatten(-1, (4, -1)).transpose(1, 2)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm block whose attention is fused, or written out."""

    def __init__(self, by_hand: bool, *, scaled: bool = True, normalized: bool = True) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.normal_(layer.weight, std=WIDTH**-0.5)
            nn.init.zeros_(layer.bias)
        self.norm = nn.LayerNorm(WIDTH) if normalized else nn.Identity()
        self.by_hand, self.scale = by_hand, (WIDTH // 4) ** -0.5 if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (heads(layer, h) for layer in (self.query, self.key, self.value))
        if self.by_hand:
            scores = (q @ k.transpose(-1, -2)) * self.scale
            mask = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            y = F.softmax(scores.masked_fill(mask, torch.finfo(scores.dtype).min), dim=-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return x + self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def model(by_hand: bool, **options: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[Block(by_hand, **options) for _ in range(4)], nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))


INPUTS = torch.randn(8, 32, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("by_hand", [False, True])
class TestInAModel:
    def test_healthy(self, by_hand: bool) -> None:
        assert not alarms(audit(model(by_hand), INPUTS))

    @pytest.mark.parametrize("name", ["query", "key"])
    def test_the_layer_that_is_thirty_times_too_large_is_named_and_cured(self, by_hand: bool, name: str) -> None:
        net = model(by_hand)
        scale(getattr(net[2], name), 30)
        report = audit(net, INPUTS)
        finding = found(report, "IA107")
        assert (finding.fqn, finding.root_cause, finding.affected) == (f"2.{name}", True, ())
        assert finding.advice is not None
        assert finding.advice.std == pytest.approx(WIDTH**-0.5, rel=0.01)
        assert not [f for f in cured(net, report, INPUTS).findings if f.code == "IA107"]

    def test_all_of_them(self, by_hand: bool) -> None:
        net = model(by_hand)
        for block in list(net)[:4]:
            scale(block.query, 30)  # type: ignore[arg-type]
            scale(block.key, 30)  # type: ignore[arg-type]
        finding = found(audit(net, INPUTS), "IA107")
        assert finding.severity.value == "warning"
        assert len(finding.affected) == 3

    def test_tokens_that_are_too_large(self, by_hand: bool) -> None:
        finding = found(audit(model(by_hand, normalized=False), 6 * INPUTS), "IA107")
        assert "normalize the tokens" in finding.message
        assert finding.advice is None

    def test_small_scores_are_no_fault(self, by_hand: bool) -> None:
        net = model(by_hand)
        for block in list(net)[:4]:
            scale(block.query, 0.01)  # type: ignore[arg-type]
        assert "IA107" not in {f.code for f in audit(net, INPUTS).findings}


@pytest.mark.parametrize("by_hand", [False, True])
def test_scores_that_are_not_divided_by_the_width(by_hand: bool) -> None:
    def attend(m: Call, x: Tensor) -> Tensor:
        q, k, v = m.q(x), m.k(x), m.v(x)
        return (q @ k.mT).softmax(-1) @ v if by_hand else F.scaled_dot_product_attention(q, k, v, scale=1.0)

    layers = {n: nn.Linear(256, 256) for n in "qkv"}
    for layer in layers.values():
        nn.init.xavier_normal_(layer.weight)
    finding = found(audit(Call(attend, **layers), torch.randn(4, 32, 256)), "IA107")
    assert "divide the scores by the square root of the head's width, 256" in finding.message
    assert finding.advice is None


@pytest.mark.parametrize("bias", ["alibi", "relative"])
def test_positions_added_to_the_scores_are_no_fault(bias: str) -> None:
    distance = (torch.arange(64)[:, None] - torch.arange(64)).clamp_min(0).float()
    slopes = 2.0 ** -torch.arange(2.0, 9.0, 2.0)[:, None, None]  # of the four heads
    added = -slopes * distance if bias == "alibi" else torch.randn(4, 64, 64)
    blocked = torch.full((64, 64), -torch.inf).triu(1)

    def attend(m: Call, x: Tensor) -> Tensor:
        scores = heads(m.q, x) @ heads(m.k, x).transpose(-1, -2) / 4 + added + blocked
        return m.o((scores.softmax(-1) @ heads(m.v, x)).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    report = audit(Call(attend, **{n: nn.Linear(64, 64) for n in "qkvo"}), torch.randn(4, 64, 64))
    assert "IA107" not in {f.code for f in report.findings}


def test_tokens_that_ask_with_what_they_answer_look_at_themselves() -> None:
    report = audit(Call(lambda m, x: F.scaled_dot_product_attention(x, x, m.v(x)), v=nn.Linear(64, 64)), INPUTS)
    assert "each token looks at itself" in found(report, "IA107").message
