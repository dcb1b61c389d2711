# SPDX-License-Identifier: Apache-2.0
"""The report of a reproduction: one HTML file with everything in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from evaluation import METRICS
from evaluation.janus import Rate
from evaluation.pages import escape, image, image_file, jpeg, page, table, video_file
from evaluation.reproduction.measure import PICTURES, STRIP, TURNTABLE, VIEWS
from evaluation.reproduction.plan import METHODS
from evaluation.reproduction.tables import TRUTH, Column, columns
from evaluation.run_folder import config_of_run
from evaluation.sweep.runs import Result, Sweep
from toy.compose import compose
from toy.raycast import View, render_gbuffers
from toy.reading import parse_prompt

MECHANISMS = {
    "loss_explained_by_t": "R² of log loss on t",
    "starved_share": "regions starved",
    "largest_probability": "largest P",
    "clipped_share": "u clipped",
    "auxiliaries": "auxiliaries a view",
    "cosine": "cosine with g_main",
    "norm_gain": "|g_fused| / |g_main|",
}
COSTS = {
    "train_s": ("seconds", 1),
    "cpu_s": ("of a core", 1),
    "steps": ("steps", 0),
    "denoiser_calls": ("denoiser calls", 0),
    "points": ("Gaussians", 0),
    "peak_gb": ("peak GB", 2),
    "skipped_steps": ("skipped steps", 1),
}
"""Fact of a result -> title, decimals."""
PRIORS = {
    "sd": "Stable Diffusion, the paper's setting.",
    "toy": "The embedded ideal prior: small objects whose truth is known. The paper's numbers stand beside as they are "
    "printed; ours are about another world and cannot be compared with them. What can be: one method with another.",
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
    """The whole document. `rows`: tables.summary of `results`; `missing`: metric -> why."""
    prompts = list(dict.fromkeys(result["prompt"] for result in results))
    seeds = sorted({result["seed"] for result in results})
    counts = ((len(rows), "method"), (len(prompts), "prompt"), (len(seeds), "seed"))
    told = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts)
    intro = f"{len(results)} assets: {told}. {PRIORS[prior]}"
    body = [
        "<h1>CoGrad3D: tables 1 and 2, ours beside the paper's</h1>",
        f"<p>{escape(intro)}</p>",
        f'<p class="quiet">{escape(_made(provenance))}</p>',
        *_uneven(rows),
        *_numbers(rows, columns(prior), missing),
        *_janus(rows, rates),
        *_failures(failures),
        *_cost(results),
        *_mechanisms(results),
        "<h2>Every prompt</h2>",
        "<p class=quiet>Turntables of the first seed; they turn under the pointer, or at a touch.</p>",
    ]
    for prompt in prompts:
        body += _prompt(sweep, prior, prompt, [result for result in results if result["prompt"] == prompt])
    body += ["<h2>Versions and settings</h2>", f"<pre>{escape(json.dumps(provenance, indent=1))}</pre>"]
    return page("CoGrad3D: a reproduction", body)


def _made(provenance: Mapping[str, Any]) -> str:
    return f"{provenance['written_utc']}, revision {provenance['revision']}, {provenance['machine']}"


def _uneven(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where methods do not have equally many assets."""
    if len({row["assets"] for row in rows}) == 1:
        return []
    return ["<p><b>Some assets are missing</b>: the methods are averaged over different prompts and seeds.</p>"]


def _numbers(rows: Sequence[Mapping[str, Any]], own: Sequence[Column], missing: Mapping[str, str]) -> list[str]:
    truth = [column for column in own if column.key in TRUTH]
    body = []
    if truth:
        body += ["<h2>Against the known truth</h2>", _table(rows, truth), f"<p class=quiet>{escape(TRUTH_LEGEND)}</p>"]
    papers = _table(rows, [column for column in own if column.key not in TRUTH])
    body += ["<h2>Tables 1 and 2</h2>", papers, f"<p class=quiet>{escape(LEGEND)}</p>"]
    if missing:
        told = (f"<b>{escape(METRICS[name].title)} is missing</b>: {escape(why)}" for name, why in missing.items())
        body.append(f"<ul>{''.join(f'<li>{line}</li>' for line in told)}</ul>")
    return body


LEGEND = (
    "Upper number: ours, mean over prompts and seeds; ± is the deviation between seeds of the mean over prompts. Lower "
    "number: the paper's. A dash: not measured. std: over the views of an asset."
)
TRUTH_LEGEND = (
    "24 views of the same object, ray cast. detail, face: correlation of fine structure with the truth, and with the "
    "true front; fronts: of eight sides, those that show the front (right: 1). Mean ± deviation between seeds."
)


def _table(rows: Sequence[Mapping[str, Any]], own: Sequence[Column]) -> str:
    header = ["method", "assets", *(escape(column.title) for column in own)]
    lines = []
    for row in rows:
        title = f"{escape(row['title'])}<small>{escape(row['table'])}</small>"
        lines.append([title, str(row["assets"]), *(_cell(row, column) for column in own)])
    return table(header, lines)


def _cell(row: Mapping[str, Any], column: Column) -> str:
    ours, deviation, paper = row[column.key], row[f"{column.key}_seed_sd"], row[f"{column.key}_paper"]
    told = "–" if ours is None else f"{ours:.{column.decimals}f}"
    told += "" if deviation is None else f" ± {deviation:.{column.decimals}f}"
    return told + ("" if paper is None else f"<small>paper {paper:.{column.decimals}f}</small>")


