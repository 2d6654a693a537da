"""What writing code for a model needs to know of its modules, as strings."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from initaudit.probe.build import module_access


@dataclass(frozen=True, slots=True)
class ModuleFact:
    """One module: ``test`` is the Python condition on ``module`` that tells its class, ``access`` its expression.

    ``parameters`` has, for each parameter of its own by attribute, the first name of that tensor in the model; ``None``
    where the attribute is there and is ``None``, as a bias may be.
    """

    fqn: str
    test: str
    access: str
    parameters: dict[str, str | None] = field(default_factory=dict)
    padding_idx: int | None = None


def facts_of(model: nn.Module) -> tuple[ModuleFact, ...]:
    """The modules that own parameters, in the order of ``named_modules()``."""
    modules = dict(model.named_modules())
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first.setdefault(id(parameter), name)
    found = []
    for fqn, module in modules.items():
        own = {leaf: None if p is None else first[id(p)] for leaf, p in module._parameters.items()}
        if any(own.values()):
            access = "model" + module_access(modules, fqn)[1:]
            padding = getattr(module, "padding_idx", None)
            found.append(ModuleFact(fqn, _test(module), access, own, padding))
    return tuple(found)


def _test(module: nn.Module) -> str:
    for cls in type(module).__mro__:
        if cls is not nn.Module and getattr(nn, cls.__name__, None) is cls:
            return f"isinstance(module, nn.{cls.__name__})"
    return f'type(module).__name__ == "{type(module).__name__}"'
