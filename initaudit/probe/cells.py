"""One step of each recurrence of torch, with a small change of the state carried along by the chain rule."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Sigmoid gates by their place in the stacked weights: torch stacks an LSTM's as i, f, g, o and a GRU's as r, z, n.
GATES = {"lstm": {"input": 0, "forget": 1, "output": 3}, "gru": {"reset": 0, "update": 1}}
PARTS = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
States = tuple[Tensor, ...]  # h, and c of an LSTM, each (samples, units)


@dataclass(frozen=True, slots=True)
class CellWeights:
    """``(parts * hidden, inputs)``, ``(parts * hidden, hidden)`` and two biases; ``project`` is an LSTM's W_hr."""

    read: Tensor
    recur: Tensor
    read_bias: Tensor | None = None
    recur_bias: Tensor | None = None
    project: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """State and change after a step, the outputs of the gates, and what drives them, biases left out."""

    state: States
    change: States
    gates: States
    drive: Tensor


def advance(kind: str, read: Tensor, state: States, change: States, weights: CellWeights) -> Step:
    """One step of ``kind`` from ``state``, where ``read`` ``(samples, parts * hidden)`` is what the input gives.

    ``change`` is small enough for first order: it is multiplied by the Jacobian of the step.
    """
    recur, moved = (torch.cat((state[0], change[0])) @ weights.recur.T).chunk(2)
    zero = read.new_zeros(())
    read_bias, recur_bias = (zero if b is None else b for b in (weights.read_bias, weights.recur_bias))
    drive = read + recur
    if kind == "lstm":
        return _lstm(drive + read_bias + recur_bias, moved, state, change, drive, weights.project)
    if kind == "gru":
        return _gru(read + read_bias, recur + recur_bias, moved, state[0], change[0], drive)
    z = drive + read_bias + recur_bias
    h = z.relu() if kind == "rnn_relu" else z.tanh()
    slope = (z > 0).to(z.dtype) if kind == "rnn_relu" else 1 - h * h
    return Step((h,), (slope * moved,), (), drive)


def _lstm(z: Tensor, dz: Tensor, state: States, change: States, drive: Tensor, project: Tensor | None) -> Step:
    """Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000."""
    places = tuple(GATES["lstm"].values())
    parts, moved = z.chunk(4, -1), dz.chunk(4, -1)
    i, f, o = (parts[p].sigmoid() for p in places)
    di, df, do = (s * (1 - s) * moved[p] for s, p in zip((i, f, o), places, strict=True))
    g = parts[2].tanh()
    c = f * state[1] + i * g
    dc = df * state[1] + f * change[1] + di * g + i * (1 - g * g) * moved[2]
    squashed = c.tanh()
    h, dh = o * squashed, do * squashed + o * (1 - squashed * squashed) * dc
    if project is not None:
        h, dh = h @ project.T, dh @ project.T
    driven = drive.chunk(4, -1)
    return Step((h, c), (dh, dc), (i, f, o), torch.stack([driven[p] for p in places]))


def _gru(read: Tensor, recur: Tensor, moved: Tensor, h: Tensor, dh: Tensor, drive: Tensor) -> Step:
    """Cho et al. 2014 as torch writes it, with the reset gate behind the product of weights and state."""
    (read_r, read_z, read_n), (recur_r, recur_z, recur_n) = read.chunk(3, -1), recur.chunk(3, -1)
    moved_r, moved_z, moved_n = moved.chunk(3, -1)
    r, z = (read_r + recur_r).sigmoid(), (read_z + recur_z).sigmoid()
    n = (read_n + r * recur_n).tanh()
    dn = (1 - n * n) * (r * (1 - r) * moved_r * recur_n + r * moved_n)
    new = (1 - z) * n + z * h
    dnew = (1 - z) * dn + z * (1 - z) * moved_z * (h - n) + z * dh
    return Step((new,), (dnew,), (r, z), torch.stack(drive.chunk(3, -1)[:2]))
