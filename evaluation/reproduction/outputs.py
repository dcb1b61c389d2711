# SPDX-License-Identifier: Apache-2.0
"""What a reproduction writes: results.json, table.csv, assets.csv, report.html, sheet.png and the Janus sheet."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evaluation import METRICS, PAPER_METRICS
from evaluation.experiments.runs import Result, read_results
from evaluation.janus_sheet import labelled_rates, write_sheet
from evaluation.reproduction.order import Order
from evaluation.reproduction.report import report
from evaluation.reproduction.sheet import sheet
from evaluation.reproduction.summary import assets_csv, summary, summary_csv
from evaluation.run_folder import record_of_run
from utils.general_utils import write_text_atomically
from utils.image_utils import write_png


def write_all(order: Order, failures: Sequence[str], missing: dict[str, str], notice: Callable[[str], None]) -> Path:
    """Tables, sheet and report of what is there; the report's path. ValueError where nothing is.

    Labels that do not fit are named by `notice` and count as none.
    """
    out = order.sweep.out
    results = read_results(out, order.names)
    if not results:
        raise ValueError(f"{out} holds no finished asset of this order; let one finish first")
    write_sheet(out / "janus", {result["name"]: order.sweep.folder(result["name"]) for result in results})
    rates = labelled_rates(out / "janus", [result["name"] for result in results], notice)
    rows, provenance = summary(results, order.prior, rates), provenance_of(order, results)
    stored = {"provenance": provenance, "missing": missing, "failures": list(failures), "rows": rows, "assets": results}
    page = report(order.sweep, order.prior, rows, results, missing, failures, rates, provenance)
    texts = {"results.json": json.dumps(stored, indent=1) + "\n", "table.csv": summary_csv(rows)}
    texts |= {"assets.csv": assets_csv(results, order.prior), "report.html": page}
    for name, text in texts.items():
        write_text_atomically(out / name, text)
    write_png(out / "sheet.png", sheet(order.sweep, order.prior, results))
    return out / "report.html"


def provenance_of(order: Order, results: Sequence[Result]) -> dict[str, Any]:
    """What made the numbers; of code, machines and versions what the runs themselves have written down."""
    records = list(filter(None, (record_of_run(order.sweep.folder(result["name"])) for result in results)))
    revisions = (re.sub(r"^([0-9a-f]{12})[0-9a-f]*", r"\1", record["revision"]) for record in records)
    return {
        "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _joined(revisions),
        "machine": "; ".join(sorted({f"{record['device']}, {record['platform']}" for record in records})),
        "prior": order.prior,
        "budget": order.budget,
        "setting": order.setting,
        "prompts": list(dict.fromkeys(run.facts["prompt"] for run in order.runs)),
        "seeds": sorted({run.facts["seed"] for run in order.runs}),
        "metrics": order.metrics,
        "flags": {run.facts["variant"]: " ".join(run.flags) for run in reversed(order.runs)},
        "versions": _versions(records),
    }


def _versions(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Package -> version; several where the runs had several."""
    found: dict[str, list[str]] = {}
    for record in records:
        for name, version in {"python": record["python"], **record["versions"]}.items():
            found.setdefault(name, []).append(version)
    return {name: _joined(versions) for name, versions in found.items()}


def _joined(texts: Any) -> str:
    return ", ".join(sorted(set(texts)))


def left_out(order: Order) -> dict[str, str]:
    """The paper's metrics that --metrics left out, with what they would cost."""
    left = [name for name in PAPER_METRICS if name not in order.metrics]
    return {name: f"not asked for; --metrics {name} fetches {METRICS[name].download_gb:g} GB" for name in left}
