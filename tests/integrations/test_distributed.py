"""One audit by the processes of a ``torch.distributed`` job equals that of one process on the whole batch."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import astuple, fields, replace
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.core import ParameterSource
from torch import nn

import initaudit
import initaudit.__main__ as entry
from initaudit.cli.audit import settings_of
from initaudit.errors import UsageError
from initaudit.launcher import launched
from initaudit.records import Report, Stats
from tests.integrations.jobs import Outcome, four, free_port, launch, mean_loss, two
from tests.integrations.networks import TORCH, build, can_spread
from tests.integrations.spread_jobs import HalfDead, Words, ids, rows, seeded

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed"),
    pytest.mark.skipif(
        sys.platform == "win32", reason="gloo and fork-free spawning of a job are not tested on Windows"
    ),
]
EXACT = ("count", "samples", "units", "nonfinite", "dead_units", "saturated", "saturated_units", "zero_fraction")
CLOSE = ("mean", "std", "rms", "min", "max", "kappa", "sample_std", "cosine")
PARAMETER = ("mean", "std", "rms", "min", "max", "kurtosis", "grad_rms")
ATTENTION = ("keys", "logit_std", "entropy", "concentration", "saturated", "query_rms", "key_rms", "token_spread")


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    return launch(two, 2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    return launch(four, 4, tmp_path_factory.mktemp("four"))


def seen(outcome: Outcome, name: str, how: str) -> Any:
    """What a job found of a network that was spread in that way."""
    if not can_spread(how):
        pytest.skip("fully_shard works on the CPU from torch 2.9 on")
    return outcome[f"{name}, {how}"]


def differences(one: Report, many: Report, cosine: float = 1e-5) -> list[str]:
    """Where two reports differ, beyond rounding; ``cosine`` is the error that it may have."""
    assert one.trace is not None
    assert many.trace is not None
    found: list[str] = []

    def check(where: str, a: object, b: object, names: tuple[str, ...]) -> None:
        if a is None or b is None:
            found.extend([f"{where}: {a} {b}"] * (a is not b))
            return
        size = getattr(a, "rms", 1.0)
        for name in names:
            x, y = getattr(a, name), getattr(b, name)
            # Whether a gradient that cancels is zero, or 1e-9, is a matter of rounding.
            rounding = {"cosine": cosine, "kappa": 1e-4, "zero_fraction": 0.03 if "gradient" in where else 0.0}
            allowed = rounding.get(name, 1e-5 * max(abs(x or 0), size))
            if x != y and (x is None or y is None or not math.isclose(x, y, rel_tol=1e-5, abs_tol=allowed)):
                found.append(f"{where} {name}: {x} {y}")

    def check_histogram(where: str, a: Stats | None, b: Stats | None) -> None:
        small = a is not None and a.count <= 2048  # of a larger one only some elements are counted
        if small and b is not None and a.histogram is not None and b.histogram is not None:
            moved = sum(abs(x - y) for x, y in zip(a.histogram.counts, b.histogram.counts, strict=True))
            if a.histogram.limit != b.histogram.limit or moved > 2:  # from one bin to the next, by rounding
                found.append(f"{where} histogram: {a.histogram} {b.histogram}")

    calls = [[(op.name, op.role, op.scope, op.inputs) for op in report.trace.ops] for report in (one, many)]  # type: ignore[union-attr]
    assert calls[0] == calls[1]
    for a, b in zip(one.trace.ops, many.trace.ops, strict=True):
        check(f"{a.id} {a.name}", a.stats, b.stats, (*EXACT, *CLOSE))
        check_histogram(f"{a.id} {a.name}", a.stats, b.stats)
        if a.scope != "positions":  # which no sample reaches: see the test of it
            check(f"{a.id} {a.name} gradient", a.gradient, b.gradient, (*EXACT, *CLOSE))
    for p, q in zip(one.trace.parameters, many.trace.parameters, strict=True):
        check(p.fqn, p, q, PARAMETER)
        found.extend([f"{p.fqn}: {p.init} {q.init}"] * ((p.init, p.shape) != (q.init, q.shape)))
    for layer, other in zip(one.layers, many.layers, strict=True):
        check(layer.fqn, layer, other, ("fan_in", "fan_out"))
        found.extend([f"{layer.fqn}: {layer.kind} {other.kind}"] * (layer.kind != other.kind))
        for call, again in zip(layer.calls, other.calls, strict=True):
            check(f"{layer.fqn} input", call.input, again.input, (*EXACT, *CLOSE))
    for m, n in zip(one.trace.attentions, many.trace.attentions, strict=True):
        check(f"attention {m.op}", m, n, ATTENTION)
    verdicts = [[(f.code, f.severity, f.fqn) for f in report.findings] for report in (one, many)]
    return found + [str(verdicts)] * (verdicts[0] != verdicts[1])


WAYS = [
    *((name, how) for name in ("mlp", "exploding", "transformer") for how in ("ddp", "fsdp", "tensor")),
    ("conv", "ddp"),
    ("conv", "fsdp"),
]


@pytest.mark.parametrize(("name", "how"), WAYS, ids=[f"{name}-{how}" for name, how in WAYS])
def test_two_processes_report_what_one_does(of_two: list[Outcome], name: str, how: str) -> None:
    assert differences(initaudit.audit(*build(name)), seen(of_two[0], name, how)) == []


@pytest.mark.parametrize(
    ("name", "how"), [("mlp", "ddp"), ("mlp", "fsdp"), ("transformer", "tensor")], ids=["ddp", "fsdp", "tensor"]
)
def test_four_processes_report_what_one_does(of_four: list[Outcome], name: str, how: str) -> None:
    assert differences(initaudit.audit(*build(name)), seen(of_four[0], name, how)) == []


def test_of_replicas_in_parts_only_the_cosine_is_an_estimate(of_four: list[Outcome]) -> None:
    assert differences(initaudit.audit(*build("mlp")), seen(of_four[0], "mlp", "fsdp and tensor"), cosine=0.02) == []


def test_all_ranks_get_the_same_report(of_two: list[Outcome], of_four: list[Outcome]) -> None:
    for outcomes in (of_two, of_four):
        for name, report in outcomes[0].items():
            if isinstance(report, Report) and name not in ("alone", "uneven"):
                assert len({repr(_timeless(outcome[name])) for outcome in outcomes}) == 1, name


def _timeless(report: Report) -> Report:
    assert report.trace is not None
    seconds = {field.name: 0.0 for field in fields(report.trace) if field.name.endswith("seconds")}
    return replace(report, seconds=0.0, trace=replace(report.trace, **seconds))  # type: ignore[arg-type]


def test_the_report_tells_over_how_many_ranks(of_two: list[Outcome], of_four: list[Outcome]) -> None:
    for outcomes, count in ((of_two, 2), (of_four, 4)):
        report = outcomes[0]["mlp, ddp"]
        assert report.trace.environment.ranks == count
        assert report.to_dict()["environment"]["ranks"] == count
        assert report.trace.inputs == f"float32[{16 // count},16] on each of {count} ranks"
        assert f"merged over {count} ranks" in " ".join(report.to_html().split())
    alone = of_two[0]["alone"]
    assert alone.trace.environment.ranks == 1
    assert "merged over" not in alone.to_html()


def test_the_mean_loss_of_the_ranks_is_that_of_the_batch(of_two: list[Outcome]) -> None:
    one, many = initaudit.audit(*build("mlp"), loss=mean_loss), of_two[0]["loss"]
    assert differences(one, many) == []
    assert many.trace.loss_value == pytest.approx(one.trace.loss_value, rel=1e-6)  # type: ignore[union-attr]


def test_inferred_inputs_are_shared_out(of_two: list[Outcome]) -> None:
    one, many = initaudit.audit(build("mlp")[0]), of_two[0]["inferred"]
    assert differences(one, many) == []
    assert many.trace.inputs == one.trace.inputs  # type: ignore[union-attr]


def test_ranks_may_have_batches_of_unlike_size(of_two: list[Outcome]) -> None:
    model, batch = build("mlp")
    one, many = initaudit.audit(model, batch[:15]), of_two[0]["uneven"]
    for outcome in of_two:
        assert outcome["uneven"].trace.inputs == "float32[8,16] or float32[7,16] on each of 2 ranks"
    for a, b in zip(one.layers, many.layers, strict=True):
        x, y = a.calls[0].pre_activation, b.calls[0].pre_activation
        assert x is not None
        assert (y.count, y.samples) == (x.count, x.samples)
        assert (y.rms, y.std, y.max) == pytest.approx((x.rms, x.std, x.max), rel=1e-6)


def test_batch_norm_takes_the_statistics_of_each_rank(of_two: list[Outcome]) -> None:
    one, many = initaudit.audit(*build("batch norm")), of_two[0]["batch norm, ddp"]

    def rms(report: Report, name: str) -> float:
        stats: Stats = next(op.stats for op in report.trace.ops if op.name == name and op.stats)  # type: ignore[union-attr]
        return stats.rms

    assert rms(many, "linear") == pytest.approx(rms(one, "linear"), rel=1e-6)
    assert rms(many, "batch_norm") == pytest.approx(rms(one, "batch_norm"), rel=1e-3)
    unlike = [abs(a.calls[0].pre_activation.rms / b.calls[0].pre_activation.rms - 1) for a, b in
              zip(one.layers[2:], many.layers[2:], strict=True)]  # type: ignore[union-attr]  # fmt: skip
    assert 1e-6 < max(unlike) < 0.1


def test_values_that_were_gathered_for_the_run_are_known_after_it(of_two: list[Outcome]) -> None:
    one, many = initaudit.audit(*build("recurrent")), seen(of_two[0], "recurrent", "fsdp")
    assert one.layers[0].nonlinearity is not None
    assert many.layers[0].nonlinearity == one.layers[0].nonlinearity
    assert one.trace.recurrences  # type: ignore[union-attr]
    assert many.trace.recurrences == one.trace.recurrences  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["ddp", "fsdp", "tensor"])
def test_an_audit_between_steps_changes_nothing(of_two: list[Outcome], how: str) -> None:
    for outcome in of_two:
        assert seen(outcome, "trained", how) == []


@pytest.mark.skipif(not can_spread("fsdp"), reason="fully_shard works on the CPU from torch 2.9 on")
def test_an_audit_changes_nothing_that_fully_shard_keeps(of_two: list[Outcome]) -> None:
    parts = dict.fromkeys(("0.0.weight", "0.0.bias", "1.weight", "1.bias"), "DTensor")
    for outcome in of_two:
        found = outcome["gathered before"]
        assert (found["gathered"], found["held"], found["again"]) == ("Parameter", parts, parts)
        assert found["same"]
        assert math.isfinite(found["norm"])
        assert outcome["accumulated"] == {"first": [], "between": [], "last": []}
        assert outcome["block first"] == "DTensor"
        assert (outcome["where it is"], outcome["checkpointed"]) == ("pass", "pass")


@pytest.mark.parametrize(
    ("name", "one"), [("kept in parts", (HalfDead, rows)), ("vocabulary", (Words, ids))], ids=["dtensor", "vocabulary"]
)
def test_what_tensor_parallelism_leaves_in_parts_is_put_together(of_two: list[Outcome], name: str, one: Any) -> None:
    make, inputs = one
    assert differences(initaudit.audit(seeded(make), inputs()), of_two[0][name]) == []


REFUSED = {
    "expert without tokens": "linear in experts.1 (input measured: False, output measured: False, gradient measured",
    "no samples": "rank 0 was given float32[0,16], which has no samples; give every rank at least one",
    "another class": "the ranks hold different models: the class is Bilinear on rank 0 and Linear on rank 1",
    "lstm": "the first dimension of the inputs is that of positions in mixer",
    "attention": "the first dimension of the inputs is that of positions in mixer",
    "lstm, transposed": "pass",
    "attention, transposed": "pass",
    "mask": "an input of shape [8, 8] may be a mask of pairs of positions or have a row for each of 8 samples",
    "mask of other size": "pass",
    "lazy": "pass",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_merged_or_shared_out_is_refused_on_all_ranks(of_two: list[Outcome], name: str) -> None:
    found = [outcome["refused"][name] for outcome in of_two]
    assert REFUSED[name] in found[0]
    assert found[0] == found[1]


@pytest.mark.parametrize("how", ["ddp", "fsdp", "tensor"])
def test_a_model_in_a_job_is_initialized_by_all_its_processes(of_two: list[Outcome], how: str) -> None:
    if not can_spread(how):
        pytest.skip("fully_shard works on the CPU from torch 2.9 on")
    (warned, told, values, then), other = (outcome["reinitialized"][how] for outcome in of_two)
    assert warned > 0
    assert then == 0
    assert {"fc1.weight", "fc2.weight", "head.weight"} <= told.keys()
    for name, (before, after) in told.items():
        if name.endswith("weight"):
            assert after == pytest.approx(float(values[name].std(correction=0)), rel=1e-5)
            assert after < 0.7 * before
    assert other[1] == told
    assert all(torch.equal(value, other[2][name]) for name, value in values.items())


@pytest.mark.skipif(not can_spread("fsdp"), reason="fully_shard works on the CPU from torch 2.9 on")
def test_a_model_sharded_over_some_ranks_is_refused(of_four: list[Outcome]) -> None:
    assert {outcome["in a part"][:37] for outcome in of_four} == {"fully_shard spans 2 of 4 ranks; expec"}


def test_what_fails_on_one_rank_fails_on_all(of_two: list[Outcome]) -> None:
    zero, one = of_two
    assert one["raises"].startswith("the forward pass failed: ValueError: no batch today")
    assert zero["raises"].startswith("rank 1 failed: the forward pass failed: ValueError: no batch today")
    assert "could not build" in one["broken"]
    assert zero["broken"].startswith("rank 1 failed: could not build")
    assert "'float32[7,' is malformed" in one["malformed"]
    assert zero["malformed"].startswith("rank 1 failed: input 'float32[7,' is malformed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("differs", "number 4 is tanh in the model on rank 0 and relu in the model on rank 1"),
        ("unlike", "weight has other values on some ranks"),
        ("wider", "weight [16, 16] on rank 0 and weight [17, 16] on rank 1"),
        ("odd", "a batch of 7 samples cannot be shared out equally among 2 ranks"),
    ],
)
def test_ranks_that_disagree_say_so(of_two: list[Outcome], name: str, message: str) -> None:
    for outcome in of_two:
        assert message in outcome[name]


def test_without_a_job_there_is_nothing_to_join() -> None:
    with pytest.raises(UsageError, match=r"call torch\.distributed\.init_process_group first"):
        initaudit.audit(nn.Linear(4, 4), distributed=True)
    report = initaudit.audit(nn.Linear(4, 4), distributed=False)
    assert astuple(report.trace.environment)[-1] == 1  # type: ignore[union-attr]


def test_only_torchrun_makes_a_process_one_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launched() == (0, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launched() == (3, 4)


def as_rank_one(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)


def test_the_first_rank_alone_writes_files(monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank_one(monkeypatch)
    context = click.Context(click.Command("initaudit"))
    context.params = {"targets": ("examples/lstm.py",), "figure": "lstm.svg", "output": "lstm.json"}
    for name in context.params:
        context.set_parameter_source(name, ParameterSource.COMMANDLINE)
    settings = settings_of(context, None)
    assert (settings.figure, settings.output) == (None, None)


def test_a_rank_that_fails_alone_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(prog_name: str) -> None:
        print("no such device")
        raise SystemExit(2)

    as_rank_one(monkeypatch)
    monkeypatch.setattr(entry, "main", fail)
    monkeypatch.setattr(entry, "PATIENCE", 0.0)
    told = StringIO()
    monkeypatch.setattr(sys, "__stderr__", told)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            entry.follow()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told.getvalue() == "rank 1:\nno such device\n"


def test_under_torchrun_the_first_rank_reports_and_all_exit_alike(tmp_path: Path) -> None:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    run = subprocess.run(
        [*launcher, "-m", "initaudit", "examples/deep_relu_mlp.py"],
        cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert run.stdout.count("FAIL examples/deep_relu_mlp.py::DeepReLU") == 1, run.stdout + run.stderr
    assert "merged over 2 ranks" in " ".join(run.stdout.split())
    assert "error IA101 vanishing-activations at body.0" in run.stdout
    listed = (0, 1) if TORCH >= (2, 9) else (0,)  # launchers of before may name the first alone
    for rank in listed:
        assert f"rank      : {rank} (local_rank: {rank})\n  exitcode  : 1 " in run.stderr
