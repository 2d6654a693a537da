"""What is measured of an attention, against the same numbers computed plainly, and against theory."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit.records import Attention
from tests.probe.probing import Call, audit, randn

HEADS, LENGTH, WIDTH = 4, 8, 16  # few enough that every query is looked at
X = randn(2, LENGTH, HEADS * WIDTH)
CAUSAL = torch.ones(LENGTH, LENGTH).tril().bool()


def projections(std: float = 0.2) -> dict[str, nn.Linear]:
    torch.manual_seed(0)
    layers = {name: nn.Linear(HEADS * WIDTH, HEADS * WIDTH) for name in "qkvo"}
    for layer in layers.values():
        nn.init.normal_(layer.weight, std=std)
    return layers


def heads(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # type: ignore[no-any-return]


def by_hand(m: Call, x: Tensor, mask: Tensor | None) -> Tensor:
    scores = heads(m.q, x) @ heads(m.k, x).transpose(-1, -2) / WIDTH**0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return m.o((F.dropout(weights, 0.1) @ heads(m.v, x)).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def fused(m: Call, x: Tensor, **options: object) -> Tensor:
    y = F.scaled_dot_product_attention(heads(m.q, x), heads(m.k, x), heads(m.v, x), **options)  # type: ignore[arg-type]
    return m.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def seen(model: nn.Module, *inputs: Tensor) -> Attention:
    trace = audit(model, *inputs).trace
    assert trace is not None
    (attention,) = trace.attentions
    return attention


def expected(layers: dict[str, nn.Linear], allowed: Tensor, scale: float = WIDTH**-0.5) -> dict[str, float]:
    """The plain computation, row by row in double precision."""
    rows: list[list[float]] = []
    scores = heads(layers["q"], X) @ heads(layers["k"], X).transpose(-1, -2) * scale
    for matrix in scores.detach().double().flatten(0, 1):
        for row, mask in zip(matrix, allowed, strict=True):
            some = row[mask]
            if (n := len(some)) > 1:
                p = some.softmax(0)
                entropy = float(-(p * p.log()).sum()) / math.log(n)
                rows.append([n, float(some.var()), entropy, (float((p * p).sum()) - 1 / n) / (1 - 1 / n)])
    means = torch.tensor(rows).mean(0).tolist()
    return {"keys": means[0], "logit_std": means[1] ** 0.5, "entropy": means[2], "concentration": means[3]}


def assert_is(found: Attention, wanted: dict[str, float]) -> None:
    assert {key: getattr(found, key) for key in wanted} == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("std", [0.02, 0.2, 0.5])
def test_a_fused_attention_and_one_by_hand_are_one(std: float) -> None:
    layers = projections(std)
    wanted = expected(layers, torch.ones(LENGTH, LENGTH).bool())
    assert_is(seen(Call(fused, **layers), X), wanted)
    assert_is(seen(Call(lambda m, x: by_hand(m, x, None), **layers), X), wanted)


@pytest.mark.parametrize("blocked", [-math.inf, torch.finfo(torch.float32).min, -1e9, -1e4, -100.0])
def test_masked_keys_do_not_count(blocked: float) -> None:
    layers = projections()
    wanted = expected(layers, CAUSAL)
    mask = torch.zeros(LENGTH, LENGTH).masked_fill(~CAUSAL, blocked)
    assert_is(seen(Call(lambda m, x: by_hand(m, x, mask), **layers), X), wanted)
    assert_is(seen(Call(lambda m, x: fused(m, x, attn_mask=mask), **layers), X), wanted)


def test_causal_and_boolean_masks_and_a_scale_of_ones_own() -> None:
    layers = projections()
    assert_is(seen(Call(lambda m, x: fused(m, x, is_causal=True), **layers), X), expected(layers, CAUSAL))
    assert_is(seen(Call(lambda m, x: fused(m, x, attn_mask=CAUSAL), **layers), X), expected(layers, CAUSAL))
    everywhere = torch.ones(LENGTH, LENGTH).bool()
    assert_is(seen(Call(lambda m, x: fused(m, x, scale=1.0), **layers), X), expected(layers, everywhere, 1.0))


def test_heads_that_share_their_keys_are_those_of_repeated_keys() -> None:
    layers = projections() | {"k": nn.Linear(HEADS * WIDTH, 2 * WIDTH), "v": nn.Linear(HEADS * WIDTH, 2 * WIDTH)}

    def few(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x).unflatten(-1, (2, -1)).transpose(1, 2)  # type: ignore[no-any-return]

    def grouped(m: Call, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(heads(m.q, x), few(m.k, x), few(m.v, x), enable_gqa=True)

    def repeated(m: Call, x: Tensor) -> Tensor:
        k, v = (few(layer, x).repeat_interleave(2, 1) for layer in (m.k, m.v))
        return F.scaled_dot_product_attention(heads(m.q, x), k, v)

    try:
        shared = seen(Call(grouped, **layers), X)
    except Exception as error:  # torch 2.4 does not know the argument
        pytest.skip(str(error))
    assert shared.entropy == pytest.approx(seen(Call(repeated, **layers), X).entropy, rel=1e-5)


@pytest.mark.parametrize("need_weights", [False, True])
def test_torchs_own_module_has_a_quarter_of_the_score_variance(need_weights: bool) -> None:
    torch.manual_seed(0)
    mha = nn.MultiheadAttention(256, 4, batch_first=True)
    found = seen(Call(lambda m, x: m.mha(x, x, x, need_weights=need_weights)[0], mha=mha), randn(4, 64, 256))
    assert found.logit_std**2 == pytest.approx(0.25, rel=0.15)  # xavier over the stacked (3E, E) weight
    assert found.keys == 64


@pytest.mark.parametrize("std", [0.5, 1.0])
def test_concentration_of_gaussian_scores(std: float) -> None:
    """n * E[sum p^2] tends to exp(s^2)."""
    n = 512

    report = audit(Call(lambda m, x: (x * std).softmax(-1) @ x.transpose(-1, -2)), randn(8, n, n))
    assert report.trace is not None
    (found,) = report.trace.attentions
    assert n * (found.concentration * (1 - 1 / n) + 1 / n) == pytest.approx(math.exp(std**2), rel=0.06)
    assert found.entropy == pytest.approx(1 - std**2 / 2 / math.log(n), abs=0.005)


def test_queries_keys_and_values_are_found() -> None:
    for forward in (fused, lambda m, x: by_hand(m, x, None)):
        report = audit(Call(forward, **projections()), X)
        assert report.trace is not None
        (found,) = report.trace.attentions
        calls = {call.op: layer.fqn for layer in report.layers for call in layer.calls}

        def made_by(i: int | None, calls: dict[int, str] = calls, ops: tuple = report.trace.ops) -> str:  # type: ignore[type-arg]
            while i not in calls:
                (i,) = (j for j in ops[i].inputs if ops[j].moving)
            return calls[i]

        assert [made_by(i) for i in (found.query, found.key, found.value)] == ["q", "k", "v"]


def test_a_softmax_that_weighs_nothing_is_no_attention() -> None:
    report = audit(Call(lambda m, x: m.out(x.softmax(-1)), out=nn.Linear(64, 4)), randn(8, 64))
    assert report.trace is not None
    assert report.trace.attentions == ()


def test_one_key_is_no_choice() -> None:
    report = audit(Call(fused, **projections()), X[:, :1])
    assert report.trace is not None
    assert report.trace.attentions == ()


def test_the_spread_of_tokens() -> None:
    layers = projections()
    for layer in layers.values():
        nn.init.zeros_(layer.bias)
    independent = seen(Call(fused, **layers), X).token_spread
    assert independent == pytest.approx((1 - 1 / LENGTH) ** 0.5, abs=0.03)
    alike = X[:, :1] + 1e-3 * X
    for forward in (fused, lambda m, x: by_hand(m, x, None)):
        assert seen(Call(forward, **layers), alike).token_spread == pytest.approx(
            1e-3 * (1 - 1 / LENGTH) ** 0.5, rel=0.2
        )
