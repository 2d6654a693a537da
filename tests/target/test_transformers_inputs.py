"""Inputs of transformers models come from their config, not from the library's placeholder."""

import pytest
import torch
from torch import nn

from initaudit.target import transformers_inputs
from initaudit.target.inputs import candidate_inputs

transformers = pytest.importorskip("transformers")

TEXT = {
    "vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 48, "patch_size": 16,
}  # fmt: skip
AUDIO = {
    "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "conv_dim": [32, 32], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
WHISPER = {
    "vocab_size": 128, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 16,
    "max_source_positions": 20, "max_target_positions": 30, "pad_token_id": 0, "decoder_start_token_id": 1,
}  # fmt: skip
T5 = {"vocab_size": 128, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


def first_that_runs(model):
    for inputs in candidate_inputs(model):
        try:
            model(*inputs.args, **inputs.kwargs)
        except Exception:
            continue
        return inputs
    raise AssertionError(f"nothing runs {type(model).__name__}")


@pytest.mark.parametrize(
    ("architecture", "config", "described"),
    [
        ("BertForMaskedLM", TEXT, "input_ids=int64[8,32]"),
        ("LlamaForCausalLM", TEXT, "input_ids=int64[8,32]"),
        ("T5ForConditionalGeneration", T5, "input_ids=int64[8,32], decoder_input_ids=int64[8,16]"),
        ("ViTForImageClassification", VISION, "pixel_values=float32[8,3,48,48]"),
        ("ResNetForImageClassification", RESNET, "pixel_values=float32[8,3,224,224]"),
        ("Wav2Vec2ForCTC", AUDIO, "input_values=float32[8,4000]"),
        ("WhisperForConditionalGeneration", WHISPER, "input_features=float32[8,16,40], decoder_input_ids=int64[8,16]"),
        (
            "CLIPModel",
            {"text_config": TEXT, "vision_config": VISION},
            "input_ids=int64[8,32], pixel_values=float32[8,3,48,48]",
        ),
    ],
)
def test_architectures(architecture, config, described):
    cls = getattr(transformers, architecture)
    inputs = first_that_runs(cls(cls.config_class(**config)))
    assert inputs.describe() == described
    assert inputs.source == f"inferred from the config of {architecture}"


def test_tokens_are_no_padding_and_no_specials():
    model = transformers.BertModel(transformers.BertConfig(**TEXT))
    ids = next(candidate_inputs(model)).kwargs["input_ids"]
    assert ids.min() > 2
    assert ids.max() < 128
    assert torch.unique(ids, dim=0).shape[0] == 8


def test_a_short_model_gets_a_short_text():
    model = transformers.BertModel(transformers.BertConfig(**{**TEXT, "max_position_embeddings": 12}))
    assert first_that_runs(model).describe() == "input_ids=int64[8,10]"


def test_a_large_model_gets_fewer_samples(monkeypatch):
    monkeypatch.setattr(transformers_inputs, "_LARGE", 10_000)
    model = transformers.BertModel(transformers.BertConfig(**TEXT))
    assert first_that_runs(model).describe() == "input_ids=int64[4,32]"


class Wrapper(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = transformers.BertModel(transformers.BertConfig(**TEXT))
        self.head = nn.Linear(32, 2)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.bert(input_ids, attention_mask).pooler_output)


class RenamingWrapper(Wrapper):
    def forward(self, x):
        return self.head(self.bert(x).pooler_output)


class PassingWrapper(Wrapper):
    def forward(self, **batch):
        return self.head(self.bert(**batch).pooler_output)


@pytest.mark.parametrize(
    ("wrapper", "described"),
    [
        (Wrapper, "input_ids=int64[8,32]"),
        (RenamingWrapper, "int64[8,32]"),
        (PassingWrapper, "input_ids=int64[8,32]"),
    ],
)
def test_a_module_around_a_transformers_model(wrapper, described):
    inputs = first_that_runs(wrapper())
    assert inputs.describe() == described
    assert inputs.source == "inferred from the config of BertModel"


def test_a_dummy_input_of_the_users_own_wins():
    class Mine(transformers.BertModel):
        @property
        def dummy_inputs(self):
            return {"input_ids": torch.arange(3, 9).reshape(2, 3)}

    inputs = first_that_runs(Mine(transformers.BertConfig(**TEXT)))
    assert (inputs.describe(), inputs.source) == ("input_ids=int64[2,3]", "dummy_inputs of Mine")
