"""``initaudit.audit``: what it accepts, what it refuses and how, and that it says what it did."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import initaudit
from initaudit.errors import AuditError, InitauditError, UsageError


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(x)))


X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def figures(report: initaudit.Report) -> dict[str, object]:
    """The audit as a dict without the time it took."""
    return {k: v for k, v in report.to_dict().items() if k != "target" and not k.endswith("seconds")}


class TestModel:
    def test_an_instance_is_audited_under_its_class(self) -> None:
        report = initaudit.audit(Classifier(), X)
        assert report.target == "Classifier"
        assert [layer.fqn for layer in report.layers] == ["body", "head"]

    def test_a_factory_is_built_under_the_seed(self) -> None:
        first, again, other = (initaudit.audit(mlp, X, seed=seed) for seed in (0, 0, 1))
        assert first.target == "mlp"
        assert first.layers[0].weight.std == again.layers[0].weight.std != other.layers[0].weight.std
        torch.manual_seed(0)
        assert first.layers[0].weight.std == pytest.approx(mlp()[0].weight.std(correction=0).item(), rel=1e-5)

    def test_a_class_is_a_factory(self) -> None:
        assert initaudit.audit(Classifier, X).target == "Classifier"

    def test_a_model_and_its_factory_give_the_same_figures(self) -> None:
        torch.manual_seed(3)
        model = mlp()
        built, anew = (figures(initaudit.audit(m, X, seed=3)) for m in (model, mlp))
        for parameter in [*built["parameters"], *anew["parameters"]]:  # type: ignore[misc]
            del parameter["reproducible"], parameter["follows_seed"]  # which an instance cannot tell
        assert built == anew

    def test_a_factory_leaves_the_generators_alone(self) -> None:
        state = torch.get_rng_state()
        initaudit.audit(mlp, X)
        assert torch.equal(state, torch.get_rng_state())

    @pytest.mark.parametrize("model", [3, "model", None, [nn.Linear(2, 2)]])
    def test_anything_else_is_refused(self, model: object) -> None:
        with pytest.raises(UsageError, match=f"model is '{type(model).__name__}', expected an nn.Module"):
            initaudit.audit(model, X)  # type: ignore[arg-type]

    def test_a_factory_that_fails_or_returns_something_else(self) -> None:
        def broken() -> nn.Module:
            raise ValueError("no weights here")

        with pytest.raises(AuditError, match="ValueError: no weights here") as caught:
            initaudit.audit(broken, X)
        assert caught.value.stage == "load"
        with pytest.raises(AuditError) as caught:
            initaudit.audit(lambda: 3, X)  # type: ignore[arg-type, return-value]
        assert caught.value.stage == "load"

    def test_a_model_on_meta_has_no_values(self) -> None:
        with torch.device("meta"):
            model = mlp()
        with pytest.raises(AuditError, match="meta device"):
            initaudit.audit(model, X)

    def test_errors_are_of_one_family(self) -> None:
        assert issubclass(UsageError, InitauditError)
        assert issubclass(AuditError, InitauditError)
        with pytest.raises(initaudit.InitauditError):
            initaudit.audit(mlp(), torch.randn(8, 17))


class TestInputs:
    @pytest.mark.parametrize(
        "inputs",
        [X, (X,), {"input": X}, "8x16", "float32[8,16]"],
        ids=["tensor", "tuple", "mapping", "short", "long"],
    )
    def test_every_form(self, inputs: object) -> None:
        report = initaudit.audit(mlp(), inputs)
        assert report.layers[0].calls[0].input is not None
        assert report.layers[0].calls[0].input.samples == 8
        assert report.trace is not None
        assert "float32[8,16]" in report.trace.inputs

    def test_left_out_they_are_inferred_and_said(self) -> None:
        report = initaudit.audit(mlp())
        assert report.trace is not None
        assert report.trace.inputs.endswith(",16]")
        assert "Linear(16, 32)" in report.trace.inputs_source

    def test_given_ones_that_do_not_fit_fail_in_forward(self) -> None:
        with pytest.raises(AuditError, match="mat1 and mat2") as caught:
            initaudit.audit(mlp(), torch.randn(8, 17))
        assert caught.value.stage == "forward"

    def test_none_that_fits_is_said_with_what_to_do(self) -> None:
        class Opaque(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(16, 4)

            def forward(self, x: Tensor) -> Tensor:
                raise KeyError("needs a dictionary")

        with pytest.raises(AuditError, match="initaudit_inputs") as caught:
            initaudit.audit(Opaque())
        assert caught.value.stage == "input"
        assert "needs a dictionary" in str(caught.value)


@pytest.fixture
def _on_meta() -> Iterator[None]:
    """A script that calls ``torch.set_default_device``: meta stands for any device that is not the cpu."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    vars(torch._GLOBAL_DEVICE_CONTEXT).clear()  # of torch 2.9 torch.get_default_device() fails otherwise


