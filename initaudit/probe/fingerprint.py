"""What the values of a weight look like: which initializer most likely drew them.

The decision is by the shape of the law (flat, cut, or bell: told apart by the largest value over the
standard deviation and by the kurtosis) and then by its scale against what each scheme of ``torch.nn.init``
gives for the fans of the weight. Where several schemes give the same scale, the commoner name wins; where
the tensor is too small to tell scales apart, only the plain law is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn.init import calculate_gain

from initaudit.probe.orthogonal import orthogonal_gains
from initaudit.theory.variance import (
    KURTOSIS_NORMAL,
    KURTOSIS_TRUNCATED_NORMAL,
    KURTOSIS_UNIFORM,
    sampling_error,
)

# Standard deviation of a normal law cut at two of its own standard deviations.
TRUNCATED_STD = 0.8796256610342398
TOO_FEW = 16  # values below which no law is named
TOO_LARGE = 1e150  # rms beyond which its square is none in float64
SHARP = 0.05  # relative standard error of the std above which no scale is named
MISSED = 10.0  # -ln of the chance that a true law or scale is taken for another


@dataclass(frozen=True, slots=True)
class Moments:
    """Statistics of one tensor; ``kurtosis`` is that of the entries that are not zero: ``looked_at`` of them."""

    count: int
    mean: float
    std: float
    rms: float
    min: float
    max: float
    kurtosis: float | None = None
    looked_at: int = 0
    nonfinite: int = 0
    zero_fraction: float = 0.0

    @property
    def constant(self) -> bool:
        return self.min == self.max

    @property
    def nonzero(self) -> int:
        return max(1, round(self.count * (1 - self.zero_fraction)))

    @property
    def std_uncertainty(self) -> float:
        """Relative standard error of the std, ``sqrt((kurtosis - 1) / (4 N))`` for N independent values."""
        if self.constant or self.kurtosis is None:
            return 0.0
        return sampling_error(self.nonzero, self.kurtosis) / 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A named initializer, the std it gives, and how uncommon it is (in units of log odds)."""

    name: str
    std: float
    rarity: float


def looks_like(
    tensor: Tensor,
    moments: Moments,
    *,
    fans: tuple[float, float] | None,
    torch_fans: tuple[int, int] | None,
    repeats: int = 1,
    identical_rows: bool = False,
    orthogonal: float | None = None,
    maybe_blocks: bool = True,
) -> str:
    """Name the initializer that ``tensor`` (any shape, floating point, strided) looks drawn from.

    ``fans`` are the effective ``(fan_in, fan_out)``, ``torch_fans`` those that ``torch.nn.init`` reads off the
    shape; a scheme is tried with both. ``repeats`` is the number of row blocks that share one fan. ``orthogonal`` is
    the common norm of its rows or columns where these are orthogonal: see :func:`orthogonal_gains`; ``maybe_blocks``
    is false where those of a block of rows are known not to be.
    """
    if moments.constant:
        return {0.0: "zeros", 1.0: "ones"}.get(moments.min, f"constant({moments.min:.4g})")
    structure = _structure(tensor, moments, repeats if maybe_blocks else 1, orthogonal)
    if structure:
        return structure
    shape = tuple(tensor.shape)
    law = _law(moments, tensor.dtype, partial(_candidates, fans, torch_fans, repeats, shape[0] if shape else 0))
    if identical_rows:
        return f"identical rows of {law}"
    return _with_zeros(law, tensor, moments) if moments.zero_fraction > 1e-3 else law


# --- the law -----------------------------------------------------------------------------------------------


def _law(moments: Moments, dtype: torch.dtype, known: Callable[[str], Sequence[Candidate]]) -> str:
    n, seen, kurtosis = moments.nonzero, moments.looked_at, moments.kurtosis
    if n < TOO_FEW or kurtosis is None or moments.nonfinite or moments.rms > TOO_LARGE:
        return "unknown"
    rounding = torch.finfo(dtype).eps
    # Entries that are exactly zero (a padding row, a sparse init) are no part of the law.
    mean = moments.mean / (1 - moments.zero_fraction)
    std = math.sqrt(max(moments.rms**2 / (1 - moments.zero_fraction) - mean**2, 0.0))
    if std == 0.0:
        return "unknown"
    centred = abs(mean) < 4.5 * std / math.sqrt(n)
    centre = 0.0 if centred else (moments.max + moments.min) / 2
    bound = max(moments.max - centre, centre - moments.min)
    reach = bound / std
    error = moments.std_uncertainty

    if _is_uniform(reach, kurtosis, n, seen):
        if centred and (name := _uniform_scheme(bound, n, rounding, known("uniform"))):
            return name
        half = bound * (1 + 1 / n)
        ends = (0.0 if abs(end) < MISSED * half / n else end for end in (centre - half, centre + half))
        return f"uniform({', '.join(_number(end, 2 / n) for end in ends)})"
    if not centred:
        bound = max(moments.max - mean, mean - moments.min)
        reach = bound / std
    cut = _cut(reach, kurtosis, n, seen)
    if cut is None:
        return "unknown"
    if centred and error < SHARP and (name := _normal_scheme(std, error, known("normal"))):
        return _add(name, "truncated") if cut else name
    if cut:
        # The parameter of a law cut at two of its own standard deviations is half its bound.
        return f"trunc_normal(std={_number(std / TRUNCATED_STD, error)})"
    at = "" if centred else f"mean={_number(mean, std / math.sqrt(n) / abs(mean))}, "
    return f"normal({at}std={_number(std, error)})"


