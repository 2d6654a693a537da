"""The options of ``initaudit TARGET...`` and the words of its help page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from initaudit.choices import DEVICE, DEVICE_EXPECTED, DTYPES, FAIL_ON, FORMATS
from initaudit.cli.help import OTHER, SectionedCommand, SectionOption

TARGETS = [
    ("path/to/model.py", "every model that the file holds"),
    ("path/to/model.py::Name", "one class, factory function or instance of it"),
    ("path/to/dir", "every file of the directory that holds a model"),
    ("package.module:attr", "an importable class, factory function or instance"),
    ("hf:ARCH_OR_CONFIG_JSON", "a transformers architecture from its config (extra hf)"),
    ("timm:NAME", "a timm architecture (extra timm)"),
    ("model.safetensors, model.pt", "a checkpoint, with --weights-only (extra safetensors)"),
]

EXAMPLES = [
    ("initaudit model.py", "audit all models of a file"),
    ("initaudit model.py::Net --input 32x3x224x224", "one model, on a batch of a given shape"),
    ('initaudit model.py --input "int64[8,128]<50257"', "token ids below 50257"),
    ("initaudit models/ -k 'encoder and not tiny' -x", "those whose name matches, up to the first that fails"),
    ("initaudit model.py --format json --output init.json", "the figures of every layer, for scripts"),
    ("initaudit model.py --figure model.svg", "histograms of activations and gradients, layer by layer"),
    ("initaudit model.safetensors.index.json --weights-only", "the weights of a large checkpoint, shard by shard"),
    ("initaudit model.py --seeds 5", "a verdict over five draws: a bad rule, or an unlucky draw"),
    ("initaudit model.py --ignore IA3 --fail-on warning", "without the rules on weights, and stricter"),
]

COMMANDS = [
    ("fix TARGET...", "an initialization that mends what is found, as code, with before and after"),
    ("rule [CODE]", "the rules, or one rule's page"),
    ("gain [ACTIVATION]", "the gain that an activation needs, or the table of all"),
]

EXIT_CODES = [
    ("0", "nothing found at or above --fail-on"),
    ("1", "findings at or above --fail-on"),
    ("2", "a model could not be loaded or run, or interrupted"),
    ("3", "internal error, a bug in initaudit"),
    ("4", "usage error: an option, a setting or a code makes no sense"),
    ("5", "no model was collected"),
]

HELP = """Audit how PyTorch models are initialized.

Runs each model once, forward and backward, and says at which layer the signal or the gradient is lost or blows up,
why, and which initialization mends it. Nothing is trained.

The sample input is --input, else `initaudit_inputs` of the file, else what the model itself declares, else inferred
from its first layers; the report says which. Options may also stand in [tool.initaudit] of pyproject.toml under their
long names, with `targets` for TARGET; the command line wins."""


def _check_device(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Only the spelling; whether the device is there is for the worker to find out."""
    if value is not None and not DEVICE.fullmatch(value):
        raise click.BadParameter(f"{value!r}; expected {DEVICE_EXPECTED}", ctx, param)
    return value


def _option(section: str, *names: str, **attributes: Any) -> Callable[[Any], Any]:
    return click.option(*names, cls=SectionOption, section=section, **attributes)


RUN, JUDGE, SHOW, CHOOSE = "How to run the models", "What to report", "Output", "Which models"

OPTIONS = [
    _option(CHOOSE, "-k", "keyword", metavar="EXPR", help="Only models whose name matches: words, and, or, not, ()."),
    _option(CHOOSE, "--collect-only", is_flag=True, help="List the models and stop."),
    _option(CHOOSE, "-x", "--exitfirst", is_flag=True, help="Stop at the first model that fails."),
    _option(
        RUN,
        "--input",
        multiple=True,
        metavar="SPEC",
        help="Sample input; repeat it for further arguments: 32x3x224x224, float32[32,10], int64[8,128]<50257, "
        "name=SPEC for a keyword argument, @file.pt, @file.npy.",
    ),
    _option(RUN, "--loss", metavar="MODULE:FN", help="Loss to differentiate; default: a seeded Gaussian cotangent."),
    _option(
        RUN, "--device", metavar="DEVICE", callback=_check_device, help="auto (default), cpu, cuda, cuda:N or mps."
    ),
    _option(RUN, "--dtype", type=click.Choice(DTYPES), help="Cast the model to this type; default: as it is."),
    _option(RUN, "--seed", type=click.IntRange(min=0), metavar="N", help="Seed of everything random; default 0."),
    _option(
        RUN,
        "--seeds",
        type=click.IntRange(min=1),
        metavar="K",
        help="Build and audit K draws, --seed and the K - 1 after it, for one verdict; needs a class or a factory.",
    ),
    _option(
        RUN,
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Time limit for each draw of a model; default: none.",
    ),
    _option(
        RUN,
        "-n",
        "--workers",
        type=click.IntRange(min=1),
        metavar="K",
        help="Audit K models at a time, each in a process of its own, which share the cores; default 1.",
    ),
    _option(
        RUN,
        "--weights-only",
        is_flag=True,
        help="Run nothing: judge the weights one tensor at a time, of a model or of a checkpoint "
        "(.safetensors, .pt, .pth, .bin, .ckpt, or the .index.json of shards) given as TARGET.",
    ),
    _option(JUDGE, "--select", multiple=True, metavar="CODES", help="Only these rules: code, prefix (IA1) or name."),
    _option(JUDGE, "--ignore", multiple=True, metavar="CODES", help="All rules but these."),
    _option(JUDGE, "--fail-on", type=click.Choice(FAIL_ON), help="Lowest severity that fails a model; default error."),
    _option(SHOW, "--format", type=click.Choice(FORMATS), help="Default: table. json is one document for scripts."),
    _option(SHOW, "--output", metavar="FILE", help="Write the report there instead of to standard output."),
    _option(
        SHOW,
        "--figure",
        metavar="FILE",
        help="Draw histograms and rms of every layer there, a column per model: .svg, .png or .pdf (extra figures).",
    ),
    _option(SHOW, "-v", "--verbose", count=True, help="Show more, and what the models print; repeatable."),
    _option(SHOW, "-q", "--quiet", count=True, help="Show less; repeatable."),
    _option(SHOW, "--no-color", is_flag=True, help="No colours; so does the variable NO_COLOR."),
    _option(OTHER, "--config", metavar="FILE", help="Read settings there instead of in the nearest pyproject.toml."),
]


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        import initaudit

        click.echo(f"initaudit {initaudit.__version__}")
        ctx.exit()


VERSION = _option(
    OTHER,
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)


def audit_options(function: Callable[..., int]) -> click.Command:
    """Make ``function`` the default command, with every option above."""
    for decorate in (VERSION, *reversed(OPTIONS)):  # the last applied comes first
        function = decorate(function)
    function = click.argument("targets", nargs=-1, metavar="TARGET...")(function)
    command = click.command(
        "audit",
        cls=SectionedCommand,
        help=HELP,
        context_settings={"max_content_width": 100},
        before={"TARGET is one of": TARGETS},
        after={"Commands": COMMANDS, "Examples": EXAMPLES, "Exit codes": EXIT_CODES},
    )
    return command(function)
