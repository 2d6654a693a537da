"""A model is judged alike wherever its signal comes from: tensors, objects, numpy, text, its own buffers."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initaudit.records import Report
from tests.probe.probing import Call, audit, by_fqn, codes, randn

X = randn(64, 32)


class Marked(Tensor):
    pass


@dataclass
class Batch:
    x: Tensor


class Graph:
    def __init__(self, x: Tensor) -> None:
        self.store = UserDict(x=x)
        self.itself = self


def deep() -> nn.Sequential:
    """Vanishes: torch's default in a deep ReLU stack."""
    torch.manual_seed(0)
    layers = [part for _ in range(20) for part in (nn.Linear(32, 32, bias=False), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(32, 4))


def tokenize(m: Call, texts: list[str]) -> Tensor:
    ids = torch.tensor([[ord(c) % 50 for c in text] for text in texts])
    return m.body(m.table(ids).mean(1))


WAYS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "tensor": (lambda m, x: m.body(x), (X,)),
    "dataclass": (lambda m, b: m.body(b.x), (Batch(X),)),
    "object": (lambda m, g: m.body(g.store["x"]), (Graph(X),)),
    "numpy array": (lambda m, a: m.body(torch.from_numpy(a)), (X.numpy(), 0)),
    "text": (tokenize, (["abcd", "efgh", "zzzz", "mnop"], 0)),
    "buffer": (lambda m: m.body(m.x), ()),
    "parameter": (lambda m: m.body(m.start), ()),
    "noise": (lambda m, n: m.body(torch.randn(n, 32)), (64,)),
    "noise like the input": (lambda m, x: m.body(torch.randn_like(x)), (X,)),
    "by way of numpy": (lambda m, x: m.body(torch.from_numpy(x.numpy() * 1.5)), (X,)),
    "by way of a list": (lambda m, x: m.body(torch.tensor(x.tolist())), (X,)),
    "into a subclass": (lambda m, x: m.body(x.as_subclass(Marked)), (X,)),
    "out of a subclass": (lambda m, x: m.body(x.as_subclass(Tensor)), (X.as_subclass(Marked),)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_vanishing_stack_is_found_wherever_the_signal_comes_from(way: str) -> None:
    forward, inputs = WAYS[way]

    def call(m: Call, *given: Any) -> Any:
        return forward(m, *given[: forward.__code__.co_argcount - 1])

    model = Call(call, body=deep(), table=nn.Embedding(50, 32), start=nn.Parameter(X.clone()))
    model.register_buffer("x", X)
    report = audit(model, inputs) if len(inputs) < 2 else audit(model, *inputs)
    assert {"IA101", "IA105"} & set(codes(report, "error"))  # of few texts, the latter
    assert "IA902" not in codes(report)


def test_one_more_input_that_is_no_tensor_does_not_hide_the_signal() -> None:
    report = audit(Call(lambda m, x, mode: m.body(x), body=deep()), X, "train")
    assert "IA101" in codes(report, "error")


def test_an_output_that_depends_on_nothing_is_told() -> None:
    report = audit(Call(lambda m, x: torch.ones(3) + m.a(x).sum().item(), a=nn.Linear(32, 4)), X)
    assert "IA902" in codes(report)


def rms_of_outputs(report: Report) -> list[float]:
    return [call.pre_activation.rms for layer in report.layers for call in layer.calls if call.pre_activation]


@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_is_judged_as_its_model() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 32)
            self.conv = nn.Conv1d(32, 32, 3, padding=1, groups=4)
            self.norm = nn.LayerNorm(32)
            self.up = nn.ConvTranspose1d(32, 16, 4, stride=2)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(self.conv(self.table(x).mT).mT)
            return self.head(self.up(h.mT).mT.relu())

    torch.manual_seed(0)
    model, ids = Net(), torch.randint(50, (8, 12))
    exported = torch.export.export(model, (ids,))
    expected = audit(model, ids)
    programs = [exported.module(), exported.run_decompositions().module()]
    for report in (audit(program, ids) for program in programs):
        assert [layer.fqn for layer in report.layers] == [layer.fqn for layer in expected.layers]
        fans = [(layer.fan_in, layer.fan_out) for layer in report.layers]
        assert fans == [(layer.fan_in, layer.fan_out) for layer in expected.layers]
        # In its smallest form the last layer is a product, to which the bias is added.
        assert rms_of_outputs(report)[:-1] == pytest.approx(rms_of_outputs(expected)[:-1], rel=1e-4)
        assert not report.to_dict()["not_judged"]


@pytest.mark.parametrize("how", ["matrix_exp", "cayley", "householder"])
def test_what_a_parametrization_multiplies_is_no_layer(how: str) -> None:
    orthogonal = torch.nn.utils.parametrizations.orthogonal
    torch.manual_seed(0)
    model = nn.Sequential(orthogonal(nn.Linear(32, 32, bias=False), orthogonal_map=how), nn.ReLU(), nn.Linear(32, 4))
    expected = model[0](X).detach().square().mean().sqrt().item()
    (call,) = audit(model, X).layers[0].calls
    assert call.pre_activation is not None
    assert call.pre_activation.rms == pytest.approx(expected, rel=1e-4)


def test_a_parametrization_of_the_model_itself_is_no_layer_either() -> None:
    model = torch.nn.utils.parametrizations.orthogonal(nn.Linear(32, 32, bias=False))
    (call,) = audit(model, X).layers[0].calls
    assert call.pre_activation is not None
    assert call.pre_activation.rms == pytest.approx(model(X).detach().square().mean().sqrt().item(), rel=1e-4)


def test_a_second_run_is_given_what_the_first_one_was() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        x *= 100
        return m.a(torch.tensor(x.tolist()))

    (layer,) = audit(Call(forward, a=nn.Linear(32, 4)), X.clone()).layers
    assert layer.calls[0].input is not None
    assert layer.calls[0].input.rms == pytest.approx(100 * X.square().mean().sqrt().item(), rel=1e-4)


def test_a_weight_that_is_made_with_a_buffer_is_the_weight_of_its_layer() -> None:
    model = Call(lambda m, x: nn.functional.linear(x, m.base @ m.factor), factor=nn.Parameter(randn(16, 32)))
    model.register_buffer("base", randn(8, 16))
    expected = model(X).detach().square().mean().sqrt().item()
    calls = by_fqn(audit(model, X))["factor"].calls
    assert calls[-1].pre_activation is not None
    assert calls[-1].pre_activation.rms == pytest.approx(expected, rel=1e-4)


def test_forward_derivatives_in_the_model_do_not_stop_the_audit() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        value, tangent = torch.func.jvp(lambda r: torch.tanh(m.a(r)), (x,), (torch.ones_like(x),))
        return m.b(value + tangent)

    report = audit(Call(forward, a=nn.Linear(32, 32), b=nn.Linear(32, 4)), X)
    assert "b" in [layer.fqn for layer in report.layers]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors(layout: torch.layout) -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        rows = torch.nested.as_nested_tensor([x[:3], x[:5]], layout=layout)
        return torch.relu(m.a(rows)) if layout is torch.jagged else torch.nested.as_nested_tensor([m.a(x[:3]), x[:5]])

    model = Call(forward, a=nn.Linear(32, 32))
    (layer,) = audit(model, X).layers
    rows = torch.cat([X[:3], X[:5]]) if layout is torch.jagged else X[:3]
    (call,) = layer.calls
    assert call.pre_activation is not None
    assert call.pre_activation.rms == pytest.approx(model.a(rows).detach().square().mean().sqrt().item(), rel=1e-4)
    assert call.gradient is not None


def test_a_wrapper_that_answers_for_a_compiled_part_is_audited_itself() -> None:
    class Delegating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.compile(nn.Linear(32, 32), backend="eager")
            self.head = nn.Linear(32, 4)

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("net"), name)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.net(x))

    assert [layer.fqn for layer in audit(Delegating(), X).layers][-1] == "head"


def test_an_object_given_as_input_is_not_written_to() -> None:
    def forward(m: Call, g: Graph) -> Tensor:
        g.store["x"] = m.a(g.store["x"]).relu_()
        return m.b(g.store["x"])

    graph = Graph(X.clone())
    array = np.ones((4, 32), np.float32)
    audit(Call(forward, a=nn.Linear(32, 32), b=nn.Linear(32, 4)), (graph,))
    assert torch.equal(graph.store["x"], X)

    def overwrite(m: Call, a: np.ndarray[Any, Any], n: int) -> Tensor:
        a *= n
        return m.b(torch.from_numpy(a))

    audit(Call(overwrite, b=nn.Linear(32, 4)), array, 3)
    assert (array == 1).all()
