"""How recurrences start: what of a state survives a step, and how far their gates are from moving.

torch's fused recurrences show neither. A few samples are run through the same equations once more, for a few steps,
with a small change of the state carried along by the chain rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, isnan
from typing import Any

import torch
from torch import Tensor

from initaudit.probe.cells import GATES, PARTS, CellWeights, States, advance
from initaudit.probe.readings import Readings
from initaudit.records import Gate, Recurrence

_SAMPLES = 4
_STEPS = 20  # that are run again; the rate of the second half stands for all
_ARGUMENTS = 9  # of torch.lstm and its like, for packed sequences and for others
_SHUT = 2.944  # sigmoid is outside (0.05, 0.95)
_FLAT = 2.09  # tanh is outside (-0.97, 0.97)


@dataclass(slots=True)
class _Run:
    """One direction of one layer on its way through time. ``state`` and ``change`` hold h, and c of an LSTM."""

    kind: str
    weights: CellWeights
    op: int
    steps: int
    state: States = ()
    change: States = ()
    rates: list[Tensor] = field(default_factory=list)  # ln of the mean square of the change over that a step before
    saturated: list[Tensor] = field(default_factory=list)
    open: list[Tensor] = field(default_factory=list)

    def start(self, samples: int, seed: int) -> None:
        """Zero state, and a random change of it."""
        width, hidden = self.weights.recur.shape[1], self.weights.recur.shape[0] // PARTS[self.kind]
        blank = self.weights.recur.new_zeros
        self.state = (blank(samples, width), blank(samples, hidden))[: 2 if self.kind == "lstm" else 1]
        generator = torch.Generator().manual_seed(seed)
        self.change = tuple(torch.randn(s.shape, generator=generator, device="cpu").to(s) for s in self.state)

    def step(self, read: Tensor) -> Tensor:
        """Advance by one time step; ``read`` is what the input gives, ``(samples, gates * hidden)``. Returns h."""
        norm = torch.stack([d.square().sum() for d in self.change]).sum().sqrt()
        self.change = tuple(d / norm for d in self.change)
        done = advance(self.kind, read, self.state, self.change, self.weights)
        self.state, self.change = done.state, done.change
        self.rates.append(torch.stack([d.square().sum() for d in self.change]).sum().log())
        limit = _SHUT if done.gates else torch.inf if self.kind == "rnn_relu" else _FLAT
        self.saturated.append((done.drive.abs() > limit).float().mean())
        self.open.append(torch.stack([g.mean() for g in done.gates]) if done.gates else done.drive.new_zeros(0))
        return self.state[0]

    def reading(self) -> Tensor:
        """Rate per step, saturated share, and by gate how far it is open and its two biases."""
        settled = self.rates[len(self.rates) // 2 :]
        numbers = [torch.stack(settled).mean(), torch.stack(self.saturated).mean(), *torch.stack(self.open).mean(0)]
        for bias in (self.weights.read_bias, self.weights.recur_bias):
            parts = bias.chunk(PARTS[self.kind]) if bias is not None else ()
            for place in GATES.get(self.kind, {}).values():
                numbers.append(parts[place].mean() if parts else numbers[0].new_zeros(()))
        return torch.stack([n.float() for n in numbers])


class RecurrenceMeter:
    """Measures the recurrent calls of one run; :meth:`records` hands them out at the end."""

    def __init__(self, readings: Readings, seed: int) -> None:
        self._readings = readings
        self._seed = seed
        self._runs: list[tuple[_Run, str]] = []
        self._cells: dict[tuple[str, int], _Run] = {}
        self._numbers: list[int] = []

    @torch.no_grad()
    def fused(self, op: int, name: str, args: Sequence[Any], names: Sequence[str]) -> None:
        """A call of ``torch.lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``; ``names`` are those of its weights."""
        if len(args) != _ARGUMENTS:
            return
        groups = [a for a in args if isinstance(a, (list, tuple)) and len(a) >= 2 and isinstance(a[0], Tensor)]
        flat = [w.detach().float() for w in groups[-1]]
        packed = args[1] if isinstance(args[1], Tensor) and args[1].dtype == torch.int64 else None
        layers, bidirectional = (args[4], args[7]) if packed is None else (args[5], args[8])
        has_biases = args[3] if packed is None else args[4]
        if flat[0].is_meta:
            return
        if packed is None:
            data = args[0].detach().transpose(0, 1) if args[8] else args[0].detach()
            steps, data = data.shape[0], data[:_STEPS, :_SAMPLES].float()
        else:
            steps, data = packed.shape[0], _unpack(args[0].detach(), packed).float()
        directions = 2 if bidirectional else 1
        per = len(flat) // (layers * directions)
        labels = [n for n in names if "weight_hh" in n.rpartition(".")[2]] or list(names[1::2])
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                at = layer * directions + direction
                run = _Run(name, _weights(flat[at * per : (at + 1) * per], has_biases), op, steps)
                sequence = data.flip(0) if direction else data
                run.start(data.shape[1], self._seed)
                out = torch.stack([run.step(read) for read in sequence @ run.weights.read.T])
                outputs.append(out.flip(0) if direction else out)
                self._runs.append((run, labels[at] if at < len(labels) else ""))
            data = torch.cat(outputs, -1)

    @torch.no_grad()
    def cell(self, op: int, name: str, args: Sequence[Any], weight: str) -> None:
        """One step of a cell; the steps of one cell are taken for one sequence."""
        x, state = args[0].detach(), args[1]
        state = tuple(s.detach()[:_SAMPLES].float() for s in (state if isinstance(state, (tuple, list)) else (state,)))
        if x.dim() != 2 or x.is_meta:
            return
        key = (weight, state[0].shape[0])
        run = self._cells.get(key)
        if run is None:
            given = [a.detach().float() if isinstance(a, Tensor) else None for a in (*args[2:6], None, None)][:4]
            if given[0] is None or given[1] is None:
                return
            biases = (None if bias is None else bias.clone() for bias in given[2:])
            weights = CellWeights(given[0], given[1], *biases)
            run = self._cells[key] = _Run(name.removesuffix("_cell"), weights, op, 0)
            run.start(state[0].shape[0], self._seed)
            self._runs.append((run, weight))
        run.steps += 1
        if len(run.rates) < _STEPS:
            run.state = state
            run.step(x[:_SAMPLES].float() @ run.weights.read.T)

    @torch.no_grad()
    def finish(self) -> None:
        """Close every run; call before :meth:`Readings.collect`."""
        self._numbers = [self._readings.add(run.reading(), shared=False) for run, _ in self._runs]

    def records(self) -> tuple[Recurrence, ...]:
        """Every recurrence that took at least two steps, in execution order."""
        return tuple(self._records())

    def _records(self) -> Iterator[Recurrence]:
        for (run, weight), number in zip(self._runs, self._numbers, strict=True):
            rate, saturated, *rest = self._readings[number]
            if run.steps < 2 or isnan(saturated):
                continue
            names = tuple(GATES.get(run.kind, {}))
            n = len(names)
            yield Recurrence(
                op=run.op,
                weight=weight,
                kind=run.kind,
                steps=run.steps,
                hidden_size=run.weights.recur.shape[0] // PARTS[run.kind],
                retention=0.0 if isnan(rate) else exp(min(rate, 700.0)),  # a change that is gone has no rate
                saturated=saturated,
                gates=tuple(map(Gate, names, rest[:n], rest[n : 2 * n], rest[2 * n :])),
            )


def _weights(flat: Sequence[Tensor], has_biases: bool) -> CellWeights:
    read, recur, *rest = flat
    # Copies, for they are read once more when the run is over, and parameters that were gathered are freed by then.
    read_bias, recur_bias = (rest[0].clone(), rest[1].clone()) if has_biases else (None, None)
    projection = rest[2 if has_biases else 0 :]
    return CellWeights(read, recur, read_bias, recur_bias, projection[0] if projection else None)


def _unpack(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """The first samples of a packed sequence, for as many steps as they all have, ``(steps, samples, units)``."""
    sizes = batch_sizes[:_STEPS].tolist()  # lives on the host
    samples = min(_SAMPLES, sizes[min(1, len(sizes) - 1)])
    rows, at = [], 0
    for size in sizes:
        if size < samples:
            break
        rows.append(data[at : at + samples])
        at += size
    return torch.stack(rows)
