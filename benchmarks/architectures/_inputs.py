"""Random inputs: one maker per kind of model, each from random numbers and the config to keyword arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BATCH, LENGTH, VOCABULARY = 4, 32, 128
SPECIAL = 5  # ids below it are padding, begin, end and mask in the configs of this collection
IMAGE_TOKEN = 3  # stands for a patch in the text of models that read images


class Draw:
    """Random tensors from a generator of their own, so that inputs do not depend on how weights are drawn."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(1000 + seed)

    def tokens(self, length: int = LENGTH) -> Tensor:
        """Ids of shape (batch, length) without special ones."""
        return torch.randint(SPECIAL, VOCABULARY, (BATCH, length), generator=self._generator)

    def noise(self, *shape: int) -> Tensor:
        """Standard normal numbers of shape (batch, *shape)."""
        return torch.randn(BATCH, *shape, generator=self._generator)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) of shape (batch, *shape)."""
        return torch.rand(BATCH, *shape, generator=self._generator)

    def image(self, side: int = 64) -> Tensor:
        """Normalized images of shape (batch, 3, side, side)."""
        return self.noise(3, side, side)


def tokens(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_ids": draw.tokens()}


def masked_tokens(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_ids": draw.tokens(), "attention_mask": _all_seen(LENGTH)}


def long_tokens(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_ids": draw.tokens(128)}


def short_tokens(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_ids": draw.tokens(8)}


def next_tokens(draw: Draw, config: Any) -> dict[str, Any]:
    """Language modelling: the labels are the input, which the model shifts by one."""
    ids = draw.tokens()
    return {"input_ids": ids, "labels": ids}


def translation(draw: Draw, config: Any) -> dict[str, Any]:
    """Source and labels, from which the model makes the decoder's input."""
    return {"input_ids": draw.tokens(), "labels": draw.tokens(16)}


def two_texts(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_ids": draw.tokens(), "decoder_input_ids": draw.tokens(16)}


def image32(draw: Draw, config: Any) -> dict[str, Any]:
    return {"pixel_values": draw.image(32)}


def image56(draw: Draw, config: Any) -> dict[str, Any]:
    return {"pixel_values": draw.image(56)}


def image64(draw: Draw, config: Any) -> dict[str, Any]:
    return {"pixel_values": draw.image()}


def image128(draw: Draw, config: Any) -> dict[str, Any]:
    return {"pixel_values": draw.image(128)}


def clicked_image(draw: Draw, config: Any) -> dict[str, Any]:
    """An image and one point on it per sample."""
    return {"pixel_values": draw.image(), "input_points": 60 * draw.uniform(1, 1, 2)}


def video(draw: Draw, config: Any) -> dict[str, Any]:
    return {"pixel_values": draw.noise(4, 3, 32, 32)}


def video_frames(draw: Draw, config: Any) -> dict[str, Any]:
    return {"pixel_values_videos": draw.noise(4, 3, 32, 32)}


def image_and_text(draw: Draw, config: Any) -> dict[str, Any]:
    return {**masked_tokens(draw, config), **image64(draw, config)}


def captioned_image(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_ids": draw.tokens(), "pixel_values": draw.image()}


def image_in_text(draw: Draw, config: Any) -> dict[str, Any]:
    """Text that begins with one placeholder per patch of a 4 × 4 grid."""
    ids = torch.cat([torch.full((BATCH, 16), IMAGE_TOKEN), draw.tokens()], 1)
    return {"input_ids": ids, "pixel_values": draw.image(), "attention_mask": _all_seen(16 + LENGTH)}


def typed_image_in_text(draw: Draw, config: Any) -> dict[str, Any]:
    given = image_in_text(draw, config)
    return {**given, "token_type_ids": torch.zeros_like(given["input_ids"])}


def image_to_text(draw: Draw, config: Any) -> dict[str, Any]:
    return {"pixel_values": draw.image(), "decoder_input_ids": draw.tokens(8)}


def regions_and_text(draw: Draw, config: Any) -> dict[str, Any]:
    """Text and the features of four image regions, in VisualBERT's terms."""
    return {
        **masked_tokens(draw, config),
        "visual_embeds": draw.noise(4, config.visual_embedding_dim),
        "visual_attention_mask": _all_seen(4),
        "visual_token_type_ids": _all_seen(4),
    }


def boxes_and_text(draw: Draw, config: Any) -> dict[str, Any]:
    """Text, and features and boxes of four image regions, in LXMERT's terms."""
    features = draw.noise(4, config.visual_feat_dim)
    return {"input_ids": draw.tokens(), "visual_feats": features, "visual_pos": draw.uniform(4, 4)}


def waveform(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_values": draw.noise(4000)}


def channel_waveform(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_values": draw.noise(1, 1600)}


def waveform_to_text(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_values": draw.noise(4000), "decoder_input_ids": draw.tokens(8)}


def filter_banks(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_features": draw.noise(40, config.feature_projection_input_dim)}


def spectrogram(draw: Draw, config: Any) -> dict[str, Any]:
    return {"input_values": draw.noise(config.max_length, config.num_mel_bins)}


def spectrogram_to_text(draw: Draw, config: Any) -> dict[str, Any]:
    """Mel bins first, as Whisper reads them."""
    return {"input_features": draw.noise(config.num_mel_bins, 64), "decoder_input_ids": draw.tokens(8)}


def frames_to_text(draw: Draw, config: Any) -> dict[str, Any]:
    """Time first, as Speech2Text reads them."""
    return {"input_features": draw.noise(64, config.input_feat_per_channel), "decoder_input_ids": draw.tokens(8)}


def sound_and_text(draw: Draw, config: Any) -> dict[str, Any]:
    return {**masked_tokens(draw, config), "input_features": draw.noise(1, 250, 16)}


def text_to_speech(draw: Draw, config: Any) -> dict[str, Any]:
    return {
        "input_ids": draw.tokens(),
        "decoder_input_values": draw.noise(16, config.num_mel_bins),
        "speaker_embeddings": draw.noise(config.speaker_embedding_dim),
    }


def lagged_series(draw: Draw, config: Any) -> dict[str, Any]:
    """A univariate series long enough for the longest lag, with the features of its times."""
    past = config.context_length + max(config.lags_sequence)
    return {
        "past_values": draw.noise(past),
        "past_time_features": draw.noise(past, config.num_time_features),
        "past_observed_mask": torch.ones(BATCH, past),
        "future_values": draw.noise(config.prediction_length),
        "future_time_features": draw.noise(config.prediction_length, config.num_time_features),
    }


def channel_series(draw: Draw, config: Any) -> dict[str, Any]:
    channels = config.num_input_channels
    return {
        "past_values": draw.noise(config.context_length, channels),
        "future_values": draw.noise(config.prediction_length, channels),
    }


def list_of_series(draw: Draw, config: Any) -> dict[str, Any]:
    return {"past_values": list(draw.noise(config.context_length)), "freq": [0] * BATCH}


def trajectory(draw: Draw, config: Any) -> dict[str, Any]:
    """Eight steps of states, actions and rewards."""
    return {
        "states": draw.noise(8, config.state_dim),
        "actions": draw.noise(8, config.act_dim),
        "rewards": draw.noise(8, 1),
        "returns_to_go": draw.noise(8, 1),
        "timesteps": torch.arange(8).repeat(BATCH, 1),
        "attention_mask": _all_seen(8),
    }


def _all_seen(length: int) -> Tensor:
    return torch.ones(BATCH, length, dtype=torch.long)
