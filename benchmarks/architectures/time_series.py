"""Series, trajectories and byte latents: what is neither text, image nor sound."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture
from architectures._inputs import LENGTH, VOCABULARY

_LAGGED: dict[str, object] = {
    "prediction_length": 8,
    "context_length": 16,
    "lags_sequence": [1, 2, 3],
    "num_time_features": 2,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
_PATCHED: dict[str, object] = {
    "num_input_channels": 2,
    "context_length": 32,
    "patch_length": 8,
    "patch_stride": 8,
    "prediction_length": 8,
}


def forecaster(prefix: str) -> Architecture:
    """An encoder and a decoder over lagged values."""
    return Architecture(f"{prefix}Config", f"{prefix}ForPrediction", _LAGGED, inputs.lagged_series)


ARCHITECTURES = {
    "autoformer": forecaster("Autoformer"),
    "decision_transformer": Architecture(
        "DecisionTransformerConfig",
        "DecisionTransformerModel",
        {
            "state_dim": 7,
            "act_dim": 3,
            "hidden_size": 32,
            "n_layer": 2,
            "n_head": 2,
            "n_positions": 64,
            "max_ep_len": 64,
        },
        inputs.trajectory,
    ),
    "informer": forecaster("Informer"),
    "patchtsmixer": Architecture(
        "PatchTSMixerConfig",
        "PatchTSMixerForPrediction",
        {**_PATCHED, "d_model": 16, "num_layers": 2},
        inputs.channel_series,
    ),
    "patchtst": Architecture(
        "PatchTSTConfig",
        "PatchTSTForPrediction",
        {**_PATCHED, "d_model": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64},
        inputs.channel_series,
    ),
    "perceiver": Architecture(
        "PerceiverConfig",
        "PerceiverForMaskedLM",
        {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": LENGTH,
            "num_latents": 16,
            "d_latents": 32,
            "d_model": 32,
            "num_blocks": 1,
            "num_self_attends_per_block": 1,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
            "qk_channels": 32,
            "v_channels": 32,
        },
        inputs.masked_tokens,
    ),
    "time_series_transformer": forecaster("TimeSeriesTransformer"),
    "timesfm": Architecture(
        "TimesFmConfig",
        "TimesFmModelForPrediction",
        {
            "patch_length": 8,
            "context_length": 32,
            "horizon_length": 8,
            "hidden_size": 64,
            "intermediate_size": 64,
            "head_dim": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        inputs.list_of_series,
    ),
}
