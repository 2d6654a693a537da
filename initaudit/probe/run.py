"""One forward and one backward pass, recorded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from initaudit.errors import AuditError
from initaudit.probe import backward, ops
from initaudit.probe.attention import AttentionMeter
from initaudit.probe.build import RecordBuilder
from initaudit.probe.clock import Clock
from initaudit.probe.fsdp import set_aside
from initaudit.probe.garbage import earlier_objects_left_alone
from initaudit.probe.merging import Merger
from initaudit.probe.norms import mark_norms
from initaudit.probe.ranks import Ranks, together
from initaudit.probe.readings import Readings
from initaudit.probe.recurrence import RecurrenceMeter
from initaudit.probe.restore import seed_all, unchanged
from initaudit.probe.scope import scopes
from initaudit.probe.shares import check_samples_in_front, parts_of, shares_of
from initaudit.probe.statistics import Statistics
from initaudit.probe.tape import Node, Tape
from initaudit.probe.unregistered import names_of
from initaudit.records import Environment, Layer, Role, Trace, Unjudged
from initaudit.target.frames import user_error
from initaudit.target.inputs import Inputs
from initaudit.target.tree import tensors_within

Progress = Callable[[str], None]
Loss = Callable[[Any], Tensor]
COTANGENT = "seeded Gaussian cotangent"


def probe(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    target: str = "",
    inputs: str = "",
    inputs_source: str = "",
    loss: Loss | None = None,
    loss_name: str = "",
    seed: int = 0,
    unwritten: frozenset[str] = frozenset(),
    ranks: Ranks | None = None,
    progress: Progress = lambda stage: None,
) -> Trace:
    """Run ``model(*args, **kwargs)`` forward and backward once and return what was seen.

    The model, the random generators and the process are afterwards as they were, whatever happens. BatchNorm layers
    use batch statistics during the run, as in training, for at initialization their running statistics normalize
    nothing. With ``ranks`` the inputs are this process's share, and the trace is that of all shares, on every process.

    Where no output depends on a tensor that the model was given (text, numpy arrays, a generator without input), it is
    run again, and the signal is what its first layers multiply.

    Raises:
        AuditError: with stage ``"forward"`` or ``"backward"`` when the model's own code fails there.
    """
    run = partial(
        _probe,
        model,
        target=target,
        inputs=inputs,
        inputs_source=inputs_source,
        loss=loss,
        loss_name=loss_name,
        seed=seed,
        unwritten=unwritten,
        ranks=ranks,
        progress=progress,
    )
    given = any(True for _ in tensors_within((args, kwargs)))
    again = Inputs(args, kwargs).to(None) if given else Inputs()  # before the model writes to them
    trace, reached = run(args, kwargs, starts_inside=not given)
    if given and not reached:
        trace, reached = run(again.args, again.kwargs, starts_inside=True)
    if not reached:
        trace = replace(trace, unjudged=(*trace.unjudged, Unjudged("", "no output was seen to depend on any layer")))
    return trace


def _probe(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    target: str,
    inputs: str,
    inputs_source: str,
    loss: Loss | None,
    loss_name: str,
    seed: int,
    unwritten: frozenset[str],
    ranks: Ranks | None,
    progress: Progress,
    starts_inside: bool,
) -> tuple[Trace, bool]:
    """The trace of one run, and whether an output depends on the signal."""
    started = time.perf_counter()
    merger = None if ranks is None else Merger(ranks)
    losses = _modules_in(loss)
    with earlier_objects_left_alone(), set_aside(model), unchanged(model, seed, losses) as snapshot, _eager():
        _use_batch_statistics(model)
        statistics = Statistics(seed) if merger is None else merger.statistics(seed)
        readings = Readings()
        attentions, recurrences = AttentionMeter(readings, seed), RecurrenceMeter(readings, seed)
        tape = Tape(model, statistics, snapshot, attentions, recurrences, starts_inside=starts_inside)
        # Tensors made in inference mode cannot take part in a backward pass.
        args, kwargs = tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, (args, kwargs))
        for tensor in {id(t): t for t in tensors_within((args, kwargs))}.values():
            tape.add_input(tensor)
        seed_all(seed)
        progress("forward")
        passes = Clock()
        with together() if ranks is not None else nullcontext():
            output, called, value, foreign = _forward(model, tape, args, kwargs, loss, passes)
            progress("backward")
            measuring = statistics.seconds
            snapshot.before_backward()
            gradients, unjudged = _backward(model, tape, output, value, seed, ranks, passes)
            snapshot.after_backward()
            own = passes.seconds - tape.seconds - (statistics.seconds - measuring)
            del output, value
        if ranks is not None and merger is not None:
            ranks.same_calls(tape.nodes, model)
            gradients = ranks.parameter_gradients(model)
            if ranks.shares_out:
                check_samples_in_front(tape, model)
            merger.shares = shares_of(tape)
        statistics.collect()
        recurrences.finish()
        readings.collect(ranks)
        inner = mark_norms(tape.nodes)
        builder = RecordBuilder(model, tape.nodes, inner, statistics, gradients, unwritten)
        layers = builder.layers()
        unused = _unused(model, tape.nodes)
        reached = any(node.live for node in tape.nodes if node.output)
        trace = Trace(
            target=target,
            environment=_environment(model, seed, ranks),
            inputs=inputs,
            inputs_source=inputs_source,
            loss=loss_name or (COTANGENT if loss is None else getattr(loss, "__name__", "loss")),
            training=model.training,
            ops=builder.ops(layers),
            layers=layers,
            parameters=builder.parameters(layers),
            unregistered=names_of(model, foreign),
            uncalled=tuple(fqn for fqn in unused if fqn not in called),
            unjudged=(*unjudged, *_out_of_sight(model), *_unseen(model, called, unused, layers)),
            **_loss_facts(tape.nodes, statistics),
            seconds=time.perf_counter() - started,
            model_seconds=max(0.0, own),
            attentions=attentions.records(tape.nodes),
            recurrences=recurrences.records(),
        )
    return trace, reached


def _environment(model: nn.Module, seed: int, ranks: Ranks | None) -> Environment:
    first = next(model.parameters(), torch.empty(0))
    return Environment(
        torch=torch.__version__,
        device=str(first.device),
        dtype=str(first.dtype).removeprefix("torch."),
        seed=seed,
        ranks=1 if ranks is None else ranks.size,
    )


def _forward(
    model: nn.Module, tape: Tape, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Loss | None, passes: Clock
) -> tuple[list[Tensor], set[str], Tensor | None, list[Tensor]]:
    """The output, the modules called, the loss, and the trainable tensors that are none of the model's parameters."""
    with scopes(model, tape) as called:
        try:
            with passes.running(), tape:
                output = model(*args, **kwargs)
        except Exception as error:
            raise user_error("forward", "the forward pass failed", error, _advice(error)) from error
        with tape:
            tensors = backward.output_tensors(output)
        foreign = list(tape.unregistered.values())
        value = None
        if loss is not None:
            try:
                with passes.running(), tape:
                    value = loss(output)
            except Exception as error:
                raise user_error("forward", "the loss failed", error) from error
            if not isinstance(value, Tensor) or value.numel() != 1:
                got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise AuditError("forward", f"the loss must return a tensor with one element, got {got}")
    for tensor in tensors:
        tape.mark_output(tensor)
    if not tensors:
        raise AuditError(
            "forward",
            f"the model returned no tensor, but {type(output).__name__}; expected a tensor or a container of them",
        )
    return tensors, called, value, foreign


