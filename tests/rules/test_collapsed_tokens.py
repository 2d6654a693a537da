"""Tokens that become one through attention, and the many models in which they may."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit import audit
from initaudit.records import Attention, Role
from initaudit.rules import find_rule
from initaudit.rules.flow import Flow
from tests.rules.factories import Net
from tests.rules.nets import found

INPUTS = torch.randn(4, 32, 64, generator=torch.Generator().manual_seed(1))


def stack(spreads: list[float], *, same: bool = True) -> Flow:
    """Attentions one behind the other, whose values have these spreads; their queries are other tokens if asked."""
    net = Net()
    x = other = net.input()
    seen = []
    for i, spread in enumerate(spreads):
        q = net.layer(f"{i}.q", x if same else other)
        k, v = net.layer(f"{i}.k", x), net.layer(f"{i}.v", x)
        x = net.op("scaled_dot_product_attention", Role.ATTENTION, q, k, v, scope=f"{i}")
        seen.append(Attention(x, 16.0, 1.0, 0.9, 0.1, 0.0, q, k, v, x, token_spread=spread))
    net.output(net.layer("head", x))
    return net.flow(attentions=tuple(seen))


@pytest.mark.parametrize(
    ("last", "severity"),
    [(0.5, None), (0.06, None), (0.04, "warning"), (1e-3, "warning"), (8e-4, "error"), (0.0, "error")],
)
def test_limits(last: float, severity: str | None) -> None:
    seen = list(find_rule("IA108").check(stack([0.5, 1.0, last])))
    assert [o.severity.value for o in seen if o.severity] == ([severity] if severity else [])
    if seen:
        assert (seen[0].fqn, seen[0].affected) == ("1.v", ("2.v",))
        assert seen[0].observed == pytest.approx(max(last, 1e-6))


def test_other_tokens_ask_and_so_begin_a_stream_of_their_own() -> None:
    assert not list(find_rule("IA108").check(stack([1.0, 1e-5], same=False)))


def test_tokens_that_are_one_from_the_start_have_nothing_to_lose() -> None:
    assert not list(find_rule("IA108").check(stack([0.0, 0.0])))


class Attend(nn.Module):
    def __init__(self, std: float = 0.125) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(64, 192, bias=False), nn.Linear(64, 64, bias=False)
        for layer in (self.qkv, self.out):
            nn.init.normal_(layer.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Stack(nn.Module):
    def __init__(self, depth: int, *, residual: bool, norm: str = "pre", std: float = 0.125) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Attend(std) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(depth))
        self.residual, self.norm = residual, norm
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for block, norm in zip(self.blocks, self.norms, strict=True):
            y = block(norm(x) if self.norm == "pre" else x)
            x = x + y if self.residual else y
            x = norm(x) if self.norm == "post" else x
        return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_attention_alone_loses_the_tokens_doubly_exponentially(norm: str) -> None:
    finding = found(audit(Stack(6, residual=False, norm=norm), INPUTS), "IA108")
    assert finding.severity.value == "error"
    assert finding.fqn == "blocks.0.qkv"
    assert "add residual connections" in finding.message


@pytest.mark.parametrize("std", [0.02, 0.125])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_residual_connection_carries_them(norm: str, std: float) -> None:
    report = audit(Stack(6, residual=True, norm=norm, std=std), INPUTS)
    assert "IA108" not in {f.code for f in report.findings}


def test_queries_of_a_decoder_may_be_alike() -> None:
    """Learned queries start equal and only attention to the memory tells them apart, if anything."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 2, enable_nested_tensor=False
            )
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(64, 4, 128, batch_first=True), 3)
            self.queries = nn.Parameter(1e-4 * torch.randn(1, 8, 64))
            self.head = nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.decoder(self.queries.expand(len(x), -1, -1), self.encoder(x)))  # type: ignore[no-any-return]

    assert "IA108" not in {f.code for f in audit(Decoder(), INPUTS).findings}


def test_one_attention_is_no_stack() -> None:
    report = audit(Stack(1, residual=False, std=0.02), INPUTS)
    assert "IA108" not in {f.code for f in report.findings}
    assert report.trace is not None
    assert math.isclose(report.trace.attentions[0].token_spread or 0, (1 - 1 / 32) ** 0.5, rel_tol=0.02)
