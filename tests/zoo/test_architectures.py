"""The collection that the benchmarks audit: it builds, it runs, one seed means one model, and it can be made deeper."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

transformers: Any = pytest.importorskip("transformers", minversion="5")  # whose configs the collection names

pytestmark = pytest.mark.filterwarnings("ignore")  # what transformers says of its own deprecations

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SAMPLE = (
    "canine jetmoe zamba2 prophetnet levit mask2former vivit paligemma vision-encoder-decoder"
    " speecht5 fastspeech2_conformer autoformer timesfm"
).split()


@pytest.fixture
def architectures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("architectures")


def test_there_are_enough_and_each_is_in_one_family(architectures: Any) -> None:
    tables = architectures.FAMILIES.values()
    assert len(architectures.names()) == sum(len(table) for table in tables) >= 220
    assert len(set(architectures.names())) == len(architectures.names())
    assert architectures.family("gpt2") == "causal language model"
    assert {architectures.family(name) for name in SAMPLE} == set(architectures.FAMILIES)


def test_the_installed_library_has_nearly_all_of_the_classes(architectures: Any) -> None:
    known = set(dir(transformers))  # asks for no import
    entries = [entry for table in architectures.FAMILIES.values() for entry in table.values()]
    missing = [entry.model for entry in entries if not {entry.config, entry.model} <= known]
    assert len(missing) <= 0.05 * len(entries), missing


@pytest.mark.parametrize("name", SAMPLE)
def test_one_seed_is_one_model_that_runs_on_its_input(architectures: Any, name: str) -> None:
    model, inputs = architectures.build(name)
    torch.rand(7)  # what else draws from torch's generator changes nothing
    again, same_inputs = architectures.build(name)
    other, _ = architectures.build(name, seed=1)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    torch.testing.assert_close(inputs, same_inputs, rtol=0, atol=0)
    with torch.no_grad():
        outputs = model(**inputs)
    tensors = [value for value in outputs.to_tuple() if isinstance(value, torch.Tensor)]
    assert tensors
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    assert sum(p.numel() for p in model.parameters()) < 5_000_000


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("bert", {"num_hidden_layers": 4}),
        ("resnet", {"depths": [4, 4, 4, 4]}),
        ("lfm2", {"layer_types": ["conv", "full_attention", "conv", "full_attention"]}),
        ("gpt_neo", {"attention_layers": ["global", "local", "global", "local"]}),
        ("bart", {"encoder_layers": 4, "decoder_layers": 4}),
        ("clip", {"text_config.num_hidden_layers": 4, "vision_config.num_hidden_layers": 4}),
        ("git", {"num_hidden_layers": 4, "vision_config.num_hidden_layers": 4}),
    ],
)
def test_depth_goes_into_every_stack(architectures: Any, name: str, sizes: dict[str, Any]) -> None:
    model, inputs = architectures.build(name, depth=4)
    for path, size in sizes.items():
        value = model.config
        for attribute in path.split("."):
            value = getattr(value, attribute)
        assert value == size
    with torch.no_grad():
        model(**inputs)


def test_what_has_no_depth_stays_as_it_is(architectures: Any) -> None:
    shallow, _ = architectures.build("mobilenet_v1")
    same, _ = architectures.build("mobilenet_v1", depth=4)
    assert [p.shape for p in shallow.parameters()] == [p.shape for p in same.parameters()]


def test_an_unknown_name_and_a_missing_class_are_told(architectures: Any) -> None:
    with pytest.raises(KeyError, match="bort"):
        architectures.build("bort")
    entry = architectures.Architecture("BertConfig", "BortModel", {}, lambda draw, config: {})
    with pytest.raises(LookupError, match=rf"transformers {transformers.__version__} has no BortModel"):
        entry.build(0, None)


def test_the_benchmark_makes_this_collection_deeper_and_no_other(
    architectures: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = importlib.import_module("zoo")
    deeper = zoo.architectures(depth=4)
    assert deeper.names() == architectures.names()
    assert deeper.build("bert")[0].config.num_hidden_layers == 4
    assert zoo.architectures().build is architectures.build
    with pytest.raises(SystemExit):
        zoo.main(["--registry", "--depth", "4"])
    assert "--depth sizes the models of benchmarks/architectures" in capsys.readouterr().err
