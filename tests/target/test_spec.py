"""The written form of an input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from initaudit.errors import UsageError
from initaudit.target.spec import parse_input_spec

FORMS = (
    "expected a shape (32x3x224x224), a dtype and a shape (float32[32,3,224,224]), integers below a bound "
    "(int64[8,128]<50257), or a file (@batch.pt, @batch.npy), with name=... before it for a keyword argument"
)


def value(text, **options):
    return parse_input_spec(text, **options)[1]


@pytest.mark.parametrize(
    ("text", "name", "dtype", "shape"),
    [
        ("32x3x8x8", None, torch.float32, (32, 3, 8, 8)),
        ("64", None, torch.float32, (64,)),
        ("float32[2,3]", None, torch.float32, (2, 3)),
        (" bfloat16[2, 3] ", None, torch.bfloat16, (2, 3)),
        ("float32[]", None, torch.float32, ()),
        ("int64[8,128]<50257", None, torch.int64, (8, 128)),
        ("mask=bool[8,4]", "mask", torch.bool, (8, 4)),
        ("x=2x3", "x", torch.float32, (2, 3)),
        ("uint8[4,4]", None, torch.uint8, (4, 4)),
        ("complex64[4]", None, torch.complex64, (4,)),
    ],
)
def test_written_inputs(text, name, dtype, shape):
    keyword, tensor = parse_input_spec(text)
    assert (keyword, tensor.dtype, tuple(tensor.shape)) == (name, dtype, shape)


def test_floats_are_standard_normal_and_bools_fair():
    drawn = value("float32[200,500]")
    assert abs(drawn.mean()) < 0.02
    assert abs(drawn.std() - 1) < 0.02
    assert abs(value("bool[200,500]").float().mean() - 0.5) < 0.01


@given(bound=st.integers(1, 10**6))
def test_integers_fill_the_range_below_the_bound(bound):
    drawn = value(f"int64[4,256]<{bound}")
    assert drawn.min() >= 0
    assert drawn.max() < bound
    assert drawn.max() >= bound * 0.9 - 1


def test_integers_without_a_bound_take_the_vocabulary():
    assert int(value("int64[8,128]").max()) == 9
    assert 90 <= int(value("int64[8,128]", default_bound=100).max()) < 100


def test_the_seed_decides_and_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    first, again, other = value("4x4", seed=1), value("4x4", seed=1), value("4x4", seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_files(tmp_path):
    torch.save({"x": torch.arange(3)}, "batch.pt")
    np.save("batch.npy", np.arange(4.0))
    assert value("@batch.pt")["x"].tolist() == [0, 1, 2]
    assert parse_input_spec(f"x=@{tmp_path}/batch.npy")[0] == "x"
    assert value("@batch.npy").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", f"input '' is malformed: {FORMS}"),
        ("3*4", f"input '3*4' is malformed: {FORMS}"),
        ("32xx3", f"input '32xx3' is malformed: {FORMS}"),
        ("float32[2,3", f"input 'float32[2,3' is malformed: {FORMS}"),
        ("int64[2]<-1", f"input 'int64[2]<-1' is malformed: {FORMS}"),
        (
            "float32[2,,3]",
            "input 'float32[2,,3]' is malformed: a size is missing between the brackets, expected e.g. [8,128]",
        ),
        (
            "float33[2]",
            "input 'float33[2]': unknown dtype 'float33', expected one of torch's, e.g. float32, int64, bool",
        ),
        ("randn[2]", "input 'randn[2]': unknown dtype 'randn', expected one of torch's, e.g. float32, int64, bool"),
        ("3x0", "input '3x0' has a size of 0, expected sizes of at least 1"),
        ("float32[2]<5", "input 'float32[2]<5': a bound is for integers, expected e.g. int64[8,128]<5"),
        ("bool[2]<5", "input 'bool[2]<5': a bound is for integers, expected e.g. bool[8,128]"),
        ("int8[2]<500", "input 'int8[2]<500': the bound 500 is out of range, expected 1 to 127 for int8"),
        ("int64[2]<0", "input 'int64[2]<0': the bound 0 is out of range, expected 1 to 9223372036854775807 for int64"),
        ("@none.pt", "input '@none.pt': no such file: none.pt"),
        ("@model.ckpt", "input '@model.ckpt': model.ckpt is neither .pt nor .npy, expected e.g. @batch.pt"),
        ("@", "input '@': no file is neither .pt nor .npy, expected e.g. @batch.pt"),
    ],
)
def test_malformed_inputs_say_what_was_expected(text, expected):
    with pytest.raises(UsageError) as caught:
        parse_input_spec(text)
    assert str(caught.value) == expected


def test_a_damaged_or_unsafe_file_is_named(write):
    write("batch.pt", "not a zip file")
    with pytest.raises(UsageError, match=r"(?s)^input 'x=@batch.pt': could not read batch.pt: .+\n  Expected tensors"):
        parse_input_spec("x=@batch.pt")
