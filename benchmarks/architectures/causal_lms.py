"""Decoders that predict the next token with attention; those with a state of fixed size are in state_space.py."""

from __future__ import annotations

from architectures import _inputs as inputs
from architectures._architecture import Architecture
from architectures._inputs import VOCABULARY
from architectures.text_encoders import ENCODER

_ENDS = {"bos_token_id": 1, "eos_token_id": 2}
DECODER: dict[str, object] = {**ENCODER, **_ENDS, "num_key_value_heads": 2}
_GPT2: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    **_ENDS,
}
_EXPERTS: dict[str, object] = {
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
}
_LATENT_ATTENTION: dict[str, object] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
}


def decoder(prefix: str, **overrides: object) -> Architecture:
    """A language model whose config speaks Llama's language."""
    return language_model(f"{prefix}Config", f"{prefix}ForCausalLM", {**DECODER, **overrides})


def mixture(prefix: str, **overrides: object) -> Architecture:
    """The same with four experts in every block."""
    return decoder(prefix, **{**_EXPERTS, **overrides})


def like_gpt2(prefix: str, model: str = "ForCausalLM", **overrides: object) -> Architecture:
    """A language model whose config speaks GPT-2's language."""
    return language_model(f"{prefix}Config", prefix + model, {**_GPT2, **overrides})


def language_model(config: str, model: str, overrides: dict[str, object]) -> Architecture:
    return Architecture(config, model, overrides, inputs.next_tokens)


ARCHITECTURES = {
    "apertus": decoder("Apertus"),
    "arcee": decoder("Arcee"),
    "biogpt": language_model("BioGptConfig", "BioGptForCausalLM", ENCODER),
    "bitnet": decoder("BitNet"),
    "bloom": language_model(
        "BloomConfig", "BloomForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4}
    ),
    "codegen": like_gpt2("CodeGen", rotary_dim=8, n_ctx=64),
    "cohere": decoder("Cohere"),
    "cohere2": decoder("Cohere2", sliding_window=16),
    "ctrl": like_gpt2("CTRL", "LMHeadModel", dff=128),
    "dbrx": language_model(
        "DbrxConfig",
        "DbrxForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 64,
            "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
        },
    ),
    "deepseek_v3": decoder(
        "DeepseekV3",
        **_LATENT_ATTENTION,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        n_shared_experts=1,
        first_k_dense_replace=1,
    ),
    "diffllama": decoder("DiffLlama"),
    "ernie4_5": decoder("Ernie4_5", head_dim=16),
    "exaone4": decoder("Exaone4", sliding_window=16),
    "falcon": decoder("Falcon", num_kv_heads=2),
    "gemma": decoder("Gemma", head_dim=16),
    "gemma2": decoder("Gemma2", head_dim=16, sliding_window=16),
    "gemma3": language_model(
        "Gemma3TextConfig", "Gemma3ForCausalLM", {**DECODER, "head_dim": 16, "sliding_window": 16}
    ),
    "glm": decoder("Glm", head_dim=16),
    "glm4": decoder("Glm4", head_dim=16),
    "gpt2": like_gpt2("GPT2", "LMHeadModel"),
    "gpt_bigcode": like_gpt2("GPTBigCode"),
    "gpt_neo": language_model(
        "GPTNeoConfig",
        "GPTNeoForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 64,
            **_ENDS,
        },
    ),
    "gpt_neox": decoder("GPTNeoX"),
    "gpt_oss": mixture("GptOss", head_dim=16, sliding_window=16),
    "gptj": like_gpt2("GPTJ", rotary_dim=8),
    "granite": decoder("Granite"),
    "granitemoe": mixture("GraniteMoe"),
    "helium": decoder("Helium", head_dim=16),
    "hunyuan_v1_dense": decoder("HunYuanDenseV1", head_dim=16),
    "jetmoe": mixture("JetMoe", kv_channels=16),
    "llama": decoder("Llama"),
    "minimax": mixture("MiniMax", head_dim=16),
    "mistral": decoder("Mistral", sliding_window=16),
    "mixtral": mixture("Mixtral"),
    "mpt": language_model(
        "MptConfig",
        "MptForCausalLM",
        {"vocab_size": VOCABULARY, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "nemotron": decoder("Nemotron"),
    "olmo": decoder("Olmo"),
    "olmo2": decoder("Olmo2"),
    "olmoe": mixture("Olmoe"),
    "openai-gpt": like_gpt2("OpenAIGPT", "LMHeadModel"),
    "opt": language_model(
        "OPTConfig",
        "OPTForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "ffn_dim": 128,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 64,
            "pad_token_id": 0,
        },
    ),
    "persimmon": decoder("Persimmon"),
    "phi": decoder("Phi"),
    "phi3": decoder("Phi3"),
    "phimoe": mixture("Phimoe"),
    "qwen2": decoder("Qwen2"),
    "qwen2_moe": mixture("Qwen2Moe"),
    "qwen3": decoder("Qwen3", head_dim=16),
    "qwen3_moe": mixture("Qwen3Moe", head_dim=16),
    "seed_oss": decoder("SeedOss", head_dim=16),
    "smollm3": decoder("SmolLM3"),
    "stablelm": decoder("StableLm"),
    "starcoder2": decoder("Starcoder2"),
    "xglm": language_model(
        "XGLMConfig",
        "XGLMForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "num_layers": 2,
            "attention_heads": 4,
            "ffn_dim": 128,
            "max_position_embeddings": 64,
        },
    ),
}