@pytest.mark.usefixtures("_on_meta")
class TestDefaultDevice:
    """What the audit draws is drawn on the cpu, whatever the default device of the script is."""

    @pytest.mark.parametrize(
        ("build", "inputs"),
        [
            (lambda: nn.Sequential(nn.Linear(16, 8, device="cpu"), nn.ReLU()), None),
            (lambda: nn.Sequential(nn.Linear(16, 8, device="cpu"), nn.ReLU()), "float32[4,16]"),
            (lambda: nn.Conv2d(3, 8, 3, device="cpu"), None),
            (lambda: nn.Embedding(9, 8, device="cpu"), None),
            (lambda: nn.Embedding(9, 8, device="cpu"), "int64[4,8]<9"),
            (lambda: nn.LSTM(8, 8, device="cpu"), None),
        ],
    )
    def test_inputs_are_there(self, build: Callable[[], nn.Module], inputs: str | None) -> None:
        report = initaudit.audit(build, inputs)
        assert report.trace is not None
        gradient = report.layers[0].calls[0].gradient
        assert gradient is not None
        assert gradient.rms > 0

    def test_example_arrays_and_arrays_of_numpy(self) -> None:
        class Lit(nn.Linear):
            example_input_array = torch.zeros(1, 8, device="cpu")

        assert initaudit.audit(lambda: Lit(8, 4, device="cpu")).verdict == "pass"
        assert initaudit.audit(lambda: nn.Linear(8, 4, device="cpu"), np.ones((2, 8), np.float32)).verdict == "pass"


class TestLoss:
    def test_a_function(self) -> None:
        report = initaudit.audit(mlp(), X, loss=lambda y: y.square().mean())
        assert report.trace is not None
        assert report.trace.loss != "seeded Gaussian cotangent"
        assert report.layers[0].weight.grad_rms

    def test_cross_entropy_tells_classes_and_value(self) -> None:
        model = mlp()
        labels = torch.arange(8) % 4
        report = initaudit.audit(model, X, loss=lambda y: F.cross_entropy(y, labels))
        assert report.trace is not None
        assert report.trace.classes == 4
        assert report.trace.loss_value == pytest.approx(F.cross_entropy(model(X), labels).item(), rel=1e-5)

    def test_the_cotangent_is_the_default(self) -> None:
        report = initaudit.audit(mlp(), X)
        assert report.trace is not None
        assert report.trace.loss == "seeded Gaussian cotangent"
        assert report.trace.loss_value is None


class TestPlaceAndPrecision:
    def test_environment_is_that_of_the_run(self) -> None:
        report = initaudit.audit(mlp(), X, dtype="bfloat16", device="cpu", seed=7)
        assert report.trace is not None
        assert dataclasses.asdict(report.trace.environment) == {
            "torch": torch.__version__, "device": "cpu", "dtype": "bfloat16", "seed": 7, "ranks": 1,
        }  # fmt: skip
        assert report.trace.inputs.startswith("bfloat16")

    @pytest.mark.parametrize("dtype", ["float32", torch.float64, "float16"])
    def test_dtypes(self, dtype: str | torch.dtype) -> None:
        report = initaudit.audit(mlp(), X, dtype=dtype)
        assert report.layers[0].weight.dtype == str(dtype).removeprefix("torch.")

    def test_unknown_ones_are_refused(self) -> None:
        with pytest.raises(UsageError, match="dtype 'int8' is not supported, expected one of float32"):
            initaudit.audit(mlp(), X, dtype="int8")
        with pytest.raises(UsageError, match=r"device 'toaster' cannot be used.*expected auto, cpu, cuda"):
            initaudit.audit(mlp(), X, device="toaster")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without one")
    def test_an_absent_device_is_refused(self) -> None:
        with pytest.raises(UsageError, match="device 'cuda' cannot be used"):
            initaudit.audit(mlp(), X, device="cuda")


class TestReport:
    def test_the_same_call_gives_the_same_report(self) -> None:
        model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.3), nn.Linear(32, 4))
        assert figures(initaudit.audit(model, X)) == figures(initaudit.audit(model, X))

    def test_json_is_strict_even_when_a_net_explodes(self) -> None:
        model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(40)))
        with torch.no_grad():
            for layer in model:
                layer.weight.mul_(1e3)  # type: ignore[operator, union-attr]
        report = initaudit.audit(model, X)
        assert report.verdict == "fail"

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        document = json.loads(report.to_json(), parse_constant=refuse)
        assert document["audits"][0]["verdict"] == "fail"

    def test_verdicts(self) -> None:
        assert initaudit.audit(mlp(), X).verdict == "pass"
        model = mlp()
        with torch.no_grad():
            model[0].weight.fill_(math.nan)
        assert initaudit.audit(model, X).verdict == "fail"

    def test_layers_come_in_the_order_they_run(self) -> None:
        class Backwards(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.second, self.first = nn.Linear(16, 4), nn.Linear(16, 16)

            def forward(self, x: Tensor) -> Tensor:
                return self.second(self.first(x))

        assert [layer.fqn for layer in initaudit.audit(Backwards(), X).layers] == ["first", "second"]

    def test_training_mode_is_said(self) -> None:
        for training in (True, False):
            report = initaudit.audit(mlp().train(training), X)
            assert report.trace is not None
            assert report.trace.training is training
