"""Text to text with an encoder and a decoder."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture
from architectures._inputs import VOCABULARY

_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
BART: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "max_position_embeddings": 64,
    "forced_eos_token_id": 2,
    **_ENDS,
}
_T5: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}


def like_bart(prefix: str, model: str = "ForConditionalGeneration", **overrides: object) -> Architecture:
    """A model whose config speaks BART's language."""
    return Architecture(f"{prefix}Config", prefix + model, {**BART, **overrides}, inputs.translation)


def like_t5(prefix: str, **overrides: object) -> Architecture:
    """A model whose config speaks T5's language."""
    return Architecture(
        f"{prefix}Config", f"{prefix}ForConditionalGeneration", {**_T5, **overrides}, inputs.translation
    )


ARCHITECTURES = {
    "bart": like_bart("Bart"),
    "bigbird_pegasus": like_bart("BigBirdPegasus", attention_type="original_full"),
    "blenderbot": like_bart("Blenderbot"),
    "led": like_bart("LED", max_encoder_position_embeddings=64, max_decoder_position_embeddings=64, attention_window=8),
    "longt5": like_t5("LongT5", local_radius=8),
    "m2m_100": like_bart("M2M100"),
    "marian": like_bart("Marian", "MTModel"),
    "mbart": like_bart("MBart"),
    "mt5": like_t5("MT5"),
    "mvp": like_bart("Mvp"),
    "pegasus": like_bart("Pegasus"),
    "plbart": like_bart("PLBart"),
    "prophetnet": Architecture(
        "ProphetNetConfig",
        "ProphetNetForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_position_embeddings": 64,
            **_ENDS,
        },
        inputs.translation,
    ),
    "switch_transformers": Architecture(
        "SwitchTransformersConfig",
        "SwitchTransformersForConditionalGeneration",
        {**_T5, "num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
        inputs.two_texts,
    ),
    "t5": like_t5("T5"),
    "umt5": like_t5("UMT5"),
}
