"""Inputs of transformers models, from their own config and the signature of their ``forward``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from initaudit.target.templates import BATCH, Fill, Template, images

_BATCH_SIZE = 8
_FEW = 4  # samples for a model that fills the machine: of Llama 7B in bfloat16, 256 tokens take a fifth of its weights
_LARGE = 1 << 30  # parameters from which a model counts as such
_LENGTHS = (32, 64, 16, 128)


def transformers_model(model: nn.Module) -> nn.Module | None:
    """The first transformers ``PreTrainedModel`` among the modules, the model itself included."""
    for module in model.modules():
        for cls in type(module).__mro__:
            if cls.__name__ == "PreTrainedModel" and cls.__module__.partition(".")[0] == "transformers":
                return module
    return None


def transformers_ladder(model: nn.Module, seed: int) -> Iterator[dict[str, Any]]:
    """Keyword arguments to try: every modality, then the main input alone, per length; last the library's own."""
    config: Any = model.config
    names = list(inspect.signature(model.forward).parameters)
    main = getattr(model, "main_input_name", "input_ids")
    lengths = [n for n in _LENGTHS if n <= _longest(config)] or [max(1, min(_LENGTHS[0], _longest(config)))]
    batch = _BATCH_SIZE if sum(p.numel() for p in model.parameters()) <= _LARGE else _FEW
    seen: set[tuple[Any, ...]] = set()
    for length in lengths[:3]:
        for only_main in (False, True):
            templates = _templates(model, config, names, length)
            if only_main:
                kept = {main, *(n for n in templates if n.startswith("decoder_"))}
                templates = {name: t for name, t in templates.items() if name in kept}
            key = tuple((name, t.shape) for name, t in templates.items())
            if not templates or key in seen:
                continue
            seen.add(key)
            generator = torch.Generator().manual_seed(seed)
            yield {name: template.draw(generator, batch) for name, template in templates.items()}
    if (placeholder := _placeholder(model)) is not None:
        yield placeholder


def _templates(model: Any, config: Any, names: list[str], length: int) -> dict[str, Template]:
    found: dict[str, Template] = {}
    if "input_ids" in names:
        found["input_ids"] = _token_template(model, config, length)
    if "pixel_values" in names:
        found["pixel_values"] = _image(config)
    if "pixel_values_videos" in names and "input_ids" not in names:
        found["pixel_values_videos"] = _video(config)
    if "input_features" in names:
        found["input_features"] = _features(config)
    if "input_values" in names:
        found["input_values"] = _waveform(config)
    found.update((name, t) for name, t in _series(config).items() if name in names)
    if "decoder_input_ids" in names and getattr(config, "is_encoder_decoder", False):
        found["decoder_input_ids"] = _token_template(model, config, min(length, 16))
    return found


def _sub(config: Any, *kinds: str) -> Any:
    """The part of a nested config for one modality, else the config itself."""
    parts = (getattr(config, name, None) for kind in kinds for name in (f"{kind}_config", kind))
    return next((part for part in parts if hasattr(part, "to_dict")), config)


def _longest(config: Any) -> int:
    text = _sub(config, "text")
    for name in ("max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len", "context_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return max(value - 2, 1)  # some number positions from the padding id on
    return _LENGTHS[-1]


def _token_template(model: Any, config: Any, length: int) -> Template:
    text = _sub(config, "text", "decoder")
    vocabulary = getattr(text, "vocab_size", None)
    if not isinstance(vocabulary, int):
        vocabulary = next((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), 2)
    special = {
        token
        for part in (config, text)
        for name, value in getattr(part, "__dict__", {}).items()  # nested configs may be plain dicts
        if name.endswith(("token_id", "token_index"))
        for token in (value if isinstance(value, list) else [value])
        if isinstance(token, int)
    }
    return Template((BATCH, length), _BATCH_SIZE, Fill.TOKENS, 0, vocabulary, tuple(sorted(special)))


def _image(config: Any) -> Template:
    vision = _sub(config, "vision", "image", "encoder")
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    size = getattr(vision, "image_size", None) or 224
    if isinstance(size, dict):
        size = (size.get("height", 224), size.get("width", 224))
    sizes = tuple(size) if isinstance(size, list | tuple) else (size, size)
    frames = getattr(vision, "num_frames", None)
    if isinstance(frames, int):
        return Template((BATCH, frames, channels, *sizes))
    return images(channels, *sizes, batch=_BATCH_SIZE)


def _video(config: Any) -> Template:
    frames, size = (getattr(config, name, default) for name, default in (("frames_per_clip", 16), ("crop_size", 224)))
    return Template((BATCH, frames, getattr(config, "in_chans", 3), size, size))


def _features(config: Any) -> Template:
    """Log-mel spectrograms: ``[batch, bins, frames]`` for Whisper's kind, ``[batch, frames, bins]`` for the others."""
    audio = _sub(config, "audio", "speech")
    bins = getattr(audio, "num_mel_bins", None)
    if isinstance(bins, int) and isinstance(frames := getattr(audio, "max_source_positions", None), int):
        if hasattr(audio, "input_feat_per_channel"):
            return Template((BATCH, 64, audio.input_feat_per_channel))
        return Template((BATCH, bins, 2 * frames))
    width = (
        getattr(audio, "input_feat_per_channel", None)
        or getattr(audio, "feature_projection_input_dim", None)
        or getattr(audio, "input_dim", None)
        or bins
        or 80
    )
    return Template((BATCH, 64, width))


def _waveform(config: Any) -> Template:
    audio = _sub(config, "audio")
    bins, frames = getattr(audio, "num_mel_bins", None), getattr(audio, "max_length", None)
    if isinstance(bins, int) and isinstance(frames, int):  # spectrogram transformers
        return Template((BATCH, frames, bins))
    if isinstance(channels := getattr(audio, "audio_channels", None), int):  # codecs
        return Template((BATCH, channels, 4000))
    return Template((BATCH, 4000))


def _series(config: Any) -> dict[str, Template]:
    """Time series: values of the past, and of the future where a decoder wants them."""
    context = getattr(config, "context_length", None)
    if not isinstance(context, int):
        return {}
    lags = getattr(config, "lags_sequence", None)
    if lags is None:
        return {"past_values": Template((BATCH, context, getattr(config, "num_input_channels", 1)))}
    past, features, future = context + max(lags), config.num_time_features, config.prediction_length
    return {
        "past_values": Template((BATCH, past)),
        "past_time_features": Template((BATCH, past, features)),
        "past_observed_mask": Template((BATCH, past), fill=Fill.ONES),
        "future_values": Template((BATCH, future)),
        "future_time_features": Template((BATCH, future, features)),
    }


def _placeholder(model: nn.Module) -> dict[str, Any] | None:
    try:
        values = model.dummy_inputs
    except Exception:  # a property that some architectures leave broken
        return None
    return values if isinstance(values, dict) and all(isinstance(v, Tensor) for v in values.values()) else None
