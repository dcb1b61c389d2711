# SPDX-License-Identifier: Apache-2.0
"""The configs that fit any prompt, in the order in which the page offers them, each in three qualities."""

import dataclasses
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from arguments import Config
from arguments.load import load_config
from toy.captions import COLOURS
from toy.objects import CLASSES, PARTS
from toy.prompt_words import is_toy_world, read_words_of, vocabulary_of
from toy.reading import Reading

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "quickstart": "Quickstart: toy world, ideal prior, CoGrad",
    "quickstart_trained": "Toy world, trained prior, CoGrad",
    "toy": "Toy world, ideal prior, baseline",
    "toy_trained": "Toy world, trained prior, baseline",
    "prompt": "Any prompt: Stable Diffusion, CoGrad (the paper)",
    "schedule_only": "Any prompt: Stable Diffusion, timestep schedule alone",
    "luciddreamer": "Any prompt: Stable Diffusion, LucidDreamer's baseline",
    "hamburger": "Any prompt: LucidDreamer's hamburger settings",
}
"""Name of a file in configs/ -> its title. Upstream's other configs belong to one prompt and to Point-E."""

PRIORS = {
    "ideal": "The ideal prior is exact: it computes what to draw from rendered images of the object.",
    "SD": "The trained prior is a small network that has learned from such images, in the way of Stable Diffusion.",
}
"""`GuidanceParams.guidance` of a toy world preset -> its prior, in a sentence."""

STEPS = "OptimizationParams.iterations"
WIDTH, HEIGHT = "GenerateCamParams.image_w", "GenerateCamParams.image_h"


@dataclass(frozen=True)
class Quality:
    """Title; steps, as a multiple of the preset's, unless FILES has the preset in this quality."""

    title: str
    steps: float


NORMAL = "normal"
QUALITIES = {"draft": Quality("Draft", 1 / 3), NORMAL: Quality("Normal", 1.0), "fine": Quality("Fine", 1.5)}
"""By name, from quick to slow."""
FILES = {("quickstart", "fine"): "fine"}
"""(preset, quality) -> name of the file in configs/ that is this preset in this quality."""
ROUND_STEPS = 50

TOY_EXAMPLES = {
    "robot": "a cyan robot with orange arms",
    "mushroom": "a red mushroom with white stem",
    "owl": "a purple owl with green belly",
    "house": "a yellow house with red roof",
    "snowman": "a white snowman with red hat",
    "mug": "a yellow mug with blue handle",
    "rocket": "a white rocket with red fins",
}
ANY_EXAMPLES = {
    "salad dog": "a DSLR photo of a dog made out of salad",
    "helmet": "a DSLR photo of a football helmet",
    "hamburger": "a delicious hamburger",
    "shell chair": "a wooden chair carved like a seashell",
}
"""Word on a button -> prompt."""


@dataclass(frozen=True)
class Preset:
    """A config file in one of QUALITIES, and its resolved settings."""

    name: str
    title: str
    config: Config
    quality: str = NORMAL

    @property
    def path(self) -> Path:
        """The YAML file."""
        return ROOT / "configs" / f"{FILES.get((self.name, self.quality), self.name)}.yaml"

    @property
    def words(self) -> list[str]:
        """The command line that gives the settings; more assignments of --set may follow."""
        own, times = presets()[self.name].config, QUALITIES[self.quality].steps
        steps = round(own.optimization.iterations * times / ROUND_STEPS) * ROUND_STEPS
        is_file = self.quality == NORMAL or (self.name, self.quality) in FILES
        return ["--opt", str(self.path), "--set", *([] if is_file else [f"{STEPS}={steps}"])]

    @property
    def is_toy(self) -> bool:
        """Whether the prior is one of the two embedded ones."""
        guidance = self.config.guidance
        return guidance.guidance == "ideal" or is_toy_world(vocabulary_of(guidance))

    @property
    def needs(self) -> str:
        """What its prior is, where that is an embedded one, and what it needs."""
        if self.is_toy:
            return f"{PRIORS[self.config.guidance.guidance]} Runs on any CPU in minutes."
        return f"Needs a GPU and the weights of {self.config.guidance.model_key} from the hub."

    @property
    def vocabulary(self) -> dict[str, str]:
        """The words that an embedded prior knows, by what they are; empty for a prior that takes any text."""
        if not self.is_toy:
            return {}
        parts = ", ".join(dict.fromkeys(PARTS.values()))
        return {"Objects": ", ".join(CLASSES), "Colours": ", ".join(COLOURS), "Parts": parts}

    @property
    def warning(self) -> str:
        """Why it does not fit this machine; empty where it does."""
        if self.is_toy or torch.cuda.is_available():
            return ""
        return "This machine has no GPU that torch can use: a step would take minutes. Choose a toy world preset here."

    @property
    def examples(self) -> dict[str, str]:
        """Prompts that it understands, by the word on their buttons."""
        return TOY_EXAMPLES if self.is_toy else ANY_EXAMPLES

    def reading(self, prompt: str) -> Reading | None:
        """What an embedded prior understands of a prompt; None for an empty prompt and other priors."""
        return read_words_of(dataclasses.replace(self.config.guidance, text=prompt))

    def hint(self, prompt: str) -> str:
        """What an embedded prior will not understand of a prompt; empty where it is all clear, or for other priors."""
        reading = self.reading(prompt)
        if reading is None or not reading.problem:
            return "" if reading is None else reading.notice
        return f"The prompt {reading.problem}."


@cache
def presets() -> dict[str, Preset]:
    """Every preset by name in normal quality, the embedded priors' first."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, title in TITLES.items():
            found[name] = Preset(name, title, load_config(["--opt", str(ROOT / "configs" / f"{name}.yaml")]))
    return found


@cache
def preset_of(name: str, quality: str) -> Preset:
    """A preset in a quality. Raises KeyError for an unknown one."""
    preset = dataclasses.replace(presets()[name], quality=quality)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return preset if quality == NORMAL else dataclasses.replace(preset, config=load_config(preset.words))
