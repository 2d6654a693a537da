"""Four frames in, features out."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture
from architectures.vision import PATCHES

_FRAMES: dict[str, object] = {**PATCHES, "image_size": 32, "num_frames": 4}

ARCHITECTURES = {
    "timesformer": Architecture("TimesformerConfig", "TimesformerModel", _FRAMES, inputs.video),
    "videomae": Architecture("VideoMAEConfig", "VideoMAEModel", _FRAMES, inputs.video),
    "vivit": Architecture("VivitConfig", "VivitModel", {**_FRAMES, "tubelet_size": [2, 16, 16]}, inputs.video),
    "vjepa2": Architecture(
        "VJEPA2Config",
        "VJEPA2Model",
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "crop_size": 32,
            "patch_size": 16,
            "frames_per_clip": 4,
            "pred_hidden_size": 48,
            "pred_num_attention_heads": 4,
            "pred_num_hidden_layers": 1,
        },
        inputs.video_frames,
    ),
}
