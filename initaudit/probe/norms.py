"""Normalizations written out by hand: ``x * rsqrt(mean(x**2) + eps)``, ``(x - mean) / std``, ``x / x.norm()``."""

from __future__ import annotations

from math import prod

from initaudit.probe import ops
from initaudit.probe.tape import Node
from initaudit.records import Role

_REDUCTIONS = frozenset({"mean", "var", "std", "norm", "vector_norm", "sum", "amax", "max", "var_mean", "std_mean"})
_SOURCE_STEPS = 4
_SCALE_STEPS = 10


def mark_norms(nodes: list[Node]) -> set[int]:
    """Give such products the role NORM; returns the ids of their inner steps.

    A product is a normalization when one factor is made from the other's own source by reductions and elementwise
    steps alone: no layer stands between, which tells it from squeeze-and-excitation.
    """
    inner: set[int] = set()
    for node in nodes:
        if node.role is not Role.GATE or node.name not in ops.MULS or len(node.inputs) != 2:
            continue
        for signal, factor in (node.inputs, node.inputs[::-1]):
            if prod(nodes[factor].shape) >= prod(nodes[signal].shape):
                continue
            sources = _ancestors(nodes, signal, _SOURCE_STEPS)
            path = _ancestors(nodes, factor, _SCALE_STEPS)
            if sources & path and any(nodes[i].name in _REDUCTIONS for i in path):
                node.role = Role.NORM
                inner |= path - sources
                break
    return inner


def _ancestors(nodes: list[Node], start: int, steps: int) -> set[int]:
    """``start`` and what it is made from within ``steps`` elementwise calls, reductions and views."""
    seen, frontier = {start}, [start]
    for _ in range(steps):
        frontier = [
            j
            for i in frontier
            if nodes[i].name in ops.ELEMENTWISE or nodes[i].name in ops.VIEWS or nodes[i].name in _REDUCTIONS
            for j in nodes[i].inputs
            if nodes[j].moving and j not in seen
        ]
        seen.update(frontier)
    return seen
