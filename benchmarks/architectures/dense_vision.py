"""Images in, maps or boxes out: detection, segmentation, depth, key points, super-resolution."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture, InputMaker, Part
from architectures.vision import PATCHES, STAGES

_FIVE_CLASSES = {"num_labels": 5}
_LAST_THREE = ["stage2", "stage3", "stage4"]
_ALL_FOUR = ["stage1", "stage2", "stage3", "stage4"]
_DETR: dict[str, object] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 8,
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    **_FIVE_CLASSES,
}


def basic_resnet(*out_features: str, config: str = "ResNetConfig") -> Part:
    """A ResNet of basic blocks as backbone."""
    widths = {**STAGES, "embedding_size": 16, "layer_type": "basic", "out_features": list(out_features)}
    return Part(config, widths)


def swin_backbone() -> Part:
    """A Swin transformer of four stages as backbone, one block each."""
    sizes = {"image_size": 64, "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}
    return Part("SwinConfig", {**sizes, "out_features": _ALL_FOUR})


def detector(prefix: str, make_inputs: InputMaker = inputs.image64, **overrides: object) -> Architecture:
    """A detector whose config speaks DETR's language."""
    backbone = {"backbone_config": basic_resnet("stage4")}
    return Architecture(
        f"{prefix}Config", f"{prefix}ForObjectDetection", {**_DETR, **backbone, **overrides}, make_inputs
    )


ARCHITECTURES = {
    "conditional_detr": detector("ConditionalDetr"),
    "deformable_detr": detector(
        "DeformableDetr",
        inputs.image128,
        decoder_layers=2,
        backbone_config=basic_resnet(*_LAST_THREE),
        num_feature_levels=4,
    ),
    "depth_anything": Architecture(
        "DepthAnythingConfig",
        "DepthAnythingForDepthEstimation",
        {
            "backbone_config": Part(
                "Dinov2Config",
                {
                    **PATCHES,
                    "num_hidden_layers": 4,
                    "image_size": 56,
                    "patch_size": 14,
                    "out_features": _ALL_FOUR,
                    "reshape_hidden_states": False,
                },
            ),
            "patch_size": 14,
            "reassemble_hidden_size": 64,
            "neck_hidden_sizes": [16, 16, 16, 16],
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
        },
        inputs.image56,
    ),
    "detr": detector("Detr"),
    "glpn": Architecture(
        "GLPNConfig",
        "GLPNForDepthEstimation",
        {**STAGES, "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 16},
        inputs.image64,
    ),
    "mask2former": Architecture(
        "Mask2FormerConfig",
        "Mask2FormerForUniversalSegmentation",
        {
            "backbone_config": swin_backbone(),
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 64,
            "dim_feedforward": 64,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "num_queries": 8,
            **_FIVE_CLASSES,
        },
        inputs.image64,
    ),
    "maskformer": Architecture(
        "MaskFormerConfig",
        "MaskFormerForInstanceSegmentation",
        {
            "backbone_config": swin_backbone(),
            "decoder_config": Part("DetrConfig", {**_DETR, "backbone_config": basic_resnet("stage4")}),
            "fpn_feature_size": 32,
            "mask_feature_size": 32,
        },
        inputs.image64,
    ),
    "rt_detr": Architecture(
        "RTDetrConfig",
        "RTDetrForObjectDetection",
        {
            "backbone_config": basic_resnet(*_LAST_THREE, config="RTDetrResNetConfig"),
            "backbone": None,
            "use_timm_backbone": False,
            "encoder_in_channels": [32, 48, 64],
            "encoder_hidden_dim": 32,
            "encoder_ffn_dim": 64,
            "encoder_attention_heads": 4,
            "encoder_layers": 1,
            "d_model": 32,
            "decoder_in_channels": [32, 32, 32],
            "decoder_layers": 1,
            "decoder_ffn_dim": 64,
            "decoder_attention_heads": 4,
            "num_queries": 8,
            "num_denoising": 0,
            **_FIVE_CLASSES,
        },
        inputs.image128,
    ),
    "sam": Architecture(
        "SamConfig",
        "SamModel",
        {
            "vision_config": Part(
                "SamVisionConfig",
                {
                    "hidden_size": 32,
                    "output_channels": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 64,
                    "patch_size": 8,
                    "window_size": 4,
                    "global_attn_indexes": [1],
                    "mlp_dim": 64,
                    "num_pos_feats": 8,
                },
            ),
            "prompt_encoder_config": Part(
                "SamPromptEncoderConfig",
                {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
            ),
            "mask_decoder_config": Part(
                "SamMaskDecoderConfig",
                {
                    "hidden_size": 16,
                    "mlp_dim": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "iou_head_hidden_dim": 16,
                },
            ),
        },
        inputs.clicked_image,
    ),
    "segformer": Architecture(
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {**STAGES, "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 32, **_FIVE_CLASSES},
        inputs.image64,
    ),
    "superpoint": Architecture(
        "SuperPointConfig",
        "SuperPointForKeypointDetection",
        {
            "encoder_hidden_sizes": [16, 16, 16, 16],
            "decoder_hidden_size": 16,
            "keypoint_decoder_dim": 65,
            "descriptor_decoder_dim": 32,
        },
        inputs.image64,
    ),
    "swin2sr": Architecture(
        "Swin2SRConfig",
        "Swin2SRForImageSuperResolution",
        {"image_size": 32, "embed_dim": 16, "depths": [2], "num_heads": [2], "window_size": 4, "upscale": 2},
        inputs.image32,
    ),
    "table-transformer": detector("TableTransformer"),
    "upernet": Architecture(
        "UperNetConfig",
        "UperNetForSemanticSegmentation",
        {
            "backbone_config": Part("ConvNextConfig", {**STAGES, "out_features": _ALL_FOUR}),
            "hidden_size": 32,
            "auxiliary_in_channels": 48,
            "auxiliary_channels": 16,
            **_FIVE_CLASSES,
        },
        inputs.image64,
    ),
    "vitpose": Architecture(
        "VitPoseConfig",
        "VitPoseForPoseEstimation",
        {
            "backbone_config": Part(
                "VitPoseBackboneConfig",
                {
                    "image_size": [64, 64],
                    "patch_size": [16, 16],
                    "hidden_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                },
            ),
            **_FIVE_CLASSES,
        },
        inputs.image64,
    ),
}
