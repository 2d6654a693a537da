"""Weights judged without a run: of checkpoints in each format, and of models from their factory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import initaudit.probe.deferred as deferred
from initaudit.errors import AuditError, UsageError
from initaudit.records import Finding, Trace
from initaudit.rules import diagnose
from initaudit.target.load import Target, explain_nothing
from initaudit.weights_only import collect_weights, read_weights


class Healthy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 64)
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 64)
        self.conv = nn.Conv2d(8, 16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16, bias=False)
        nn.init.constant_(self.depthwise.weight, 1 / 9)  # a blur
        self.norm = nn.LayerNorm(64)
        self.act = nn.PReLU(64)
        self.head = nn.Linear(64, 100)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("mask", torch.full((16, 16), float("-inf")).triu(1))


class Faulty(Healthy):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.up.weight, 0.1)
        nn.init.uniform_(self.down.weight, 0.0, 0.1)
        nn.init.normal_(self.norm.weight, std=0.02)
        with torch.no_grad():
            self.conv.weight[0, 0, 0, 0] = float("nan")
        self.lost = nn.Parameter(torch.empty(64, 64))


FAULTS = {("IA502", "conv"), ("IA304", "up"), ("IA305", "down"), ("IA309", "norm")}


def found(trace: Trace) -> set[tuple[str, str]]:
    return {(f.code, f.fqn) for f in diagnose(trace) if f.code != "IA902"}


def of_model(factory: type[nn.Module], **options: int) -> Trace:
    return read_weights(Target(factory.__name__, factory.__name__, factory), **options)


def of_file(path: Path) -> Trace:
    (target,) = collect_weights(str(path))
    return read_weights(target)


@pytest.fixture(params=["pt", "nested.pt", "legacy.pt", "safetensors", "index.json", "torch.index.json"])
def saved(request: pytest.FixtureRequest, tmp_path: Path):
    """Saves the weights of a model in one of the formats and returns the path."""
    form = request.param
    if form in ("safetensors", "index.json"):
        pytest.importorskip("safetensors")

    def write(state: dict[str, torch.Tensor], path: Path) -> None:
        if form in ("safetensors", "index.json"):
            from safetensors.torch import save_file

            save_file(state, path)
        else:
            torch.save(state, path, _use_new_zipfile_serialization=form != "legacy.pt")

    def save(model: nn.Module) -> Path:
        path, state = tmp_path / f"m.{form}", model.state_dict()
        if form == "nested.pt":
            torch.save({"epoch": 3, "optimizer": {"state": torch.full((9, 9), 7.0)}, "state_dict": state}, path)
        elif "index" in form:
            ending = "bin" if "torch" in form else "safetensors"
            shards = {name: f"m-{number % 2}.{ending}" for number, name in enumerate(state)}
            for shard in set(shards.values()):
                write({name: tensor for name, tensor in state.items() if shards[name] == shard}, tmp_path / shard)
            path.write_text(json.dumps({"weight_map": shards}))
        else:
            write(state, path)
        return path

    return save


def test_a_healthy_checkpoint_has_no_finding(saved) -> None:
    trace = of_file(saved(Healthy()))
    assert found(trace) == set()
    assert {p.fqn for p in trace.parameters} == {name for name, _ in Healthy().named_parameters()}
    assert (trace.ops, trace.environment.dtype) == ((), "float32")


def test_the_faults_of_a_checkpoint(saved) -> None:
    model = Faulty()
    nn.init.orthogonal_(model.lost)  # what was never written looks like anything in a file
    assert found(of_file(saved(model))) == FAULTS


@pytest.mark.parametrize("large", [64, 1 << 16])
def test_models_from_their_factory(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr(deferred.Deferred.__init__, "__kwdefaults__", {"large": large, "fresh": math.nan})
    assert found(of_model(Healthy)) == set()
    trace = of_model(Faulty)
    assert found(trace) == FAULTS | {("IA501", "lost")}
    fan_in = {layer.fqn: layer.fan_in for layer in trace.layers}
    assert (fan_in["embedding"], fan_in["conv"], fan_in["depthwise"], fan_in["lost"]) == (1, 72, 9, 64)


def test_what_no_run_can_tell_is_said_and_no_cure_is_invented() -> None:
    trace = of_model(Faulty)
    reasons = {part.fqn: part.reason for part in trace.unjudged}
    assert "ran nothing" in reasons[""]
    assert "zeros" in reasons["head.weight"]
    findings: tuple[Finding, ...] = diagnose(trace)
    assert [f.code for f in findings if f.advice is not None] == ["IA309"]  # gains are ones, whatever follows


def test_masks_and_integers_are_no_weights(tmp_path: Path) -> None:
    state = {"mask": torch.full((8, 8), float("-inf")).triu(1), "ids": torch.arange(9), "w": torch.randn(9, 9)}
    torch.save(state, tmp_path / "m.pt")
    trace = of_file(tmp_path / "m.pt")
    assert [p.fqn for p in trace.parameters] == ["w"]
    reasons = {part.fqn: part.reason for part in trace.unjudged}
    assert "mask" in reasons["mask"]
    assert "int64" in reasons["ids"]


def test_a_tied_weight_is_one_and_a_frozen_one_is_marked() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.b.weight = self.a.weight
            self.a.weight.requires_grad_(False)

    (parameter,) = of_model(Tied).parameters
    assert (parameter.fqn, parameter.aliases, parameter.requires_grad) == ("a.weight", ("b.weight",), False)


def test_an_instance_is_read_as_it_is() -> None:
    model = nn.Linear(64, 64)
    trace = read_weights(Target("m", "m", lambda: model, is_factory=False))
    assert trace.parameters[0].mean == pytest.approx(float(model.weight.detach().double().mean()), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("norms", [torch.bfloat16, torch.float32])
def test_the_dtype_of_a_checkpoint_is_that_of_most_entries(saved, norms: torch.dtype) -> None:
    def convolution() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(8, 16, 3, bias=False).bfloat16(), nn.BatchNorm2d(16).to(norms))

    trace = of_file(saved(nn.Sequential(*(convolution() for _ in range(3)))))
    assert trace.environment.dtype == "bfloat16"
    assert {p.dtype for p in trace.parameters if len(p.shape) == 4} == {"bfloat16"}


def under_a_default_dtype() -> nn.Module:
    """As transformers builds: the default dtype holds while the model is made and no longer."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        return nn.Linear(512, 512)
    finally:
        torch.set_default_dtype(torch.float32)


