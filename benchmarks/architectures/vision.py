"""Vision transformers and convolutional networks: one image in, features or classes out."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture
from architectures._inputs import VOCABULARY

PATCHES: dict[str, object] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 64,
    "patch_size": 16,
}
STAGES: dict[str, object] = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
_WINDOWS: dict[str, object] = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}
_CLASSES = {"num_labels": 10}


def transformer(prefix: str, **overrides: object) -> Architecture:
    """A vision transformer whose config speaks ViT's language."""
    return Architecture(f"{prefix}Config", f"{prefix}Model", {**PATCHES, **overrides}, inputs.image64)


def shifted_windows(prefix: str) -> Architecture:
    """Swin and its kin."""
    return Architecture(f"{prefix}Config", f"{prefix}Model", _WINDOWS, inputs.image64)


def classifier(prefix: str, **overrides: object) -> Architecture:
    """A network with a classification head."""
    return Architecture(f"{prefix}Config", f"{prefix}ForImageClassification", {**_CLASSES, **overrides}, inputs.image64)


ARCHITECTURES = {
    "beit": transformer("Beit", use_mask_token=False, use_absolute_position_embeddings=True),
    "bit": classifier("Bit", embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1], num_groups=8),
    "clip-vision": transformer("CLIPVision"),
    "convnext": classifier("ConvNext", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "convnextv2": classifier("ConvNextV2", hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1]),
    "cvt": classifier("Cvt", embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    "data2vec-vision": transformer("Data2VecVision"),
    "deit": transformer("DeiT"),
    "dinov2": transformer("Dinov2"),
    "dinov2_with_registers": transformer("Dinov2WithRegisters"),
    "dinov3_convnext": Architecture(
        "DINOv3ConvNextConfig",
        "DINOv3ConvNextModel",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
        inputs.image64,
    ),
    "dinov3_vit": transformer("DINOv3ViT"),
    "donut-swin": shifted_windows("DonutSwin"),
    "dpt": transformer("DPT", is_hybrid=False),
    "efficientnet": classifier(
        "EfficientNet", image_size=64, width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320
    ),
    "focalnet": classifier(
        "FocalNet", **STAGES, image_size=64, embed_dim=16, focal_levels=[2, 2, 2, 2], focal_windows=[3, 3, 3, 3]
    ),
    "hgnet_v2": classifier("HGNetV2", stage_num_blocks=[1, 1, 3, 1]),
    "hiera": classifier("Hiera", image_size=[64, 64], embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]),
    "ijepa": transformer("IJepa"),
    "imagegpt": Architecture(
        "ImageGPTConfig",
        "ImageGPTForCausalImageModeling",
        {"vocab_size": VOCABULARY + 1, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
        inputs.next_tokens,
    ),
    "levit": classifier(
        "Levit",
        image_size=64,
        hidden_sizes=[32, 48, 64],
        num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1],
        key_dim=[8, 8, 8],
    ),
    "mobilenet_v1": classifier("MobileNetV1", depth_multiplier=0.25),
    "mobilenet_v2": classifier("MobileNetV2", depth_multiplier=0.25),
    "mobilevit": classifier(
        "MobileViT", image_size=64, hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 128]
    ),
    "mobilevitv2": classifier("MobileViTV2", image_size=64, width_multiplier=0.25, n_attn_blocks=[2, 4, 3]),
    "poolformer": classifier("PoolFormer", **STAGES),
    "pvt": classifier("Pvt", **STAGES, image_size=64, num_attention_heads=[1, 2, 3, 4]),
    "pvt_v2": classifier("PvtV2", **STAGES, image_size=64, num_attention_heads=[1, 2, 3, 4]),
    "regnet": classifier("RegNet", **STAGES, embedding_size=16, groups_width=16),
    "resnet": classifier("ResNet", **STAGES, embedding_size=16),
    "siglip-vision": transformer("SiglipVision"),
    "swiftformer": classifier("SwiftFormer", image_size=64, depths=[1, 1, 1, 1], embed_dims=[16, 32, 48, 64]),
    "swin": shifted_windows("Swin"),
    "swinv2": shifted_windows("Swinv2"),
    "textnet": classifier("TextNet"),
    "vit": transformer("ViT"),
    "vit_mae": Architecture(
        "ViTMAEConfig",
        "ViTMAEForPreTraining",
        {
            **PATCHES,
            "decoder_hidden_size": 32,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        },
        inputs.image64,
    ),
    "vit_msn": transformer("ViTMSN"),
    "vitdet": transformer("VitDet", pretrain_image_size=64),
    "yolos": transformer("Yolos", image_size=[64, 64], num_detection_tokens=8),
}
