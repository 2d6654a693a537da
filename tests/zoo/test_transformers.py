"""Architectures of transformers, small, as their authors initialize them: healthy, and no warning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initaudit

transformers: Any = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers says of its own deprecations

TEXT = {"vocab_size": 99, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def ids(batch: int = 4, length: int = 12, vocabulary: int = 99) -> Tensor:
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(2))


def make(
    config: str, model: str, inputs: dict[str, Tensor], **options: Any
) -> Callable[[], tuple[nn.Module, dict[str, Tensor]]]:
    def build() -> tuple[nn.Module, dict[str, Tensor]]:
        torch.manual_seed(0)
        return getattr(transformers, model)(getattr(transformers, config)(**options)), inputs

    return build


def clip() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=TEXT | {"max_position_embeddings": 16}, vision_config=VISION, projection_dim=32
    )
    return transformers.CLIPModel(config), {"input_ids": ids(), "pixel_values": noise(4, 3, 32, 32)}


def detr() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, backbone=None, use_pretrained_backbone=False, num_queries=6,
        d_model=256, encoder_layers=2, decoder_layers=2,  # the width that its weights of std 0.02 are meant for
        encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config), {"pixel_values": noise(2, 3, 64, 64)}


TOKENS = {"input_ids": ids()}
PAIR = {"input_ids": ids(), "decoder_input_ids": ids(length=7)}
IMAGES = {"pixel_values": noise(4, 3, 32, 32)}
GROUPED = {"num_key_value_heads": 2}

ZOO: dict[str, Callable[[], tuple[nn.Module, dict[str, Tensor]]]] = {
    "gpt2": make(
        "GPT2Config", "GPT2LMHeadModel", TOKENS, vocab_size=99, n_embd=48, n_layer=3, n_head=4, n_positions=32
    ),
    "bert": make("BertConfig", "BertForMaskedLM", TOKENS, **TEXT),
    "roberta": make("RobertaConfig", "RobertaForSequenceClassification", TOKENS, **TEXT),
    "albert": make("AlbertConfig", "AlbertModel", TOKENS, **TEXT, embedding_size=24),
    "electra": make("ElectraConfig", "ElectraForPreTraining", TOKENS, **TEXT, embedding_size=24),
    "distilbert": make(
        "DistilBertConfig", "DistilBertForMaskedLM", TOKENS, vocab_size=99, dim=48, n_layers=2, n_heads=4, hidden_dim=96
    ),
    "deberta": make(
        "DebertaV2Config", "DebertaV2ForMaskedLM", TOKENS, **TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"]
    ),
    "llama": make("LlamaConfig", "LlamaForCausalLM", TOKENS, **TEXT, **GROUPED),
    "mistral": make("MistralConfig", "MistralForCausalLM", TOKENS, **TEXT, **GROUPED),
    "mixtral": make("MixtralConfig", "MixtralForCausalLM", TOKENS, **TEXT, **GROUPED, num_local_experts=4),
    "qwen2-moe": make(
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        TOKENS,
        **TEXT,
        **GROUPED,
        num_experts=4,
        moe_intermediate_size=48,
        shared_expert_intermediate_size=48,
    ),
    "gemma": make("GemmaConfig", "GemmaForCausalLM", TOKENS, **TEXT, **GROUPED, head_dim=12),
    "phi": make("PhiConfig", "PhiForCausalLM", TOKENS, **TEXT),
    "bloom": make("BloomConfig", "BloomForCausalLM", TOKENS, vocab_size=99, hidden_size=48, n_layer=2, n_head=4),
    "opt": make(
        "OPTConfig",
        "OPTForCausalLM",
        TOKENS,
        vocab_size=99,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=96,
        max_position_embeddings=32,
        word_embed_proj_dim=48,
    ),
    "mamba": make(
        "MambaConfig", "MambaForCausalLM", TOKENS, vocab_size=99, hidden_size=48, num_hidden_layers=2, state_size=8
    ),
    "t5": make(
        "T5Config",
        "T5ForConditionalGeneration",
        PAIR,
        vocab_size=99,
        d_model=48,
        d_ff=96,
        d_kv=12,
        num_layers=2,
        num_heads=4,
    ),
    "bart": make(
        "BartConfig",
        "BartForConditionalGeneration",
        PAIR,
        vocab_size=99,
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_position_embeddings=32,
    ),
    "whisper": make(
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {"input_features": noise(2, 16, 40), "decoder_input_ids": ids(2, 7)},
        vocab_size=99,
        num_mel_bins=16,
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        max_source_positions=20,
        max_target_positions=16,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    "wav2vec2": make(
        "Wav2Vec2Config",
        "Wav2Vec2Model",
        {"input_values": noise(2, 1600)},
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,
    ),
    "vit": make("ViTConfig", "ViTForImageClassification", IMAGES, **VISION),
    "deit": make("DeiTConfig", "DeiTModel", IMAGES, **VISION),
    "dinov2": make(
        "Dinov2Config",
        "Dinov2Model",
        IMAGES,
        image_size=32,
        patch_size=8,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    "swin": make(
        "SwinConfig",
        "SwinForImageClassification",
        IMAGES,
        image_size=32,
        patch_size=2,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "resnet": make(
        "ResNetConfig", "ResNetForImageClassification", IMAGES, embedding_size=16, hidden_sizes=[32, 64], depths=[2, 2]
    ),
    "convnext": make(
        "ConvNextConfig",
        "ConvNextForImageClassification",
        IMAGES,
        hidden_sizes=[16, 32],
        depths=[2, 2],
        num_stages=2,
        patch_size=2,
    ),
    "regnet": make(
        "RegNetConfig",
        "RegNetForImageClassification",
        IMAGES,
        embedding_size=16,
        hidden_sizes=[16, 32],
        depths=[1, 2],
        groups_width=8,
    ),
    "segformer": make(
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {"pixel_values": noise(2, 3, 64, 64)},
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        decoder_hidden_size=32,
    ),
    "clip": clip,
    "detr": detr,
}


@pytest.mark.parametrize("name", ZOO)
def test_default_initialization_raises_no_alarm(name: str) -> None:
    model, inputs = ZOO[name]()
    report = initaudit.audit(model, inputs)
    alarms = [(f.severity.value, f.code, f.fqn, f.message) for f in report.findings if f.severity.value != "note"]
    assert not alarms
    assert report.verdict == "pass"
    used = {layer.weight.fqn for layer in report.layers}
    matrices = {p.fqn for p in report.trace.parameters if len(p.shape) >= 2}  # type: ignore[union-attr]
    assert len(used & matrices) >= 0.5 * len(matrices)


def test_the_alarm_is_not_merely_off() -> None:
    """The same GPT-2 with one layer drawn too large is not let pass."""
    model, inputs = ZOO["gpt2"]()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.fill_(0.3)
    report = initaudit.audit(model, inputs)
    assert any(f.fqn == "transformer.h.1.mlp.c_fc" and f.severity.value != "note" for f in report.findings)
