# SPDX-License-Identifier: Apache-2.0
"""The report of a reproduction: one HTML file with everything in it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import METRICS
from evaluation.automatic_janus import accuracy_text
from evaluation.experiments.grid import TOY_PRIORS, VARIANTS
from evaluation.experiments.runs import Result, Sweep
from evaluation.experiments.tables import MECHANISMS, by_variant, mechanism_cells
from evaluation.janus import Rate
from evaluation.pages import escape, image, image_file, jpeg, page, table
from evaluation.reproduction.summary import TRUTH, Column, columns
from evaluation.run_folder import config_of_run
from evaluation.run_images import FOLDER, SIDES, VIEWS, turntable_html, views_html
from toy.compose import compose
from toy.raycast import View, render_gbuffers
from toy.reading import parse_prompt
from utils.image_utils import read_png
from utils.wording import counted

COSTS = {
    "train_s": ("seconds", 1),
    "cpu_s": ("of a core", 1),
    "steps": ("steps", 0),
    "denoiser_calls": ("denoiser calls", 0),
    "samples": ("network samples", 0),
    "points": ("Gaussians", 0),
    "peak_gb": ("peak GB", 2),
    "skipped_steps": ("skipped steps", 1),
}
"""Fact of a result -> title, decimals."""
BUDGETS = {
    "samples": "equally many network samples",
    "minutes": "equally much time",
    "steps": "the steps of its settings",
}
SETTINGS = {
    "own": "its law's own scale, weight and schedule of t",
    "common": "LucidDreamer's scale, weight and schedule of t",
}
TOY = (
    "small objects whose truth is known. The paper's numbers stand beside as they are printed; ours are about another "
    "world and cannot be compared with them. What can be: one method with another."
)
PRIORS = {
    "sd": "Stable Diffusion, the paper's setting.",
    "toy": f"The embedded ideal prior: {TOY}",
    "toy-trained": f"The embedded trained prior, a small diffusion model: {TOY}",
}


def report(
    sweep: Sweep,
    prior: str,
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    missing: Mapping[str, str],
    failures: Sequence[str],
    rates: Mapping[str, Rate],
    provenance: Mapping[str, Any],
) -> str:
    """The whole document. `rows`: summary of `results`; `missing`: metric -> why."""
    prompts = list(dict.fromkeys(result["prompt"] for result in results))
    seeds = sorted({result["seed"] for result in results})
    counts = ((len(rows), "variant"), (len(prompts), "prompt"), (len(seeds), "seed"))
    counts_text = ", ".join(counted(count, what) for count, what in counts)
    made = f"{provenance['written_utc']}, revision {provenance['revision']}, {provenance['machine']}"
    body = [
        "<h1>CoGrad3D: tables 1 and 2, ours beside the paper's</h1>",
        f"<p>{len(results)} assets: {counts_text}. {escape(PRIORS[prior])}</p>",
        f"<p>Every row has {BUDGETS[provenance['budget']]}, and {SETTINGS[provenance['setting']]}.</p>",
        f'<p class="quiet">{escape(made)}</p>',
        *_uneven(rows),
        *_numbers(rows, columns(prior, results), missing),
        *_janus(rows, rates),
        *_failures(failures),
        *_cost(results),
        *_mechanisms(results),
        *_assets(prior, results),
        "<h2>Every prompt</h2>",
        "<p class=quiet>Turntables of the first seed; they turn under the pointer, or at a touch.</p>",
    ]
    for prompt in prompts:
        body += _prompt(sweep, prior, prompt, [result for result in results if result["prompt"] == prompt])
    body += ["<h2>Versions and settings</h2>", f"<pre>{escape(json.dumps(provenance, indent=1))}</pre>"]
    return page("CoGrad3D: a reproduction", body)


def _uneven(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where variants do not have equally many assets."""
    if len({row["assets"] for row in rows}) == 1:
        return []
    return ["<p><b>Some assets are missing</b>: the variants are averaged over different prompts and seeds.</p>"]


