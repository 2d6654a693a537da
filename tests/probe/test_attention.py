"""Attention: the layers inside torch's own fused calls are seen one by one, and masks are no fault."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initaudit.records import Role
from tests.probe.probing import Call, audit, by_fqn, codes, randn

TOKENS = randn(4, 10, 32)


class SelfAttention(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor, **masks: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False, **masks)[0]


@pytest.mark.parametrize("training", [True, False])
def test_multihead_attention_has_a_packed_projection_and_an_output_projection(training: bool) -> None:
    layers = by_fqn(audit(SelfAttention().train(training), TOKENS))
    packed, out = (
        layers["attention.in_proj_weight"] if "attention.in_proj_weight" in layers else layers["attention"],
        layers["attention.out_proj"],
    )
    assert (packed.fan_in, packed.fan_out, packed.repeats) == (32, 32, 3)
    assert (out.fan_in, out.fan_out) == (32, 32)
    assert out.calls[0].gradient is not None
    assert packed.weight.grad_rms is not None
    assert packed.weight.grad_rms > 0


def test_multihead_attention_with_weights_and_sequence_first() -> None:
    model = Call(lambda m, x: m.mha(x, x, x)[0], mha=nn.MultiheadAttention(32, 4))
    assert {"mha.out_proj"} < set(by_fqn(audit(model, TOKENS)))


def test_multihead_attention_with_other_key_and_value_sizes_has_four_layers() -> None:
    model = Call(
        lambda m, q, k, v: m.mha(q, k, v)[0], mha=nn.MultiheadAttention(32, 4, kdim=24, vdim=16, batch_first=True)
    )
    layers = by_fqn(audit(model, TOKENS, randn(4, 10, 24), randn(4, 10, 16)))
    fans = {fqn.rpartition("mha.")[2]: (layer.fan_in, layer.fan_out) for fqn, layer in layers.items()}
    assert fans == {
        "q_proj_weight": (32, 32),
        "k_proj_weight": (24, 32),
        "v_proj_weight": (16, 32),
        "out_proj": (32, 32),
    }


def test_bias_kv_and_zero_attention_run() -> None:
    report = audit(SelfAttention(add_bias_kv=True, add_zero_attn=True), TOKENS)
    assert report.verdict == "pass"


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_masks_of_minus_infinity_are_no_fault(kind: str) -> None:
    mask = torch.ones(10, 10).triu(1).bool()
    if kind == "float":
        mask = torch.zeros(10, 10).masked_fill(mask, -torch.inf)
    report = audit(
        Call(
            lambda m, x: m.attention(x, x, x, attn_mask=mask)[0],
            attention=nn.MultiheadAttention(32, 4, batch_first=True),
        ),
        TOKENS,
    )
    assert report.verdict == "pass"
    assert "IA106" not in codes(report)


def test_a_mask_written_by_hand_is_no_fault() -> None:
    def attend(m: Call, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).chunk(3, dim=-1)
        scores = q @ k.transpose(-1, -2) / 32**0.5
        scores = scores.masked_fill(torch.ones(10, 10).triu(1).bool(), float("-inf"))
        return m.out(scores.softmax(-1) @ v)

    report = audit(Call(attend, qkv=nn.Linear(32, 96), out=nn.Linear(32, 32)), TOKENS)
    assert report.verdict == "pass"
    assert not codes(report, "error", "warning")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_shows_every_layer_in_eval_too(training: bool, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).train(training)
    layers = by_fqn(audit(encoder, TOKENS))
    for i in range(3):
        assert layers[f"layers.{i}.self_attn.out_proj"].calls
        found = layers[f"layers.{i}.linear1"].nonlinearity
        assert found is not None
        assert found.name == "gelu"
        assert layers[f"layers.{i}.linear2"].nonlinearity is None


def test_transformer_encoder_with_padding_mask_in_eval() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()
    padding = torch.zeros(4, 10, dtype=torch.bool)
    padding[1, 7:] = True
    report = audit(Call(lambda m, x: m.encoder(x, src_key_padding_mask=padding), encoder=encoder), TOKENS)
    assert "encoder.layers.1.linear2" in by_fqn(report)
    assert report.verdict == "pass"


def test_whole_transformer() -> None:
    model = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
    report = audit(model, TOKENS, randn(4, 7, 32, seed=1))
    layers = by_fqn(report)
    assert "decoder.layers.1.multihead_attn.out_proj" in layers
    assert report.verdict == "pass"
    assert report.trace is not None
    assert not report.trace.uncalled


def test_scaled_dot_product_attention_joins_three_layers() -> None:
    model = Call(
        lambda m, x: m.o(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x), is_causal=True)),
        q=nn.Linear(32, 32),
        k=nn.Linear(32, 32),
        v=nn.Linear(32, 32),
        o=nn.Linear(32, 32),
    )
    report = audit(model, TOKENS)
    assert set(by_fqn(report)) == {"q", "k", "v", "o"}
    assert report.trace is not None
    attention = [op for op in report.trace.ops if op.name == "scaled_dot_product_attention"]
    assert [op.role for op in attention] == [Role.ATTENTION]
    assert len(attention[0].inputs) == 3
