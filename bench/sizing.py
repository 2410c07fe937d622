"""What so many members and measures take: cores, memory, storage, hours and dollars, out of what was measured.

    python -m bench.sizing [--members 10000000] [--measures 50] [--cores 16] [--core-hour 0.05] ...

Everything is a product of figures of ``bench/scale.txt`` (a member's cost at the largest size there), of the
assumptions below, and of prices, which are examples to be replaced by one's own. ``docs/operate/sizing.md`` shows the
table of the defaults; a test holds it to these figures.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, fields
from pathlib import Path

RAW = Path(__file__).with_name("scale.txt")
#: Measures of the evaluation that was measured, and of the one beside it (``--from fifty``).
EVALUATED, FIFTY = 5, 50
_ROW = re.compile(
    r"^ *([\d,]+)  (generate|ingest|attribute|evaluate|settle|all|fifty) +([\d.]+) +([\d.]+) +([\d.]+) .*?([\d,]+)$"
)
_KEPT = re.compile(r"^([\d,]+) members: ([\d,]+) resources, ([\d,]+) MB of JSON; kept, MB: (\{.*\})$")


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of one size."""

    members: int
    name: str
    wall: float
    cpu: float
    peak_mb: int

    @property
    def each(self) -> float:
        """CPU seconds of a member."""
        return self.cpu / self.members


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: stages by size, and by size resources, MB of JSON, and MB kept by place."""

    stages: dict[int, dict[str, Stage]]
    resources: dict[int, int]
    json_mb: dict[int, int]
    kept_mb: dict[int, dict[str, int]]

    @classmethod
    def read(cls, text: str) -> Figures:
        """The figures of ``bench/scale.txt``; of a row that is there twice the first counts, which is the newest."""
        found = cls({}, {}, {}, {})
        for line in text.splitlines():
            if row := _ROW.match(line):
                members = _number(row[1])
                stage = Stage(members, row[2], float(row[3]), float(row[4]), _number(row[6]))
                found.stages.setdefault(members, {}).setdefault(row[2], stage)
            elif row := _KEPT.match(line):
                members = _number(row[1])
                if members not in found.resources:
                    found.resources[members], found.json_mb[members] = _number(row[2]), _number(row[3])
                    sizes = re.findall(r"'([^']+)': (\d+)", row[4])
                    found.kept_mb[members] = {name: int(size) for name, size in sizes}
        return found

    def largest(self, stage: str) -> Stage:
        """A stage at the largest size at which it was measured."""
        return max((one[stage] for one in self.stages.values() if stage in one), key=lambda one: one.members)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for, and what is assumed; money in US dollars."""

    members: int = 10_000_000
    measures: int = 50
    cores: int = 16  # of the machine that works
    commit_cores: float = 1.3  # that a commit keeps busy: CPU by time on a quiet machine, bench/ingest.txt
    spread: float = 0.8  # of the cores' time that goes into an evaluation by as many processes
    quiet: float = 1.0  # CPU seconds of that machine for one of the measured
    process_mb: int = 600  # of an evaluation's process, and of each measure in it: docs/operate/evaluations.md
    measure_mb: int = 30
    served_kb: float = 1.1  # of a member, that serving who is in the lake holds: growth of the pulls' peaks
    always_cores: int = 4  # API, worker and PostgreSQL, day and night: 7,900 reads a second on two, bench/README.md
    changed: float = 0.01  # of the members, a day
    changed_share: float = 0.037  # of a full pull that pulling these takes, bench/incremental.txt
    versions: float = 2.0  # lake on disk by its newest version: what daily commits and compaction keep beside
    backups: int = 2  # copies of all that is kept
    core_hour: float = 0.05
    disk_month: float = 0.08  # a GB of block storage: control plane, results, scratch
    object_month: float = 0.023  # a GB of object storage: lake, backups


@dataclass(frozen=True, slots=True)
class Size:
    """What a plan takes: CPU hours of steps, hours on its machine, gigabytes, dollars."""

    cpu_hours: dict[str, float]
    hours: dict[str, float]
    memory_gb: dict[str, float]
    storage_gb: dict[str, float]
    dollars: dict[str, float]


