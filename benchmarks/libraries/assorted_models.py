"""Small configurations from a dozen other libraries: a collection for `zoo.py --module`.

    pip install diffusers x-transformers vit-pytorch segmentation-models-pytorch monai torch_geometric open_clip_torch
    pip install denoising-diffusion-pytorch perceiver-pytorch performer-pytorch conformer linformer mlp-mixer-pytorch
    pip install g-mlp-pytorch res-mlp-pytorch siren-pytorch slot-attention rtdl_revisiting_models

A library that is not installed leaves its models skipped.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Any]
_MODELS: dict[str, Callable[[], Made]] = {}


def names() -> list[str]:
    return list(_MODELS)


def build(name: str) -> Made:
    torch.manual_seed(0)
    model, inputs = _MODELS[name]()
    return model.train(), inputs


def _add(name: str, path: str, inputs: Callable[[], Any], *args: Any, **kwargs: Any) -> None:
    """``path`` is ``module:Class``; the class is called with ``args`` and ``kwargs``."""
    module, _, attribute = path.partition(":")
    _MODELS[name] = lambda: (getattr(importlib.import_module(module), attribute)(*args, **kwargs), inputs())


def _randn(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


def _tokens(most: int, *shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(most, shape)


def _steps(*shape: int) -> Callable[[], tuple[Tensor, Tensor]]:
    """Noisy samples and their time steps."""
    return lambda: (torch.randn(shape), torch.randint(1000, shape[:1]))


def _diffusion() -> None:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    _add("diffusers UNet", "diffusers:UNet2DModel", _steps(4, 3, 32, 32), sample_size=32,
         block_out_channels=(64, 64, 128, 128))  # fmt: skip
    _add("diffusers VAE", "diffusers:AutoencoderKL", _randn(4, 3, 32, 32), block_out_channels=(32, 64), **blocks)
    _add("diffusers VQ-VAE", "diffusers:VQModel", _randn(4, 3, 32, 32), block_out_channels=(32, 64), **blocks)
    _add("diffusers tiny VAE", "diffusers:AutoencoderTiny", _randn(4, 3, 32, 32))
    _add("diffusers DiT", "diffusers:DiTTransformer2DModel", lambda: (*_steps(4, 4, 16, 16)(), torch.arange(4)),
         num_attention_heads=4, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=6, sample_size=16,
         patch_size=2)  # fmt: skip
    _add("diffusers conditional UNet", "diffusers:UNet2DConditionModel",
         lambda: (*_steps(2, 4, 32, 32)(), torch.randn(2, 16, 64)), sample_size=32, cross_attention_dim=64,
         block_out_channels=(64, 128, 128, 128), attention_head_dim=8)  # fmt: skip
    _add("diffusers SD3", "diffusers:SD3Transformer2DModel", lambda: {
         "hidden_states": torch.randn(2, 4, 16, 16), "encoder_hidden_states": torch.randn(2, 8, 64),
         "pooled_projections": torch.randn(2, 64), "timestep": torch.rand(2) * 1000}, sample_size=16, patch_size=2,
         in_channels=4, num_layers=4, attention_head_dim=16, num_attention_heads=4, joint_attention_dim=64,
         caption_projection_dim=64, pooled_projection_dim=64, out_channels=4)  # fmt: skip
    _add("diffusers Flux", "diffusers:FluxTransformer2DModel", lambda: {
         "hidden_states": torch.randn(2, 16, 16), "encoder_hidden_states": torch.randn(2, 8, 64),
         "pooled_projections": torch.randn(2, 64), "timestep": torch.rand(2), "img_ids": torch.zeros(16, 3),
         "txt_ids": torch.zeros(8, 3)}, patch_size=1, in_channels=16, num_layers=3, num_single_layers=3,
         attention_head_dim=32, num_attention_heads=2, joint_attention_dim=64, pooled_projection_dim=64,
         axes_dims_rope=(4, 12, 16))  # fmt: skip
    for name, kwargs in {"Unet": {"dim": 32, "dim_mults": (1, 2, 4)},
                         "Unet1D": {"dim": 32, "dim_mults": (1, 2, 4), "channels": 8}}.items():  # fmt: skip
        shape = (4, 8, 32) if name == "Unet1D" else (4, 3, 32, 32)
        _add(f"denoising-diffusion {name}", f"denoising_diffusion_pytorch:{name}", _steps(*shape), **kwargs)


def _language() -> None:
    variants: dict[str, dict[str, Any]] = {
        "pre-norm": {}, "post-norm": {"pre_norm": False}, "rotary": {"rotary_pos_emb": True},
        "rms norm, GLU": {"use_rmsnorm": True, "ff_glu": True}, "ALiBi": {"alibi_pos_bias": True},
        "scaled residual": {"pre_norm": False, "scale_residual": True}, "sandwich": {"sandwich_norm": True},
        "normalized queries and keys": {"attn_qk_norm": True}, "macaron": {"macaron": True},
        "ReLU squared": {"ff_relu_squared": True}, "gated residual": {"gate_residual": True},
        "T5 bias": {"rel_pos_bias": True}, "one head of keys": {"attn_one_kv_head": True},
        "zero outputs": {"ff_zero_init_output": True, "attn_zero_init_output": True},
        "hyper-connections": {"num_residual_streams": 4},
    }  # fmt: skip
    for name, kwargs in variants.items():
        _MODELS[f"x-transformers {name}"] = lambda kwargs=kwargs: _decoder(**kwargs)
    _add("performer", "performer_pytorch:PerformerLM", _tokens(200, 4, 64), num_tokens=200, max_seq_len=64, dim=128,
         depth=4, heads=4)  # fmt: skip
    _add("linformer", "linformer:LinformerLM", _tokens(200, 4, 64), num_tokens=200, dim=128, seq_len=64, depth=4,
         heads=4, k=16)  # fmt: skip
    _add("gMLP", "g_mlp_pytorch:gMLP", _tokens(200, 4, 64), num_tokens=200, dim=128, depth=6, seq_len=64)
    _add("conformer", "conformer:Conformer", _randn(4, 64, 128), dim=128, depth=4, dim_head=32, heads=4)


def _decoder(**kwargs: Any) -> Made:
    library = importlib.import_module("x_transformers")
    layers = library.Decoder(dim=128, depth=6, heads=4, attn_dim_head=32, **kwargs)
    return library.TransformerWrapper(num_tokens=500, max_seq_len=64, attn_layers=layers), _tokens(500, 4, 48)()


def _vision() -> None:
    plain = {"image_size": 64, "patch_size": 8, "num_classes": 10, "dim": 128, "depth": 6, "heads": 4, "mlp_dim": 256}
    for path in ("vit:ViT", "simple_vit:SimpleViT", "deepvit:DeepViT", "normalized_vit:nViT", "parallel_vit:ViT"):
        _add(f"vit-pytorch {path}", f"vit_pytorch.{path}", _randn(4, 3, 64, 64), **plain)
    for path in ("cait:CaiT", "xcit:XCiT"):
        _add(f"vit-pytorch {path}", f"vit_pytorch.{path}", _randn(4, 3, 64, 64), **plain, cls_depth=2)
    for path, size in {"cvt:CvT": 64, "twins_svt:TwinsSVT": 224}.items():
        _add(f"vit-pytorch {path}", f"vit_pytorch.{path}", _randn(4, 3, size, size), num_classes=10)
    _add("perceiver", "perceiver_pytorch:Perceiver", _randn(2, 32, 32, 3), input_channels=3, input_axis=2,
         num_freq_bands=6, max_freq=10.0, depth=4, num_latents=32, latent_dim=64, cross_heads=1, latent_heads=4,
         cross_dim_head=32, latent_dim_head=32, num_classes=10)  # fmt: skip
    _add("MLP-Mixer", "mlp_mixer_pytorch:MLPMixer", _randn(4, 3, 64, 64), image_size=64, channels=3, patch_size=8,
         dim=128, depth=6, num_classes=10)  # fmt: skip
    _add("ResMLP", "res_mlp_pytorch:ResMLP", _randn(4, 3, 64, 64), image_size=64, patch_size=8, dim=128, depth=8,
         num_classes=10)  # fmt: skip
    _add("slot attention", "slot_attention:SlotAttention", _randn(4, 64, 64), num_slots=5, dim=64, iters=3)
    _add("SIREN", "siren_pytorch:SirenNet", lambda: torch.rand(256, 2) * 2 - 1, dim_in=2, dim_hidden=256, dim_out=3,
         num_layers=5, w0_initial=30.0)  # fmt: skip
    for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus",
                 "UPerNet", "Segformer"):  # fmt: skip
        _add(f"segmentation-models {name}", f"segmentation_models_pytorch:{name}", _randn(4, 3, 128, 128), "resnet18",
             encoder_weights=None, classes=3)  # fmt: skip
    clip = {"context_length": 16, "vocab_size": 500, "width": 64, "heads": 4, "layers": 4}
    sight = {"layers": 4, "width": 128, "patch_size": 16, "image_size": 64, "head_width": 32}
    _add("open_clip ViT", "open_clip.model:CLIP", lambda: (torch.randn(4, 3, 64, 64), _tokens(500, 4, 16)()),
         embed_dim=64, vision_cfg=sight, text_cfg=clip)  # fmt: skip


def _medicine() -> None:
    volume = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "num_res_units": 2}
    nets: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "UNet": ((2, 1, 32, 32, 32), {**volume, "channels": (16, 32, 64, 128), "strides": (2, 2, 2)}),
        "SegResNet": ((2, 1, 32, 32, 32), {"spatial_dims": 3, "init_filters": 8}),
        "VNet": ((1, 1, 32, 32, 32), {}),
        "HighResNet": ((1, 1, 32, 32, 32), {}),
        "SwinUNETR": ((1, 1, 64, 64, 64), {"in_channels": 1, "out_channels": 2, "feature_size": 12}),
        "DenseNet121": ((2, 1, 64, 64), {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}),
        "SEResNet50": ((4, 1, 64, 64), {"spatial_dims": 2, "in_channels": 1, "num_classes": 3}),
        "AttentionUnet": ((2, 1, 32, 32), {"spatial_dims": 2, "in_channels": 1, "out_channels": 2,
                                           "channels": (16, 32, 64), "strides": (2, 2)}),
    }  # fmt: skip
    for name, (shape, kwargs) in nets.items():
        _add(f"monai {name}", f"monai.networks.nets:{name}", _randn(*shape), **kwargs)


def _tables_and_graphs() -> None:
    for depth in (4, 10):
        for name in ("GCN", "GraphSAGE", "GIN", "GAT"):
            _add(f"torch_geometric {name}, {depth} layers", f"torch_geometric.nn:{name}",
                 lambda: (torch.randn(64, 16), torch.randint(64, (2, 256))), in_channels=16, hidden_channels=64,
                 num_layers=depth, out_channels=5)  # fmt: skip
    _add("rtdl ResNet", "rtdl_revisiting_models:ResNet", _randn(64, 16), d_in=16, d_out=1, n_blocks=4, d_block=192,
         d_hidden=None, d_hidden_multiplier=2.0, dropout1=0.15, dropout2=0.0)  # fmt: skip
    _add("rtdl MLP", "rtdl_revisiting_models:MLP", _randn(64, 16), d_in=16, d_out=1, n_blocks=4, d_block=128,
         dropout=0.1)  # fmt: skip


for _fill in (_diffusion, _language, _vision, _medicine, _tables_and_graphs):
    _fill()
