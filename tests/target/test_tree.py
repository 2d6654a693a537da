"""Nested inputs keep their types when their tensors change."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from initaudit.target.tree import map_tensors, summary, tensors_within

Pair = namedtuple("Pair", "left right")


@dataclass(frozen=True)
class Batch:
    x: torch.Tensor
    name: str = "b"


def double(value):
    return map_tensors(value, lambda tensor: tensor * 2)


def test_containers_keep_their_types():
    one = torch.ones(2)
    value = [(one, 3), {"a": one}, OrderedDict(b=one), Pair(one, None), Batch(one), UserDict(c=one), torch.Size([4])]
    mapped = double(value)
    assert [type(item) for item in mapped] == [type(item) for item in value]
    leaves = mapped[0][0], mapped[1]["a"], mapped[2]["b"], mapped[3].left, mapped[4].x, mapped[5]["c"]
    assert all(leaf.tolist() == [2, 2] for leaf in leaves)
    assert (mapped[0][1], mapped[3].right, mapped[4].name, mapped[6]) == (3, None, "b", (4,))
    assert one.tolist() == [1, 1]
    assert value[5]["c"] is one


def test_a_read_only_mapping_becomes_a_dict():
    assert double(MappingProxyType({"a": torch.ones(1)}))["a"].item() == 2


def test_a_batch_encoding_stays_one():
    transformers = pytest.importorskip("transformers")
    encoding = transformers.BatchEncoding({"input_ids": torch.ones(2, 3)})
    mapped = double(encoding)
    assert type(mapped) is transformers.BatchEncoding
    assert mapped.input_ids.sum() == 12
    assert encoding.input_ids.sum() == 6


def test_a_packed_sequence_stays_packed():
    packed = pack_sequence([torch.ones(2, 3), torch.ones(4, 3)], enforce_sorted=False)
    mapped = double(packed)
    assert mapped.data.unique().tolist() == [2]
    assert mapped.batch_sizes.tolist() == packed.batch_sizes.tolist()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.zeros(32, 64), "float32[32,64]"),
        (torch.zeros((), dtype=torch.bool), "bool[]"),
        ([torch.zeros(2)] * 3, "[float32[2], float32[2], float32[2]]"),
        ([torch.zeros(2)] * 4, "[float32[2], float32[2], float32[2], float32[2]]"),
        ([torch.zeros(2)] * 9, "[float32[2], float32[2], float32[2], +6 more]"),
        ({"a": (1, None), "b": "x"}, "{a: (1, None), b: 'x'}"),
        (Batch(torch.zeros(1)), "Batch(x=float32[1], name='b')"),
        (pack_sequence([torch.zeros(4, 3)]), "PackedSequence(float32[4,3])"),
        (object(), "object"),
    ],
)
def test_summaries(value, expected):
    assert summary(value) == expected


def test_objects_are_copied_with_what_they_hold():
    class Graph:
        def __init__(self):
            self.x, self.parts, self.whole = torch.ones(2), [Batch(torch.ones(2))], self

    class Plain:
        size = 3

    graph, plain = Graph(), Plain()
    mapped = double([graph, graph, plain])
    assert mapped[0] is mapped[1] is mapped[0].whole is not graph
    assert mapped[2] is plain  # without a tensor it stays the one that it was
    assert [t.tolist() for t in (mapped[0].x, mapped[0].parts[0].x, graph.x)] == [[2, 2], [2, 2], [1, 1]]
    assert len(list(tensors_within(graph))) == 2
    assert list(tensors_within(graph, objects=False)) == []
