"""Does a model that fills most of the machine's memory fit in it while it is audited?

    python benchmarks/large.py [--quick] [--parameters 6.7e9] [--tokens 8 32] [--frozen]

A Llama of about that many parameters in bfloat16, its weights drawn by transformers. It is audited, forward and
backward, in a process of its own: memory is the resident set, its peak set back between building and auditing (on
Linux; elsewhere the audit's peak is that of the whole process). Without `--tokens` the audit infers its input. With
`--frozen` all weights are frozen but those of low-rank adapters beside the projections of queries and values.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from _common import environment, parser, quiet, show  # first: it sets the environment of torch

# isort: split
import torch
from torch import Tensor, nn

from initaudit import audit

GIB = 2**30
SEVEN_BILLION = 6.738e9
WIDE = (4096, 32, 11008, 32000)  # hidden, layers, intermediate and vocabulary of Llama 7B, whose layers are counted
QUICK = (64, 2, 172, 256)
HEAD = 128
LINUX = Path("/proc/self/status").exists()


@dataclass
class Figures:
    """Sizes in bytes. ``audit`` is the peak from the start of the audit to its end."""

    parameters: int
    weights: int
    built: int
    building: float
    audit: int = 0
    seconds: float = 0.0
    passes: float = 0.0
    verdict: str = ""
    inputs: str = ""
    trainable: int = 0
    hooks: int = 0
    gradients: int = 0
    frozen_gradients: int = 0
    notes: list[str] = field(default_factory=list)


class Adapter(nn.Module):
    """A linear layer and a product of two narrow ones beside it, the second of them zero (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def shape_for(parameters: float) -> tuple[int, int, int, int]:
    """Fewer layers of the 7B's width where that comes near, a narrower model of its proportions below."""
    hidden, _, intermediate, vocabulary = WIDE
    while hidden > 256 and parameters < 2 * vocabulary * hidden + 4 * (4 * hidden + 3 * intermediate) * hidden:
        hidden, intermediate = hidden // 2, intermediate // 2
    each = (4 * hidden + 3 * intermediate) * hidden
    return hidden, max(1, round((parameters - 2 * vocabulary * hidden) / each)), intermediate, vocabulary


def build(shape: tuple[int, int, int, int], frozen: bool) -> nn.Module:
    """The model, made in bfloat16 from the start so that it is never there twice."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, intermediate, vocabulary = shape
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        num_attention_heads=max(1, hidden // HEAD),
        use_cache=False,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model: nn.Module = LlamaForCausalLM(config)
        if frozen:
            model.requires_grad_(False)
            for layer in model.get_submodule("model.layers").children():
                attention: Any = layer.get_submodule("self_attn")
                attention.q_proj, attention.v_proj = Adapter(attention.q_proj), Adapter(attention.v_proj)
    finally:
        torch.set_default_dtype(before)
    return model.train()


def memory(line: str) -> int:
    """Bytes of ``VmRSS`` (resident now) or ``VmHWM`` (at its peak since it was set back)."""
    if LINUX:
        fields = dict(text.split(":") for text in Path("/proc/self/status").read_text().splitlines())
        return int(fields[line].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def set_back_peak() -> None:
    """Let the peak begin anew. Where that is not allowed, it stays that of the whole process."""
    if LINUX:
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as error:
            print(f"the peak of memory includes the building of the model: {error}", file=sys.stderr)


@contextmanager
def progress(what: str) -> Iterator[None]:
    """A line every ten seconds, so that a run of minutes is seen to move."""
    done, started = Event(), time.perf_counter()

    def tell() -> None:
        while not done.wait(10):
            seconds = time.perf_counter() - started
            print(f"  {what}: {seconds:.0f} s, {memory('VmRSS') / GIB:.2f} GiB", file=sys.stderr, flush=True)

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


@contextmanager
def counted(figures: Figures, model: nn.Module) -> Iterator[None]:
    """Count the hooks that the audit puts on parameters, and the gradients that reach one."""
    register = Tensor.register_post_accumulate_grad_hook
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}

    def counting(parameter: Tensor, hook: Callable[[Tensor], None]) -> Any:
        figures.hooks += 1

        def count(given: Tensor) -> None:
            figures.gradients += 1
            figures.frozen_gradients += id(given) in frozen
            hook(given)

        return register(parameter, count)

    Tensor.register_post_accumulate_grad_hook = counting  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Tensor.register_post_accumulate_grad_hook = register  # type: ignore[method-assign]


def measure(shape: tuple[int, int, int, int], tokens: Sequence[int] | None, frozen: bool) -> Figures:
    """Build the model, audit it, and measure both."""
    started = time.perf_counter()
    with progress("building"):
        model = build(shape, frozen)
    sizes = [(p.numel(), p.numel() * p.element_size(), p.requires_grad) for p in model.parameters()]
    figures = Figures(
        parameters=sum(n for n, _, _ in sizes),
        weights=sum(b for _, b, _ in sizes),
        trainable=sum(n for n, _, trained in sizes if trained),
        built=memory("VmRSS"),
        building=time.perf_counter() - started,
    )
    print(
        f"  built {figures.parameters / 1e9:.2f} billion parameters, {figures.built / GIB:.2f} GiB",
        file=sys.stderr,
        flush=True,
    )
    inputs = None if tokens is None else {"input_ids": torch.randint(shape[3], tuple(tokens))}
    set_back_peak()
    started = time.perf_counter()
    with progress("auditing"), counted(figures, model):
        report = audit(model, inputs)
    figures.seconds = time.perf_counter() - started
    figures.audit = memory("VmHWM")
    figures.verdict = report.verdict
    figures.notes = [f"{f.code} {f.severity.value} {f.fqn}: {f.message}" for f in report.findings][:5]
    if report.trace is not None:
        figures.passes, figures.inputs = report.trace.model_seconds, report.trace.inputs
    return figures


def tell(figures: Figures, frozen: bool) -> None:
    """The table, what the audit found, and the summary line."""
    more = figures.audit - figures.built
    show(
        ("parameters", "weights GiB", "built GiB", "audit's peak GiB", "audit adds", "peak over weights", "audit s"),
        [
            (
                f"{figures.parameters / 1e9:.2f}e9",
                f"{figures.weights / GIB:.2f}",
                f"{figures.built / GIB:.2f}",
                f"{figures.audit / GIB:.2f}",
                f"{more / figures.weights:.1%} of the weights",
                f"{figures.audit / figures.weights:.2f}",
                f"{figures.seconds:.1f}, of which the model's own passes {figures.passes:.1f}",
            )
        ],
    )
    print(f"{figures.verdict} on {figures.inputs}, built in {figures.building:.0f} s")
    for note in figures.notes:
        print(f"  {note}")
    print(
        f"{figures.trainable / figures.parameters:.2%} of the parameters have a gradient: {figures.hooks} hooks on "
        f"parameters, {figures.gradients} gradients, {figures.frozen_gradients} of them of frozen ones"
    )
    print(
        f"large: an audit of {figures.parameters / 1e9:.2f} billion {'mostly frozen ' if frozen else ''}parameters "
        f"takes {figures.audit / figures.weights:.2f} times the memory of its weights"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--parameters", type=float, default=SEVEN_BILLION)
    options.add_argument("--tokens", type=int, nargs=2, metavar=("BATCH", "LENGTH"))
    options.add_argument("--frozen", action="store_true")
    options.add_argument("--here", action="store_true", help="in this process, which then should do nothing else")
    given = options.parse_args(arguments)
    if not given.quick and not given.here:
        raise SystemExit(subprocess.run([sys.executable, __file__, *sys.argv[1:], "--here"]).returncode)
    if not math.isfinite(given.parameters) or given.parameters < 1e7:
        options.error(f"--parameters is {given.parameters:g}, expected a number from 1e7 on")
    with quiet():
        print(environment(dtype="bfloat16"))
        figures = measure(QUICK if given.quick else shape_for(given.parameters), given.tokens, given.frozen)
    tell(figures, given.frozen)


if __name__ == "__main__":
    main()
