# SPDX-License-Identifier: Apache-2.0
"""What the form holds, as a text that the visitor's browser keeps; and as the settings of an earlier run."""

import json
import random
import warnings
from dataclasses import replace
from pathlib import Path

from apps.web.fields import MAX_CHARACTERS, Request, fields
from apps.web.presets import NORMAL, QUALITIES, Preset, preset_of, presets
from arguments import Config
from arguments.load import load_config

UNKNOWN_WORDS = "GuidanceParams.allow_unknown_words"
NOT_TAKEN = {UNKNOWN_WORDS, "GuidanceParams.vis_interval"}
"""Of a run's settings: a confirmation that is given for one prompt, and what the page chooses by the steps."""
MOST_SEEDS = 2**32


def first_draft() -> Request:
    """What the form shows to whoever has typed nothing yet."""
    preset = next(iter(presets().values()))
    return Request(preset, preset.config.guidance.text, preset.config.guidance.negative, str(preset.config.seed))


def to_text(draft: Request) -> str:
    """For `from_text`."""
    texts = {name: getattr(draft, name) for name in ("prompt", "negative", "seed")}
    return json.dumps(
        {"preset": draft.preset.name, "quality": draft.preset.quality, **texts, "changed": dict(draft.changed)}
    )


def from_text(text: object) -> Request:
    """A draft, of which what is not understood is as in `first_draft`: a browser may keep one of an earlier version."""
    first = first_draft()
    try:
        tree = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        return first
    name, quality = str(tree.get("preset")), str(tree.get("quality"))
    preset = preset_of(name if name in presets() else first.preset.name, quality if quality in QUALITIES else NORMAL)
    changed = tree.get("changed")
    kept = changed.items() if isinstance(changed, dict) else ()
    prompt, negative, seed = (_short(tree.get(key), getattr(first, key)) for key in ("prompt", "negative", "seed"))
    texts = {label: _short(value, "") for label, value in kept if label in fields()}
    return Request(preset, prompt, negative, seed, texts)


def of_run(folder: Path) -> Request:
    """The settings of a run: the preset that is nearest, and what differs from it. Raises ConfigError and OSError."""
    config = config_of(folder)
    preset = min(all_presets(), key=lambda preset: len(_changed(config, preset)))
    texts = config.guidance.text, config.guidance.negative, str(config.seed)
    changed = {label: text for label, text in _changed(config, preset).items() if label not in NOT_TAKEN}
    return Request(preset, *texts, changed)


def with_another_seed(draft: Request) -> Request:
    """The same, with a seed drawn at random."""
    return replace(draft, seed=str(random.randrange(MOST_SEEDS)))


def config_of(folder: Path) -> Config:
    """A run's settings. Raises ConfigError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_config(["--opt", str(folder / "config.yaml")])


def all_presets() -> list[Preset]:
    """Every preset in every quality, the normal ones first."""
    qualities = sorted(QUALITIES, key=lambda quality: quality != NORMAL)
    return [preset_of(name, quality) for quality in qualities for name in presets()]


def _changed(config: Config, preset: Preset) -> dict[str, str]:
    """Label -> text of the settings that differ from a preset's."""
    texts = {label: (field.text(config), field.text(preset.config)) for label, field in fields().items()}
    return {label: own for label, (own, other) in texts.items() if own != other}


def _short(value: object, default: str) -> str:
    return value[:MAX_CHARACTERS].encode("utf-8", "replace").decode() if isinstance(value, str) else default
