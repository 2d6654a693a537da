"""What the audit does to the garbage collector ends with it."""

import gc
import weakref

import pytest
from torch import Tensor, nn

from initaudit.errors import AuditError
from tests.probe.probing import Call, audit, randn


def test_no_full_collection_while_a_model_runs() -> None:
    before, seen = gc.get_threshold(), []

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        seen.append((gc.isenabled(), gc.get_threshold()))
        return x * 2 if len(seen) == 1 else nn.functional.linear(x, randn(3, 3))

    model = Call(forward)
    audit(model, randn(4, 8))
    with pytest.raises(AuditError):
        audit(model, randn(4, 8))
    for enabled, (young, middle, old) in seen:
        assert (enabled, middle) == (True, before[1])
        assert before[0] <= young <= 10_000
        assert old > 1_000_000
    assert gc.get_threshold() == before


def test_what_the_model_itself_sets_stays() -> None:
    before = gc.get_threshold()

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        gc.set_threshold(500, 5, 5)
        return x * 2

    try:
        audit(Call(forward), randn(4, 8))
        assert gc.get_threshold() == (500, 5, 5)
    finally:
        gc.set_threshold(*before)


def test_a_collector_that_is_off_stays_off() -> None:
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        audit(nn.Linear(8, 8), randn(4, 8))
        assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)


def test_the_audit_leaves_no_tensor_to_the_collector() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    outputs: list[weakref.ref[Tensor]] = []
    model.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        audit(model, randn(3, 8))
        assert outputs[0]() is None
    finally:
        gc.enable()


def test_what_a_layer_gets_through_a_view_was_measured_before_it() -> None:
    """Once for each tensor: the second linear layer meets the elements of the first activation, unit by unit."""
    first, second = nn.Linear(8, 16), nn.Linear(16, 4)
    report = audit(
        Call(lambda m, x: m.second(m.first(x).relu().view(-1, 16)), first=first, second=second), randn(3, 5, 8)
    )
    relu = next(op for op in report.trace.ops if op.name == "relu") if report.trace else None
    assert relu is not None
    assert report.layers[1].calls[0].input == relu.stats