def _numbers(rows: Sequence[Mapping[str, Any]], own: Sequence[Column], missing: Mapping[str, str]) -> list[str]:
    truth = [column for column in own if column.key in TRUTH]
    body = []
    if truth:
        legend = f"{TRUTH_LEGEND} {accuracy_text('clean')}."
        body += ["<h2>Against the known truth</h2>", _table(rows, truth), f"<p class=quiet>{escape(legend)}</p>"]
    papers = _table(rows, [column for column in own if column.key not in TRUTH])
    body += ["<h2>Tables 1 and 2</h2>", papers, f"<p class=quiet>{escape(LEGEND)}</p>"]
    if missing:
        items = (f"<li><b>{escape(METRICS[k].title)} is missing</b>: {escape(why)}</li>" for k, why in missing.items())
        body.append(f"<ul>{''.join(items)}</ul>")
    return body


LEGEND = (
    "Upper number: ours, mean over prompts and seeds; ± is the deviation between seeds of the mean over prompts. Lower "
    "number: the paper's. A dash: not measured. std: over the views of an asset."
)
TRUTH_LEGEND = (
    "24 views of the same object, ray cast. detail: correlation of fine structure with the truth; front share: of all "
    "azimuths, those that resemble the front (right: 0.25); clean: one front. Mean ± deviation between seeds."
)


def _table(rows: Sequence[Mapping[str, Any]], own: Sequence[Column]) -> str:
    header = ["variant", "assets", *(escape(column.title) for column in own)]
    lines = []
    for row in rows:
        title = f"{_to_assets(row['variant'], row['title'])}<small>{escape(row['table'])}</small>"
        lines.append([title, str(row["assets"]), *(_cell(row, column) for column in own)])
    return table(header, lines)


def _cell(row: Mapping[str, Any], column: Column) -> str:
    ours, deviation, paper = row[column.key], row[f"{column.key}_seed_sd"], row[f"{column.key}_paper"]
    text = "–" if ours is None else f"{ours:.{column.decimals}f}"
    text += "" if deviation is None else f" ± {deviation:.{column.decimals}f}"
    return text + ("" if paper is None else f"<small>paper {paper:.{column.decimals}f}</small>")


def _janus(rows: Sequence[Mapping[str, Any]], rates: Mapping[str, Rate]) -> list[str]:
    lines = []
    for row in rows:
        rate = rates.get(row["variant"])
        paper = "–" if row["janus_paper"] is None else f"{row['janus_paper']:.4f}"
        ours = (
            ["not labelled", ""]
            if rate is None
            else [f"{rate.value:.4f} ({rate.janus} of {rate.counted})", "{:.3f} .. {:.3f}".format(*rate.interval)]
        )
        interval = row["janus_order_interval"]
        automatic = "–"
        if interval is not None:
            automatic = f"{row['janus_order']:.4f}<small>{interval[0]:.3f} .. {interval[1]:.3f}</small>"
        lines.append([_to_assets(row["variant"], row["title"]), *ours, paper, automatic])
    how = (
        "Counted by people on janus/sheet.html, which hides the variants; what it saves goes to janus/labels.json. "
        f"Automatic: by the order of the views, no substitute for labels; {accuracy_text('order')}."
    )
    head = ["variant", "Janus rate", "95 % interval", "paper", "automatic"]
    return ["<h2>Janus rate</h2>", table(head, lines), f'<p class="quiet">{escape(how)}</p>']


def _failures(failures: Sequence[str]) -> list[str]:
    if not failures:
        return []
    items = "".join(f"<li>{escape(failure)}</li>" for failure in failures)
    return ["<h2>Failed twice</h2>", f"<ul>{items}</ul>", "<p>The same command tries them once more.</p>"]


def _title(result: Result) -> str:
    return VARIANTS[result["variant"]].title_on(result["prior"])


def _to_assets(variant: str, title: str) -> str:
    """A row's title, with a link to the lines of its assets, which lead to their runs."""
    return f'<a href="#{variant}">{escape(title)}</a>'


def _to_run(result: Result, text: str) -> str:
    """A link to the folder of the run, which lies beside the report."""
    return f'<a href="runs/{escape(result["name"])}/">{escape(text)}</a>'


def _in_order(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=lambda result: (list(VARIANTS).index(result["variant"]), result["seed"]))


def _cost(results: Sequence[Result]) -> list[str]:
    phases = list(dict.fromkeys(phase for result in results for phase in result["phase_ms"]))
    lines = []
    for own in by_variant(_in_order(results)).values():
        facts = [_mean([r.get(name) for r in own], decimals) for name, (_, decimals) in COSTS.items()]
        by_phase = [f"{np.mean([r['phase_ms'].get(phase, 0.0) for r in own]):.1f}" for phase in phases]
        lines.append([_to_assets(own[0]["variant"], _title(own[0])), *facts, *by_phase])
    head = ["variant", *(title for title, _ in COSTS.values()), *(f"{escape(phase)}, ms a step" for phase in phases)]
    return ["<h2>Cost of an asset</h2>", table(head, lines)]


