"""What does an audit cost beside the model's own forward and backward pass?

    python benchmarks/overhead.py [--quick] [--models resnet50 gpt2 mlp] [--repeats 7] [--no-memory]

Wall and CPU seconds of `audit(model, inputs)` as a ratio to a plain forward and backward pass of the same model on the
same inputs with the same cotangent: medians of pairs that take turns in one process, so that both meet the same
neighbours. Peak memory is that of processes of their own. The audit's time is then broken down by stage.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from _common import call_model, environment, medians, parser, quiet, show  # first: it sets the environment of torch

# isort: split
import torch
from torch import Tensor, nn

from initaudit import audit
from initaudit.probe.backward import cotangents, differentiable, output_tensors
from initaudit.probe.run import probe
from initaudit.rules import diagnose

Made = tuple[nn.Module, dict[str, Any] | Tensor]
STAGES = ("snapshot", "forward", "backward and records", "rules")


def resnet50() -> Made:
    """25.6M parameters; 8 images of 224 x 224."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=1000)).train(), {
        "pixel_values": torch.randn(8, 3, 224, 224)
    }


def gpt2() -> Made:
    """GPT-2 small, 124M parameters; 2 sequences of 256 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(use_cache=False)
    return GPT2LMHeadModel(config).train(), {"input_ids": torch.randint(config.vocab_size, (2, 256))}


def mlp(depth: int = 50, width: int = 512, batch: int = 256) -> Made:
    """He + ReLU, 50 layers of width 512; a batch of 256."""
    linears = [nn.Linear(width, width) for _ in range(depth)]
    for linear in linears:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    return nn.Sequential(*(m for linear in linears for m in (linear, nn.ReLU()))), torch.randn(batch, width)


def tiny() -> Made:
    """A network that is nearly nothing but calls: the audit's cost per call."""
    return mlp(4, 16, 8)


MODELS: dict[str, Callable[[], Made]] = {"resnet50": resnet50, "gpt2": gpt2, "mlp": mlp, "tiny": tiny}


def make(name: str) -> Made:
    torch.manual_seed(0)
    return MODELS[name]()


def plain_pass(model: nn.Module, inputs: Any) -> tuple[float, float]:
    """One forward and backward pass under the cotangent that the audit uses; seconds of each."""
    started = time.perf_counter()
    roots = differentiable(output_tensors(call_model(model, inputs)))
    between = time.perf_counter()
    torch.autograd.backward(roots, cotangents(roots, 0))
    ended = time.perf_counter()
    model.zero_grad(set_to_none=True)
    return between - started, ended - between


def stages(model: nn.Module, inputs: Any) -> list[float]:
    """Seconds of each of :data:`STAGES` in one audit."""
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
    marks = [time.perf_counter()]
    trace = probe(model, args, kwargs, progress=lambda stage: marks.append(time.perf_counter()))  # as each pass begins
    probed = time.perf_counter()
    diagnose(trace)
    return [marks[1] - marks[0], marks[2] - marks[1], probed - marks[2], time.perf_counter() - probed]


def breakdown(model: nn.Module, inputs: Any, repeats: int) -> list[tuple[str, str, str]]:
    """Rows of stage, plain seconds, audited seconds; medians of interleaved runs."""
    plain, audited = [], []
    for _ in range(repeats):
        plain.append(plain_pass(model, inputs))
        audited.append(stages(model, inputs))
    own = [median(values) for values in zip(*plain, strict=True)]
    spent = [median(values) for values in zip(*audited, strict=True)]
    return [
        (name, f"{o:.3f}" if o else "", f"{s:.3f}") for name, o, s in zip(STAGES, (0.0, *own, 0.0), spent, strict=True)
    ]


def compare(name: str, repeats: int) -> tuple[tuple[float, float], tuple[float, float], list[tuple[str, str, str]]]:
    """Wall and CPU seconds of a plain pass and of an audit, and the audit's breakdown; one of each warms up."""
    model, inputs = make(name)
    actions = (lambda: plain_pass(model, inputs), lambda: audit(model, inputs))
    for action in actions:
        action()
    # Of every pair the plain pass comes after another one, as in training: an audit leaves caches and memory cold.
    plain, audited = medians(*actions, repeats=repeats, before=actions[0])
    return plain, audited, breakdown(model, inputs, max(1, repeats // 2))


def peak_memory(name: str, what: str) -> float:
    """MiB at the peak of a process that builds the model and then does ``what``: nothing, plain or audit.

    A process starts with the peak of its parent on Linux, so this comes before the parent builds a model.
    """
    command = [sys.executable, str(Path(__file__)), "--models", name, "--peak-of", what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"measuring the memory of {name} failed: {done.stderr}")
    return float(done.stdout.split()[-1])


def _print_peak(name: str, what: str) -> None:
    import resource

    model, inputs = make(name)
    {"nothing": lambda: None, "plain": lambda: plain_pass(model, inputs), "audit": lambda: audit(model, inputs)}[what]()
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    print(kibibytes / 1024)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", choices=MODELS, default=["resnet50", "gpt2", "mlp"])
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--no-memory", action="store_true")
    options.add_argument("--peak-of", choices=("nothing", "plain", "audit"), help="print one process's peak, in MiB")
    given = options.parse_args(arguments)
    if given.peak_of:
        with quiet():
            _print_peak(given.models[0], given.peak_of)
        return
    names, repeats = (["tiny"], 1) if given.quick else (given.models, given.repeats)
    print(environment(repeats=repeats, OMP_WAIT_POLICY="PASSIVE"))
    rows, summary = [], []
    measured = () if given.no_memory or given.quick else ("nothing", "plain", "audit")
    peaks = {name: [peak_memory(name, what) for what in measured] for name in names}
    for name in names:
        with quiet():
            (wall, cpu), (audit_wall, audit_cpu), parts = compare(name, repeats)
        row = [name, f"{wall:.3f}", f"{audit_wall:.3f}", f"{audit_wall / wall:.2f}", f"{audit_cpu / cpu:.2f}"]
        if peaks[name]:
            row += [*(f"{peak:.0f}" for peak in peaks[name]), f"{peaks[name][2] / peaks[name][1]:.2f}"]
        rows.append(row)
        summary.append(f"{name} {audit_wall / wall:.2f}")
        print(f"\n{name}: {MODELS[name].__doc__}")
        show(("stage", "plain s", "audit s"), parts)
    print()
    memory = ("built MiB", "plain MiB", "audit MiB", "memory ratio") if measured else ()
    show(("model", "plain s", "audit s", "wall ratio", "CPU ratio", *memory), rows)
    print(f"overhead: {', '.join(summary)} times a plain forward and backward pass")


if __name__ == "__main__":
    main()
