"""Write ``docs/benchmarks.md`` and its curves from the lines in ``docs/results``."""

from __future__ import annotations

from pathlib import Path

from firstlight.scripts.benchmarks.learning import spec, table_names
from firstlight.scripts.benchmarks.results import read
from firstlight.scripts.report import speed_tables
from firstlight.scripts.report.learning_report import learning_report
from firstlight.scripts.report.search_report import search_report
from firstlight.scripts.report.submodular_report import submodular_report

DOCUMENT = Path("docs/benchmarks.md")
_REPORTS = {
    "": learning_report,
    "annotation_evaluation": learning_report,
    "search_evaluation": search_report,
}
"""Report by the module of a table's `measure`; others measure set functions."""
HEAD = """# Benchmarks

Written by `firstlight-bench report` from the lines in `docs/results`; not edited by hand.
Every line there names its command, its commit and the hardware.
"""


def write() -> None:
    """Write the document and its pictures."""
    sections = [
        HEAD,
        speed_tables.throughput(read("throughput")),
        speed_tables.stages(read("stages")),
        speed_tables.sizes(read("sizes")),
        speed_tables.schedules(read("schedules")),
        speed_tables.asynchronous(read("appo_speed")),
        speed_tables.adapter_overhead(read("views")),
        speed_tables.pools(read("pools")),
        speed_tables.worlds(read("worlds")),
        speed_tables.modules(read("modules")),
        speed_tables.bonus_speed(read("bonus_speed")),
        speed_tables.annotation(read("annotation")),
    ]
    for table in table_names():
        if lines := read(table):
            measure = str(spec(table).get("measure", ""))
            report = _REPORTS.get(measure.split(".")[-2] if measure else "", submodular_report)
            sections.append(report(table, lines))
    sections.append(speed_tables.soak(read("soak")))
    text = "\n".join(section for section in sections if section)
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"wrote {DOCUMENT}")
