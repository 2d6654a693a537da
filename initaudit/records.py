"""Every record that crosses a border between rooms: strings and floats, never a tensor.

The probe turns one forward and one backward pass into a :class:`Trace`; rules turn a trace into
:class:`Finding` records; a :class:`Report` is both together and is all that a renderer may see.
Statistics that do not exist for a tensor (no batch, no gradient) are ``None``; numbers may be
infinite or NaN, because exploding layers are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, ConsoleOptions, RenderResult

SCHEMA_VERSION = 1


class Severity(str, Enum):
    """How much a finding harms training; ordered by :attr:`rank`, worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 for the worst severity, so that sorting ascending puts errors first."""
        return ("error", "warning", "note").index(self.value)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts in equal bins over ``[-limit, limit]``; ``limit`` is a power of two, so any two merge."""

    limit: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one tensor, or of several merged ones.

    ``count`` elements in all, of which ``sampled`` were looked at. ``rms`` is the square root of the
    mean square (not centred); ``std`` is centred over all elements. ``sample_std`` is the standard
    deviation *across samples* of the batch (root of the mean over units and positions of the variance
    over dimension 0); it is the part of the signal that tells one input from another. ``cosine`` is the
    mean cosine between pairs of samples. ``dead_units`` is the fraction of units that are exactly zero on
    every sample and position looked at; ``saturated_units`` the fraction of units that sit at a flat end of
    their activation on more than 95% of them; ``saturated`` the fraction of elements that do.
    ``kappa`` is ``E[x^4]/E[x^2]^2 - 1``. ``units`` is the size of the unit dimension, ``samples`` that of the batch.
    """

    count: int
    sampled: int
    mean: float
    std: float
    rms: float
    min: float
    max: float
    nonfinite: int = 0
    zero_fraction: float = 0.0
    kappa: float | None = None
    samples: int = 1
    units: int = 1
    sample_std: float | None = None
    cosine: float | None = None
    dead_units: float | None = None
    saturated: float | None = None
    saturated_units: float | None = None
    histogram: Histogram | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor as it was found.

    ``fqn`` is the name in ``named_parameters()``, ``aliases`` the other names of a tied parameter.
    ``init`` is what the values look like (``"kaiming_uniform(a=sqrt(5))"``, ``"normal(std=0.02)"``,
    ``"constant(0)"`` ...), ``identical_rows`` whether every output unit has the same incoming row.
    ``std_uncertainty`` is the relative standard error of ``std`` as an estimate of the law's own.
    ``grad_rms`` is ``None`` when no gradient reached it, and 0.0 when a gradient of exact zeros did.
    ``unwritten`` says that its memory was never written when its factory built it. ``reproducible`` says whether a
    second build with the same seed gave the same values, ``follows_seed`` whether one with another seed gave other
    values; both are ``None`` where that was not tried. ``copy_of`` is the fqn of an earlier parameter that holds the
    same random-looking values in memory of its own.
    """

    fqn: str
    shape: tuple[int, ...]
    dtype: str
    mean: float
    std: float
    rms: float
    min: float
    max: float
    init: str
    aliases: tuple[str, ...] = ()
    kurtosis: float | None = None
    std_uncertainty: float = 0.0
    nonfinite: int = 0
    zero_fraction: float = 0.0
    constant: bool = False
    identical_rows: bool = False
    unwritten: bool = False
    reproducible: bool | None = None
    follows_seed: bool | None = None
    copy_of: str | None = None
    requires_grad: bool = True
    grad_rms: float | None = None
    grad_nonfinite: int = 0


@dataclass(frozen=True, slots=True)
class Activation:
    """The elementwise function that follows a layer, with gains by quadrature over ``N(0, 1)``.

    ``name`` is torch's own spelling when the function is a known one (``"relu"``, ``"gelu"``), else a
    description of the operations. ``gain`` is ``1/sqrt(E[phi(z)^2])``, ``backward_gain`` is
    ``1/sqrt(E[phi'(z)^2])``. ``torch_name`` is the word ``nn.init.calculate_gain`` accepts, if any.
    ``negative_slope`` belongs to the leaky family. ``saturating`` says that the function has a flat end.
    """

    name: str
    gain: float
    backward_gain: float
    torch_name: str | None = None
    negative_slope: float | None = None
    saturating: bool = False


