# SPDX-License-Identifier: Apache-2.0
"""Results of an ablation as Markdown: scores of each variant, and paired differences with their standard errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.ablation import film, outcomes
from evaluation.experiments.runs import Result
from evaluation.experiments.tables import MECHANISMS, by_variant, csv_text, mean_and_error, mechanism_cells, paired
from utils.wording import markdown

SCORES = {
    "psnr": 2,
    "ssim": 3,
    "iou": 3,
    "detail": 3,
    "front_share": 2,
    "fronts": 2,
    "clean": 2,
    "psnr_unaligned": 2,
    "detail_unaligned": 3,
}
"""Score -> decimals; toy/scoring.py says what they are. All but the last two are aligned in yaw."""

CONTRASTS = (
    ("schedule", "schedule_only", "plain"),
    ("CoGrad off - plain", "luciddreamer", "plain"),
    ("CoGrad3D - plain", "full", "plain"),
    ("CoGrad3D - CoGrad off", "full", "luciddreamer"),
    ("CoGrad3D - schedule", "full", "schedule_only"),
    ("A (regions)", "full", "wo_region"),
    ("B (timesteps)", "full", "wo_timestep"),
    ("C (fusion)", "full", "wo_fusion"),
    ("C, uniform regions, no local states", "fusion_alone", "schedule_only"),
    ("local states, uniform regions", "wo_region", "fusion_alone"),
    ("all but A - schedule", "wo_region", "schedule_only"),
)
"""(name, variant, the variant that is subtracted)."""

SIGNIFICANT = 3.0  # standard errors from which a difference is set in bold


def score_of(result: Result, name: str) -> float | None:
    """One score of a result; None where the object has no front. clean: 1 or 0."""
    value = result["scores"][name]
    return None if value is None else float(value)


def paired_differences(results: Sequence[Result], variant: str, other: str, score: str) -> list[float]:
    """score(variant) - score(other) of every pair that has both."""
    values = [[score_of(result, score) for result in pair] for pair in paired(results, variant, other)]
    return [first - second for first, second in values if first is not None and second is not None]


@dataclass(frozen=True)
class Block:
    """Runs that are averaged and compared; `name` is part of the names of their sheets."""

    title: str
    name: str
    results: list[Result]


def blocks(results: Sequence[Result]) -> list[Block]:
    """A block for each prior and each strength of the view words; apart by front bias where an object has several."""
    found = []
    for prior, words in sorted({(result["prior"], result["words"]) for result in results}):
        block = [result for result in results if (result["prior"], result["words"]) == (prior, words)]
        title, name = f"{prior} prior, {words} view words", f"{prior}_{words}"
        by_bias: dict[float, list[Result]] = {}
        for result in block:
            by_bias.setdefault(result["front_bias"], []).append(result)
        prompts = [{result["prompt"] for result in own} for own in by_bias.values()]
        if sum(map(len, prompts)) == len(set().union(*prompts)):
            found.append(Block(title, name, block))
        else:
            for bias, own in sorted(by_bias.items()):
                found.append(Block(f"{title}, front bias {bias:g}", f"{name}_{bias:g}", own))
    return found


def summary(results: Sequence[Result]) -> str:
    """Markdown: for each block three tables; prompts are pooled, then apart."""
    parts = []
    for titled in blocks(results):
        block = titled.results
        prompts = sorted({result["prompt"] for result in block})
        seeds = {result["seed"] for result in block}
        parts += [f"## {titled.title}", "", f"{len(prompts)} objects, {len(seeds)} seeds."]
        parts += ["", f"![Unpicked runs: the first seeds of every object and variant](sheet_{titled.name}.png)"]
        parts += ["", "Scores, mean and standard deviation over objects and seeds:", "", _score_table(block)]
        parts += ["", *outcomes.tables(block, CONTRASTS)]
        parts += ["Paired differences, mean +- standard error; bold from 3 standard errors on:", ""]
        parts += [_contrast_table(block), "", "What the parts did, means over the runs:", "", _mechanism_table(block)]
        parts += ["", *film.table(block)]
        for prompt in prompts if len(prompts) > 1 else ():
            alone = [result for result in block if result["prompt"] == prompt]
            parts += ["", f"Paired differences, {prompt}:", "", _contrast_table(alone)]
        parts.append("")
    return "\n".join(parts)


def runs_csv(results: Sequence[Result]) -> str:
    """A line a run: its cell, its scores and what the parts did, from which every table here can be made again."""
    cell = ("prior", "words", "front_bias", "prompt", "variant", "seed", "denoiser_calls", "cpu_s")
    lines: list[list[object]] = [[*cell, *SCORES, "yaw_deg", *MECHANISMS]]
    for result in results:
        numbers = [score_of(result, name) for name in (*SCORES, "yaw_deg")]
        numbers += [result["mechanism"].get(name) for name in MECHANISMS]
        texts = [None if x is None else f"{x:.4g}" for x in numbers]
        lines.append([*(result.get(name) for name in cell), *texts])
    return csv_text(lines)


def _score_table(results: Sequence[Result]) -> str:
    rows = []
    for variant, own in by_variant(results).items():
        calls = sorted({result["denoiser_calls"] for result in own})
        calls_text = f"{calls[0]}" if len(calls) == 1 else f"{calls[0]}..{calls[-1]}"
        rows.append([variant, str(len(own)), calls_text, *(_spread(own, *score) for score in SCORES.items())])
    return markdown(["variant", "runs", "denoiser calls", *SCORES], rows)


def _spread(results: Sequence[Result], score: str, decimals: int) -> str:
    values = [value for result in results if (value := score_of(result, score)) is not None]
    if not values:
        return "-"
    deviation = f" +- {np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{decimals}f}{deviation}"


def _contrast_table(results: Sequence[Result]) -> str:
    rows = []
    for name, variant, other in CONTRASTS:
        pairs = len(paired_differences(results, variant, other, "psnr"))
        if pairs:
            cells = [_difference(results, variant, other, *score) for score in SCORES.items()]
            rows.append([name, f"{variant} - {other}", str(pairs), *cells])
    return markdown(["contrast", "", "pairs", *SCORES], rows)


def _difference(results: Sequence[Result], variant: str, other: str, score: str, decimals: int) -> str:
    differences = paired_differences(results, variant, other, score)
    mean, error = mean_and_error(differences)
    if not differences:
        return "-"
    text = f"{mean:+.{decimals}f}" + ("" if math.isnan(error) else f" +- {error:.{decimals}f}")
    return f"**{text}**" if error > 0 and abs(mean) >= SIGNIFICANT * error else text


def _mechanism_table(results: Sequence[Result]) -> str:
    rows = [[variant, *mechanism_cells(own)] for variant, own in by_variant(results).items()]
    return markdown(["variant", *MECHANISMS], rows)
