"""What do other tools say of networks that are well and badly initialized?

    python benchmarks/peers.py [--quick] [--environments DIR] [--peers initaudit torchlens ...] [--limit 3600] [--cost]

Every peer runs in a process and an environment of its own, made below DIR with pip on the first use; torch is shared
with the Python that runs this script. Each is shown 14 networks of 20 layers, width 256 and a batch of 64, six of them
good, and five more. It *detects* a fault when it makes a complaint of a kind that it makes on no good network.
`--quick` asks initaudit alone, about four of them, and installs nothing. With `--cost`, each peer looks at a 50-layer
MLP, ResNet-50 and GPT-2 small instead, for `--limit` CPU seconds at most (90 then): those of one look over those of a
plain forward and backward pass, medians of up to three pairs that take turns.
"""

from __future__ import annotations

import json
import re
import signal
import site
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from _common import environment, parser, show  # first: it sets the environment of torch

# isort: split
import torch
from _peers.networks import ALL, MORE, NETWORKS, Network

FOLDER = Path(__file__).resolve().parent / "_peers"
QUICK = ("ReLU, He", "ReLU, std 0.2", "ReLU, bias -10", "F.relu, bias -10")
CURE = re.compile(r"xavier|glorot|kaiming|\bHe\b|lecun|orthogonal|\bgain\b|nn\.init|\bstd\b", re.IGNORECASE)
COSTLY = ("mlp", "resnet50", "gpt2")
LIMITS = {False: 3600, True: 90}  # seconds, without --cost, and CPU seconds with it
PATIENCE = 10  # wall seconds for each CPU second, on a machine that has other things to do
SPELLINGS = {  # of a network that is good and one that is not
    "F.relu": ("F.relu, He", "F.relu, bias -10"),
    "in-place": ("in-place ReLU, He", "in-place ReLU, bias -10"),
    "reused": ("reused modules, He", "reused modules, bias -10"),
    "attention": ("attention, torch default", "attention, constant 0.01"),
}


@dataclass(frozen=True)
class Peer:
    """``requirement`` is what pip installs; none for what this Python has. ``detects`` is false for what only mends."""

    name: str
    requirement: str = ""
    detects: bool = True

    @property
    def script(self) -> Path:
        return FOLDER / f"run_{self.name.lower().replace('-', '_')}.py"


PEERS = (
    Peer("initaudit"),
    Peer("torchtest2", "torchtest2==0.1.0"),
    Peer("torch-audit", "torch-audit==0.3.0"),
    Peer("torchmortem", "torchmortem==0.1.1"),
    Peer("torchlens", "torchlens==2.36.1"),
    Peer("torchdiag", "torchdiag==0.1.0"),
    Peer("SageMaker"),
    Peer("lsuv", "lsuv==0.3.0", detects=False),
)


ONLY_COST = (
    Peer("unit-scaling", "unit-scaling==0.3.5"),
    Peer("wandb", "wandb==0.31.0"),
    Peer("tensorboard", "tensorboard==2.21.0"),
)


