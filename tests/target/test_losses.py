"""Where the loss comes from, and what is said of one that cannot serve."""

from types import ModuleType

import pytest
import torch

from initaudit.errors import AuditError, UsageError
from initaudit.target.losses import resolve_loss

LOSS = """
    def mse(output):
        return output.square().mean()

    def two(output, target):
        pass

    class Loss: pass

    number = 3
"""
EXAMPLE = "    def initaudit_loss(output):\n        return output.square().mean()"


def module(**names):
    made = ModuleType("model")
    vars(made).update(names)
    return made


def test_none_without_any():
    assert resolve_loss(None) is None
    assert resolve_loss(None, module()) is None


def test_the_loss_of_the_file_unless_one_is_given():
    def own(output):
        return output.sum()

    assert resolve_loss(None, module(initaudit_loss=own)) is own
    assert resolve_loss(torch.sum, module(initaudit_loss=own)) is torch.sum
    criterion = torch.nn.MSELoss()
    assert resolve_loss(criterion) is criterion


@pytest.mark.parametrize("spec", ["user_losses:mse", "user_losses.py::mse"])
def test_a_loss_by_name(write, spec):
    write("user_losses.py", LOSS)
    assert resolve_loss(spec)(torch.full((2,), 3.0)) == 9


@pytest.mark.parametrize(
    ("spec", "error", "expected"),
    [
        ("mse", UsageError, "loss 'mse' is malformed: expected module:function, e.g. losses:masked_mse"),
        ("user_losses:nope", AuditError, "loss user_losses:nope: user_losses has no nope"),
        (
            "user_losses:number",
            AuditError,
            "loss user_losses:number is of type int, expected a function of the model's output",
        ),
        (
            "user_losses:two",
            AuditError,
            "loss user_losses:two needs 2 arguments (output, target), expected a function of the model's output alone, "
            f"e.g.\n{EXAMPLE}",
        ),
        (
            "user_losses:Loss",
            AuditError,
            f"loss user_losses:Loss is a class, expected a function of the model's output alone, e.g.\n{EXAMPLE}",
        ),
        (
            "no_such_module:mse",
            AuditError,
            "could not import no_such_module: ModuleNotFoundError: No module named 'no_such_module'\n"
            "  Install no_such_module in this environment, or run where it can be imported.",
        ),
    ],
)
def test_losses_that_cannot_serve(write, spec, error, expected):
    write("user_losses.py", LOSS)
    with pytest.raises(error) as caught:
        resolve_loss(spec)
    assert str(caught.value) == expected


def test_the_loss_of_the_file_is_checked_too():
    with pytest.raises(AuditError, match=r"^initaudit_loss is of type int, expected a function"):
        resolve_loss(None, module(initaudit_loss=3))