def _mean(values: Sequence[float | None], decimals: int) -> str:
    """Of those that are known; an earlier release measured less."""
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.{decimals}f}" if known else "–"


def _mechanisms(results: Sequence[Result]) -> list[str]:
    own = by_variant(_in_order(results)).values()
    lines = [[_to_assets(some[0]["variant"], _title(some[0])), *mechanism_cells(some)] for some in own]
    return ["<h2>What the parts did</h2>", table(["variant", *(escape(t) for t, _ in MECHANISMS.values())], lines)]


def _assets(prior: str, results: Sequence[Result]) -> list[str]:
    """Every number of every asset, with a link to its run."""
    own, lines, seen = columns(prior, results), [], set[str]()
    for result in _in_order(results):
        anchor = "" if result["variant"] in seen else f'<a id="{result["variant"]}"></a>'
        seen.add(result["variant"])
        link = anchor + _to_run(result, f"{_title(result)}, seed {result['seed']}")
        numbers = ["–" if (v := column.of(result)) is None else f"{v:.{column.decimals}f}" for column in own]
        lines.append([f"{link}<small>{escape(result['prompt'])}</small>", *numbers])
    head = ["asset", *(escape(column.title) for column in own)]
    return ["<h2>Every asset</h2>", f"<details><summary>{len(results)} rows</summary>{table(head, lines)}</details>"]


def _prompt(sweep: Sweep, prior: str, prompt: str, results: Sequence[Result]) -> list[str]:
    """Cards of the first seed, and folded away every seed from eight sides and the region maps."""
    shown = _in_order(results)
    first = [result for result in shown if result["seed"] == min(result["seed"] for result in results)]
    cards = "".join(_card(sweep.folder(result["name"]), result) for result in first)
    strips, maps = [], []
    if prior in TOY_PRIORS:
        truth = jpeg(truth_strip(prompt, sweep.folder(shown[0]["name"])))
        strips.append(_figure(image(truth, f"the truth: {prompt}"), "the truth"))
    for result in shown:
        name = f"{_title(result)}, seed {result['seed']}"
        strips.append(_figure(views_html(sweep.folder(result["name"]), f"{name}: {prompt}"), name))
    for result in first:
        for path in sorted((sweep.folder(result["name"]) / "cograd").glob(f"regions_{result['steps']}.png")):
            caption = f"{_title(result)}, seed {result['seed']}"
            maps.append(_figure(image_file(path, f"region maps of {_title(result)}"), caption))
    body = [f"<h3>{escape(prompt)}</h3>", f'<div class="cards">{cards}</div>']
    body.append(f"<details><summary>Every seed, from eight sides</summary>{''.join(strips)}</details>")
    return body + ([f"<details><summary>Region maps</summary>{''.join(maps)}</details>"] if maps else [])


def _card(run: Path, result: Result) -> str:
    title, truth = _title(result), result["known_truth"]
    video = turntable_html(run, f"{title}: {result['prompt']}")
    fact = f"PSNR {truth['psnr']:.1f} dB" if truth else f"{result['points']} Gaussians"
    link = _to_run(result, f"seed {result['seed']}, {fact}")
    return f'<div class="card">{video}<b>{escape(title)}</b><br><small>{link}</small></div>'


def _figure(content: str, caption: str) -> str:
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def truth_strip(prompt: str, run: Path) -> np.ndarray:
    """The toy world's truth from the report's eight sides and the run's cameras: uint8 [side, 8 side, 3]."""
    cameras, spec = config_of_run(run).cameras, parse_prompt(prompt)
    side = len(read_png(run / FOLDER / VIEWS))
    pose = cameras.default_radius, cameras.default_fovy
    views = [View(cameras.default_polar, 360 / SIDES * k, *pose) for k in range(SIDES)]
    gbuffers = render_gbuffers(spec.class_name, views, side, supersample=2)
    shown = compose(gbuffers, spec.rgb_a(), spec.rgb_b(), (1, 1, 1))  # [8, 3, side, side]
    return np.hstack([(255 * np.moveaxis(view, 0, -1)).round().astype(np.uint8) for view in shown])
