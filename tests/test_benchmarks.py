"""Each benchmark runs at its smallest setting and ends with its summary line."""

import importlib
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))
NEEDS = {"large": "transformers", "zoo": "transformers", "trainability": "sklearn", "fix": "sklearn"}


@pytest.fixture(autouse=True)
def as_run_from_its_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FOLDER)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_at_its_smallest_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    importlib.import_module(name).main(["--quick"])
    out = capsys.readouterr().out
    assert out.startswith("torch "), "the environment comes first"
    assert out.splitlines()[-1].startswith(f"{name}: ")


def test_every_benchmark_is_documented_with_its_command() -> None:
    page = (FOLDER.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"python benchmarks/{name}.py" not in page] == []


def test_an_injected_fault_is_found_and_taken_out_again() -> None:
    faults, kinds, families = (importlib.import_module(name) for name in ("faults", "_faults", "_families"))
    ((subject, healthy),) = faults.subjects_of(families, ["relu-mlp"], seeds=1)
    fault = next(f for f in kinds.FAULTS if f.name == "one NaN")
    site = ("4.weight",)
    assert site in list(fault.sites(subject))
    outcome = faults.inject(fault, subject, site, 0, healthy)
    assert outcome.harmful
    assert outcome.found
    assert outcome.named
    assert all(torch.equal(p, subject.saved[n]) for n, p in subject.model.named_parameters())
    assert not faults.harmed(healthy, faults.vitals(subject))


def test_a_fault_that_changes_nothing_is_harmless() -> None:
    faults, kinds, families = (importlib.import_module(name) for name in ("faults", "_faults", "_families"))
    ((subject, healthy),) = faults.subjects_of(families, ["tanh-mlp"], seeds=1)
    nothing = kinds.Fault("nothing", kinds.weights(), lambda subject, site: None)
    outcome = faults.inject(nothing, subject, ("0.weight",), 0, healthy)
    assert (outcome.harmful, outcome.found, outcome.named) == (False, (), False)


def test_a_collection_of_ones_own_is_audited_and_its_failures_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Broken(nn.Module):\n"
        "    def forward(self, x):\n"
        "        raise ValueError('no')\n"
        "def names():\n"
        "    return ['good', 'unbuildable', 'broken']\n"
        "def build(name):\n"
        "    if name == 'unbuildable':\n"
        "        raise RuntimeError('cannot')\n"
        "    return (Broken() if name == 'broken' else nn.Linear(8, 8)), torch.randn(4, 8)\n"
    )
    importlib.import_module("zoo").main(["--module", str(path)])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("zoo: 2 audited, 1 pass")
    assert "1 exceptions, 0 too slow; 1 skipped" in last


def test_the_registry_builds_a_small_model_that_runs_on_its_inputs() -> None:
    pytest.importorskip("transformers")
    model, inputs = importlib.import_module("_registry").build("gpt2")
    config = model.config
    assert (config.n_embd, config.n_layer, config.n_head) == (64, 2, 4)
    assert config.bos_token_id < config.vocab_size
    assert model(**inputs).logits.shape[-1] == config.vocab_size
