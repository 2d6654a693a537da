"""Language models with a state of fixed size instead of attention, or beside it."""

from __future__ import annotations

from architectures._architecture import Architecture
from architectures._inputs import VOCABULARY
from architectures.causal_lms import DECODER, language_model

_STACK: dict[str, object] = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2}


def stack(prefix: str, **overrides: object) -> Architecture:
    """Recurrent blocks only."""
    return language_model(f"{prefix}Config", f"{prefix}ForCausalLM", {**_STACK, **overrides})


def hybrid(prefix: str, **overrides: object) -> Architecture:
    """Recurrent blocks and attention in turn."""
    return language_model(f"{prefix}Config", f"{prefix}ForCausalLM", {**DECODER, **overrides})


ARCHITECTURES = {
    "bamba": hybrid(
        "Bamba",
        mamba_n_heads=8,
        mamba_d_head=16,
        mamba_n_groups=1,
        mamba_d_state=16,
        mamba_expand=2,
        mamba_chunk_size=16,
        attn_layer_indices=[1],
    ),
    "falcon_mamba": stack("FalconMamba", state_size=8),
    "jamba": hybrid(
        "Jamba",
        num_hidden_layers=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=4,
        mamba_d_state=8,
        use_mamba_kernels=False,
    ),
    "lfm2": hybrid("Lfm2", layer_types=["conv", "full_attention"]),
    "mamba": stack("Mamba", state_size=8, use_mambapy=False),
    "mamba2": stack("Mamba2", state_size=16, head_dim=16, num_heads=8, n_groups=2, chunk_size=16),
    "recurrent_gemma": hybrid(
        "RecurrentGemma", num_hidden_layers=3, head_dim=16, lru_width=64, attention_window_size=16
    ),
    "rwkv": stack("Rwkv", attention_hidden_size=64, intermediate_size=128, context_length=64),
    "zamba2": hybrid(
        "Zamba2",
        num_key_value_heads=4,
        mamba_d_state=16,
        mamba_headdim=16,
        n_mamba_heads=8,
        mamba_ngroups=1,
        chunk_size=16,
        layers_block_type=["mamba", "hybrid"],
    ),
}
