"""Who is called how often, with what inputs, and what kinds of output a model may return."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import initaudit
from initaudit.errors import AuditError
from tests.probe.probing import Call, audit, by_fqn, codes, randn

BATCH = randn(8, 16)


def test_a_layer_called_three_times_keeps_three_calls() -> None:
    model = Call(lambda m, x: m.a(torch.tanh(m.a(torch.tanh(m.a(x))))), a=nn.Linear(16, 16))
    calls = by_fqn(audit(model, BATCH))["a"].calls
    assert len(calls) == 3
    rms = [call.input.rms for call in calls if call.input]
    assert rms[0] > rms[1] > rms[2]
    assert [call.nonlinearity and call.nonlinearity.name for call in calls] == ["tanh", "tanh", None]
    assert all(call.gradient is not None for call in calls)


def test_one_module_under_two_names_is_one_layer() -> None:
    shared = nn.Linear(16, 16)
    report = audit(nn.Sequential(shared, nn.ReLU(), shared), BATCH)
    assert [(layer.fqn, len(layer.calls)) for layer in report.layers] == [("0", 2)]
    assert report.trace is not None
    assert not report.trace.uncalled


def test_a_recursive_module_is_followed() -> None:
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Linear(16, 16)

        def forward(self, x: Tensor, depth: int = 4) -> Tensor:
            return x if depth == 0 else self(torch.tanh(self.step(x)), depth - 1)

    assert len(by_fqn(audit(Recursive(), BATCH))["step"].calls) == 4


def test_modules_never_called_are_listed() -> None:
    model = Call(lambda m, x: m.a(x), a=nn.Linear(16, 4), spare=nn.Sequential(nn.Linear(16, 4), nn.ReLU()))
    report = audit(model, BATCH)
    assert report.trace is not None
    assert report.trace.uncalled == ("spare.0",)
    assert "IA901" in codes(report)
    assert report.to_dict()["uncalled"] == ["spare.0"]


def test_a_module_whose_weight_is_used_without_calling_it_is_not_uncalled() -> None:
    model = Call(lambda m, x: x @ m.a.weight.T, a=nn.Linear(16, 4))
    report = audit(model, BATCH)
    assert report.trace is not None
    assert not report.trace.uncalled
    assert [layer.fan_in for layer in report.layers] == [16]


class Pair(NamedTuple):
    mean: Tensor
    logits: Tensor


@dataclass
class Output:
    logits: Tensor
    extra: dict[str, Any]


Named = namedtuple("Named", ["first", "second"])

OUTPUTS = {
    "tuple": lambda y: (y, y + 1),
    "list": lambda y: [y],
    "dict": lambda y: {"logits": y, "step": 3},
    "named tuple": lambda y: Pair(y.mean(), y),
    "old named tuple": lambda y: Named(y, None),
    "dataclass": lambda y: Output(y, {"hidden": [y * 2]}),
    "nested": lambda y: {"a": [(y, {"b": Output(y * 2, {})})]},
    "with none and text": lambda y: (None, "text", y),
    "with integers": lambda y: (y.argmax(-1), y),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_kind_of_output_drives_the_backward_pass(kind: str) -> None:
    wrap = OUTPUTS[kind]
    report = audit(Call(lambda m, x: wrap(m.a(x)), a=nn.Linear(16, 4)), BATCH)
    weight = by_fqn(report)["a"].weight
    assert weight.grad_rms is not None
    assert weight.grad_rms > 0
    assert report.trace is not None
    assert any(op.output for op in report.trace.ops)


@pytest.mark.parametrize("output", [None, 3.0, "text", {"a": [1]}])
def test_a_model_that_returns_no_tensor_says_so(output: object) -> None:
    with pytest.raises(AuditError, match=f"returned no tensor, but.*{type(output).__name__}") as caught:
        audit(Call(lambda m, x: output, a=nn.Linear(16, 4)), BATCH)
    assert caught.value.stage == "forward"


def test_a_model_that_returns_its_input_has_nothing_to_judge() -> None:
    report = audit(Call(lambda m, x: x, a=nn.Linear(16, 4)), BATCH)
    assert report.verdict == "pass"
    assert "IA901" in codes(report)


def test_integer_inputs_and_keyword_inputs() -> None:
    model = Call(lambda m, ids, scale: m.head(m.embed(ids) * scale), embed=nn.Embedding(20, 16), head=nn.Linear(16, 4))
    report = initaudit.audit(model, {"ids": torch.arange(8)[None], "scale": torch.ones(())})
    assert set(by_fqn(report)) == {"embed", "head"}
    assert by_fqn(report)["embed"].weight.grad_rms


def test_nested_inputs_are_followed() -> None:
    model = Call(lambda m, batch: m.a(batch["x"][0]) + batch["more"]["y"], a=nn.Linear(16, 4))
    report = audit(model, {"batch": {"x": [BATCH], "more": {"y": randn(8, 4)}}})
    source = by_fqn(report)["a"].calls[0].input
    assert source is not None
    assert source.rms == pytest.approx(BATCH.square().mean().sqrt().item(), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_tiny_batch(batch: int) -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    for layer in (model[0], model[2]):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    report = audit(model, randn(batch, 16))
    assert report.verdict == "pass"
    stats = report.layers[0].calls[0].pre_activation
    assert stats is not None
    assert (stats.sample_std is None) == (batch == 1)


def test_one_sample_without_a_batch_dimension() -> None:
    report = audit(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), randn(16))
    stats = report.layers[0].calls[0].pre_activation
    assert stats is not None
    assert (stats.samples, stats.units) == (1, 8)


def test_inputs_without_dimensions() -> None:
    report = audit(Call(lambda m, t: m.a(t.expand(4, 1)), a=nn.Linear(1, 4)), torch.tensor(0.5))
    assert by_fqn(report)["a"].calls


def test_empty_tensors_on_the_way_are_no_fault() -> None:
    report = audit(
        Call(lambda m, x: m.b(torch.cat([m.a(x), m.a(x[:0])])), a=nn.Linear(16, 8), b=nn.Linear(8, 4)), BATCH
    )
    assert len(by_fqn(report)["a"].calls) == 2
    assert report.verdict == "pass"
    report.to_json()


def test_an_empty_batch_is_audited_without_figures() -> None:
    report = audit(nn.Sequential(nn.Linear(16, 4)), torch.empty(0, 16))
    assert report.layers[0].calls[0].pre_activation is None
    report.to_json()


def test_a_model_without_parameters() -> None:
    report = audit(nn.Sequential(nn.ReLU(), nn.Flatten()), BATCH)
    assert report.layers == ()
    assert report.verdict == "pass"
