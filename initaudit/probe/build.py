"""From the recorded graph to the records that leave the probe: ops, layers with their calls, parameters."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from initaudit.errors import UnknownLayerError
from initaudit.probe import ops
from initaudit.probe.access import module_access, parameter_access
from initaudit.probe.activations import ActivationFinder, Followed
from initaudit.probe.shards import class_of, is_shard, whole
from initaudit.probe.statistics import Measurement, Statistics
from initaudit.probe.tape import Node, WeightRef
from initaudit.probe.weights import Seen, look, parameter_record
from initaudit.records import Layer, LayerCall, Op, Parameter, Role
from initaudit.theory.fans import fan_in_and_fan_out, torch_fans


class RecordBuilder:
    """Turns nodes into records, once :meth:`Statistics.collect` has been called."""

    def __init__(
        self,
        model: nn.Module,
        nodes: list[Node],
        inner: set[int],
        statistics: Statistics,
        gradients: dict[str, tuple[float, int]],
        unwritten: frozenset[str],
    ) -> None:
        self._modules = dict(model.named_modules())
        self._nodes = nodes
        self._statistics = statistics
        self._gradients = gradients
        self._unwritten = unwritten
        self._finder = ActivationFinder(nodes, inner)
        self._aliases: dict[str, list[str]] = {}
        first: dict[int, str] = {}
        self._tensors = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._aliases.setdefault(first.setdefault(id(parameter), name), []).append(name)
            self._tensors[name] = parameter
        stacked = {n for node in nodes if node.name in ops.RECURRENT for ref in node.weights for n in ref.names}
        self._seen = _seen({name: self._tensors[name] for name in self._aliases}, stacked)
        self._by_owner = {name: {_owner(n): n for n in reversed(names)} for name, names in self._aliases.items()}
        self._consumers: list[list[int]] = [[] for _ in nodes]
        for node in nodes:
            for i in node.inputs:
                self._consumers[i].append(node.id)
        self._followed: dict[int, Followed] = {}
        self._computed: set[str] = set()

    def layers(self) -> tuple[Layer, ...]:
        """Every layer in the order of its first call."""
        groups: dict[tuple[str, bool], list[tuple[Node, WeightRef]]] = {}
        shared = self._weights_by_module()
        for node in self._nodes:
            for ref in node.weights:
                name = self._name_in_scope(ref.names[0], node.scope)
                fqn = _layer_fqn(name, len(shared.get(_owner(name), ())))
                groups.setdefault((fqn, node.role is Role.EMBEDDING), []).append((node, ref))
        return tuple(self._layer(fqn, uses) for (fqn, _), uses in groups.items())

    def _weights_by_module(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for node in self._nodes:
            for ref in node.weights:
                name = self._name_in_scope(ref.names[0], node.scope)
                found.setdefault(_owner(name), set()).add(name)
        return found

    def _name_in_scope(self, name: str, scope: str) -> str:
        """Of the names of a tied parameter, the one in the module that is running."""
        return self._by_owner.get(name, {}).get(scope, name)

    def _layer(self, fqn: str, uses: list[tuple[Node, WeightRef]]) -> Layer:
        node, ref = uses[0]
        name = self._name_in_scope(ref.names[0], node.scope)
        owner = self._modules.get(_owner(name))
        is_module = fqn == _owner(name) and owner is not None
        fan_in, fan_out, repeats = ref.fan_in, ref.fan_out, 1
        parameter = self._tensors.get(name)
        if (
            owner is not None
            and node.role is not Role.EMBEDDING
            and not _is_lookup(owner)  # a table that is multiplied
            and node.name not in ops.PRODUCTS
            and parameter is not None
        ):
            leaf = name.rsplit(".", 1)[-1]
            with suppress(UnknownLayerError):  # a class of the user's: the call itself tells the fans
                fan_in, fan_out = fan_in_and_fan_out(owner, leaf)
            if node.name in ops.RECURRENT or leaf == "in_proj_weight":
                repeats = max(1, round(parameter.shape[0] / fan_out))
        access = module_access(self._modules, fqn if is_module else _owner(name))
        weight = self.parameter(ref.names[0], fans=(fan_in, fan_out), repeats=repeats)
        if ref.derived is not None:  # judged as it is used, not as it is stored
            weight = replace(
                ref.derived, grad_rms=weight.grad_rms, requires_grad=weight.requires_grad, aliases=weight.aliases
            )
            self._computed.add(ref.names[0])
        bias = self._bias(uses[0][0])
        fans = torch_fans(weight.shape) if len(weight.shape) >= 2 else None
        return Layer(
            fqn=fqn,
            kind=_kind(owner, node) if is_module else node.name.strip("_"),
            fan_in=fan_in,
            fan_out=fan_out,
            weight=weight,
            bias=self.parameter(bias) if bias else None,
            calls=tuple(self._call(n) for n, _ in uses),
            access=access,
            weight_access=parameter_access(self._modules, _owner(name), _leaf(name)),
            torch_fan_in=fans[0] if fans else None,
            torch_fan_out=fans[1] if fans else None,
            repeats=repeats,
        )

    def _bias(self, node: Node) -> str | None:
        if node.bias is not None:
            return node.bias
        added = self._bias_add(node)
        return (
            next((self._nodes[i].parameters[0] for i in added.inputs if not self._nodes[i].live), None)
            if added
            else None
        )

    def _bias_add(self, node: Node) -> Node | None:
        """The addition of a parameter vector right after a product: a bias written out by hand."""
        if node.bias is not None or node.name not in ops.PRODUCTS or len(self._consumers[node.id]) != 1:
            return None
        after = self._nodes[self._consumers[node.id][0]]
        others = [self._nodes[i] for i in after.inputs if i != node.id]
        is_vector = len(others) == 1 and others[0].name == "parameter" and len(others[0].shape) == 1
        return after if after.name in ops.ADDS and is_vector else None

    def _call(self, node: Node) -> LayerCall:
        after = self._bias_add(node) or node
        recurrent = node.name in ops.RECURRENT
        followed = None if node.role is Role.EMBEDDING or recurrent else self._finder.after(after.id)
        if followed is not None:
            self._followed[followed.node] = followed
        end = self._nodes[followed.node] if followed else None
        stats = self._statistics.stats
        return LayerCall(
            op=node.id,
            input=stats(node.input_measurement),
            pre_activation=stats(after.measurement),
            activation=stats(end.measurement) if end else stats(node.measurement) if recurrent else None,
            gradient=stats(after.gradient or self._state_gradient(node)),
            nonlinearity=followed.activation if followed else None,
            activation_op=end.id if end else None,
            input_op=node.data,
        )

    def _state_gradient(self, node: Node) -> Measurement | None:
        """Of a recurrence that is read through its last state alone."""
        states = (self._nodes[i] for i in self._consumers[node.id] if self._nodes[i].name == node.name)
        return next((s.gradient for s in states if node.name in ops.RECURRENT and s.gradient), None)

    def ops(self, layers: tuple[Layer, ...]) -> tuple[Op, ...]:
        """Every node as an :class:`Op`; call after :meth:`layers`."""
        owners = {call.op: (layer.fqn, i) for layer in layers for i, call in enumerate(layer.calls)}
        return tuple(
            Op(
                id=node.id,
                name=node.name,
                role=self._role(node),
                scope=node.scope,
                inputs=node.inputs,
                shape=node.shape,
                parameters=node.parameters,
                stats=self._statistics.stats(node.measurement),
                gradient=self._statistics.stats(node.gradient),
                layer=owners.get(node.id, (None, None))[0],
                call=owners.get(node.id, (None, None))[1],
                activation=self._followed[node.id].activation if node.id in self._followed else None,
                over_batch=node.name in ops.OVER_BATCH,
                output=node.output,
                moving=node.moving,
            )
            for node in self._nodes
        )

    def _role(self, node: Node) -> Role:
        """A function written with ``where``, ``masked_fill`` or a mask is known as elementwise by its end alone."""
        return Role.ACTIVATION if node.id in self._followed and node.role is not Role.GATE else node.role

    def parameter(self, name: str, fans: tuple[float, float] | None = None, repeats: int = 1) -> Parameter:
        tensor, requires_grad = whole(self._tensors[name]), self._tensors[name].requires_grad
        names = self._aliases.get(name, [name])
        return parameter_record(
            name,
            tensor,
            fans=fans,
            torch_fans=torch_fans(tuple(tensor.shape)) if tensor.dim() >= 2 else None,
            repeats=repeats,
            aliases=tuple(n for n in names if n != name),
            requires_grad=requires_grad,
            seen=self._seen.get(name),
            unwritten=not self._unwritten.isdisjoint(names),
            gradient=self._gradients.get(names[0]),
        )

    def parameters(self, layers: tuple[Layer, ...]) -> tuple[Parameter, ...]:
        """Every parameter once, as it is stored."""
        known = {p.fqn: p for layer in layers for p in (layer.weight, layer.bias) if p is not None}
        return tuple(
            known[name] if name in known and name not in self._computed else self.parameter(name)
            for name in self._aliases
        )


def _seen(tensors: dict[str, Tensor], stacked: set[str]) -> dict[str, Seen]:
    """All are looked at together, save for those held in parts: these are never whole side by side."""
    held = [name for name, tensor in tensors.items() if is_shard(tensor)]
    together = [name for name in tensors if name not in set(held)]
    blocks = {i for i, name in enumerate(together) if name in stacked or name.endswith("in_proj_weight")}
    seen = dict(zip(together, look([tensors[name] for name in together], stacked=blocks), strict=True))
    return seen | {name: look([whole(tensors[name])])[0] for name in held}


def _owner(parameter: str) -> str:
    """The fqn of the module that a parameter belongs to, past torch's parametrizations."""
    owner = parameter.rpartition(".")[0]
    return owner.split(".parametrizations.")[0].removesuffix(".parametrizations")


def _kind(owner: nn.Module | None, node: Node) -> str:
    """The name of the layer's class, or how it is called where only one of the two is a lookup."""
    as_named = _is_lookup(owner) == (node.role is Role.EMBEDDING)
    return class_of(owner).__name__ if as_named and owner is not None else node.name.strip("_")


def _is_lookup(module: nn.Module | None) -> bool:
    return "embedding" in type(module).__name__.casefold()


def _leaf(parameter: str) -> str:
    """The rest of the parameter's name, behind that of its module."""
    owner = _owner(parameter)
    return parameter[len(owner) + 1 :] if owner else parameter


def _layer_fqn(parameter: str, weights_in_module: int) -> str:
    """The module's path when the parameter is the one weight of it, else the parameter's own path."""
    owner, leaf = _owner(parameter), _leaf(parameter)
    is_weight = leaf.startswith(("weight", "in_proj_weight", "parametrizations.weight"))
    return owner if is_weight and owner and weights_in_module == 1 else parameter
