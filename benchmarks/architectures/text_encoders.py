"""BERT and its kin: text in, one vector per token out."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture
from architectures._inputs import VOCABULARY

ENCODER: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
}
_BY_CONTENT_AND_POSITION = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_XLM = {"vocab_size": VOCABULARY, "emb_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}


def encoder(prefix: str, **overrides: object) -> Architecture:
    """An encoder whose config speaks BERT's language."""
    return Architecture(f"{prefix}Config", f"{prefix}Model", {**ENCODER, **overrides}, inputs.masked_tokens)


ARCHITECTURES = {
    "albert": encoder("Albert", embedding_size=32),
    "bert": encoder("Bert"),
    "big_bird": encoder("BigBird", attention_type="original_full"),
    "camembert": encoder("Camembert"),
    "canine": Architecture(
        "CanineConfig",
        "CanineModel",
        {**ENCODER, "max_position_embeddings": 256, "num_hash_buckets": 256, "local_transformer_stride": 16},
        inputs.long_tokens,
    ),
    "convbert": encoder("ConvBert", embedding_size=32),
    "data2vec-text": encoder("Data2VecText"),
    "deberta": encoder("Deberta", **_BY_CONTENT_AND_POSITION),
    "deberta-v2": encoder("DebertaV2", **_BY_CONTENT_AND_POSITION, position_buckets=16, share_att_key=True),
    "distilbert": Architecture(
        "DistilBertConfig",
        "DistilBertModel",
        {
            "vocab_size": VOCABULARY,
            "dim": 64,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 128,
            "max_position_embeddings": 64,
        },
        inputs.masked_tokens,
    ),
    "electra": encoder("Electra", embedding_size=32),
    "ernie": encoder("Ernie"),
    "esm": encoder("Esm", mask_token_id=4),
    "eurobert": encoder("EuroBert", num_key_value_heads=4),
    "flaubert": Architecture("FlaubertConfig", "FlaubertModel", _XLM, inputs.masked_tokens),
    "fnet": encoder("FNet"),
    "funnel": Architecture(
        "FunnelConfig",
        "FunnelModel",
        {
            "vocab_size": VOCABULARY,
            "block_sizes": [1, 1],
            "d_model": 64,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 128,
        },
        inputs.masked_tokens,
    ),
    "ibert": encoder("IBert"),
    "layoutlm": encoder("LayoutLM"),
    "longformer": encoder("Longformer", attention_window=8),
    "luke": encoder("Luke", entity_vocab_size=16),
    "megatron-bert": encoder("MegatronBert"),
    "mobilebert": encoder("MobileBert", embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    "modernbert": encoder("ModernBert", global_attn_every_n_layers=2, local_attention=16),
    "mpnet": encoder("MPNet"),
    "mra": encoder("Mra"),
    "nystromformer": encoder("Nystromformer", num_landmarks=8, segment_means_seq_len=32),
    "rembert": encoder("RemBert", input_embedding_size=32, output_embedding_size=32),
    "roberta": encoder("Roberta"),
    "roformer": encoder("RoFormer"),
    "squeezebert": encoder("SqueezeBert", embedding_size=64),
    "tapas": encoder("Tapas"),
    "xlm": Architecture("XLMConfig", "XLMModel", _XLM, inputs.masked_tokens),
    "xlm-roberta": encoder("XLMRoberta"),
    "xlnet": Architecture(
        "XLNetConfig",
        "XLNetModel",
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128},
        inputs.tokens,
    ),
    "xmod": encoder("Xmod", default_language="en_XX", languages=["en_XX"]),
    "yoso": encoder("Yoso"),
}
