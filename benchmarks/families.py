"""What does an audit say of architectures at the initialization that their authors prescribe?

    python benchmarks/families.py [--quick] [--seeds 5] [NAME ...]

Every family of benchmarks/_models, written by hand, is built and audited once per seed, which draws new weights and a
new input. All are healthy: each should pass, and every finding above a note is printed to be examined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from _common import alarms, brief, environment, parser, show  # first: it sets the environment of torch

# isort: split
import torch
from _models import build, names

from initaudit import Finding, Report, Severity, audit

QUICK = ("SELU", "LoRA on an MLP", "RealNVP", "GCN")


@dataclass(frozen=True)
class Result:
    """One family under several seeds."""

    name: str
    reports: tuple[Report, ...]

    @property
    def passed(self) -> int:
        return sum(report.verdict == "pass" for report in self.reports)

    @property
    def alarms(self) -> list[Finding]:
        return [finding for report in self.reports for finding in alarms(report)]

    def row(self) -> tuple[str, str, int, str]:
        """Name, passes, findings above a note, and in how many seeds each code of a note appears."""
        codes = Counter(
            code for r in self.reports for code in {f.code for f in r.findings if f.severity is Severity.NOTE}
        )
        notes = ", ".join(f"{code} x{n}" for code, n in sorted(codes.items()))
        return self.name, f"{self.passed}/{len(self.reports)}", len(self.alarms), notes


def examine(name: str, seeds: Sequence[int]) -> Result:
    """Build and audit one family under each seed, and print what is above a note."""
    reports = []
    for seed in seeds:
        model, inputs = build(name, seed)
        reports.append(audit(model, inputs, seed=seed))
        for finding in alarms(reports[-1]):
            cause = "cause" if finding.root_cause else "follows"
            print(f"  {name}, seed {seed}: {cause} {finding.fqn}: {brief(finding)}", flush=True)
    return Result(name, tuple(reports))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__)
    options.add_argument("names", nargs="*", metavar="NAME", help="audit only these")
    options.add_argument("--seeds", type=int, default=5)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    seeds = range(1 if given.quick else given.seeds)
    print(environment(seeds=f"0..{seeds[-1]}"))
    results = [examine(name, seeds) for name in given.names or (QUICK if given.quick else names())]
    show(("family", "pass", "findings above a note", "notes (seeds)"), [result.row() for result in results])
    audits = len(results) * len(seeds)
    passed, warned = sum(r.passed for r in results), sum(bool(alarms(a)) for r in results for a in r.reports)
    print(
        f"families: {len(results)} families, {audits} audits, {passed} pass ({100 * passed / audits:.1f}%), "
        f"{warned} with a finding above a note"
    )


if __name__ == "__main__":
    main()
