"""How attention starts: the spread of its scores, how evenly it looks at its keys, and how unlike its tokens are.

Whatever computes it is one thing here: ``F.scaled_dot_product_attention`` with any mask, whose scores are computed anew
for a few queries, and a softmax over the last dimension whose output multiplies a third tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, prod, sqrt
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from initaudit.probe import ops
from initaudit.probe.readings import Readings
from initaudit.probe.rows import RowSampler
from initaudit.records import Attention, Role

if TYPE_CHECKING:
    from initaudit.probe.tape import Node

_QUERIES = 8  # of each head looked at
_TOKENS = 64
_TAKES_ALL = 0.99
_LOGIT_STD = 1  # its place in what describes scores
# A key whose score is this far below zero and below the best of its row is masked: it cannot be reached at all.
# Masks are -inf, the least number of a dtype, -1e9, -1e4, or -100 (shifted windows).
_MASKED = -80.0
_KEEP_WEIGHTS = ops.VIEWS | ops.SCALES | ops.MULS | ops.CHOICES
_SCORE_STEPS = 12  # between the product of queries and keys and the softmax: scale, mask, bias, softcap


@dataclass(slots=True)
class _Seen:
    """An attention while recording: numbers of readings, and ids of the nodes it was made from."""

    scores: int
    query: int | None = None
    key: int | None = None
    value: int | None = None
    output: int | None = None
    sizes: int | None = None  # the rms of the queries and of the keys
    tokens: int | None = None


class AttentionMeter:
    """Measures every attention of one run, at the call; :meth:`records` hands them out at the end."""

    def __init__(self, readings: Readings, seed: int) -> None:
        self._readings = readings
        self._sampler = RowSampler(seed)
        self._seen: dict[int, _Seen] = {}
        self._weights: dict[int, int] = {}  # node -> the softmax whose output it shows

    def carries(self, nodes: Sequence[int]) -> bool:
        """Whether one of ``nodes`` shows the output of a softmax."""
        return any(i in self._weights for i in nodes)

    @torch.no_grad()
    def after(self, name: str, node: Node, args: Sequence[Any], kwargs: Mapping[str, Any], ids: Sequence[int]) -> None:
        """Look at the call ``name`` that made ``node``; ``ids`` are the nodes of its tensor arguments in order."""
        if not node.moving:
            return
        if name == "scaled_dot_product_attention":
            self._fused(node, args, kwargs, ids)
        elif name == "softmax":
            self._softmax(node, args, kwargs)
        elif (found := next((i for i in ids if i in self._weights), None)) is not None:
            if name in _KEEP_WEIGHTS:
                self._weights[node.id] = self._weights[found]
            elif name in ops.PRODUCTS and not node.weights:
                self._product(node, found, args, ids)

    def _fused(self, node: Node, args: Sequence[Any], kwargs: Mapping[str, Any], ids: Sequence[int]) -> None:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        query, key, value = (given[n].detach() for n in names[:3])
        mask = given.get("attn_mask")
        fits = mask is None or _spreads_to(mask, (*query.shape[:-1], key.shape[-2]))
        if not _readable(query) or not _readable(key) or query.dim() != key.dim() or query.dim() < 2 or not fits:
            return
        scores, allowed, sizes = self._scores(query, key, given)
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        at = {id(t): i for t, i in zip(tensors, ids, strict=False)}
        self._seen[node.id] = _Seen(
            scores=self._readings.add(_describe(scores, allowed), roots=(_LOGIT_STD,)),
            query=at.get(id(given["query"])),
            key=at.get(id(given["key"])),
            value=at.get(id(given["value"])),
            output=node.id,
            sizes=self._readings.add(sizes, roots=(0, 1)),
            tokens=self._tokens(value),
        )

    def _scores(self, query: Tensor, key: Tensor, given: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Scores and mask ``(places, queries, keys)`` of a few queries, and the rms of queries and keys."""
        length, keys, width = query.shape[-2], key.shape[-2], query.shape[-1]
        chosen = self._sampler.choose(query.shape[:-2], length, keys, query.device, rows=_QUERIES)
        # Fewer heads of keys serve several heads of queries (grouped-query attention), or one batch of them all.
        places = zip(chosen.places, query.shape[:-2], key.shape[:-2], strict=True)
        some, theirs = chosen.take(query), key[tuple(i * k // q for i, q, k in places)].float()
        scale = given.get("scale")
        scores = some @ theirs.transpose(-1, -2) * (width**-0.5 if scale is None else scale)
        allowed = torch.ones_like(scores, dtype=torch.bool)
        if given.get("is_causal"):
            rows = chosen.rows if chosen.places else chosen.rows[0]
            allowed = (torch.arange(keys, device=scores.device) <= rows[..., None]).expand(scores.shape)
        if (mask := given.get("attn_mask")) is not None:
            some_mask = chosen.take(mask.detach().expand(*query.shape[:-1], keys))
            if mask.dtype == torch.bool:
                allowed = allowed & (some_mask > 0)
            else:
                allowed, scores = allowed & (some_mask > _MASKED), scores + some_mask
        return scores, allowed, torch.stack([some.square().mean().sqrt(), theirs.square().mean().sqrt()])

    def _softmax(self, node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        logits = args[0] if args else kwargs.get("input")
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        if not isinstance(logits, Tensor) or not _readable(logits) or logits.dim() < 2 or logits.shape[-1] < 2:
            return
        if not isinstance(dim, int) or dim % logits.dim() != logits.dim() - 1:
            return
        chosen = self._sampler.choose(
            logits.shape[:-2], logits.shape[-2], logits.shape[-1], logits.device, rows=_QUERIES
        )
        scores = chosen.take(logits.detach())
        best = scores.amax(-1, keepdim=True)
        allowed = (scores > _MASKED) | (scores > best + _MASKED)
        self._seen[node.id] = _Seen(self._readings.add(_describe(scores, allowed), roots=(_LOGIT_STD,)))
        self._weights[node.id] = node.id

    def _product(self, node: Node, weights: int, args: Sequence[Any], ids: Sequence[int]) -> None:
        """The product of attention weights with the values: only now it is known to be attention."""
        seen = self._seen[self._weights[weights]]
        operands = [a for a in args if isinstance(a, Tensor)]
        if seen.value is not None or len(ids) < 2:
            return
        at = ids.index(weights)
        seen.value, seen.output = (ids[1 - at], node.id) if at < 2 else (None, None)
        if len(operands) == 2 and node.name != "einsum" and at < 2 and operands[1 - at].dim() > 1:
            value = operands[1 - at].detach()
            seen.tokens = self._tokens(value if at == 0 else value.transpose(-1, -2))

    def _tokens(self, value: Tensor) -> int | None:
        """What tells tokens apart: ``||X - mean|| / ||X||`` of ``(..., tokens, units)`` (Dong et al. 2021)."""
        if not _readable(value) or value.dim() < 2 or value.shape[-2] < 2:
            return None
        chosen = self._sampler.choose(
            value.shape[:-2], value.shape[-2], value.shape[-1], value.device, rows=_TOKENS, together=True
        )
        some = chosen.take(value)
        apart = some - some[..., :1, :]  # no digits are lost where tokens are nearly one
        spread = (apart - apart.mean(-2, keepdim=True)).square().mean()
        return self._readings.add(torch.stack([spread, some.square().mean()]))

    def records(self, nodes: Sequence[Node]) -> tuple[Attention, ...]:
        """Every attention in execution order, after :meth:`Readings.collect`."""
        return tuple(
            record
            for i, seen in sorted(self._seen.items())
            if (seen.value is not None) and (record := self._record(nodes, i, seen)) is not None
        )

    def _record(self, nodes: Sequence[Node], i: int, seen: _Seen) -> Attention | None:
        read = self._readings
        keys, logit_std, entropy, concentration, saturated = read[seen.scores]
        if isnan(keys):  # no query has a choice of keys
            return None
        query, key = (seen.query, seen.key) if seen.query is not None else _operands(nodes, nodes[i].inputs[0])
        sizes = read[seen.sizes] if seen.sizes is not None else (None, None)
        spread, size = read[seen.tokens] if seen.tokens is not None else (0.0, 0.0)  # mean squares
        return Attention(
            op=i,
            keys=keys,
            logit_std=logit_std,
            entropy=entropy,
            concentration=concentration,
            saturated=saturated,
            query=query,
            key=key,
            value=seen.value,
            output=seen.output,
            query_rms=sizes[0],
            key_rms=sizes[1],
            token_spread=None if not size or isnan(spread / size) else sqrt(spread / size),
        )


def _operands(nodes: Sequence[Node], start: int) -> tuple[int | None, int | None]:
    """The queries and the keys: the two operands of the product that the scores ``start`` come from."""
    node = nodes[start]
    for _ in range(_SCORE_STEPS):
        moving = [i for i in node.inputs if nodes[i].moving]
        if node.role is Role.ATTENTION and node.name in ops.PRODUCTS and moving:
            return moving[-2] if len(moving) > 1 else moving[0], moving[-1]
        if not moving or node.role is Role.LAYER:
            break
        node = nodes[max(moving, key=lambda i: prod(nodes[i].shape))]
    return None, None


def _spreads_to(mask: Tensor, shape: Sequence[int]) -> bool:
    """Whether ``mask`` can be expanded to ``shape``."""
    pairs = zip(reversed(mask.shape), reversed(shape), strict=False)
    return mask.dim() <= len(shape) and all(n in (1, wanted) for n, wanted in pairs)


def _readable(tensor: Tensor) -> bool:
    return (
        tensor.is_floating_point()
        and not tensor.is_meta
        and not tensor.is_nested
        and tensor.layout is torch.strided
        and tensor.numel() > 0
    )


def _describe(scores: Tensor, allowed: Tensor) -> Tensor:
    """Keys, std of the scores, entropy, concentration and share of rows where one key takes all, ``(5,)``.

    ``scores`` and ``allowed`` are ``(..., keys)``; rows with fewer than two allowed keys have no choice and are left
    out. With ``n`` allowed keys the entropy is in units of ``ln n``; the concentration is ``sum(p^2)``, moved so that
    it is 0 where all keys count alike and 1 where one takes all.
    """
    n = allowed.sum(-1).float()
    rows = n > 1
    log_p = torch.where(allowed, scores, -torch.inf).log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * torch.where(allowed, log_p, 0.0)).sum(-1) / n.log()
    concentration = (p.square().sum(-1) - 1 / n) / (1 - 1 / n)
    kept = torch.where(allowed, scores, 0.0)
    mean = kept.sum(-1, keepdim=True) / n[..., None]
    variance = torch.where(allowed, kept - mean, 0.0).square().sum(-1) / (n - 1)
    each = torch.stack([n, variance, entropy, concentration, (p.amax(-1) > _TAKES_ALL).float()])
    found = torch.where(rows, each, 0.0).flatten(1).sum(1) / rows.sum()
    found[_LOGIT_STD] = found[_LOGIT_STD].sqrt()
    return found