def _backward(
    model: nn.Module,
    tape: Tape,
    outputs: list[Tensor],
    value: Tensor | None,
    seed: int,
    ranks: Ranks | None,
    passes: Clock,
) -> tuple[dict[str, tuple[float, int]], list[Unjudged]]:
    """The gradients by parameter; with ``ranks`` they are left in ``grad``, each that of this rank's rows."""
    roots = backward.differentiable(outputs) if value is None else [value] if value.requires_grad else []
    if not roots:
        return {}, [
            Unjudged("", "no output has a gradient (frozen, detached or not differentiable): gradients were not judged")
        ]
    parts = [] if ranks is None else [parts_of(root, tape, ranks) for root in roots]
    reducing: AbstractContextManager[dict[str, tuple[float, int]]] = (
        backward.parameter_gradients(model, passes) if ranks is None else nullcontext({})
    )
    with reducing as gradients:
        try:
            # Through a scalar, since handing tensors of gradients to torch.autograd.backward imports sympy first.
            scalar = backward.projection(roots, seed, parts) if value is None else value
            if ranks is not None and (value is not None or not roots[0].dim()):
                scalar = scalar / len(ranks)  # a mean over the batch is the mean of those over its shares
            with passes.running():
                torch.autograd.backward([scalar])
        except Exception as error:
            raise user_error("backward", "the backward pass failed", error) from error
    return gradients, []


