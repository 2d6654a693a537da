"""The op tape: every torch-level call of one forward pass, as a graph over tensor identity.

A :class:`torch.overrides.TorchFunctionMode` sees what module hooks cannot: ``F.relu``, ``x.tanh()``, operators,
in-place calls, bare parameters, one module used in many places. Module hooks only tell the *scope*: which module is
running. Gradients come from hooks on autograd nodes, never from full backward hooks of modules, which break in-place
activations.
"""

from __future__ import annotations

import time
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from initaudit.probe import operands, ops, shards
from initaudit.probe.attention import AttentionMeter
from initaudit.probe.axes import sample_dim
from initaudit.probe.devices import one_thread_for
from initaudit.probe.recurrence import RecurrenceMeter
from initaudit.probe.restore import Snapshot
from initaudit.probe.statistics import Measurement, Statistics
from initaudit.probe.weights import parameter_record
from initaudit.records import Parameter, Role

_TENSOR_PROPERTIES = frozenset({"data", "T", "mT", "H", "mH", "real", "imag"})
_KEEPS_UNITS = frozenset({"clone", "contiguous", "to", "detach", "type_as", "float", "half", "bfloat16", "double"})
_FOLDS = frozenset({"view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "contiguous"})
_MAX_PARAMETERS = 8  # how many of its parameters a value made from parameters remembers


@dataclass(frozen=True, slots=True)
class WeightRef:
    """A weight as one call used it. ``names`` are the parameters it is or is made from; ``derived`` is the record of a
    weight that is computed from parameters (weight norm, standardization, LoRA merged into its base)."""

    names: tuple[str, ...]
    fan_in: float
    fan_out: float
    derived: Parameter | None = None


@dataclass(slots=True)
class Node:
    """One output of one call while recording; becomes a :class:`initaudit.records.Op`.

    ``live`` says that the value depends on the model's input at all, ``moving`` that it is a floating signal that does.
    """

    id: int
    name: str
    role: Role
    scope: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    live: bool
    moving: bool
    unit_dim: int = -1
    sample_dim: int = 0
    parameters: tuple[str, ...] = ()
    computed: bool = False  # made from parameters by arithmetic, not just a view of one
    weight_like: bool = False  # made from parameters, and by no layer: learned queries that passed one are signal
    measurement: Measurement | None = None
    gradient: Measurement | None = None
    input_measurement: Measurement | None = None
    weights: tuple[WeightRef, ...] = ()
    bias: str | None = None
    data: int | None = None  # the node that the weights multiply
    call: Callable[..., Any] | None = None  # of elementwise calls and views: replayed to find the activation's gain
    arguments: tuple[Any, Any] = ((), {})
    output: bool = False

    @property
    def is_number(self) -> bool:
        """Whether this is one number, known before any input: of one element, or the same everywhere."""
        same = prod(self.shape) == 1 or (self.name in ops.FILLS and prod(self.shape) > 0)
        return not self.live and same and self.name != "parameter"


@dataclass(frozen=True, slots=True)
class Slot:
    """Stands in recorded arguments for the tensor that node ``id`` made."""

    id: int


class Tape(TorchFunctionMode):
    """Records calls while it is active. ``nodes`` is the graph in execution order."""

    def __init__(
        self,
        model: nn.Module,
        statistics: Statistics,
        snapshot: Snapshot,
        attentions: AttentionMeter,
        recurrences: RecurrenceMeter,
        *,
        starts_inside: bool = False,
    ) -> None:
        """With ``starts_inside`` the signal starts in what the first layers multiply, wherever that comes from."""
        super().__init__()
        self.nodes: list[Node] = []
        self.scopes: list[tuple[str, Any]] = [("", ())]
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._buffers = {id(b): name for name, b in model.named_buffers()}
        self._statistics = statistics
        self._snapshot = snapshot
        self._attentions = attentions
        self._recurrences = recurrences
        self._passing: set[int] = set()
        self._values: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self.cuts: dict[int, tuple[int, tuple[int, ...]]] = {}  # nodes seen in parts: the dimension, shape of the part
        self.unregistered: dict[int, Tensor] = {}  # trainable tensors that the model does not hold as parameters
        self._starts_inside = starts_inside
        self._memory: dict[int, int] = {}  # of model inputs: where they lie, and their nodes
        self.seconds = 0.0  # spent on recording, measuring included

    # -- what torch calls ------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
            if name not in _TENSOR_PROPERTIES:
                return func(*args, **kwargs)
        if "." in name:  # an operator of an exported program: "linear.default"
            name = name.partition(".")[0]
        if name == "multi_head_attention_forward":
            with self:
                return _open_attention(*args, **kwargs)
        if not _records(name):
            return func(*args, **kwargs)
        in_place = ops.is_in_place(name) or "out" in kwargs or kwargs.get("inplace") is True
        if in_place:
            for tensor in tensors_in((args[:1] or kwargs, kwargs.get("out"))):
                if not is_functorch_wrapped_tensor(tensor):
                    self._snapshot.before_write(tensor)
        started = time.perf_counter()
        if kwargs.get("max_norm") is not None:  # an embedding that scales its rows down in place
            for tensor in tensors_in((args, kwargs)):
                self._snapshot.before_write(tensor)
        call = self._before(func, ops.base_name(name), args, kwargs)
        called = time.perf_counter()
        out = func(*args, **kwargs)
        returned = time.perf_counter()
        if call is not None:
            self._after(call, args, kwargs, out, in_place)
        self.seconds += called - started + time.perf_counter() - returned
        return out

    # -- before a call: names move when a call overwrites its operand -------------------------------------------------

    def _before(self, func: Callable[..., Any], name: str, args: Any, kwargs: Any) -> _Call | None:
        inputs = []
        for tensor in tensors_in((args, kwargs)):
            if is_functorch_wrapped_tensor(tensor) or is_lazy(tensor):
                return None
            inputs.append(self.node_of(tensor))
        call = _Call(func, name, tuple(dict.fromkeys(inputs)), tuple(inputs))
        if inputs:
            self._find_operands(call, args, kwargs)
        if name in ops.ELEMENTWISE or name in ops.VIEWS:
            call.arguments = (self._template(args), self._template(kwargs))
        return call

    def _find_operands(self, call: _Call, args: Any, kwargs: Any) -> None:
        """Fill in weights, bias and data when the call multiplies data with something made of parameters alone."""
        if "parametrizations" in self.scopes[-1][0].split("."):
            return  # what a parametrization multiplies becomes a weight
        if call.name in ops.PRODUCTS:
            nodes = [self.nodes[self.node_of(t)] for t in operands.factors(call.name, args, kwargs)]
            constant = [n.weight_like for n in nodes]
            if len(nodes) != 2 or constant[0] == constant[1]:
                return
            if not nodes[constant.index(False)].live and call.name == "mv":
                return  # a step of the power iteration of spectral norm, whose vectors are buffers
            found = operands.product(call.name, args, kwargs, constant.index(True))
        else:
            found = operands.split(call.name, args, kwargs)
        if found is None or found.data is None:
            return
        for use in found.weights:
            node = self.nodes[self.node_of(use.tensor)]
            if not node.weight_like and (call.name in ops.PRODUCTS or node.live or not node.parameters):
                return
            derived = None
            if node.computed:
                derived = parameter_record(
                    node.parameters[0], use.tensor, fans=(use.fan_in, use.fan_out), torch_fans=None
                )
            call.weights += (WeightRef(node.parameters, use.fan_in, use.fan_out, derived),)
        call.data = self.node_of(found.data)
        if self._starts_inside and not self.nodes[call.data].live:
            self._begin(self.nodes[call.data], found.data)
        if found.bias is not None:
            bias = self.nodes[self.node_of(found.bias)]
            call.bias = bias.parameters[0] if bias.parameters and not bias.live else None
        unit_dim = ops.unit_dim(call.name, found.data.dim())
        source = self._unfolded(self.nodes[call.data], unit_dim)
        if source.measurement is not None and (source.id != call.data or source.shape == tuple(found.data.shape)):
            call.input_measurement = source.measurement
        else:  # seen through a view or a dropout: its own statistics are what the layer meets
            call.input_measurement = self._statistics.measure(found.data, unit_dim, sample_dim=source.sample_dim)

    def _unfolded(self, node: Node, unit_dim: int) -> Node:
        """The measured value of which ``node`` has all the elements, unit by unit, in other dimensions; or itself."""
        source = node
        while source.measurement is None and source.name in _FOLDS and source.inputs:
            source = self.nodes[source.inputs[0]]
        same = source.shape[-1:] == node.shape[-1:] and prod(source.shape) == prod(node.shape)
        return source if same and unit_dim == source.unit_dim == -1 and source.measurement is not None else node

    def _template(self, value: Any) -> Any:
        """Arguments with every tensor replaced by the :class:`Slot` of its node, so that no activation is kept."""
        if isinstance(value, nn.Parameter):
            # Only the mean of one is ever asked for.
            return nn.Parameter(value.detach().float().mean(), False) if id(value) in self._passing else value
        if isinstance(value, Tensor):
            node = self.nodes[self.node_of(value)]
            if node.is_number and not value.is_meta:
                return value.detach().flatten()[0].clone()
            return Slot(node.id)
        if isinstance(value, (tuple, list)):
            return tuple(self._template(v) for v in value)
        if isinstance(value, dict):
            return {k: self._template(v) for k, v in value.items()}
        return value

    # -- after a call ----------------------------------------------------------------------------------------------

    def _after(self, call: _Call, args: Any, kwargs: Any, out: Any, in_place: bool) -> None:
        outs = tensors_in(out)
        if in_place and not outs:
            outs = tensors_in(args[:1])[:1]
        parents = [self.nodes[i] for i in call.inputs]
        first: Node | None = None
        for tensor in outs:
            if is_functorch_wrapped_tensor(tensor):
                return
            if first is None or call.name in ops.VIEWS:
                node = self._add_result(call, parents, tensor)
                if first is None:
                    first = node
                    self._look_inside(call, node, args, kwargs, tensor.device)
            else:  # further outputs of one call: states of a recurrence, indices of a maximum
                state = call.name in ops.RECURRENT and tensor.is_floating_point()
                node = self._add(call.name, Role.OTHER, (first.id,), tensor, live=first.live, moving=state)
                if state:
                    self._measure(node, tensor)
            if in_place and tensor._is_view() and tensor._base is not None:
                self._overwrite_base(tensor._base, node)

    def _look_inside(self, call: _Call, node: Node, args: Any, kwargs: Any, device: torch.device) -> None:
        """What the statistics of the output alone do not tell of an attention and of a recurrence."""
        if call.name in ops.RECURRENT and call.weights:
            names = [ref.names[0] for ref in call.weights]
            if call.name.endswith("_cell"):
                self._recurrences.cell(node.id, call.name, args, names[-1])
            else:
                self._recurrences.fused(node.id, call.name, args, names)
        elif call.name in ops.ATTENDING or self._attentions.carries(call.inputs):
            with one_thread_for(0, device):
                self._attentions.after(call.name, node, args, kwargs, call.operands)

    def _add_result(self, call: _Call, parents: Sequence[Node], tensor: Tensor) -> Node:
        makes_constant = call.name.endswith("_like") or call.name.startswith("new_")
        live = any(p.live for p in parents) and not makes_constant
        moving = [p for p in parents if p.moving]
        is_layer = bool(call.weights)
        role = self._role(call, parents, len(moving), live)
        node = self._add(
            call.name,
            role,
            call.inputs,
            tensor,
            live=live,
            moving=tensor.is_floating_point() and live and bool(moving or is_layer),
        )
        if is_layer or not live:
            node.parameters = tuple(dict.fromkeys(q for p in parents if not p.live for q in p.parameters))[
                :_MAX_PARAMETERS
            ]
            node.weight_like = (
                not live
                and not is_layer
                and all(p.weight_like or not p.parameters for p in parents)
                and bool(node.parameters)
            )
            node.computed = call.name not in ops.VIEWS or any(p.computed for p in parents)
        node.unit_dim = self._unit_dim(call.name, node, moving)
        node.sample_dim = self._sample_dim(call, node)
        node.weights, node.bias, node.data, node.input_measurement = (
            call.weights,
            call.bias,
            call.data,
            call.input_measurement,
        )
        node.call, node.arguments = (call.func, call.arguments) if call.arguments else (None, ((), {}))
        if (node.moving and role is not Role.VIEW) or is_layer:
            self._measure(node, tensor)
        return node

    def _role(self, call: _Call, parents: Sequence[Node], moving: int, live: bool) -> Role:
        if call.weights:
            return Role.EMBEDDING if call.name in ops.EMBEDDINGS else Role.LAYER
        if not live:
            return Role.PARAMETER if any(p.parameters for p in parents) else Role.INPUT
        return ops.role_of(call.name, moving)

    @staticmethod
    def _unit_dim(name: str, node: Node, moving: Sequence[Node]) -> int:
        if name in ops.ELEMENTWISE or name in _KEEPS_UNITS:
            same = next((p for p in moving if len(p.shape) == len(node.shape)), None)
            return same.unit_dim if same else -1
        return ops.unit_dim(name, len(node.shape))

    def _sample_dim(self, call: _Call, node: Node) -> int:
        source = self.nodes[call.data] if call.data is not None else None
        if source is None:
            source = next((p for p in map(self.nodes.__getitem__, call.inputs) if p.live), None)
        if source is None or not source.shape:
            return 0
        rest = call.arguments[0][1:] if call.arguments else ()
        return sample_dim(call.name, rest, source.shape, source.sample_dim, node.shape)

    def _measure(self, node: Node, tensor: Tensor) -> None:
        if type(tensor) is not Tensor and (cut := shards.cut(tensor)) is not None:
            self.cuts[node.id] = cut
        search = node.name not in ops.KEEP_FINITE  # which can only pass on what was found before
        bounds = ops.flat_ends(node.name, *node.arguments)
        node.measurement = self._statistics.measure(tensor, node.unit_dim, bounds, node.sample_dim, search=search)
        if tensor.grad_fn is not None and node.measurement is not None:
            which = tensor.output_nr

            def hook(gradients: tuple[Tensor | None, ...]) -> None:
                gradient = gradients[which]
                if gradient is not None:
                    node.gradient = self._statistics.measure(
                        gradient, node.unit_dim, sample_dim=node.sample_dim, search=search, compare=False
                    )

            # On the autograd node, not the tensor: a tensor written in place later carries its hooks into another
            # graph.
            tensor.grad_fn.register_prehook(hook)

    def _overwrite_base(self, base: Tensor, part: Node) -> None:
        entry = self._values.get(id(base))
        if entry is not None and entry[0]() is base and entry[1] != part.id:
            self._add("copy", Role.OTHER, (entry[1], part.id), base, live=part.live, moving=part.moving)

    # -- tensors and their nodes ---------------------------------------------------------------------------------------

    def _known(self, tensor: Tensor) -> int | None:
        entry = self._values.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def node_of(self, tensor: Tensor) -> int:
        """The id of the node that made ``tensor``; a tensor never seen before gets a node of its own."""
        known = self._known(tensor)
        if known is not None:
            return known
        if (name := self._parameters.get(id(tensor))) is not None:
            node = self._add("parameter", Role.PARAMETER, (), tensor, live=False, moving=False)
            node.parameters, node.weight_like = (name,), True
        elif id(tensor) in self._buffers or tensor.grad_fn is None:
            source = self._memory.get(_place(tensor)) if self._memory else None
            if source is not None:  # an input under another class, or back from numpy
                moving = self.nodes[source].moving
                return self._add("alias", Role.VIEW, (source,), tensor, live=True, moving=moving).id
            node = self._add("constant", Role.INPUT, (), tensor, live=False, moving=False)
            if tensor.requires_grad and id(tensor) not in self._buffers:
                self.unregistered[id(tensor)] = tensor
                self._snapshot.hold_gradient(tensor)
        else:  # made out of sight, by a custom autograd.Function or scripted code, from what its module was given
            given = (self._known(t) for t in tensors_in(self.scopes[-1][1]))
            sources = tuple(dict.fromkeys(i for i in given if i is not None))
            node = self._add("opaque", Role.OTHER, sources, tensor, live=True, moving=tensor.is_floating_point())
            self._measure(node, tensor)
        return node.id

    def pass_on(self, tensor: Tensor, to: Tensor) -> None:
        """Make ``to`` the value that ``tensor`` is: a hook has copied, gathered or cut it to its part out of sight."""
        known = self._known(tensor)
        if known is None or self._known(to) is not None:
            return
        node = self.nodes[known]
        self._values[id(to)] = (weakref.ref(to), known)
        shapes = tuple(node.shape), tuple(to.shape)
        other = [d for d, (n, m) in enumerate(zip(*shapes, strict=False)) if n != m]
        if len(other) == 1:
            self.cuts[known] = (other[0], min(shapes))
            node.shape = max(shapes)
        if node.measurement is None and ((node.moving and node.role is not Role.VIEW) or node.weights):
            self._measure(node, to)

    def know(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Register what stands in for parameters while their module runs, in memory that is freed afterwards."""
        new = {id(tensor): name for name, tensor in parameters if id(tensor) not in self._parameters}
        self._parameters |= new
        self._passing |= new.keys()

    def add_input(self, tensor: Tensor) -> None:
        """Register a model input."""
        node = self._add("input", Role.INPUT, (), tensor, live=True, moving=False)
        if place := _place(tensor):
            self._memory[place] = node.id
        self._begin(node, tensor)

    def _begin(self, node: Node, tensor: Tensor) -> None:
        """Let the signal start in ``tensor``."""
        node.live, node.moving, node.weight_like = True, tensor.is_floating_point(), False
        node.unit_dim = 1 if tensor.dim() > 3 else -1
        node.measurement = self._statistics.measure(tensor, node.unit_dim)

    def mark_output(self, tensor: Tensor) -> None:
        """Register something that the model returned."""
        self.nodes[self.node_of(tensor)].output = True

    def _add(self, name: str, role: Role, inputs: tuple[int, ...], out: Tensor, *, live: bool, moving: bool) -> Node:
        scope = self.scopes[-1][0]
        shape = (out.size(0),) if out.is_nested else tuple(out.shape)  # of unequal length are the rest
        node = Node(len(self.nodes), name, role, scope, inputs, shape, live, moving)
        self.nodes.append(node)
        self._values[id(out)] = (weakref.ref(out), node.id)
        return node


@dataclass(slots=True)
class _Call:
    """What is known of a call before it runs."""

    func: Callable[..., Any]
    name: str
    inputs: tuple[int, ...]
    operands: tuple[int, ...]  # one for each tensor among the arguments, the same one twice where it stands twice
    weights: tuple[WeightRef, ...] = ()
    bias: str | None = None
    data: int | None = None
    input_measurement: Measurement | None = None
    arguments: tuple[Any, Any] | None = None


_QUERIES = frozenset(
    "size dim ndimension stride numel nelement element_size item tolist numpy get_device backward register_hook "
    "data_ptr __set__ __bool__ __len__ __repr__ __format__ __hash__ __contains__ untyped_storage storage_offset".split()
)


def _records(name: str) -> bool:
    """Whether a call under this name changes or makes a value; queries such as ``size`` do not."""
    return name not in _QUERIES and not name.startswith("is_")


def _place(tensor: Tensor) -> int:
    """Where in memory a tensor lies; 0 for one that does not tell."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or a wrapper around other tensors
        return 0


def tensors_in(value: Any, depth: int = 4) -> list[Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    found: list[Tensor] = []
    _gather(value, depth, found)
    return found


def _gather(value: Any, depth: int, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif depth and value is not None:
        inside = value if isinstance(value, (tuple, list)) else value.values() if isinstance(value, Mapping) else ()
        for v in inside:
            _gather(v, depth - 1, found)


# The same function without its own check for an active mode: the calls inside it then reach the tape one by one,
# out_proj among them.
_open_attention = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**F.multi_head_attention_forward.__globals__, "has_torch_function": lambda _: False},
    "multi_head_attention_forward",
    F.multi_head_attention_forward.__defaults__,
)
_open_attention.__kwdefaults__ = F.multi_head_attention_forward.__kwdefaults__