def _is_uniform(reach: float, kurtosis: float, n: int, seen: int) -> bool:
    """A flat law ends at sqrt(3) of its std; its kurtosis of 1.8 has standard error 1.15/sqrt(n)."""
    ends = reach < math.sqrt(3) * (1 + 4 * math.sqrt(0.2 / n))
    return ends and abs(kurtosis - KURTOSIS_UNIFORM) < 4.5 * 1.15 / math.sqrt(seen) + 0.01


def _cut(reach: float, kurtosis: float, n: int, seen: int) -> bool | None:
    """Whether a bell is cut at two standard deviations; ``None`` when it is no bell."""
    truncated_reach = 2 / TRUNCATED_STD
    within = math.erf(reach / math.sqrt(2))
    too_short = n * math.log(max(within, 1e-300)) < -MISSED
    if too_short and reach < truncated_reach * (1 + 3 * math.sqrt(0.35 / n)):
        return True if abs(kurtosis - KURTOSIS_TRUNCATED_NORMAL) < 5 * 2.2 / math.sqrt(seen) + 0.02 else None
    # The kurtosis of normal samples has standard error sqrt(24/n), with a tail to the right in small samples.
    low, high = (5 * math.sqrt(24 / seen) + 0.03, 8 * math.sqrt(24 / seen) + 0.03)
    return False if -low < kurtosis - KURTOSIS_NORMAL < high else None


def _uniform_scheme(bound: float, n: int, rounding: float, candidates: Sequence[Candidate]) -> str | None:
    """The likeliest uniform scheme: the largest of n values lies within about 1/n of the law's bound."""
    best: tuple[float, str] | None = None
    for candidate in candidates:
        edge = math.sqrt(3) * candidate.std
        gap = math.log(edge / bound)
        if -rounding <= gap < MISSED / n + rounding:
            score = n * max(gap - rounding, 0.0) + candidate.rarity
            best = min(best or (math.inf, ""), (score, candidate.name))
    return best[1] if best else None


def _normal_scheme(std: float, error: float, candidates: Sequence[Candidate]) -> str | None:
    """The likeliest normal scheme within 3.5 standard errors of the std."""
    best: tuple[float, str] | None = None
    for candidate in candidates:
        z = math.log(std / candidate.std) / error
        if abs(z) < 3.5:
            best = min(best or (math.inf, ""), (z * z / 2 + candidate.rarity, candidate.name))
    return best[1] if best else None


@lru_cache(maxsize=1024)
def _candidates(
    fans: tuple[float, float] | None, torch_fans: tuple[int, int] | None, repeats: int, rows: int, law: str
) -> tuple[Candidate, ...]:
    return tuple(_tried(law, fans, torch_fans, repeats, rows))


def _tried(
    law: str, fans: tuple[float, float] | None, torch_fans: tuple[int, int] | None, repeats: int, rows: int
) -> Iterator[Candidate]:
    if torch_fans and min(torch_fans) > 0:
        yield from _schemes(law, *torch_fans)
    if fans and fans != torch_fans and min(fans) > 1:
        for scheme in _schemes(law, *fans):
            rarity = scheme.rarity + (0.4 if repeats > 1 else 2.0)
            yield Candidate(_add(scheme.name, "effective fans"), scheme.std, rarity)
    if law == "normal":
        yield from (Candidate(f"normal(std={std})", std, 1.2) for std in (0.01, 0.02, 0.05, 0.1, 1))
    elif repeats > 1 and rows // repeats > 0:
        yield Candidate("torch recurrent default", math.sqrt(repeats / (3 * rows)), 1.0)