def _modules_in(loss: Loss | None) -> list[nn.Module]:
    """The modules that a loss is, belongs to, or was written around."""
    around = [loss, getattr(loss, "__self__", None)]
    for cell in getattr(loss, "__closure__", None) or ():
        with suppress(ValueError):  # of a name that is not bound yet
            around.append(cell.cell_contents)
    return [value for value in around if isinstance(value, nn.Module)]


def _advice(error: Exception) -> str:
    if "more than 1 value per channel" in str(error):
        return "BatchNorm is audited with the statistics of the batch: give at least two samples."
    return ""


def _use_batch_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            module.training = True


@contextmanager
def _eager() -> Iterator[None]:
    """Compiled parts run as plain Python inside, so that the tape sees their calls."""
    dynamo = sys.modules.get("torch._dynamo")  # which takes a second to import, for models that compile nothing
    if dynamo is None:
        yield
    elif hasattr(torch.compiler, "set_stance"):  # torch 2.6 and newer
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        with dynamo.config.patch(disable=True):
            yield


def _unused(model: nn.Module, nodes: list[Node]) -> list[str]:
    """Modules that own parameters of which no recorded call used any."""
    used = {name for node in nodes if node.role is Role.PARAMETER for name in node.parameters}
    used |= {name for node in nodes for ref in node.weights for name in ref.names}
    found = []
    tied = {id(p): name for name, p in model.named_parameters()}
    for fqn, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # whether it was called cannot be told
        own = [tied[id(p)] for p in module.parameters(recurse=False) if id(p) in tied]
        if own and not used.intersection(own):
            found.append(fqn)
    return found


def _unseen(model: nn.Module, called: set[str], unused: list[str], layers: tuple[Layer, ...]) -> list[Unjudged]:
    """Modules that ran while none of their parameters was seen at work, and layers with complex weights."""
    leaves = (fqn for fqn in unused if fqn in called and not list(model.get_submodule(fqn).children()))
    return [
        *(
            Unjudged(fqn, "it ran, but its calls could not be recorded (vmap, functorch or custom code)")
            for fqn in leaves
        ),
        *(Unjudged(x.fqn, "complex weights are not judged") for x in layers if x.weight.dtype.startswith("complex")),
    ]


def _out_of_sight(model: nn.Module) -> list[Unjudged]:
    """The outermost scripted modules, inside which no call can be recorded."""
    scripted = [fqn for fqn, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    outermost = [
        fqn
        for fqn in scripted
        if not any(fqn.startswith(f"{other}.") or not other for other in scripted if other != fqn)
    ]
    return [Unjudged(fqn, "scripted code: what happens inside is not recorded") for fqn in outermost]


def _loss_facts(nodes: list[Node], statistics: Statistics) -> dict[str, Any]:
    """Value and number of classes of the cross-entropy, when the model or the loss computes one."""
    for node in nodes:
        if node.name in ops.REDUCTIONS_TO_LOSS and node.inputs and node.measurement is not None:
            logits = nodes[node.inputs[0]]
            stats = statistics.stats(node.measurement)
            if stats is not None and stats.count == 1 and len(logits.shape) > 1:
                return {"loss_value": stats.mean, "classes": logits.shape[1]}
    return {}