@dataclass(frozen=True)
class Answer:
    """What a peer said of one network; ``complaints`` are triples of kind, layer and text."""

    name: str
    complaints: list[list[str]] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Peered:
    """All answers of a peer; :attr:`noise` are the kinds of complaint that it makes on good networks."""

    peer: Peer
    answers: dict[str, Answer]

    @property
    def noise(self) -> set[str]:
        return {c[0] for name, answer in self.answers.items() if ALL[name].good for c in answer.complaints}

    def real(self, name: str) -> list[list[str]]:
        """The complaints that good networks do not get."""
        return [c for c in self.answers[name].complaints if c[0] not in self.noise]

    def cell(self, network: Network) -> str:
        answer = self.answers[network.name]
        if answer.error:
            return "crash"
        if network.good:
            return str(len(answer.complaints)) if answer.complaints else "-"
        if not self.real(network.name):
            return "missed"
        return "+".join(["found", *(["layer"] if self.names_layer(network) else []), *self.cure(network)])

    def names_layer(self, network: Network) -> bool:
        """Whether the first real complaint that names a layer names the guilty one."""
        named = next((c[1] for c in self.real(network.name) if c[1]), "")
        return any(named == guilty or named.startswith(f"{guilty}.") for guilty in network.guilty)

    def cure(self, network: Network) -> list[str]:
        return ["cure"] if any(CURE.search(c[2]) for c in self.real(network.name)) else []

    def survives(self, good: str, bad: str) -> str:
        """Whether the peer gets through a spelling, and still sees there what it sees in plain modules."""
        if self.answers[good].error or self.answers[bad].error:
            return "crash"
        if not self.peer.detects or self.real(bad):
            return "yes"
        plainly = ALL[bad].plainly
        return "blind" if plainly and self.real(plainly) else "missed"


def python_of(peer: Peer, folder: Path) -> Path:
    """The Python of the peer's environment, made and filled first where it is not there.

    Raises:
        subprocess.CalledProcessError: pip could not install it.
    """
    home = folder / peer.name
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = home / "installed"
    if not done.exists():
        venv.create(home, with_pip=True, clear=True)
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        own = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
        shared = [
            *site.getsitepackages(),
            str(Path(torch.__file__).parents[1]),
        ]  # behind the environment's own packages
        Path(own, "shared.pth").write_text("\n".join(dict.fromkeys(shared)) + "\n", encoding="utf-8")
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", peer.requirement]
        subprocess.run(command, capture_output=True, text=True, check=True)
        done.touch()
    return python


def _python(peer: Peer, folder: Path) -> Path | str:
    """The Python that has the peer, or why there is none."""
    try:
        return python_of(peer, folder) if peer.requirement else Path(sys.executable)
    except subprocess.CalledProcessError as error:
        return str((error.stderr or error.stdout or str(error)).strip().splitlines()[-1])


def cost(peer: Peer, model: str, folder: Path, limit: int) -> str:
    """A cell of the table of costs: the ratio, or why there is none."""
    python = _python(peer, folder)
    if isinstance(python, str):
        return f"not installed: {python[:60]}"
    output = folder / f"{peer.name}-{model}.json"
    output.unlink(missing_ok=True)
    try:
        command = [python, peer.script, "--cost", model, output, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * limit)
    except subprocess.TimeoutExpired:
        return f"> {limit} s"
    if not output.exists() and done.returncode == -getattr(signal, "SIGXCPU", 0):
        return f"> {limit} s"
    if not output.exists():
        return f"fails: {(done.stderr.strip().splitlines() or ['no answer'])[-1][:60]}"
    found = json.loads(output.read_text(encoding="utf-8"))
    return f"{found['ratio']:.2f}" if "ratio" in found else f"fails: {found['error'][:60]}"


def report_costs(peers: Sequence[Peer], models: Sequence[str], folder: Path, limit: int) -> None:
    """The table of costs, each row as soon as it is known, and the summary line."""
    rows = []
    for peer in peers:
        rows.append([peer.name, *(cost(peer, model, folder, limit) for model in models)])
        print("; ".join(rows[-1]), file=sys.stderr, flush=True)
    show(["CPU time over a plain pass", *models], rows)
    print(f"peers: initaudit costs {', '.join(rows[0][1:])} times a plain pass of {', '.join(models)}")


def ask(peer: Peer, names: Sequence[str], folder: Path, limit: int) -> Peered | str:
    """What a peer says of each network, or why it could not be asked."""
    python = _python(peer, folder)
    if isinstance(python, str):
        return python
    output = folder / f"{peer.name}.jsonl"
    output.unlink(missing_ok=True)
    end = "no answer"
    try:
        done = subprocess.run([python, peer.script, output, *names], capture_output=True, text=True, timeout=limit)
        end = (done.stderr.strip().splitlines() or [end])[-1]
    except subprocess.TimeoutExpired:
        end = f"no answer within {limit} s"
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    if not lines:
        return end
    answers = {name: Answer(name, error=end) for name in names}
    return Peered(peer, answers | {(answer := Answer(**json.loads(line))).name: answer for line in lines})


