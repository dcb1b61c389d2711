# SPDX-License-Identifier: Apache-2.0
"""Settings as a form: the fields that a page can show, all from the one declaration in arguments/, and back.

A label is "Group.key", or "key" at the top level, as in the messages of arguments.load.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from apps.web.presets import HEIGHT, STEPS, WIDTH, Preset
from arguments import GROUPS, Config
from arguments.coerce import expectation, is_tuple
from arguments.declare import KeySpec, keys_of
from arguments.load import COMMAND_LINE, ConfigError, load_config
from guidance.image_size import size_problems
from guidance.law_checks import law_problems
from guidance.timestep_checks import timestep_problems

PROMPT, NEGATIVE, SEED = "GuidanceParams.text", "GuidanceParams.negative", "seed"
MAX_CHARACTERS = 2000
"""Of one field. A run's config.yaml has a limit too, and no tokenizer reads so far."""
PREVIEWS = 60
"""Panels in train_process/ over a run, where the settings ask for fewer."""

OWNED = {
    PROMPT, NEGATIVE, SEED, "ModelParams.workspace", "ModelParams.model_path", "quiet", "start_checkpoint",
    "gui", "ip", "port", "viewer", "viewer_host", "viewer_port", "viewer_interval",
}  # fmt: skip
"""Labels with a place of their own on the page, or that it sets itself."""
PLAIN = {
    PROMPT: "Prompt", NEGATIVE: "Negative prompt", SEED: "Seed", STEPS: "Steps", WIDTH: "Size", HEIGHT: "Size"
}  # fmt: skip
"""Label -> its name on the page, of the inputs above the advanced settings."""


@dataclass(frozen=True)
class Field:
    """One setting that the page offers."""

    group: str
    name: str
    kind: Any
    spec: KeySpec

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.group}.{self.name}" if self.group else self.name

    @property
    def takes(self) -> str:
        """Type, bounds and unit in words."""
        return expectation(self.kind, self.spec)

    @property
    def options(self) -> list[str]:
        """The texts to choose from; empty for free text."""
        return ["true", "false"] if self.kind is bool else list(self.spec.choices)

    def text(self, config: Config) -> str:
        """The value that a config has, as the command line would spell it."""
        value = getattr(getattr(config, GROUPS[self.group][0]) if self.group else config, self.name)
        if value is None:
            return "none"
        if is_tuple(self.kind):
            return " ".join(map(_number, value))
        return str(value).lower() if isinstance(value, bool) else _number(value)

    def matches(self, words: Sequence[str]) -> bool:
        """Whether each word of a search is in its label or its help."""
        text = f"{self.label} {self.spec.help} {self.spec.unit}".lower()
        return all(word.lower() in text for word in words)


def _number(value: object) -> str:
    """A number as short as it can be without becoming another one; anything else as it is."""
    return format(value, "g") if isinstance(value, float) and float(format(value, "g")) == value else str(value)


@cache
def fields() -> dict[str, Field]:
    """Every field that the page offers, by label, in order of declaration."""
    listed = [(group, declared) for group, (_, declared) in GROUPS.items()] + [("", Config)]
    found = {}
    for group, declared in listed:
        for name, (kind, spec, _) in keys_of(declared).items():
            one = Field(group, name, kind, spec)
            if not (spec.unread or spec.transient or (spec.device and group)) and one.label not in OWNED:
                found[one.label] = one
    return found


def title_of(group: str) -> str:
    """What a group is about, in the first line of its declaration."""
    return (GROUPS[group][1].__doc__ or "").splitlines()[0] if group else "The run: device, checkpoints, outputs."


@dataclass(frozen=True)
class Request:
    """A run that a visitor requests. `changed`: label -> text, of the advanced fields that differ from the preset."""

    preset: Preset
    prompt: str
    negative: str = ""
    seed: str = "0"
    changed: Mapping[str, str] = field(default_factory=dict)

    def resolve(self) -> Config:
        """The settings, checked as train.py checks them, but for the words of the prompt, which the page asks about.

        Raises ConfigError with every problem, before anything starts.
        """
        settings = {PROMPT: self.prompt, NEGATIVE: self.negative, SEED: self.seed.strip(), **self.changed}
        problems = [
            f"{COMMAND_LINE}: {label}: expected a setting that the page offers"
            for label in sorted(self.changed.keys() - fields().keys())
        ] + [
            f"{COMMAND_LINE}: {label} has {len(text)} characters: expected at most {MAX_CHARACTERS}"
            for label, text in settings.items()
            if len(text) > MAX_CHARACTERS
        ]
        if problems:
            raise ConfigError(problems)
        words = [*self.preset.words, *(f"{label}={text}" for label, text in settings.items())]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = load_config(words, size_problems, timestep_problems, law_problems)
        return config if "GuidanceParams.vis_interval" in self.changed else with_previews(config)


def with_previews(config: Config) -> Config:
    """The same run, with a panel to look at at least PREVIEWS times."""
    interval = min(config.guidance.vis_interval, max(1, config.optimization.iterations // PREVIEWS))
    return dataclasses.replace(config, guidance=dataclasses.replace(config.guidance, vis_interval=interval))