def _janus(rows: Sequence[Mapping[str, Any]], rates: Mapping[str, Rate]) -> list[str]:
    lines = []
    for row in rows:
        rate = rates.get(row["method"])
        paper = "–" if row["janus_paper"] is None else f"{row['janus_paper']:.4f}"
        ours = (
            ["not labelled", ""]
            if rate is None
            else [f"{rate.value:.4f} ({rate.janus} of {rate.counted})", "{:.3f} .. {:.3f}".format(*rate.interval)]
        )
        lines.append([escape(row["title"]), *ours, paper])
    how = "Counted by people on janus/sheet.html, which hides the methods; what it saves goes to janus/labels.json."
    head = ["method", "Janus rate", "95 % interval", "paper"]
    return ["<h2>Janus rate</h2>", table(head, lines), f'<p class="quiet">{escape(how)}</p>']


def _failures(failures: Sequence[str]) -> list[str]:
    if not failures:
        return []
    items = "".join(f"<li>{escape(failure)}</li>" for failure in failures)
    return ["<h2>Failed twice</h2>", f"<ul>{items}</ul>", "<p>The same command tries them once more.</p>"]


def _by_method(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    names = [name for name in METHODS if any(result["method"] == name for result in results)]
    by_name = [[result for result in results if result["method"] == name] for name in names]
    return [(_title(mine[0]), mine) for mine in by_name]


def _title(result: Result) -> str:
    return METHODS[result["method"]].title_on(result["prior"])


def _cost(results: Sequence[Result]) -> list[str]:
    phases = list(dict.fromkeys(phase for result in results for phase in result["phase_ms"]))
    lines = []
    for title, mine in _by_method(results):
        facts = [f"{np.mean([r[name] for r in mine]):.{decimals}f}" for name, (_, decimals) in COSTS.items()]
        by_phase = [f"{np.mean([r['phase_ms'].get(phase, 0.0) for r in mine]):.1f}" for phase in phases]
        lines.append([escape(title), *facts, *by_phase])
    head = ["method", *(title for title, _ in COSTS.values()), *(f"{escape(phase)}, ms a step" for phase in phases)]
    return ["<h2>Cost of an asset</h2>", table(head, lines)]


def _mechanisms(results: Sequence[Result]) -> list[str]:
    lines = []
    for title, mine in _by_method(results):
        found = [[r["mechanism"][name] for r in mine if name in r["mechanism"]] for name in MECHANISMS]
        lines.append([escape(title), *(f"{np.mean(values):.3f}" if values else "–" for values in found)])
    return ["<h2>What the parts did</h2>", table(["method", *map(escape, MECHANISMS.values())], lines)]


def _prompt(sweep: Sweep, prior: str, prompt: str, results: Sequence[Result]) -> list[str]:
    first = min(result["seed"] for result in results)
    shown = sorted(results, key=lambda result: (list(METHODS).index(result["method"]), result["seed"]))
    cards = [_card(sweep, result) for result in shown if result["seed"] == first]
    body = [f"<h3>{escape(prompt)}</h3>", f'<div class="cards">{"".join(cards)}</div>']
    strips = [_figure(_picture(sweep, r, VIEWS), f"{_title(r)}, seed {r['seed']}") for r in shown]
    if prior == "toy":
        truth = jpeg(truth_strip(prompt, sweep.folder(name_of(results[0]))))
        strips.insert(0, _figure(image(truth, f"the truth: {prompt}"), "the truth"))
    body.append(f"<details><summary>Every seed, from eight sides</summary>{''.join(strips)}</details>")
    maps = [
        _figure(
            image_file(path, f"region maps of {_title(r)}"),
            f"{_title(r)}, seed {first}",
        )
        for r in shown
        if r["seed"] == first
        for path in sorted((sweep.folder(name_of(r)) / "cograd").glob(f"regions_{r['steps']}.png"))
    ]
    if maps:
        body.append(f"<details><summary>Region maps</summary>{''.join(maps)}</details>")
    return body


def name_of(result: Result) -> str:
    """The asset's name, as its folder is called."""
    return result["name"]


def _card(sweep: Sweep, result: Result) -> str:
    folder = sweep.folder(name_of(result)) / PICTURES
    strip = cv2.cvtColor(cv2.imread(str(folder / VIEWS)), cv2.COLOR_BGR2RGB)
    title = _title(result)
    video = video_file(folder / TURNTABLE, jpeg(strip[:, : strip.shape[1] // STRIP]), f"{title}: {result['prompt']}")
    truth = result["known_truth"]
    told = f"PSNR {truth['psnr']:.1f} dB" if truth else f"{result['points']} Gaussians"
    return f'<div class="card">{video}<b>{escape(title)}</b><br><small>seed {result["seed"]}, {told}</small></div>'


def _picture(sweep: Sweep, result: Result, file: str) -> str:
    path = sweep.folder(name_of(result)) / PICTURES / file
    return image_file(path, f"{_title(result)}, seed {result['seed']}: {result['prompt']}")


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def truth_strip(prompt: str, run: Path) -> np.ndarray:
    """The toy world's truth from the report's eight sides and the run's cameras: uint8 [side, 8 side, 3]."""
    config, spec = config_of_run(run), parse_prompt(prompt)
    side = cv2.imread(str(run / PICTURES / VIEWS)).shape[0]
    cameras = config.cameras
    pose = cameras.default_polar, cameras.default_radius, cameras.default_fovy
    views = [View(pose[0], 360 / STRIP * k, pose[1], pose[2]) for k in range(STRIP)]
    gbuffers = render_gbuffers(spec.class_name, views, side, supersample=2)
    shown = compose(gbuffers, spec.rgb_a(), spec.rgb_b(), (1, 1, 1))  # [8, 3, side, side]
    return np.hstack([(255 * np.moveaxis(view, 0, -1)).round().astype(np.uint8) for view in shown])
