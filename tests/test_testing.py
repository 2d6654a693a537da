"""The message of a failed assertion, whole; and that the assertion judges real models."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import initaudit
from initaudit.errors import AuditError, UsageError
from initaudit.records import Advice, Environment, Finding, Layer, Parameter, Report, Severity, Trace
from initaudit.testing import assert_initialized, codes, failure_message

ADVICE = Advice("kaiming_normal_", 1.41421, 0.08839, 'nn.init.kaiming_normal_(m.body[0].weight, nonlinearity="relu")')
WEIGHT = Parameter(
    "body.0.weight", (256, 256), "float32", 0.0, 0.0361, 0.0361, -0.06, 0.06, "kaiming_uniform(a=sqrt(5))"
)
LAYER = Layer("body.0", "Linear", 256.0, 256.0, WEIGHT, None, (), "m.body[0]", "m.body[0].weight")
VANISHING = Finding(
    code="IA101",
    name="vanishing-activations",
    severity=Severity.ERROR,
    fqn="body.0",
    message="The signal shrinks by 0.41 per layer from here on.",
    observed=1.2e-9,
    limit=1e-4,
    unit="of the first layer's rms",
    affected=("body.2", "body.4", "body.6", "body.8", "body.10"),
    advice=ADVICE,
)
COLLAPSE = Finding("IA105", "sample-collapse", Severity.WARNING, "", "All samples look alike.\nTheir cosine is 0.99.")
NOTE = Finding("IA501", "torch-default", Severity.NOTE, "body.4", "As torch left it.")


def report(*findings: Finding) -> Report:
    trace = Trace(
        target="Net",
        environment=Environment("2.13.0", "cpu", "float32", 0),
        inputs="float32[32,256]",
        inputs_source="inferred from Linear(256, 256)",
        loss="seeded Gaussian cotangent",
        training=True,
        ops=(),
        layers=(LAYER,),
        parameters=(WEIGHT,),
    )
    return Report("Net", findings, trace)


def test_the_whole_message() -> None:
    assert (
        failure_message(report(VANISHING, COLLAPSE, NOTE), "warning")
        == """\
Net is not well initialized: 1 error, 1 warning (inputs float32[32,256], inferred from Linear(256, 256))

error IA101 vanishing-activations at body.0
  The signal shrinks by 0.41 per layer from here on.
  figure:  1.2e-09 of the first layer's rms, limit 1.0e-04
  affects: body.2, body.4, body.6 and 2 more
  cure:    kaiming_normal_ with gain 1.41: std 0.0884, found 0.0361
           nn.init.kaiming_normal_(m.body[0].weight, nonlinearity="relu")
  silence: ignore=["IA101"]

warning IA105 sample-collapse at the whole model
  All samples look alike.
  Their cosine is 0.99.
  silence: ignore=["IA105"]"""
    )


@pytest.mark.parametrize(
    ("fail_on", "named"),
    [("error", ["IA101"]), ("warning", ["IA101", "IA105"]), ("note", ["IA101", "IA105", "IA501"]), ("never", [])],
)
def test_fail_on_decides_what_is_named(fail_on: str, named: list[str]) -> None:
    message = failure_message(report(VANISHING, COLLAPSE, NOTE), fail_on)
    assert [code for code in ("IA101", "IA105", "IA501") if code in message] == named


def test_nothing_wrong_is_no_message() -> None:
    assert failure_message(report(NOTE)) == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [("IA101", ["IA101"]), ("IA101, IA3", ["IA101", "IA3"]), (("IA101", "IA3"), ["IA101", "IA3"]), ((), []), ("", [])],
)
def test_codes(given: Any, expected: list[str]) -> None:
    assert codes(given) == expected


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the engine was asked for; every audit finds ``VANISHING``."""
    asked: list[Any] = []

    def audit(model: Any, inputs: Any = None, **options: Any) -> Report:
        asked.append((model, inputs, options))
        return report(VANISHING)

    monkeypatch.setitem(sys.modules, "initaudit.engine", SimpleNamespace(audit=audit))
    return asked


def test_it_raises_the_message(calls: list[Any]) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_initialized("model")
    assert str(caught.value) == failure_message(report(VANISHING))
    assert "assert_initialized" not in [entry.name for entry in caught.traceback.filter(caught)]


def test_it_returns_the_report_and_hands_on_every_option(calls: list[Any]) -> None:
    options: dict[str, Any] = {"loss": "losses:mine", "device": "cpu", "dtype": "bfloat16", "seed": 3, "seeds": 2}
    options["distributed"] = False
    found = assert_initialized("model", "float32[2,3]", fail_on="never", select="IA1,IA2", ignore=["IA105"], **options)
    assert found == report(VANISHING)
    assert calls == [("model", "float32[2,3]", {**options, "select": ["IA1", "IA2"], "ignore": ["IA105"]})]


def test_an_unknown_level_is_told_before_the_model_runs(calls: list[Any]) -> None:
    with pytest.raises(UsageError, match="fail_on is 'warnings', expected one of error, warning, note, never"):
        assert_initialized("model", fail_on="warnings")
    assert calls == []


def test_messages_need_no_torch() -> None:
    program = "import sys, initaudit.testing; sys.exit('torch' in sys.modules or 'pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def relu_network(cured: bool) -> Any:
    from torch import nn

    layers = [nn.Linear(64, 64) for _ in range(20)]
    for layer in layers:
        if cured:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())), nn.Linear(64, 10))


def test_a_deep_relu_network_as_torch_leaves_it_fails_with_its_cure() -> None:
    with pytest.raises(AssertionError, match=r"nn\.init\.kaiming_") as caught:
        initaudit.assert_initialized(lambda: relu_network(cured=False))
    assert "is not well initialized: " in str(caught.value)


def test_the_same_network_with_the_cure_passes() -> None:
    assert initaudit.assert_initialized(lambda: relu_network(cured=True)).verdict == "pass"


def test_a_model_that_cannot_run_is_no_assertion_error() -> None:
    with pytest.raises(AuditError):
        initaudit.assert_initialized(lambda: relu_network(cured=True), "float32[2,63]")