def summary(found: Peered, networks: Sequence[Network]) -> list[object]:
    """One row: detected, false alarms, layer and cure named, each spelling, seconds."""
    known = [n for n in networks if not n.good]
    good = [n for n in networks if n.good]
    seen = [n for n in known if found.real(n.name)]
    alarmed = [n for n in good if found.answers[n.name].complaints]
    judged = [
        f"{len(seen)}/{len(known)}",
        f"{len(alarmed)}/{len(good)}",
        f"{sum(map(found.names_layer, seen))}/{len(known)}",
        f"{sum(bool(found.cure(n)) for n in seen)}/{len(known)}",
    ]
    names = {n.name for n in networks}
    spelled = [found.survives(*pair) if names.issuperset(pair) else "" for pair in SPELLINGS.values()]
    seconds = median(answer.seconds for answer in found.answers.values() if not answer.error)
    return [found.peer.name, *(judged if found.peer.detects else ["fixes"] * 4), *spelled, f"{seconds:.2f}"]


def report(asked: Sequence[Peered | str], peers: Sequence[Peer], networks: Sequence[Network]) -> None:
    """Both tables, what crashed and who is missing."""
    found = [answer for answer in asked if isinstance(answer, Peered)]
    judges = [f for f in found if f.peer.detects]
    print()
    show(
        ["network", *(f.peer.name for f in judges)],
        [[("good: " if n.good else "") + n.name, *(f.cell(n) for f in judges)] for n in networks],
    )
    print()
    headers = ["tool", "detected", "false alarms", "layer named", "cure named", *SPELLINGS, "seconds"]
    show(headers, [summary(f, networks) for f in found])
    print()
    for f in found:
        for answer in f.answers.values():
            if answer.error:
                print(f"{f.peer.name} on {answer.name}: {answer.error[:160]}")
    for peer, answer in zip(peers, asked, strict=True):
        if isinstance(answer, str):
            print(f"{peer.name} could not be asked: {answer[:200]}")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("--environments", type=Path, help="folder of the peers' environments; a temporary one if none")
    options.add_argument("--peers", nargs="+", choices=[p.name for p in (*PEERS, *ONLY_COST)])
    options.add_argument("--limit", type=int, help="seconds that one peer may take in all, or at one model with --cost")
    options.add_argument("--cost", action="store_true", help="what each costs, and not what it says")
    given = options.parse_args(arguments)
    limit = LIMITS[given.cost] if given.limit is None else given.limit
    every = [p for p in (*PEERS, *(ONLY_COST if given.cost else ())) if p.name != "SageMaker" or not given.cost]
    peers = [p for p in every if p.name in (["initaudit"] if given.quick else given.peers or [p.name])]
    networks = [n for n in (*NETWORKS, *MORE) if n.name in QUICK or not given.quick]
    print(environment(peers=" ".join(p.requirement or p.name for p in peers)))
    with TemporaryDirectory() as temporary:
        folder = given.environments or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if given.cost:
            report_costs(peers, ["tiny"] if given.quick else COSTLY, folder, limit)
            return
        asked = [ask(peer, [n.name for n in networks], folder, limit) for peer in peers]
    report(asked, peers, networks)
    rows = {row[0]: row for row in (summary(f, networks) for f in asked if isinstance(f, Peered) and f.peer.detects)}
    said = "; ".join(f"{name} finds {row[1]}, false alarms on {row[2]}" for name, row in rows.items())
    print(f"peers: {said or 'none could be asked'}")


if __name__ == "__main__":
    main()
