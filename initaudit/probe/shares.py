"""Which part of a value of the whole batch a process has, read off the tape."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from initaudit.errors import AuditError
from initaudit.probe import ops
from initaudit.probe.backward import Part
from initaudit.probe.merging import Share, Shares
from initaudit.probe.ranks import Ranks
from initaudit.probe.statistics import Measurement
from initaudit.probe.tape import Node, Tape


def shares_of(tape: Tape) -> dict[torch.device, Shares]:
    """What each measurement of a finished run is to the whole batch."""
    cuts = cuts_of(tape)
    found: dict[torch.device, Shares] = {}
    kinds: dict[torch.device, dict[int, Share]] = {}
    by_units: dict[torch.device, set[int]] = {}
    for node in tape.nodes:
        for measurement, kind, shown, unit_dim in _measurements(node, tape.nodes):
            if kind is not Share.ROWS:
                kinds.setdefault(measurement.device, {})[measurement.row] = kind
            if shown.shape and shown.id in cuts and cuts[shown.id][0] == unit_dim % len(shown.shape):
                by_units.setdefault(measurement.device, set()).add(measurement.row)
    for device in {*kinds, *by_units}:
        found[device] = Shares(kinds.get(device, {}), frozenset(by_units.get(device, ())))
    return found


def cuts_of(tape: Tape) -> dict[int, tuple[int, tuple[int, ...]]]:
    """How each node's value is cut between the members of a replica, where it is known: the tape's, completed.

    Elementwise steps between two such nodes are given the whole shape, which theirs have already.
    """
    cuts = tape.cuts
    for node in tape.nodes:
        if node.id in cuts or node.name not in ops.ELEMENTWISE:
            continue
        source = next((tape.nodes[i] for i in node.inputs if i in cuts), None)
        if source is not None and cuts[source.id][1] == node.shape:
            cuts[node.id], node.shape = cuts[source.id], source.shape
    return cuts


def check_samples_in_front(tape: Tape, model: nn.Module) -> None:
    """Raise AuditError where the first dimension of the inputs, along which they were cut, is not that of the samples.

    It is then found where a recurrence or an attention has the positions of a sequence.
    """
    modules = dict(model.named_modules())
    lengths = {node.shape[0] for node in tape.nodes if node.name == "input" and node.shape}
    for node in tape.nodes:
        if node.live and _is_over_positions(node, tape.nodes, modules.get(node.scope), lengths):
            raise AuditError(
                "input",
                f"the first dimension of the inputs is that of positions in {node.scope or 'the model'}, and cannot be "
                "shared out among ranks; give inputs with the samples in front (batch_first=True), audit in one "
                "process, or call audit(model, inputs) on each rank with samples of its own",
            )


def _is_over_positions(node: Node, nodes: list[Node], module: nn.Module | None, lengths: set[int]) -> bool:
    """``lengths`` are those of the first dimension of the inputs, by which one that was lost sight of is told."""
    if node.name == "scaled_dot_product_attention" and not isinstance(module, nn.MultiheadAttention):
        queries = nodes[node.inputs[0]]
        positions = len(queries.shape) - 2
        return queries.live and queries.sample_dim == positions and queries.shape[positions] in lengths
    if node.data is None or not node.weights:
        return False
    source = nodes[node.data]
    if isinstance(module, nn.RNNBase):
        return source.sample_dim == (1 if module.batch_first and len(source.shape) > 2 else 0)
    if isinstance(module, nn.MultiheadAttention):  # which has the positions in front inside
        is_projection = "_proj_weight" in node.weights[0].names[0].rpartition(".")[2]
        return source.live and is_projection and source.sample_dim == 0
    return False


def parts_of(output: Tensor, tape: Tape, ranks: Ranks) -> list[Part]:
    """Which part ``output`` is of what the model returns for the whole batch."""
    node = tape.nodes[tape.node_of(output)]
    if not output.dim() or not node.live:
        return []
    parts = [Part(node.sample_dim, ranks.replica, len(ranks))]
    cut = cuts_of(tape).get(node.id)
    if cut is not None and cut[1] == tuple(output.shape):
        parts.append(Part(cut[0], ranks.member, ranks.members))
    return parts


def _measurements(node: Node, nodes: list[Node]) -> Iterator[tuple[Measurement, Share, Node, int]]:
    """Each measurement, its share, the node whose value it shows, and where the units are."""
    source = nodes[node.data] if node.data is not None else node
    if node.input_measurement is not None and node.input_measurement is not source.measurement:
        yield node.input_measurement, _kind(source), source, ops.unit_dim(node.name, len(source.shape))
    if node.measurement is not None:
        yield node.measurement, _kind(node), node, node.unit_dim
    if node.gradient is not None:
        share = Share.TERM if not node.live or not node.shape else Share.ROWS
        yield node.gradient, share, node, node.unit_dim


def _kind(node: Node) -> Share:
    return Share.COPY if not node.live else Share.ROWS if node.shape else Share.MEAN
