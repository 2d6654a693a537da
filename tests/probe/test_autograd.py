"""Where gradients come from, where they end, and code that autograd or the tape cannot look into."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.probe.probing import Call, audit, by_fqn, codes, randn

BATCH = randn(16, 32)


def two_layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"a": nn.Linear(32, 32), "b": nn.Linear(32, 4)}


def test_gradients_are_those_of_torch() -> None:
    """Under a loss, the mean square of each gradient is what a plain backward pass leaves in ``.grad``."""
    parts = two_layers()
    model = Call(lambda m, x: m.b(torch.relu(m.a(x))), **parts)
    report = audit(model, BATCH, loss=lambda y: y.square().mean())
    assert all(p.grad is None for p in model.parameters())
    model(BATCH).square().mean().backward()
    assert report.trace is not None
    for record in report.trace.parameters:
        grad = model.get_parameter(record.fqn).grad
        assert grad is not None
        assert record.grad_rms == pytest.approx(grad.square().mean().sqrt().item(), rel=1e-5)


def test_cotangent_is_seeded_and_of_unit_variance() -> None:
    model = nn.Sequential(nn.Linear(32, 64))
    first, again, other = (audit(model, BATCH, seed=seed) for seed in (0, 0, 1))
    gradients = [r.layers[0].calls[0].gradient for r in (first, again, other)]
    assert gradients[0] is not None
    assert gradients[0] == gradients[1] != gradients[2]
    assert gradients[0].rms == pytest.approx(1, abs=0.1)


def test_frozen_model_is_audited_forward_and_says_that_gradients_were_not() -> None:
    model = Call(lambda m, x: m.b(torch.relu(m.a(x))), **two_layers()).requires_grad_(False)
    report = audit(model, BATCH)
    assert by_fqn(report)["a"].calls[0].activation is not None
    assert by_fqn(report)["a"].weight.grad_rms is None
    assert not by_fqn(report)["a"].weight.requires_grad
    assert report.trace is not None
    assert "gradient" in report.trace.unjudged[0].reason
    assert "IA203" not in codes(report)


def test_one_frozen_layer_is_not_accused_of_having_no_gradient() -> None:
    parts = two_layers()
    parts["a"].requires_grad_(False)
    report = audit(Call(lambda m, x: m.b(torch.relu(m.a(x))), **parts), BATCH)
    assert by_fqn(report)["b"].weight.grad_rms
    assert {f.severity.value for f in report.findings if f.code == "IA203"} <= {"note"}


@pytest.mark.parametrize("cut", ["detach", "no_grad", "data"])
def test_a_cut_gradient_is_found_at_the_layer_behind_the_cut(cut: str) -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        if cut == "no_grad":
            with torch.no_grad():
                h = m.a(x)
        else:
            h = m.a(x).detach() if cut == "detach" else m.a(x).data
        return m.b(torch.relu(h))

    report = audit(Call(forward, **two_layers()), BATCH)
    assert by_fqn(report)["a"].weight.grad_rms is None
    assert by_fqn(report)["b"].weight.grad_rms
    assert ("IA203", "a") in {(f.code, f.fqn) for f in report.findings}


def test_audit_under_no_grad_and_inference_mode_has_gradients_all_the_same() -> None:
    model = Call(lambda m, x: m.b(torch.relu(m.a(x))), **two_layers())
    with torch.no_grad():
        assert by_fqn(audit(model, BATCH))["a"].weight.grad_rms
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert by_fqn(audit(model, BATCH.clone()))["a"].weight.grad_rms
        assert torch.is_inference_mode_enabled()


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s + x * s * (1 - s))


def test_custom_function_keeps_the_way_open() -> None:
    report = audit(Call(lambda m, x: m.b(Swish.apply(m.a(x))), **two_layers()), BATCH)
    layers = by_fqn(report)
    assert layers["a"].weight.grad_rms
    assert layers["b"].calls[0].input is not None
    assert report.trace is not None
    end = next(op for op in report.trace.ops if op.output)
    seen, todo = set(), [end.id]
    while todo:
        op = report.trace.ops[todo.pop()]
        seen.add(op.id)
        todo += [i for i in op.inputs if i not in seen]
    assert by_fqn(report)["a"].calls[0].op in seen  # from the output one comes back to the first layer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_submodule() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(32, 32), nn.ReLU()))
    report = audit(Call(lambda m, x: m.b(m.s(m.a(x))), s=scripted, **two_layers()), BATCH)
    layers = by_fqn(report)
    assert set(layers) == {"a", "b"}
    assert layers["a"].weight.grad_rms
    assert layers["b"].calls[0].input is not None
    assert report.trace is not None
    assert [u.fqn for u in report.trace.unjudged] == ["s"]
    assert not report.trace.uncalled


@pytest.mark.parametrize("whole", [True, False])
def test_compiled_model_is_seen_as_its_eager_self(whole: bool) -> None:
    parts = two_layers()
    if whole:
        model: nn.Module = torch.compile(Call(lambda m, x: m.b(torch.relu(m.a(x))), **parts), backend="eager")  # type: ignore[assignment]
    else:
        parts["a"] = torch.compile(parts["a"], backend="eager")  # type: ignore[assignment]
        model = Call(lambda m, x: m.b(torch.relu(m.a(x))), **parts)
    report = audit(model, BATCH)
    assert len(report.layers) == 2
    assert report.layers[0].nonlinearity is not None
    assert report.layers[0].weight.grad_rms


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_are_seen_once(reentrant: bool) -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        h = torch.relu(m.a(x))
        h = checkpoint(lambda t: torch.relu(m.c(t)), h, use_reentrant=reentrant)
        return m.b(h)

    report = audit(Call(forward, c=nn.Linear(32, 32), **two_layers()), BATCH)
    layers = by_fqn(report)
    assert {fqn: len(layer.calls) for fqn, layer in layers.items()} == {"a": 1, "b": 1, "c": 1}
    assert all(layer.weight.grad_rms for layer in layers.values())


def test_vmap_inside_forward() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        return m.b(torch.vmap(lambda row: torch.tanh(row) * 2)(m.a(x)))

    report = audit(Call(forward, **two_layers()), BATCH)
    assert set(by_fqn(report)) == {"a", "b"}
    assert by_fqn(report)["a"].weight.grad_rms


def test_func_grad_inside_forward() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        return m.b(torch.func.grad(lambda t: torch.tanh(t).sum())(m.a(x)))

    assert set(by_fqn(audit(Call(forward, **two_layers()), BATCH))) == {"a", "b"}


def test_functional_call_inside_forward() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        return m.b(torch.func.functional_call(m.a, dict(m.a.named_parameters()), (x,)))

    assert set(by_fqn(audit(Call(forward, **two_layers()), BATCH))) == {"a", "b"}


def test_autograd_grad_inside_forward() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        x = x.requires_grad_()
        energy = m.b(torch.tanh(m.a(x))).sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]

    report = audit(Call(forward, **two_layers()), BATCH.clone())
    assert by_fqn(report)["a"].weight.grad_rms
    assert not BATCH.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 4)).to(dtype)
    report = audit(model, BATCH.to(dtype))
    assert report.verdict == "pass"
    call = report.layers[0].calls[0]
    assert call.nonlinearity is not None
    assert call.nonlinearity.name == "relu"
    exact = model[0](BATCH.to(dtype)).double().square().mean().sqrt().item()
    assert call.pre_activation is not None
    assert call.pre_activation.rms == pytest.approx(exact, rel=1e-6)
    assert report.layers[0].weight.grad_rms


def test_autocast_inside_forward() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return m.b(F.gelu(m.a(x))).float()

    layers = by_fqn(audit(Call(forward, **two_layers()), BATCH))
    assert layers["a"].nonlinearity is not None
    assert set(layers) == {"a", "b"}


def test_spectral_layers_of_complex_numbers() -> None:
    def forward(m: Call, x: Tensor) -> Tensor:
        return m.b(torch.fft.irfft(torch.fft.rfft(m.a(x)) * torch.view_as_complex(m.filter), n=32))

    report = audit(Call(forward, filter=nn.Parameter(randn(17, 2)), **two_layers()), BATCH)
    assert report.verdict == "pass"
    assert by_fqn(report)["a"].weight.grad_rms


def test_complex_parameters_and_outputs() -> None:
    model = Call(lambda m, x: (x + 0j) @ m.w, w=nn.Parameter(torch.view_as_complex(randn(32, 8, 2))))
    report = audit(model, BATCH)
    assert report.verdict == "pass"
    report.to_json()


def test_sparse_gradients_of_an_embedding() -> None:
    model = Call(lambda m, ids: m.b(m.e(ids)), e=nn.Embedding(100, 32, sparse=True), b=nn.Linear(32, 4))
    report = audit(model, torch.randint(100, (8, 5), generator=torch.Generator().manual_seed(0)))
    assert by_fqn(report)["e"].weight.grad_rms
    dense = Call(model.function, e=nn.Embedding(100, 32), b=model.b)
    dense.e.weight = model.e.weight
    expected = audit(dense, torch.randint(100, (8, 5), generator=torch.Generator().manual_seed(0)))
    assert by_fqn(report)["e"].weight.grad_rms == pytest.approx(by_fqn(expected)["e"].weight.grad_rms, rel=1e-5)


def test_no_warning_of_our_own_is_raised() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), randn(2, 3, 8, 8))


@pytest.mark.parametrize("size", [16, 110])
def test_a_checkpointed_block_runs_no_more_often_than_in_training(size: int) -> None:
    """To ask autograd what it has kept would run it once more."""
    runs: list[int] = []

    def block(m: nn.Module, x: Tensor) -> Tensor:
        runs.append(1)
        return torch.relu(m.b(m.c(x)))

    model = Call(
        lambda m, x: checkpoint(block, m, x, use_reentrant=False),
        c=nn.Conv2d(3, 24, 3, padding=1),
        b=nn.BatchNorm2d(24),
    )
    audit(model, randn(4, 3, size, size))
    assert len(runs) == 2  # forward, and again for the backward pass
