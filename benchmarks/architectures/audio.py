"""Waveforms and spectrograms in, or speech out."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture, Part
from architectures._inputs import VOCABULARY
from architectures.seq2seq import BART
from architectures.text_encoders import ENCODER

_FRAMES: dict[str, object] = {
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}
_WAVES: dict[str, object] = {
    **_FRAMES,
    "conv_dim": [32, 32, 32],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
}


def wave_encoder(prefix: str, **overrides: object) -> Architecture:
    """An encoder of waveforms whose config speaks wav2vec 2.0's language."""
    return Architecture(f"{prefix}Config", f"{prefix}Model", {**_WAVES, **overrides}, inputs.waveform)


ARCHITECTURES = {
    "audio-spectrogram-transformer": Architecture(
        "ASTConfig",
        "ASTModel",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "max_length": 64,
            "num_mel_bins": 32,
        },
        inputs.spectrogram,
    ),
    "clap": Architecture(
        "ClapConfig",
        "ClapModel",
        {
            "projection_dim": 32,
            "text_config": Part("ClapTextConfig", {**ENCODER, "projection_dim": 32}),
            "audio_config": Part(
                "ClapAudioConfig",
                {
                    "spec_size": 64,
                    "num_mel_bins": 16,
                    "window_size": 4,
                    "patch_size": 4,
                    "patch_stride": [4, 4],
                    "hidden_size": 16,
                    "patch_embeds_hidden_size": 8,
                    "depths": [1, 1],
                    "num_attention_heads": [2, 2],
                    "projection_dim": 32,
                    "aff_block_r": 1,
                    "enable_fusion": False,
                },
            ),
        },
        inputs.sound_and_text,
    ),
    "data2vec-audio": wave_encoder("Data2VecAudio", conv_pos_kernel_size=3, num_conv_pos_embeddings=2),
    "encodec": Architecture(
        "EncodecConfig",
        "EncodecModel",
        {
            "num_filters": 4,
            "hidden_size": 16,
            "codebook_size": 32,
            "codebook_dim": 16,
            "upsampling_ratios": [4, 4],
            "num_lstm_layers": 1,
        },
        inputs.channel_waveform,
    ),
    "fastspeech2_conformer": Architecture(
        "FastSpeech2ConformerConfig",
        "FastSpeech2ConformerModel",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_mel_bins": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_num_attention_heads": 2,
            "decoder_num_attention_heads": 2,
            "encoder_linear_units": 64,
            "decoder_linear_units": 64,
            "speech_decoder_postnet_units": 16,
            "speech_decoder_postnet_layers": 2,
        },
        inputs.short_tokens,
        trains=False,  # it would ask for pitch, energy and durations
    ),
    "hubert": wave_encoder("Hubert"),
    "mimi": Architecture(
        "MimiConfig",
        "MimiModel",
        {
            "num_filters": 4,
            "hidden_size": 32,
            "codebook_size": 32,
            "codebook_dim": 16,
            "vector_quantization_hidden_dimension": 16,
            "upsampling_ratios": [4, 4],
            "upsample_groups": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "intermediate_size": 64,
            "num_quantizers": 4,
        },
        inputs.channel_waveform,
    ),
    "moonshine": Architecture(
        "MoonshineConfig",
        "MoonshineForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 128,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 1,
        },
        inputs.waveform_to_text,
    ),
    "sew": wave_encoder("SEW", squeeze_factor=2),
    "sew-d": wave_encoder("SEWD", squeeze_factor=2, position_buckets=16, max_position_embeddings=64),
    "speech_to_text": Architecture(
        "Speech2TextConfig",
        "Speech2TextForConditionalGeneration",
        {
            **BART,
            "input_feat_per_channel": 16,
            "max_source_positions": 64,
            "max_target_positions": 64,
            "num_conv_layers": 2,
            "conv_channels": 32,
        },
        inputs.frames_to_text,
    ),
    "speecht5": Architecture(
        "SpeechT5Config",
        "SpeechT5ForTextToSpeech",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "encoder_layerdrop": 0.0,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 128,
            "decoder_layerdrop": 0.0,
            "num_mel_bins": 16,
            "speech_decoder_prenet_units": 32,
            "speech_decoder_postnet_units": 32,
            "speaker_embedding_dim": 16,
        },
        inputs.text_to_speech,
    ),
    "unispeech": wave_encoder("UniSpeech"),
    "unispeech-sat": wave_encoder("UniSpeechSat"),
    "vits": Architecture(
        "VitsConfig",
        "VitsModel",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "ffn_dim": 64,
            "flow_size": 32,
            "spectrogram_bins": 9,
            "upsample_initial_channel": 32,
            "wavenet_dilation_rate": 1,
            "posterior_encoder_num_wavenet_layers": 2,
            "prior_encoder_num_flows": 2,
            "prior_encoder_num_wavenet_layers": 2,
        },
        inputs.short_tokens,
    ),
    "wav2vec2": wave_encoder("Wav2Vec2"),
    "wav2vec2-bert": Architecture(
        "Wav2Vec2BertConfig",
        "Wav2Vec2BertModel",
        {**_FRAMES, "feature_projection_input_dim": 16},
        inputs.filter_banks,
    ),
    "wav2vec2-conformer": wave_encoder("Wav2Vec2Conformer"),
    "wavlm": wave_encoder("WavLM"),
    "whisper": Architecture(
        "WhisperConfig",
        "WhisperForConditionalGeneration",
        {**BART, "num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 32},
        inputs.spectrogram_to_text,
    ),
}
