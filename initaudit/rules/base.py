"""What a rule is, and what it yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initaudit.records import Layer, Severity

if TYPE_CHECKING:
    from initaudit.rules.flow import Flow


@dataclass(frozen=True, slots=True)
class Limit:
    """The number a rule compares with, its unit, and the source it was taken from."""

    value: float
    unit: str
    source: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What a rule saw at one place; the diagnosis turns it into a finding with advice.

    ``fqn`` is where the fault starts and ``affected`` what follows from it. ``severity`` overrides the rule's own when
    the measured harm is smaller or larger. ``layer`` is set when the cure is to initialize that layer anew, ``gain``
    when that must be done with another gain than that of the activation that follows.
    ``observed`` is in the unit of the rule's limit; ``limit`` overrides the rule's own when it follows width or depth.
    """

    fqn: str
    message: str
    observed: float | None = None
    limit: float | None = None
    severity: Severity | None = None
    affected: tuple[str, ...] = ()
    layer: Layer | None = None
    gain: float | None = None
    code: str | None = None  # the line that cures it, where that is not to initialize ``layer`` anew


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: ``check`` reads the flow of a trace and yields what it saw.

    The docstring of the module that defines the rule is its page. ``severity`` is the worst the rule can say.
    ``stands_alone`` is for what is no matter of the signal: it explains no other finding and none explains it.
    ``needs_run`` is False for what can be said of weights alone, in a trace without operations.
    """

    code: str
    name: str
    severity: Severity
    limit: Limit
    check: Callable[[Flow], Iterator[Observation]]
    stands_alone: bool = False
    needs_run: bool = True