def size(figures: Figures, plan: Plan) -> Size:
    """A plan's size; all of it grows with the members, but for memory as it was measured not to."""
    each = {name: figures.largest(name).each for name in ("ingest", "attribute", "evaluate", "settle", "fifty")}
    cpu = {name: each[name] * plan.members * plan.quiet / 3600 for name in ("ingest", "attribute", "settle")}
    cpu["evaluate"] = _evaluation(each, plan) * plan.members * plan.quiet / 3600
    hours = {
        "ingest": cpu["ingest"] / plan.commit_cores,
        "attribute": cpu["attribute"],
        "evaluate": cpu["evaluate"] / (plan.cores * plan.spread),
        "settle": cpu["settle"],
    }
    hours["first load"] = sum(hours.values())
    day = {"ingest": plan.changed_share, "evaluate": 2 * plan.changed, "attribute": 2 * plan.changed, "settle": 1.0}
    hours["a day"] = sum(hours[name] * share for name, share in day.items())
    members, kept = max(figures.kept_mb.items())
    gb = {name: mb / members * plan.members / 1024 for name, mb in kept.items()}
    storage = {
        "lake": gb["lake"] * plan.versions,
        "control plane": gb["control.db"],
        "results": gb["results"] / EVALUATED * plan.measures,
        "claim lines and evidence": gb.get("claim-lines", 0) + gb.get("attributions", 0),
    }
    storage["backups"] = plan.backups * sum(storage.values())
    top = {name: figures.largest(name).peak_mb / 1024 for name in ("ingest", "attribute", "settle")}
    top["evaluate"] = plan.cores * (plan.process_mb + plan.measure_mb * plan.measures) / 1024
    top["ingest"] += plan.served_kb * max(plan.members - figures.largest("ingest").members, 0) / 1024**2
    block = storage["control plane"] + storage["results"] + storage["claim lines and evidence"]
    dollars = {
        "first load": hours["first load"] * plan.cores * plan.core_hour,
        "a month of servers": 730 * plan.always_cores * plan.core_hour,
        "a month of daily runs": 30 * hours["a day"] * plan.cores * plan.core_hour,
        "a month of storage": block * plan.disk_month + (storage["lake"] + storage["backups"]) * plan.object_month,
    }
    return Size(cpu, hours, top, storage, dollars)


def _evaluation(each: dict[str, float], plan: Plan) -> float:
    """CPU seconds of a member for so many measures: on the line through five measures and fifty."""
    slope = (each["fifty"] - each["evaluate"]) / (FIFTY - EVALUATED)
    return each["evaluate"] + slope * (plan.measures - EVALUATED)


def measured(figures: Figures) -> str:
    """What a member costs by what was measured, at the largest size of each."""
    rows = ["| step | members | CPU ms of a member | peak memory, all processes |", "|---|---:|---:|---:|"]
    for name, title in _STEPS.items():
        stage = figures.largest(name)
        rows.append(f"| {title} | {stage.members:,} | {stage.each * 1e3:.2f} | {stage.peak_mb / 1024:.1f} GB |")
    members, kept = max(figures.kept_mb.items())
    held = ", ".join(f"{_PLACES[name]} {mb * 1024 / members:.1f}" for name, mb in kept.items() if name in _PLACES)
    resources, size = figures.resources[members] / members, figures.json_mb[members] * 1024 / members
    told = f"A member is {resources:.0f} resources, {size:.0f} KB of JSON; KB kept of a member: {held}."
    return "\n".join([*rows, "", told])


def sized(plan: Plan, found: Size) -> str:
    """The plan's table."""
    rows = [
        f"| {plan.members:,} members, {plan.measures} measures, one machine of {plan.cores} cores | |",
        "|---|---:|",
        *(f"| CPU hours: {_STEPS[name]} | {hours:,.1f} |" for name, hours in found.cpu_hours.items()),
        *(f"| hours: {_STEPS.get(name, name)} | {hours:,.1f} |" for name, hours in found.hours.items()),
        *(f"| memory, GB: {_STEPS[name]} | {gb:,.1f} |" for name, gb in found.memory_gb.items()),
        *(f"| storage, GB: {name} | {gb:,.0f} |" for name, gb in found.storage_gb.items()),
        *(f"| dollars: {name} | {amount:,.0f} |" for name, amount in found.dollars.items()),
    ]
    return "\n".join(rows)


#: How steps and places are called.
_STEPS = {
    "ingest": "ingest (check, commit, serve)",
    "attribute": "attribute",
    "evaluate": "evaluate",
    "fifty": "evaluate fifty measures",
    "settle": "settle",
}
_PLACES = {
    "lake": "lake",
    "control.db": "control plane",
    "results": "results of five measures",
    "claim-lines": "claim lines",
    "attributions": "evidence of attribution",
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for one in fields(Plan):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default), default=one.default)
    plan = Plan(**vars(parser.parse_args()))
    figures = Figures.read(RAW.read_text(encoding="utf-8"))
    print(measured(figures), sized(plan, size(figures, plan)), sep="\n\n")


if __name__ == "__main__":
    main()