class Role(str, Enum):
    """What an operation does to the signal, which is all that the rules need to know of it."""

    INPUT = "input"  # a model input, or a tensor made inside the model from constants
    PARAMETER = "parameter"  # a bare parameter or buffer used as data
    LAYER = "layer"  # multiplies its input by a weight: linear, convolution, recurrence
    EMBEDDING = "embedding"
    ACTIVATION = "activation"  # elementwise and nonlinear
    SCALE = "scale"  # elementwise and linear: times a constant, plus a constant, dropout
    NORM = "norm"  # sets the scale anew: layer_norm, batch_norm, rms_norm, F.normalize ...
    JOIN = "join"  # adds two data-dependent tensors
    GATE = "gate"  # multiplies two data-dependent tensors
    CONCAT = "concat"
    POOL = "pool"  # averages or takes a maximum
    ATTENTION = "attention"  # softmax, scaled_dot_product_attention, product of two data tensors
    VIEW = "view"  # moves elements without changing one
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of the recorded run. ``id`` grows in execution order; ``inputs`` are ids.

    ``scope`` is the fqn of the innermost module that was running. ``layer`` and ``call`` say which layer call this
    is, for role LAYER and EMBEDDING. ``activation`` is set on the last operation of an elementwise function that
    follows a layer. ``gradient`` is that of the backward pass with respect to this op's output. ``over_batch`` says
    that a NORM takes its statistics across samples. ``output`` marks what the model returned. ``moving`` says that
    the value is a floating signal that depends on the model's input (and not only on parameters, positions or masks).
    """

    id: int
    name: str
    role: Role
    scope: str
    inputs: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    stats: Stats | None = None
    gradient: Stats | None = None
    layer: str | None = None
    call: int | None = None
    activation: Activation | None = None
    over_batch: bool = False
    output: bool = False
    moving: bool = True


@dataclass(frozen=True, slots=True)
class LayerCall:
    """One call of one layer. Shapes are those of the tensors; ``op`` and ``activation_op`` are op ids."""

    op: int
    input: Stats | None
    pre_activation: Stats | None
    activation: Stats | None
    gradient: Stats | None
    nonlinearity: Activation | None = None
    activation_op: int | None = None
    input_op: int | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that has a weight, with every call of it.

    ``fqn`` is the module that owns the weight (or the parameter's own path when it is used bare).
    ``kind`` is the class name for a module ("Linear", "Conv2d"), else the operation ("linear").
    ``fan_in`` and ``fan_out`` are effective fans: see :mod:`initaudit.theory.fans`.
    ``torch_fan_in`` and ``torch_fan_out`` are what ``torch.nn.init`` would compute from the shape, when it can.
    ``access`` is the Python expression of the module below a model ``m`` (``"m.body[0]"``);
    ``weight_access`` that of the weight.
    """

    fqn: str
    kind: str
    fan_in: float
    fan_out: float
    weight: Parameter
    bias: Parameter | None
    calls: tuple[LayerCall, ...]
    access: str
    weight_access: str
    torch_fan_in: int | None = None
    torch_fan_out: int | None = None
    repeats: int = 1  # blocks of rows that share one fan (4 gates of an LSTM, 3 of a packed qkv)

    @property
    def nonlinearity(self) -> Activation | None:
        """The activation that follows the layer in its first call that has one."""
        return next((call.nonlinearity for call in self.calls if call.nonlinearity), None)

    @property
    def declared_factor(self) -> float:
        """What the weights say of the mean square, after over before: ``fan_in * E[w^2]``.

        It needs no run and is sharp: its relative error is that of ``E[w^2]`` over all weights (He et al. 2015, eq. 7).
        """
        return self.fan_in * (self.weight.rms * self.weight.rms)  # `**` raises beyond what a float holds

    @property
    def measured_factor(self) -> float | None:
        """What the run says of it in the first call, the bias taken off; ``None`` where it cannot be told.

        It cannot where the bias is the larger part, since chance correlates the two. One draw of a narrow layer is
        noisy: its relative variance is up to ``2 / units``.
        """
        call = self.calls[0] if self.calls else None
        if call is None or call.input is None or call.pre_activation is None or not call.input.rms > 0:
            return None
        added = self.bias.rms * self.bias.rms if self.bias else 0.0
        rest = call.pre_activation.rms * call.pre_activation.rms - added
        return rest / (call.input.rms * call.input.rms) if rest > added else None


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention: ``op`` is its softmax or fused call; its queries, keys, values and output are ops where known.

    Means over a sample of queries: ``keys`` that a query may look at, ``logit_std`` over them, ``entropy`` of the
    weights in units of ``ln keys``, ``concentration`` ``(sum(p^2) - 1/keys) / (1 - 1/keys)``, which is 0 where all keys
    count alike and 1 where one takes all, and ``saturated``, the share of queries that give one key over 99%.
    ``token_spread`` is ``||X - mean over tokens|| / ||X||`` of the values (Dong et al. 2021, arXiv:2103.03404).
    """

    op: int
    keys: float
    logit_std: float
    entropy: float
    concentration: float
    saturated: float
    query: int | None = None
    key: int | None = None
    value: int | None = None
    output: int | None = None
    query_rms: float | None = None
    key_rms: float | None = None
    token_spread: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """One sigmoid gate of a recurrence: ``open`` is its mean output, the biases are means over its units.

    torch adds two biases, one beside the input's weight and one beside the state's; what counts is their sum.
    """

    name: str  # input | forget | output | reset | update
    open: float
    input_bias: float
    state_bias: float


@dataclass(frozen=True, slots=True)
class Recurrence:
    """One recurrent layer in one direction, run over ``steps`` time steps. ``kind`` is torch's name of its function.

    ``retention`` is the factor by which the mean square of a small change of the state is multiplied per step, the
    square of the effective radius of the recurrent Jacobian. ``saturated`` is the share of pre-activations, biases left
    out, at which a gate lies outside (0.05, 0.95), or the tanh of a plain recurrence beyond 0.97.
    ``weight`` is the parameter that multiplies the state.
    """

    op: int
    weight: str
    kind: str
    steps: int
    hidden_size: int
    retention: float
    saturated: float
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A part of the model that got no verdict, and why."""

    fqn: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a model could not be audited: the stage it failed in and what to do about it."""

    stage: str  # load | input | forward | backward
    message: str


@dataclass(frozen=True, slots=True)
class Environment:
    """``ranks`` is the number of processes whose statistics were merged."""

    torch: str
    device: str
    dtype: str
    seed: int
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """One run of one model: everything that rules may reason on."""

    target: str
    environment: Environment
    inputs: str  # what was fed, e.g. "float32[32,64]"
    inputs_source: str  # where it came from, e.g. "inferred from Linear(64, 10)"
    loss: str  # "seeded Gaussian cotangent" or the name of the user's loss
    training: bool
    ops: tuple[Op, ...]
    layers: tuple[Layer, ...]
    parameters: tuple[Parameter, ...]
    uncalled: tuple[str, ...] = ()
    unjudged: tuple[Unjudged, ...] = ()
    unregistered: tuple[str, ...] = ()  # trainable tensors at work that the model does not hold as parameters
    loss_value: float | None = None
    classes: int | None = None  # number of classes when the loss is a cross-entropy over logits
    seconds: float = 0.0
    model_seconds: float = 0.0  # the model's own forward and backward, as far as it can be told
    build_seconds: float = 0.0  # building it by its factory the first time, without which there is nothing to audit
    attentions: tuple[Attention, ...] = ()
    recurrences: tuple[Recurrence, ...] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """A cure: the initializer to call, the std it gives, and the line of code that calls it."""

    scheme: str
    gain: float | None
    std: float | None
    code: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault (or one thing worth knowing), at the layer where it starts.

    ``draws`` are the seeds whose draw has it, when a model was audited over several draws.
    """

    code: str
    name: str
    severity: Severity
    fqn: str
    message: str
    observed: float | None = None
    limit: float | None = None
    unit: str = ""
    root_cause: bool = True
    affected: tuple[str, ...] = ()
    advice: Advice | None = None
    draws: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The audit of one model: its trace (or why there is none) and its findings, worst first.

    ``seeds`` are those of the draws that were audited, where it was more than one; ``trace`` is that of the first, with
    the seconds of all. ``seconds`` is the whole, further builds and inputs that were tried in vain included.
    ``severity_score`` says how badly the initialization harms training, in nats of mean square through depth: 0 when
    nothing moves, trouble from 6, failure from 16 (:mod:`initaudit.rules.severity`).
    """

    target: str
    findings: tuple[Finding, ...] = ()
    trace: Trace | None = None
    error: Failure | None = None
    seconds: float = 0.0
    seeds: tuple[int, ...] = ()
    severity_score: float = 0.0

    @property
    def verdict(self) -> str:
        """``"error"`` when there is no trace, ``"fail"`` with a finding of severity error, else ``"pass"``."""
        if self.error is not None:
            return "error"
        return "fail" if any(f.severity is Severity.ERROR for f in self.findings) else "pass"

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.trace.layers if self.trace else ()

    def to_dict(self) -> dict[str, Any]:
        """The audit as one entry of ``audits`` in the JSON schema."""
        from initaudit.report.json import audit_to_dict

        return audit_to_dict(self)

    def to_json(self) -> str:
        """A whole JSON document with this one audit."""
        from initaudit.report.json import render_json

        return render_json([self])

    def to_html(self) -> str:
        """The report as the terminal shows it, as one HTML page that needs nothing else."""
        from initaudit.report.html import render_html

        return render_html(self)

    def figure(self, **options: Any) -> Figure:
        """Histograms and rms of every layer, by matplotlib: see :func:`initaudit.report.plots.figure`."""
        from initaudit.report.plots import figure

        return figure([self], **options)

    def _repr_html_(self) -> str:  # Jupyter's name for it
        from initaudit.report.html import render_html

        return render_html(self, page=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from initaudit.report.table import report_renderables

        yield from report_renderables(self, width=options.max_width, ascii_only=options.ascii_only)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What one draw of a model comes to: the figures that a cure is judged by.

    ``smallest`` and ``largest`` are the extremes of the pre-activations' rms over the layers; ``gradient_ratio`` is the
    gradient's rms at the first layer over that at the last, ``None`` where there is no gradient.
    """

    seed: int
    smallest: float | None
    largest: float | None
    gradient_ratio: float | None


@dataclass(frozen=True, slots=True)
class Cure:
    """What was tried on one model and what a second audit says of it.

    ``before`` and ``after`` are audits over the same draws; ``after`` is ``None`` where nothing had to be done, or
    nothing helped. ``code`` defines ``init_weights(model)``, the very code that the second audit ran. ``changed`` are
    the parameters that it sets, of ``parameters`` in all. ``measured`` says that some of its figures were measured on
    the sample input. ``remarks`` say why something stays open, and what would help. ``lazy`` says that the code must be
    called after the first run, which gives parameters their shapes.
    """

    before: Report
    after: Report | None = None
    code: str = ""
    changed: tuple[str, ...] = ()
    parameters: int = 0
    measured: bool = False
    vitals_before: tuple[Vitals, ...] = ()
    vitals_after: tuple[Vitals, ...] = ()
    remarks: tuple[str, ...] = ()
    lazy: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A whole run of the command: every report, in the order audited."""

    reports: tuple[Report, ...] = field(default=())

    def count(self, severity: Severity) -> int:
        return sum(f.severity is severity for r in self.reports for f in r.findings)
