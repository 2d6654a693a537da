"""What float16 and bfloat16 would do to the values of a run: told where something is lost, silent where nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import initaudit
from initaudit.records import Attention, Environment, Finding, Report, Role, Severity
from initaudit.rules.base import Observation
from initaudit.rules.low_precision_range import check
from tests.rules.factories import Net, parameter, stats
from tests.rules.nets import batch, net

HALF = Environment("2.4", "cpu", "float16", 0)
BRAIN = Environment("2.4", "cpu", "bfloat16", 0)


def told(report: Report) -> list[Finding]:
    return [f for f in report.findings if f.code == "IA109"]


def audit(model: nn.Module, inputs: Tensor, dtype: str | None = None) -> list[Finding]:
    return told(initaudit.audit(model, inputs, dtype=dtype))


def one(found: list[Observation]) -> Observation:
    (observation,) = found
    return observation


class Apply(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor], std: float = 20.0) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(64, 64), nn.Linear(64, 4)
        nn.init.normal_(self.before.weight, std=std)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


def divided_by(square: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: (x / square(x).mean(-1, keepdim=True).sqrt()).to(x.dtype)


class TestHealthyModels:
    @pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
    @pytest.mark.parametrize("depth", [2, 30])
    def test_plain_nets(self, depth: int, dtype: str | None) -> None:
        assert audit(net(depth), batch(), dtype) == []

    @pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
    @pytest.mark.parametrize("norm_first", [True, False])
    def test_a_transformer(self, norm_first: bool, dtype: str | None) -> None:
        torch.manual_seed(0)
        layers = [
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first).train() for _ in range(12)
        ]
        assert audit(nn.Sequential(*layers, nn.Linear(32, 4)), torch.randn(8, 6, 32), dtype) == []

    def test_a_branch_that_starts_near_zero(self) -> None:
        torch.manual_seed(0)
        blocks = [Block() for _ in range(4)]
        for block in blocks:
            nn.init.normal_(block.out.weight, std=1e-7)
        assert audit(nn.Sequential(*blocks), batch(64)) == []


class TestOverflow:
    @pytest.mark.parametrize("name", ["square", "__pow__", "__mul__", "pow"])
    def test_a_square_within_a_norm_written_by_hand(self, name: str) -> None:
        square = {
            "square": lambda x: x.square(),
            "__pow__": lambda x: x**2,
            "__mul__": lambda x: x * x,
            "pow": lambda x: torch.pow(x, 2),
        }
        (finding,) = audit(Apply(divided_by(square[name])), batch(64))
        assert finding.severity is Severity.NOTE
        assert "overflows in float16: it reaches" in finding.message
        assert ("torch.autocast runs it in float32" in finding.message) == (name != "__mul__")

    def test_the_very_model_run_in_float16_does_so(self) -> None:
        torch.manual_seed(0)
        model = Apply(divided_by(torch.square))
        with torch.no_grad():
            infinite = model.before(batch(64)).half().square().isinf().double().mean().item()
        (finding,) = audit(model, batch(64), "float16")
        assert (finding.fqn, finding.severity) == ("before", Severity.WARNING)
        assert finding.message.startswith(f"`square` overflows in float16: {infinite:.1%}"[:-3])
        assert finding.observed == pytest.approx(infinite, abs=0.01)

    def test_what_spoils_a_layer_is_another_rules_matter(self) -> None:
        torch.manual_seed(0)
        report = initaudit.audit(Apply(torch.square), batch(64), dtype="float16")
        assert "IA106" in {f.code for f in report.findings}
        assert told(report) == []

    @pytest.mark.parametrize("cast", [lambda x: x.float(), lambda x: x.to(torch.float32)])
    def test_not_behind_a_cast(self, cast: Callable[[Tensor], Tensor]) -> None:
        model = Apply(divided_by(lambda x: cast(x).square()))
        assert audit(model, batch(64)) == audit(model, batch(64), "float16") == []

    def test_not_within_reach(self) -> None:
        assert audit(Apply(divided_by(torch.square), std=1.0), batch(64)) == []

    def test_where_it_begins_and_not_where_it_goes_on(self) -> None:
        build = Net()
        x = build.layer("a", build.input())
        y = build.op("square", Role.ACTIVATION, x, scope="norm", stats=stats(1e5, max=4e5))
        z = build.op("view", Role.VIEW, y, stats=None)
        build.output(build.op("mul", Role.SCALE, z, scope="scale", stats=stats(1e5, max=4e5)))
        seen = one(list(check(build.flow())))
        assert (seen.fqn, seen.affected, seen.limit, seen.severity) == ("norm", (), 0.0, Severity.NOTE)
        assert seen.message == (
            "`square` overflows in float16: it reaches 4.0e+05, and float16 ends at 65504 "
            "(torch.autocast runs it in float32)"
        )

    def test_others_are_listed(self) -> None:
        build = Net()
        x = build.input()
        for name in ("a", "b", "c"):
            build.output(build.op("exp", Role.ACTIVATION, x, scope=name, stats=stats(1e5, max=4e5)))
        seen = one(list(check(build.flow())))
        assert (seen.fqn, seen.affected) == ("a", ("b", "c"))
        assert seen.message.endswith("(torch.autocast runs it in float32); likewise in b, c")

    def test_a_sample_is_extended_to_the_whole(self) -> None:
        for count, expected in ((2048, 0), (10**8, 1)):
            build = Net()
            build.output(build.op("exp", Role.ACTIVATION, build.input(), stats=stats(1e4, max=5e4, count=count)))
            assert len(list(check(build.flow()))) == expected

    def test_what_is_only_compared(self) -> None:
        def compared(x: Tensor) -> Tensor:
            return torch.where((x - 1e9).abs() < 1.0, 0.0, x)

        assert audit(Apply(compared, std=1.0), batch(64)) == []
        used = initaudit.audit(Apply(lambda x: x - 1e9, std=1.0), batch(64), select=["IA109"])
        assert len(told(used)) == 1

    def test_what_is_infinite_in_float32_is_another_rules_matter(self) -> None:
        build = Net()
        build.output(build.op("exp", Role.ACTIVATION, build.input(), stats=stats(math.inf, max=math.inf)))
        assert list(check(build.flow())) == []

    def test_nothing_is_foretold_where_the_run_was_in_float16(self) -> None:
        build = Net()
        build.output(build.op("exp", Role.ACTIVATION, build.input(), stats=stats(1e5, max=4e5)))
        assert list(check(build.flow(environment=HALF))) == list(check(build.flow(environment=BRAIN))) == []


class TestMasks:
    MASK = torch.ones(64, 64, dtype=torch.bool).tril()

    def attend(self, mask: Callable[[Tensor, Tensor], Tensor]) -> list[Finding]:
        torch.manual_seed(0)
        return audit(Apply(lambda x: mask(x @ x.mT / 64, self.MASK).softmax(-1) @ x, std=0.1), batch(64, 64))

    def test_a_number_that_float16_refuses(self) -> None:
        (finding,) = self.attend(lambda x, mask: x.masked_fill(~mask, -1e9))
        assert finding.message.startswith("`masked_fill` with -1.0e+09 fails in float16")
        with pytest.raises(RuntimeError, match="without overflow"):
            torch.zeros(2).half().masked_fill(torch.tensor([True, False]), -1e9)

    @pytest.mark.parametrize(
        "mask",
        [
            lambda x, mask: x.masked_fill(~mask, float("-inf")),
            lambda x, mask: x.masked_fill(~mask, torch.finfo(x.dtype).min),
            lambda x, mask: x.masked_fill(~mask, -1e4),
            lambda x, mask: torch.where(mask, x, -1e9),
            lambda x, mask: x + (~mask).to(x.dtype) * -1e9,
        ],
    )
    def test_one_that_survives(self, mask: Callable[[Tensor, Tensor], Tensor]) -> None:
        assert self.attend(mask) == []


class TestSignalUnderflow:
    def test_where_inputs_are_tiny(self) -> None:
        model = net(4)
        (finding,) = audit(model, batch() * 1e-8)
        assert (finding.fqn, finding.severity) == ("0", Severity.NOTE)
        assert finding.message.startswith("the signal would be lost in float16: at rms 1.")
        assert finding.observed is not None
        with torch.no_grad():
            zeros = (model[0](batch() * 1e-8).half() == 0).double().mean().item()
        assert finding.observed == pytest.approx(zeros, abs=0.02)

    def test_not_at_the_edge_of_the_normal_numbers(self) -> None:
        assert audit(net(4), batch() * 1e-5) == []

    def test_a_vanishing_net_is_told_once(self) -> None:
        report = initaudit.audit(net(30, gain=0.4), batch())
        assert "IA101" in {f.code for f in report.findings}
        assert told(report) == []

    def test_measured(self) -> None:
        build = Net()
        small = build.layer("a", build.input(), stats=stats(2e-8))
        build.output(build.layer("b", small))
        seen = one(list(check(build.flow(environment=HALF))))
        assert (seen.fqn, seen.severity) == ("a", Severity.WARNING)
        assert seen.message == "the signal is lost in float16: at rms 2.0e-08, 86% of its values round to zero"
        assert list(check(build.flow(environment=BRAIN))) == []


def graded(*gradients: float) -> Net:
    """A chain of layers ``0``, ``1`` ... whose weight gradients have these rms."""
    build = Net()
    x = build.input()
    for i, rms in enumerate(gradients):
        x = build.layer(str(i), x, weight=parameter(f"{i}.weight", grad_rms=rms), gradient=stats(1.0))
    build.output(x)
    return build


class TestGradients:
    def test_a_range_that_no_loss_scale_holds(self) -> None:
        seen = one(list(check(graded(1e-9, 1e-14, 1.0, 10.0).flow())))
        assert (seen.fqn, seen.affected, seen.severity) == ("1", (), Severity.NOTE)
        assert seen.message.startswith("no loss scale fits float16: gradients span a factor of 4.1e+15 from 1 to 3")

    def test_the_size_of_all_of_them_says_nothing(self) -> None:
        for size in (1e-12, 1.0, 1e12):
            build = graded(size * 1e-9, size)
            build.ops = [replace(op, gradient=stats(size)) for op in build.ops]
            assert list(check(build.flow())) == []

    def test_no_gradient_at_all_is_another_rules_matter(self) -> None:
        build = graded(0.0, 1.0)
        build.layers[0] = replace(build.layers[0], weight=parameter("0.weight", grad_rms=None))
        assert list(check(build.flow())) == list(check(graded(0.0, 1.0).flow())) == []

    def test_queries_and_keys_are_left_out_and_values_are_not(self) -> None:
        def flow(small: str) -> list[Observation]:
            build = Net()
            x = build.input()
            made = {
                name: build.layer(name, x, weight=parameter(f"{name}.weight", grad_rms=1e-15 if name == small else 1.0))
                for name in ("q", "k", "v")
            }
            viewed = {name: build.op("view", Role.VIEW, op, stats=None) for name, op in made.items()}
            build.output(build.op("scaled_dot_product_attention", Role.ATTENTION, *viewed.values()))
            seen = Attention(len(build.ops) - 1, 8, 1.0, 1.0, 0.0, 0.0, viewed["q"], viewed["k"], viewed["v"])
            return list(check(build.flow(attentions=(seen,))))

        assert flow("q") == flow("k") == []
        assert one(flow("v")).fqn == "v"

    def test_a_loss_scale_that_helps_is_a_note_with_its_size(self) -> None:
        seen = one(list(check(graded(2e-8, 1e-3).flow(environment=HALF))))
        assert (seen.fqn, seen.severity) == ("0", Severity.NOTE)
        assert seen.message == (
            "the gradient has rms 2.0e-08: 86% of it rounds to zero in float16, and a loss scale of 4096 would keep it"
        )

    def test_bfloat16_holds_every_range(self) -> None:
        assert list(check(graded(1e-14, 10.0).flow(environment=BRAIN))) == []


class Block(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.norm, self.inside, self.out = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.relu(self.inside(self.norm(x))))


class TestLostAdditions:
    @staticmethod
    def outgrown(factor: float = 2000.0) -> nn.Sequential:
        torch.manual_seed(0)
        blocks = [Block() for _ in range(6)]
        with torch.no_grad():
            blocks[1].out.weight.mul_(factor)
        return nn.Sequential(*blocks)

    @pytest.mark.parametrize(("dtype", "severity"), [(None, "note"), ("bfloat16", "warning")])
    def test_a_stream_that_one_branch_swells(self, dtype: str | None, severity: str) -> None:
        (finding,) = audit(self.outgrown(), batch(64), dtype)
        assert (finding.fqn, finding.affected, finding.severity.value) == ("1", ("2", "3", "4", "5"), severity)
        assert "in bfloat16" in finding.message

    def test_the_share_is_that_of_the_additions_in_bfloat16(self) -> None:
        model = self.outgrown()
        (finding,) = audit(model, batch(64))
        with torch.no_grad():
            stream = model[0](batch(64))
            branch = (model[1](stream) - stream).bfloat16()
        lost = (stream.bfloat16() + branch == branch).double().mean().item()
        assert finding.observed == pytest.approx(lost, abs=0.1)

    def test_a_first_branch_that_dwarfs_what_it_is_added_to_is_no_growth(self) -> None:
        model = nn.Sequential(Block(), nn.LayerNorm(64))
        assert audit(model, batch(64) * 1e-4) == []

    def test_a_sum_of_two_values_that_are_no_stream(self) -> None:
        build = Net()
        x = build.input()
        big, small = (build.op("mul", Role.SCALE, x, stats=stats(size)) for size in (1e3, 1.0))
        for _ in range(3):
            big = build.add(big, small, scope="sum", stats=stats(1e3))
        assert list(check(build.flow())) == []

    def test_float16_keeps_what_bfloat16_loses(self) -> None:
        assert audit(self.outgrown(), batch(64), "float16") == []

    def test_growth_that_costs_little(self) -> None:
        assert audit(self.outgrown(20.0), batch(64)) == []
