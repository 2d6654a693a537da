"""Images and text together."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture, Part
from architectures._inputs import IMAGE_TOKEN, VOCABULARY
from architectures.causal_lms import DECODER
from architectures.text_encoders import ENCODER
from architectures.vision import PATCHES

_TEXT: dict[str, object] = {
    **ENCODER,
    "max_position_embeddings": 64,
    "projection_dim": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION: dict[str, object] = {**PATCHES, "projection_dim": 32}


def two_towers(prefix: str, **text: object) -> Architecture:
    """A text and an image encoder whose configs speak CLIP's language; ``text`` goes into the text config."""
    return Architecture(
        f"{prefix}Config",
        f"{prefix}Model",
        {
            "projection_dim": 32,
            "text_config": Part(f"{prefix}TextConfig", {**_TEXT, **text}),
            "vision_config": Part(f"{prefix}VisionConfig", _VISION),
        },
        inputs.image_and_text,
    )


ARCHITECTURES = {
    "altclip": two_towers("AltCLIP", project_dim=32),
    "blip": two_towers("Blip", encoder_hidden_size=64),
    "chinese_clip": two_towers("ChineseCLIP"),
    "clip": two_towers("CLIP"),
    "clipseg": two_towers("CLIPSeg"),
    "git": Architecture(
        "GitConfig",
        "GitForCausalLM",
        {**ENCODER, "bos_token_id": 1, "eos_token_id": 2, "vision_config": dict(PATCHES)},
        inputs.captioned_image,
    ),
    "groupvit": Architecture(
        "GroupViTConfig",
        "GroupViTModel",
        {
            "projection_dim": 32,
            "projection_intermediate_dim": 64,
            "text_config": Part("GroupViTTextConfig", _TEXT),
            "vision_config": Part(
                "GroupViTVisionConfig",
                {
                    **PATCHES,
                    "num_hidden_layers": 3,
                    "patch_size": 8,
                    "depths": [1, 1, 1],
                    "num_group_tokens": [8, 4, 0],
                    "num_output_groups": [8, 4, 4],
                },
            ),
        },
        inputs.image_and_text,
    ),
    "llava": Architecture(
        "LlavaConfig",
        "LlavaForConditionalGeneration",
        {
            "text_config": Part("LlamaConfig", DECODER),
            "vision_config": Part("CLIPVisionConfig", PATCHES),
            "image_token_index": IMAGE_TOKEN,
            "image_token_id": IMAGE_TOKEN,
            "vision_feature_layer": -1,
        },
        inputs.image_in_text,
    ),
    "lxmert": Architecture(
        "LxmertConfig",
        "LxmertModel",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "l_layers": 1,
            "x_layers": 1,
            "r_layers": 1,
            "visual_feat_dim": 32,
            "max_position_embeddings": 64,
        },
        inputs.boxes_and_text,
    ),
    "metaclip_2": two_towers("MetaClip2"),
    "owlvit": two_towers("OwlViT"),
    "paligemma": Architecture(
        "PaliGemmaConfig",
        "PaliGemmaForConditionalGeneration",
        {
            "text_config": Part("GemmaConfig", {**DECODER, "head_dim": 16}),
            "vision_config": Part("SiglipVisionConfig", PATCHES),
            "image_token_index": IMAGE_TOKEN,
            "projection_dim": 64,
            "hidden_size": 64,
        },
        inputs.typed_image_in_text,
    ),
    "siglip": Architecture(
        "SiglipConfig",
        "SiglipModel",
        {
            "text_config": Part("SiglipTextConfig", {**_TEXT, "projection_size": 64}),
            "vision_config": Part("SiglipVisionConfig", PATCHES),
        },
        inputs.image_and_text,
    ),
    "vilt": Architecture(
        "ViltConfig",
        "ViltModel",
        {**ENCODER, "image_size": 64, "patch_size": 16, "max_image_length": -1},
        inputs.image_and_text,
    ),
    "vision-encoder-decoder": Architecture(
        "VisionEncoderDecoderConfig",
        "VisionEncoderDecoderModel",
        {
            "encoder": Part("ViTConfig", PATCHES),
            "decoder": Part("BertConfig", {**ENCODER, "is_decoder": True, "add_cross_attention": True}),
        },
        inputs.image_to_text,
    ),
    "visual_bert": Architecture(
        "VisualBertConfig", "VisualBertModel", {**ENCODER, "visual_embedding_dim": 32}, inputs.regions_and_text
    ),
}
