"""What the audit does to the garbage collector ends with it."""

import gc

import pytest
from torch import Tensor, nn

from initaudit.errors import AuditError
from tests.probe.probing import Call, audit, randn


def test_earlier_objects_are_left_alone_while_a_model_runs() -> None:
    seen = []

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
        return x * 2 if len(seen) == 1 else nn.functional.linear(x, randn(3, 3))

    model = Call(forward)
    audit(model, randn(4, 8))
    with pytest.raises(AuditError):
        audit(model, randn(4, 8))
    assert seen == [(True, True)] * 2
    assert gc.get_freeze_count() == 0


def test_what_the_program_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        audit(nn.Linear(8, 8), randn(4, 8))
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_what_a_layer_gets_through_a_view_was_measured_before_it() -> None:
    """Once for each tensor: the second linear layer meets the elements of the first activation, unit by unit."""
    first, second = nn.Linear(8, 16), nn.Linear(16, 4)
    report = audit(
        Call(lambda m, x: m.second(m.first(x).relu().view(-1, 16)), first=first, second=second), randn(3, 5, 8)
    )
    relu = next(op for op in report.trace.ops if op.name == "relu") if report.trace else None
    assert relu is not None
    assert report.layers[1].calls[0].input == relu.stats
