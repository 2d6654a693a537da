"""Inferred inputs: the first that runs is the one that a person would have given."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from initaudit.target.infer import LADDER, how_to_give_inputs
from initaudit.target.inputs import candidate_inputs


def first_that_runs(model, seed=0):
    """The inputs that the caller ends up with, by the rule it follows: the first that runs forward."""
    candidates = list(candidate_inputs(model, seed=seed))
    assert 1 <= len(candidates) <= LADDER
    for inputs in candidates:
        try:
            model(*inputs.args, **inputs.kwargs)
        except Exception:
            continue
        return inputs
    raise AssertionError([inputs.describe() for inputs in candidates])


@pytest.mark.parametrize(
    ("build", "described"),
    [
        pytest.param(lambda: nn.Linear(10, 3), "float32[64,10]", id="Linear"),
        pytest.param(lambda: nn.Conv1d(3, 4, 3), "float32[8,3,128]", id="Conv1d"),
        pytest.param(lambda: nn.Conv1d(1, 4, 80, 16), "float32[8,1,16000]", id="Conv1d on raw audio"),
        pytest.param(lambda: nn.Conv2d(3, 4, 3), "float32[32,3,32,32]", id="Conv2d"),
        pytest.param(lambda: nn.Conv2d(3, 4, 7, 2), "float32[8,3,224,224]", id="Conv2d with a large stem"),
        pytest.param(lambda: nn.Conv3d(1, 4, 3), "float32[8,1,16,16,16]", id="Conv3d"),
        pytest.param(lambda: nn.ConvTranspose2d(100, 4, 4), "float32[32,100,1,1]", id="ConvTranspose2d"),
        pytest.param(lambda: nn.Embedding(100, 8), "int64[8,32]", id="Embedding"),
        pytest.param(lambda: nn.EmbeddingBag(100, 8), "int64[8,32]", id="EmbeddingBag"),
        pytest.param(lambda: nn.LSTM(10, 20), "float32[16,8,10]", id="LSTM"),
        pytest.param(lambda: nn.GRU(10, 20, batch_first=True), "float32[8,16,10]", id="GRU batch first"),
        pytest.param(lambda: nn.LSTMCell(10, 20), "float32[64,10]", id="LSTMCell"),
        pytest.param(
            lambda: nn.MultiheadAttention(16, 4), ", ".join(["float32[16,8,16]"] * 3), id="MultiheadAttention"
        ),
        pytest.param(
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
            "float32[8,16,16]",
            id="TransformerEncoder",
        ),
        pytest.param(
            lambda: nn.TransformerDecoderLayer(16, 4, 32), "float32[16,8,16], float32[16,8,16]", id="TransformerDecoder"
        ),
        pytest.param(
            lambda: nn.Transformer(16, 4, 1, 1, 32, batch_first=True),
            "float32[8,16,16], float32[8,16,16]",
            id="Transformer",
        ),
        pytest.param(lambda: nn.Bilinear(3, 5, 2), "float32[64,3], float32[64,5]", id="Bilinear"),
        pytest.param(lambda: nn.LayerNorm(8), "float32[8,16,8]", id="LayerNorm"),
        pytest.param(lambda: nn.BatchNorm2d(8), "float32[32,8,32,32]", id="BatchNorm2d"),
        pytest.param(lambda: nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 3)), "float32[64,12]", id="norm first"),
        pytest.param(
            lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3)), "float32[64,64]", id="LazyLinear"
        ),
        pytest.param(
            lambda: nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3)),
            "float32[32,3,32,32]",
            id="LazyConv2d",
        ),
    ],
)
def test_layers(build, described):
    inputs = first_that_runs(build())
    assert inputs.describe() == described
    assert inputs.source.startswith("inferred from first layer")


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2, 2), nn.Conv2d(6, 16, 5)
        self.fc = nn.Linear(16 * 5 * 5, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        return self.fc(self.pool(F.relu(self.conv2(x))).flatten(1))


class FunctionalPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3), nn.Linear(9216, 10)

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2).flatten(1))


class Atari(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(4, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(3136, 512)
        )


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        widths = (3, 8, 8, 16, 16, 16)
        blocks = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.MaxPool2d(2)) for a, b in pairwise(widths)]
        self.features, self.classifier = nn.Sequential(*blocks), nn.Linear(16 * 7 * 7, 10)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(torch.zeros(1, 145, 32))
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions)


class TinyGPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions, self.tokens = nn.Embedding(16, 32), nn.Embedding(100, 32)

    def forward(self, idx, targets=None):
        return self.tokens(idx) + self.positions(torch.arange(idx.shape[1]))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(32, 96)

    def forward(self, x):
        _batch, _steps, _width = x.shape
        return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1))


class LinearThenLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Linear(5, 8), nn.LSTM(8, 8)

    def forward(self, x):
        return self.lstm(self.embed(x))[0][-1]


class HeadDefinedFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(20, 2), nn.Linear(10, 20)

    def forward(self, x):
        return self.head(self.body(x))


class FourDimensional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3072, 4)

    def forward(self, x):
        batch, _channels, _height, _width = x.shape
        return self.fc(x.reshape(batch, -1))


class BareParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 7))

    def forward(self, x):
        return x @ self.weight


class KeywordOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(10, 4)

    def forward(self, *, x):
        return self.fc(x)


class Optional(KeywordOnly):
    def forward(self, x=None, y=None):
        return self.fc(x)


class Variadic(KeywordOnly):
    def forward(self, *xs):
        return self.fc(xs[0])


class NoArgument(BareParameter):
    def forward(self):
        return self.weight * 2


class TimeUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.time, self.conv = nn.Linear(16, 8), nn.Conv2d(3, 8, 3)

    def forward(self, x, t):
        assert t.dtype == torch.int64
        return self.conv(x) + self.time(torch.outer(t.float(), torch.arange(16.0)).sin())[:, :, None, None]


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x, t):
        return self.fc(torch.cat([x, t], 1))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(11, 5), nn.Linear(5, 1)

    def forward(self, state, action):
        return self.out(self.fc(torch.cat([state, action], 1)))


class ImageText(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_encoder, self.text_encoder = nn.Conv2d(3, 8, 3), nn.Embedding(50, 8)

    def forward(self, text, image):
        return self.image_encoder(image).mean((2, 3)) @ self.text_encoder(text).mean(1).T


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = nn.Linear(10, 4), nn.Linear(8, 1)

    def forward(self, a, b):
        return self.head(torch.cat([self.encoder(a), self.encoder(b)], 1))


class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.classes, self.fc = nn.Embedding(4, 4), nn.Linear(10, 4)

    def forward(self, x, labels, scale: float, flag: "bool"):
        assert not flag
        return self.fc(x) * scale + self.classes(labels)


class PackedText(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(100, 8, padding_idx=0), nn.LSTM(8, 16, batch_first=True)

    def forward(self, text, lengths):
        assert text.min() > 0
        return self.lstm(nn.utils.rnn.pack_padded_sequence(self.embed(text), lengths, batch_first=True))[1][0]


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    def forward(self, src, src_key_padding_mask):
        return self.block(self.embed(src), src_key_padding_mask=src_key_padding_mask)


class HandMasked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)

    def forward(self, tokens, attention_mask):
        return self.embed(tokens).masked_fill(attention_mask[..., None] == 0, float("-inf"))


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(6, 9)

    def forward(self, x, h):
        return self.cell(x, h)


class TwoImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(6, 8, 3), nn.Conv2d(8, 2, 3)

    def forward(self, moving, fixed):
        return self.head(self.conv(torch.cat([moving, fixed], 1)))


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x, edge_index):
        source, target = edge_index
        return torch.zeros(len(x), 4).index_add(0, target, self.fc(x)[source])


class ParameterThenLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.head = nn.Parameter(torch.randn(24, 16)), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(x @ self.w)


@pytest.mark.parametrize(
    ("model", "described"),
    [
        (LeNet, "float32[32,3,32,32]"),
        (FunctionalPooling, "float32[32,1,28,28]"),
        (Atari, "float32[8,4,84,84]"),
        (VGG, "float32[8,3,224,224]"),
        (ViT, "float32[32,3,48,48]"),
        (TinyGPT, "int64[8,16]"),
        (Attention, "float32[8,16,32]"),
        (LinearThenLSTM, "float32[16,8,5]"),
        (HeadDefinedFirst, "float32[64,10]"),
        (FourDimensional, "float32[32,3,32,32]"),
        (BareParameter, "float32[64,5]"),
        (KeywordOnly, "x=float32[64,10]"),
        (Optional, "float32[64,10]"),
        (Variadic, "float32[64,10]"),
        (NoArgument, "no input"),
        (TimeUNet, "float32[8,3,32,32], int64[8]"),
        (Field, "float32[8,2], float32[8,1]"),
        (Critic, "float32[64,6], float32[64,5]"),
        (ImageText, "int64[8,32], float32[8,3,32,32]"),
        (Siamese, "float32[64,10], float32[64,10]"),
        (Conditional, "float32[64,10], int64[64], 1.0, False"),
        (PackedText, "int64[8,32], int64[8]"),
        (Masked, "int64[8,32], None"),
        (HandMasked, "int64[8,32], int64[8,32]"),
        (Cell, "float32[64,6], float32[64,9]"),
        (TwoImages, "float32[32,3,32,32], float32[32,3,32,32]"),
        (Graph, "float32[64,12], int64[2,256]"),
        (ParameterThenLinear, "float32[64,24]"),
    ],
)
def test_models(model, described):
    assert first_that_runs(model()).describe() == described


def test_samples_differ_and_are_standard_normal():
    (x,) = first_that_runs(nn.Linear(256, 2)).args
    assert torch.unique(x, dim=0).shape[0] == 64
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05
    (ids,) = first_that_runs(nn.Embedding(1000, 2)).args
    assert torch.unique(ids, dim=0).shape[0] == 8
    assert all(row.unique().numel() > 1 for row in ids)


def test_the_seed_decides_and_nothing_global_changes():
    model = nn.Linear(10, 3)
    before = torch.get_rng_state()
    first, again, other = (next(candidate_inputs(model, seed=seed)).args[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_ways_to_give_an_input_are_written_for_this_model():
    assert how_to_give_inputs(ImageText()) == (
        "  forward takes (text, image). Give an input that it takes, as in:\n"
        "    on the command line:    --input 'text=int64[8,32]<50' --input 'image=float32[8,3,32,32]'\n"
        "    in the model's file:    initaudit_inputs = "
        '{"text": torch.randint(50, (8, 32)), "image": torch.randn(8, 3, 32, 32)}\n'
        "    on the model:           self.example_input_array = "
        '{"text": torch.randint(50, (8, 32)), "image": torch.randn(8, 3, 32, 32)}'
    )
