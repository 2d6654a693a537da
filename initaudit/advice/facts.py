"""What writing code for a model needs to know of its modules, as strings."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.utils import parametrize

from initaudit.probe.access import member, module_access

PARAMETRIZED = ' and hasattr(module, "parametrizations")'  # behind the test of the class
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)  # own no parameter, but their subclasses may


@dataclass(frozen=True, slots=True)
class ModuleFact:
    """One module: ``test`` is the Python condition on ``module`` that tells its class, ``access`` its expression.

    ``parameters`` has, for each parameter of its own by attribute, the first name of that tensor in the model; ``None``
    where the attribute is there and is ``None``, as a bias may be. ``assigned`` are the attributes that are computed
    from parameters by a parametrization of torch's, and may be assigned to. ``spelled`` has what stands behind the
    module's expression to reach an attribute, where that is not its name behind a dot.
    """

    fqn: str
    test: str
    access: str
    parameters: dict[str, str | None] = field(default_factory=dict)
    padding_idx: int | None = None
    assigned: frozenset[str] = frozenset()
    spelled: dict[str, str] = field(default_factory=dict)

    def at(self, leaf: str) -> str:
        """The expression of an attribute or an entry of the module ``{m}``."""
        return "{m}" + self.spelled.get(leaf, f".{leaf}")


def facts_of(model: nn.Module) -> tuple[ModuleFact, ...]:
    """The modules that own parameters, and those that the same test holds for, in the order of ``named_modules()``."""
    modules = dict(model.named_modules())
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
    found = []
    for fqn, module in modules.items():
        if isinstance(module, parametrize.ParametrizationList):
            continue  # its parameters are set through the module that it belongs to
        own = {leaf: None if p is None else first[id(p)] for leaf, p in module._parameters.items()}
        behind = {leaf: first[id(tensor)] for leaf, tensor in _parametrized(module).items()}
        access = "model" + module_access(modules, fqn)[1:]
        padding = getattr(module, "padding_idx", None)
        test = _test(module) + (PARAMETRIZED if behind else "")
        spelled = {leaf: text for leaf in own if (text := member(module, leaf)) != f".{leaf}"}
        found.append(ModuleFact(fqn, test, access, {**own, **behind}, padding, frozenset(behind), spelled))
    tests = {fact.test for fact in found if any(fact.parameters.values())}
    return tuple(fact for fact in found if {fact.test, fact.test.removesuffix(PARAMETRIZED)} & tests)


def _parametrized(module: nn.Module) -> dict[str, Tensor]:
    """The parameter that stands for each parametrized attribute: of weight normalization the direction."""
    found: dict[str, Tensor] = {}
    for leaf, chain in getattr(module, "parametrizations", {}).items() if parametrize.is_parametrized(module) else ():
        tensor = getattr(chain, "original1", getattr(chain, "original", None))
        if isinstance(tensor, nn.Parameter):
            found[leaf] = tensor
    return found


def _test(module: nn.Module) -> str:
    for cls in type(module).__mro__:
        if cls not in _CONTAINERS and getattr(nn, cls.__name__, None) is cls:
            return f"isinstance(module, nn.{cls.__name__})"
    return f'type(module).__name__ == "{type(module).__name__}"'
