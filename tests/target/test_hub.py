"""Architectures by name, with random weights and no network."""

import json
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from initaudit.errors import AuditError
from initaudit.target import hub
from initaudit.target.load import collect
from initaudit.weights_only import read_weights

SMALL = {
    "model_type": "gpt2", "vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers")


def message(spec):
    with pytest.raises(AuditError) as caught:
        collect(spec)[0].build()
    assert caught.value.stage == "load"
    return str(caught.value)


def test_a_config_file(write, transformers):
    write("config.json", json.dumps(SMALL))
    (target,) = collect("hf:config.json")
    assert (target.id, target.is_factory, target.module) == ("hf:config.json", True, None)
    model = target.build()
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.config.n_embd == 16
    assert target.build() is not model


def test_the_class_under_architectures_wins(write, transformers):
    write("gpt/config.json", json.dumps({**SMALL, "architectures": ["GPT2Model"]}))
    assert type(collect("hf:gpt")[0].build()).__name__ == "GPT2Model"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("bert", "BertForMaskedLM"),
        ("t5", "T5ForConditionalGeneration"),
        ("vit", "ViTForImageClassification"),
        ("ViT-MSN", "ViTMSNForImageClassification"),
        ("whisper", "WhisperForConditionalGeneration"),
        ("wav2vec2", "Wav2Vec2ForCTC"),
        ("clip", "CLIPModel"),
        ("decision_transformer", "DecisionTransformerModel"),
    ],
)
def test_a_type_by_name_gets_a_sensible_head(transformers, name, head):
    config = hub._config(transformers, name)
    with torch.device("meta"):
        assert type(hub._from_config(transformers, config)).__name__ == head


def test_unknown_names_and_files(write, transformers):
    assert message("hf:gpt-2x").startswith("unknown architecture hf:gpt-2x\n  Did you mean ")
    assert message("hf:zzzzzzzz") == (
        "unknown architecture hf:zzzzzzzz\n"
        "  Check the name: model types are listed in transformers' CONFIG_MAPPING; a config JSON works too."
    )
    assert message("hf:none.json") == (
        "could not read the config none.json: FileNotFoundError: [Errno 2] No such file or directory: 'none.json'"
    )
    write("config.json", '{"vocab_size": 3}')
    assert message("hf:config.json") == (
        'config.json: "model_type" is None, expected an architecture that transformers knows, e.g. "gpt2"'
    )


def test_a_model_that_cannot_fit_is_refused_before_it_is_built(monkeypatch, write, transformers):
    write("config.json", json.dumps({**SMALL, "n_layer": 8, "n_embd": 512}))
    monkeypatch.setattr(hub, "_available_bytes", lambda: 2**26)
    assert message("hf:config.json") == (
        "hf:config.json has 25,269,248 parameters: weights and gradients take 0.19 GiB, 0.06 GiB are available\n"
        "  Give a smaller config: hf:path/to/config.json"
    )


def test_available_memory_is_no_more_than_there_is():
    available = hub._available_bytes()
    assert available is None or 2**20 < available < 2**50


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert message("hf:gpt2") == "hf:gpt2 needs transformers: pip install 'initaudit[hf]'"
    assert message("timm:resnet18") == "timm:resnet18 needs timm: pip install 'initaudit[timm]'"


def test_timm(monkeypatch):
    timm = ModuleType("timm")
    timm.is_model = lambda name: name == "resnet18"
    timm.list_models = lambda: ["resnet18", "vgg11"]
    timm.create_model = lambda name, pretrained: nn.Linear(2, 1 if pretrained else 3)
    monkeypatch.setitem(sys.modules, "timm", timm)
    (target,) = collect("timm:resnet18")
    assert (target.id, target.name, target.build().out_features) == ("timm:resnet18", "resnet18", 3)
    assert message("timm:resnet19") == "unknown architecture timm:resnet19\n  Did you mean resnet18?"
    assert (
        message("timm:frob") == "unknown architecture timm:frob\n  Check the name: timm.list_models() names them all."
    )


def test_timm_whose_own_dependency_is_missing(write):
    write("timm.py", "import torchvision_that_is_not_here\n")
    sys.modules.pop("timm", None)
    sys.path.insert(0, ".")
    assert message("timm:resnet18") == (
        "timm:resnet18 needs timm, which cannot be imported here: ModuleNotFoundError: "
        "No module named 'torchvision_that_is_not_here'\n"
        "  Install torchvision_that_is_not_here, or all of it: pip install 'initaudit[timm]'"
    )


def test_memory_is_no_matter_where_weights_are_made_one_by_one(monkeypatch, write, transformers):
    write("config.json", json.dumps(SMALL))
    monkeypatch.setattr(hub, "_available_bytes", lambda: 1)
    (target,) = collect("hf:config.json")
    assert read_weights(target).parameters