def on_the_meta_device() -> nn.Module:
    with torch.device("meta"):
        return nn.Linear(512, 512, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "factory",
    [
        under_a_default_dtype,
        on_the_meta_device,
        lambda: nn.Linear(512, 512, dtype=torch.bfloat16),
        lambda: nn.Linear(512, 512).bfloat16(),
    ],
)
def test_the_dtype_of_a_factory_is_that_of_what_it_builds(factory) -> None:
    trace = read_weights(Target("m", "m", factory))
    assert [p.dtype for p in trace.parameters] == ["bfloat16"] * 2
    assert trace.environment.dtype == "bfloat16"
    assert trace.parameters[0].init == "kaiming_uniform(a=sqrt(5))"


def test_seeds() -> None:
    first, again, other = (of_model(Healthy, seed=seed) for seed in (1, 1, 2))
    assert first.parameters == again.parameters
    assert first.parameters != other.parameters


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such checkpoint: .*none\.pt"):
        of_file(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("no")
    with pytest.raises(AuditError, match=r"text\.pt"):
        of_file(tmp_path / "text.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(AuditError, match=r"holds more than tensors .*save model\.state_dict\(\) alone"):
        of_file(tmp_path / "model.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(AuditError, match="holds no tensor by name"):
        of_file(tmp_path / "empty.pt")
    torch.save({"ids": torch.arange(3)}, tmp_path / "ids.pt")
    with pytest.raises(AuditError, match="holds no floating-point weight"):
        of_file(tmp_path / "ids.pt")
    (tmp_path / "m.index.json").write_text('{"weight_map": {"w": "gone.safetensors"}}')
    with pytest.raises(AuditError, match=r"of which gone\.safetensors is missing"):
        of_file(tmp_path / "m.index.json")
    (tmp_path / "m.index.json").write_text("[]")
    with pytest.raises(AuditError, match="is no index of shards"):
        of_file(tmp_path / "m.index.json")


def test_without_safetensors_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UsageError, match=r"pip install 'initaudit\[safetensors\]'"):
        of_file(tmp_path / "m.safetensors")


def test_the_command(tmp_path: Path) -> None:
    torch.save(Faulty().state_dict(), tmp_path / "bad.pt")
    torch.save(Healthy().state_dict(), tmp_path / "good.pt")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "initaudit", "--weights-only", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = run("good.pt", "bad.pt", "--format", "json")
    good, bad = json.loads(done.stdout)["audits"]
    assert (done.returncode, good["verdict"], bad["verdict"]) == (1, "pass", "fail")
    assert (good["target"], good["inputs"], good["layers"][0]["calls"]) == ("good.pt", "none", 0)
    table = run("good.pt", "-v")
    assert table.returncode == 0
    assert "expected std" not in table.stdout
    assert "bars:" not in table.stdout
    assert "--weights-only ran nothing" in " ".join(table.stdout.split())
    command = [sys.executable, "-m", "initaudit", "good.pt"]
    forgotten = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert forgotten.returncode == 4
    assert forgotten.stderr.endswith("no model to run: add --weights-only\n")
    refused = run("good.pt", "--input", "2x4")
    assert refused.returncode == 4
    assert refused.stderr.startswith("Error: --weights-only runs nothing, and --input says how to run")


class Odd(nn.Module):
    """Parameters of two dimensions that multiply nothing, or that no module tells to be matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.norm = nn.LayerNorm((16, 64))
        self.A_log = nn.Parameter(torch.arange(1.0, 17).log().repeat(64, 1))
        self.head_bias = nn.Parameter(torch.rand(16, 64))
        self.register_buffer("tril", torch.ones(32, 32).tril())
        self.register_buffer("attention_mask", torch.ones(32, 32))
        self.register_buffer("weight_scale_inv", torch.rand(32, 32))


def test_what_is_no_matrix_gets_no_verdict_as_one(saved) -> None:
    assert found(of_model(Odd)) == set()
    trace = of_file(saved(Odd()))
    assert found(trace) == set()
    listed = {part.fqn for part in trace.unjudged}
    assert {"norm.weight", "A_log", "tril", "attention_mask", "weight_scale_inv"} <= listed
    assert "head_bias" not in listed


def test_ones_are_a_fault_where_the_module_is_known(saved) -> None:
    class Ones(Odd):
        def __init__(self) -> None:
            super().__init__()
            nn.init.ones_(self.linear.weight)

    assert found(of_model(Ones)) == {("IA304", "linear")}
    assert "linear.weight" in {part.fqn for part in of_file(saved(Ones())).unjudged}


def test_a_single_infinity_is_found(saved) -> None:
    class Infinite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear, self.zero = nn.LayerNorm(64), nn.Linear(64, 64), nn.Linear(64, 64)
            nn.init.zeros_(self.linear.bias)
            nn.init.zeros_(self.zero.weight)
            with torch.no_grad():
                self.norm.weight[5] = self.linear.bias[7] = self.zero.weight[3, 4] = math.inf

    for trace in (of_model(Infinite), of_file(saved(Infinite()))):
        broken = {p.fqn for p in trace.parameters if p.nonfinite and not p.unwritten}
        assert broken == {"norm.weight", "linear.bias", "zero.weight"}
        assert {code for code, _ in found(trace)} == {"IA502"}


def test_a_kernel_that_may_be_depthwise_has_no_mean_to_judge(tmp_path: Path) -> None:
    torch.save({"dw.weight": torch.rand(32, 1, 7, 7), "full.weight": torch.rand(32, 4, 7, 7)}, tmp_path / "m.pt")
    assert found(of_file(tmp_path / "m.pt")) == {("IA305", "full")}


def test_a_model_without_values_is_an_error() -> None:
    with torch.device("meta"):
        model = nn.Linear(64, 64)
    for is_factory in (True, False):
        with pytest.raises(AuditError, match="weight is on the meta device, without values"):
            read_weights(Target("m", "m", lambda: model, is_factory=is_factory))


def test_a_factory_that_loads_a_file_is_told_to_name_it(tmp_path: Path) -> None:
    held = torch.empty(512, 512, device="meta")

    def loads() -> nn.Module:
        layer = nn.Linear(512, 512)
        layer.weight = nn.Parameter(held + 1)
        return layer

    with pytest.raises(AuditError, match="where it loads a checkpoint, name that file"):
        read_weights(Target("m", "m", loads))


def test_a_folder_of_a_saved_model_points_to_its_weights(tmp_path: Path) -> None:
    for name in ("model-1.safetensors", "model.safetensors.index.json", "config.json"):
        (tmp_path / name).touch()
    assert collect_weights(str(tmp_path)) == []
    hint = f"To have the weights judged that are there: initaudit {tmp_path / 'model.safetensors.index.json'} --weights"
    assert hint in explain_nothing(str(tmp_path))


def test_what_a_factory_refuses_is_said_as_it_says_it() -> None:
    def refuses() -> nn.Module:
        raise AuditError("load", "needs a package")

    with pytest.raises(AuditError, match=r"^needs a package$"):
        read_weights(Target("m", "m", refuses))
