"""What a model brings along: batch norms in eval mode, dropout, hooks, buffers it writes, what it prints."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from initaudit.errors import AuditError
from tests.probe.probing import Call, audit, by_fqn, codes, randn

IMAGES = randn(16, 3, 8, 8) * 5 + 3


def batch_normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


@pytest.mark.parametrize("training", [True, False])
def test_batch_statistics_are_used_in_either_mode_and_running_ones_kept(training: bool) -> None:
    model = batch_normed().train(training)
    report = audit(model, IMAGES)
    assert report.trace is not None
    norm = next(op for op in report.trace.ops if op.name == "batch_norm")
    assert norm.stats is not None
    assert norm.stats.rms == pytest.approx(1, rel=1e-2)
    assert norm.over_batch
    assert report.trace.training is training
    assert torch.equal(model[1].running_mean, torch.zeros(8))
    assert torch.equal(model[1].running_var, torch.ones(8))
    assert int(model[1].num_batches_tracked) == 0
    assert model[1].training is training


def test_batch_norm_on_a_batch_of_one_value_per_channel() -> None:
    with pytest.raises(AuditError, match="more than 1 value per channel"):
        audit(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), randn(1, 4))


def test_dropout_is_active_in_training_only_and_seeded() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5), nn.Linear(64, 4))

    def zeros(training: bool, seed: int = 0) -> float:
        source = by_fqn(audit(model.train(training), randn(64, 64), seed=seed))["2"].calls[0].input
        assert source is not None
        return source.zero_fraction

    assert zeros(False) == 0
    assert zeros(True) == pytest.approx(0.5, abs=0.05)
    assert zeros(True) == zeros(True) != zeros(True, seed=1)


def test_hooks_of_the_user_run_and_stay() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    seen: list[str] = []
    model[0].register_forward_pre_hook(lambda m, args: seen.append("pre"))
    model[0].register_forward_hook(lambda m, args, out: out * 2)
    model[2].weight.register_hook(lambda grad: seen.append("gradient"))
    report = audit(model, randn(16, 8))
    assert seen == ["pre", "gradient"]
    source = by_fqn(report)["2"].calls[0].input
    assert source is not None
    assert source.rms == pytest.approx(
        torch.relu(2 * model[0].forward(randn(16, 8))).square().mean().sqrt().item(), rel=1e-5
    )
    assert [len(model[i]._forward_hooks) for i in range(3)] == [1, 0, 0]
    assert [len(model[i]._forward_pre_hooks) for i in range(3)] == [1, 0, 0]


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_full_backward_hook_of_the_user_keeps_working() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    seen: list[int] = []
    model[2].register_full_backward_hook(lambda m, gi, go: seen.append(len(go)))
    report = audit(model, randn(16, 8))
    assert seen == [1]
    assert by_fqn(report)["0"].weight.grad_rms


def test_buffers_written_in_forward_are_put_back() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        m.counter += 1
        m.memory = m.memory * 0.9 + m.a(x).mean(0).detach()
        return m.a(x) + m.memory

    model = Call(forward, a=nn.Linear(8, 8))
    model.register_buffer("counter", torch.zeros(()))
    model.register_buffer("memory", torch.ones(8))
    before = model.memory
    audit(model, randn(16, 8))
    assert model.counter.item() == 0
    assert model.memory is before
    assert torch.equal(before, torch.ones(8))


def test_generators_are_put_back() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape) + random.random() + np.random.rand()
        return m.a(x + noise)

    model = Call(forward, a=nn.Linear(8, 8))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    audit(model, randn(16, 8))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(states[2], np.random.get_state(), strict=True))


def test_what_the_model_prints_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        print("shape", tuple(x.shape))
        return m.a(x)

    audit(Call(forward, a=nn.Linear(8, 8)), randn(16, 8))
    assert capsys.readouterr() == ("shape (16, 8)\n", "")


def test_printing_a_tensor_inside_forward_is_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        h = m.a(x)
        print(h.mean().item(), h)
        return h

    report = audit(Call(forward, a=nn.Linear(8, 8)), randn(4, 8))
    assert set(by_fqn(report)) == {"a"}
    assert "tensor(" in capsys.readouterr().out


def test_an_error_in_forward_names_the_stage_and_the_line() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        raise ValueError("no good")

    with pytest.raises(AuditError, match="ValueError: no good") as caught:
        audit(Call(forward, a=nn.Linear(8, 8)), randn(4, 8))
    assert caught.value.stage == "forward"
    line = forward.__code__.co_firstlineno + 1
    assert f"test_modes_and_hooks.py:{line}" in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_in_torch_code_names_the_line_that_called_it() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        return m.a(x)

    with pytest.raises(AuditError, match="mat1 and mat2") as caught:
        audit(Call(forward, a=nn.Linear(9, 8)), randn(4, 8))
    assert f"test_modes_and_hooks.py:{forward.__code__.co_firstlineno + 1}" in str(caught.value)


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        raise ArithmeticError("cannot go back")


def test_an_error_on_the_way_back_has_its_own_stage() -> None:
    with pytest.raises(AuditError, match="ArithmeticError: cannot go back") as caught:
        audit(Call(lambda m, x: Broken.apply(m.a(x)), a=nn.Linear(8, 8)), randn(4, 8))
    assert caught.value.stage == "backward"


def test_a_value_overwritten_that_backward_needs_is_said_as_a_failure_of_the_way_back() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        h = torch.sigmoid(m.a(x))
        out = h * 2
        h.add_(1)  # sigmoid's derivative is computed from its output
        return out

    with pytest.raises(AuditError, match="modified by an inplace operation") as caught:
        audit(Call(forward, a=nn.Linear(8, 8)), randn(4, 8))
    assert caught.value.stage == "backward"


def test_a_failing_loss_is_named_as_such() -> None:
    model = nn.Sequential(nn.Linear(8, 4))
    with pytest.raises(AuditError, match="loss"):
        audit(model, randn(4, 8), loss=lambda y: y["logits"])
    with pytest.raises(AuditError, match=r"loss must return a tensor with one element, got shape \(4, 4\)"):
        audit(model, randn(4, 8), loss=lambda y: y)


def test_stop_iteration_and_keyboard_interrupt_leave_the_model_as_it_was() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        m.count = 1
        raise KeyboardInterrupt

    model = Call(forward, a=nn.Linear(8, 8))
    with pytest.raises(KeyboardInterrupt):
        audit(model, randn(4, 8))
    assert not hasattr(model, "count")
    assert not model.a._forward_hooks
    assert "IA901" not in codes(audit(nn.Sequential(nn.Linear(8, 8)), randn(4, 8)))  # and the tape is off again