def _schemes(law: str, fan_in: float, fan_out: float) -> Iterator[Candidate]:
    """What ``torch.nn.init`` offers (He 2015, Glorot & Bengio 2010, LeCun 1998), by ``fan_in`` and ``fan_out``."""
    relu, tanh, selu, leaky = (calculate_gain(n) for n in ("relu", "tanh", "selu", "leaky_relu"))
    kaiming, xavier = f"kaiming_{law}", f"xavier_{law}"
    by_in, by_out, by_both = fan_in**-0.5, fan_out**-0.5, math.sqrt(2 / (fan_in + fan_out))
    if law == "uniform":  # torch's own default for linear and convolution layers
        yield Candidate(f"{kaiming}(a=sqrt(5))", by_in / math.sqrt(3), 0.0)
        yield Candidate(f"{kaiming}(a=sqrt(5), mode=fan_out)", by_out / math.sqrt(3), 2.0)
    yield Candidate(kaiming, relu * by_in, 0.0)
    yield Candidate(xavier, by_both, 0.1)
    yield Candidate(f"{kaiming}(mode=fan_out)", relu * by_out, 0.5)
    yield Candidate(f"lecun_{law}", by_in, 0.6)
    yield Candidate(f"{xavier}(gain=5/3)", tanh * by_both, 1.0)
    yield Candidate(f"{xavier}(gain=sqrt(2))", relu * by_both, 1.0)
    yield Candidate(f"{kaiming}(nonlinearity=tanh)", tanh * by_in, 1.5)
    yield Candidate(f"{kaiming}(nonlinearity=selu)", selu * by_in, 1.5)
    yield Candidate(f"{xavier}(gain=3/4)", selu * by_both, 2.0)
    yield Candidate(f"{kaiming}(a=0.01)", leaky * by_in, 3.0)
    yield Candidate(f"{xavier}(gain=1/sqrt(2))", by_both / math.sqrt(2), 3.0)


def _add(name: str, word: str) -> str:
    return f"{name[:-1]}, {word})" if name.endswith(")") else f"{name}({word})"


# --- structure ---------------------------------------------------------------------------------------------


def _structure(tensor: Tensor, moments: Moments, repeats: int, orthogonal: float | None) -> str | None:
    if tensor.dim() < 2 or moments.nonfinite:
        return None
    if moments.min == 0.0 and moments.max == 1.0 and moments.zero_fraction >= 0.5 and (unit := _unit_entries(tensor)):
        return unit
    if repeats > 1 and tensor.shape[0] % repeats == 0:
        first, *others = orthogonal_gains(tensor.flatten(1).chunk(repeats))
        if first is not None and all(gain and math.isclose(gain, first, rel_tol=1e-2) for gain in others):
            return _orthogonal_name(first, "per block")
    return None if orthogonal is None else _orthogonal_name(orthogonal)


def _orthogonal_name(gain: float, *words: str) -> str:
    known = {1.0: "", math.sqrt(2): "gain=sqrt(2)", 5 / 3: "gain=5/3"}
    named = next((word for value, word in known.items() if math.isclose(gain, value, rel_tol=2e-3)), None)
    inner = ", ".join(w for w in (f"gain={_number(gain)}" if named is None else named, *words) if w)
    return f"orthogonal({inner})" if inner else "orthogonal"


def _unit_entries(tensor: Tensor) -> str | None:
    """``"eye"`` or ``"dirac"`` when the entries are those of ``nn.init.eye_`` or ``nn.init.dirac_``."""
    places = tensor.detach().nonzero()
    if not bool((tensor.detach()[tuple(places.T)] == 1).all()):
        return None
    rows, cols, rest = places[:, 0], places[:, 1], places[:, 2:]
    if tensor.dim() == 2:
        return "eye" if len(places) == min(tensor.shape) and bool((rows == cols).all()) else None
    centre = torch.tensor([size // 2 for size in tensor.shape[2:]], device=places.device)
    if not bool((rest == centre).all()):
        return None
    out, per_group = tensor.shape[:2]
    for groups in (g for g in range(1, out + 1) if out % g == 0):
        if len(places) == groups * min(out // groups, per_group) and bool((cols == rows % (out // groups)).all()):
            return "dirac"
    return None


def _with_zeros(law: str, tensor: Tensor, moments: Moments) -> str:
    if tensor.dim() == 2:
        zeros = tensor.detach() == 0
        per_column = zeros.sum(0)
        whole_rows = int(zeros.all(1).sum())
        if whole_rows * tensor.shape[1] == int(per_column.sum()):
            return f"{law}, {whole_rows} zero row{'s' if whole_rows > 1 else ''}"
        if bool((per_column == per_column[0]).all()):
            std = moments.rms / math.sqrt(1 - moments.zero_fraction)
            return f"sparse(sparsity={_number(moments.zero_fraction)}, std={_number(std)})"
    share = f"{moments.zero_fraction:.0%}"
    return law if share == "0%" else f"{law}, {share} zeros"


def _number(value: float, error: float = 0.0) -> str:
    """Three digits, or fewer where a rounder number lies within 2.5 relative standard errors."""
    rounder = (f"{value:.{digits}g}" for digits in (1, 2))
    return next((text for text in rounder if abs(float(text) - value) < 2.5 * error * abs(value)), f"{value:.3g}")
