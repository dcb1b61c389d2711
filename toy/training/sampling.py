# SPDX-License-Identifier: Apache-2.0
"""Images straight from the prior, and how often they show what their caption says.

Letters of shapes: K captions, C h w latent, S image size in pixels, M candidate images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guidance.linear_autoencoder import LinearAutoencoder
from guidance.prompts import VIEWS
from toy.captions import COLOURS, DEFAULT_COLOURS, HELD_OUT_COLOUR_PAIRS, caption
from toy.compose import compose
from toy.objects import CLASSES, ONE_SIDED, primitives_of
from toy.raycast import View, render_primitives
from toy.training.data import COLOUR_NAMES, RenderedSet, allowed_pairs
from toy.training.model import LATENT_PX, CaptionTable, PriorNetworks, build_scheduler, to_images
from utils.heat_map import text_lines, text_strip

WHITE = (1.0, 1.0, 1.0)
AZIMUTH_DEG = {"front": 0.0, "side": 90.0, "back": 180.0}
CFG = 3.0
LABEL_PX = 80  # width of the names of the grid's rows


@dataclass(frozen=True)
class Target:
    """What a sample should show: a caption in parts."""

    class_name: str
    colour_a: str
    colour_b: str
    view_word: str

    def text(self) -> str:
        """The caption."""
        return caption(self.class_name, self.colour_a, self.colour_b, self.view_word)


@torch.no_grad()
def sample_images(
    networks: PriorNetworks,
    autoencoder: LinearAutoencoder,
    table: CaptionTable,
    texts: Sequence[str],
    steps: int = 25,
    seed: int = 0,
) -> Tensor:
    """Images [K, 3, S, S] in [0, 1] of K captions by DDIM with classifier-free guidance.

    The last alpha_bar is not 0, so a sample should start from sqrt(alpha_bar) * white + noise; white is latent zero
    here, which leaves the noise alone.
    """
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    both = networks.embed(table.ids([*texts, *[""] * len(texts)]))
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(texts), autoencoder.config.latent_channels, LATENT_PX, LATENT_PX, generator=generator)
    for t in scheduler.timesteps:
        wanted, plain = networks.predict_clean(latents.repeat(2, 1, 1, 1), t.expand(2 * len(texts)), both).chunk(2)
        latents = scheduler.step(plain + CFG * (wanted - plain), t, latents).prev_sample
    return to_images(autoencoder, latents)


def true_image(target: Target, size_px: int = 64) -> np.ndarray:
    """The target rendered by the ray caster from a middling elevation, [3, S, S] in [0, 1]."""
    view = View(75.0, AZIMUTH_DEG[target.view_word], 3.5, 0.44)
    buffer = render_primitives(primitives_of(target.class_name), view, size_px)
    return compose(buffer, COLOURS[target.colour_a], COLOURS[target.colour_b], WHITE)


def other_pair(row: int) -> tuple[str, str]:
    """A trained colour pair for the row of a grid, a different one for each row."""
    pairs = [(a, b) for a, b in allowed_pairs() if {COLOUR_NAMES[a], COLOUR_NAMES[b]}.isdisjoint({"white", "grey"})]
    a, b = pairs[(17 * row + 5) % len(pairs)]
    return COLOUR_NAMES[a], COLOUR_NAMES[b]


def grid_rows() -> list[list[Target]]:
    """Per class: front, side, back in the class's own colours, the same in another pair, front in a held-out pair."""
    rows = []
    for row, class_name in enumerate(CLASSES):
        targets = [Target(class_name, *DEFAULT_COLOURS[class_name], view) for view in VIEWS]
        targets += [Target(class_name, *other_pair(row), view) for view in VIEWS]
        held_out = HELD_OUT_COLOUR_PAIRS[row % len(HELD_OUT_COLOUR_PAIRS)]
        rows.append([*targets, Target(class_name, *held_out, "front")])
    return rows


def sample_grid(
    networks: PriorNetworks, autoencoder: LinearAutoencoder, table: CaptionTable, steps: int = 25
) -> np.ndarray:
    """uint8 [rows, columns, 3]: truth beside sample for every target of grid_rows, with a head line and class names."""
    rows = grid_rows()
    texts = [target.text() for row in rows for target in row]
    samples = sample_images(networks, autoencoder, table, texts, steps=steps)
    strips = []
    for at, row in enumerate(rows):
        chunk = samples[at * len(row) : (at + 1) * len(row)].numpy()
        tiles = [np.concatenate([true_image(target), chunk[k]], axis=2) for k, target in enumerate(row)]
        strip = (np.concatenate(tiles, axis=2).transpose(1, 2, 0) * 255).round().astype(np.uint8)
        strips.append(np.concatenate([text_lines([row[0].class_name], LABEL_PX, len(strip)), strip], axis=1))
    heads = ("own colours, front", "side", "back", "other pair, front", "side", "back", "held-out pair")
    line = [text_strip("", LABEL_PX), *(text_strip(head, 128) for head in heads)]
    return np.concatenate([np.concatenate(line, axis=1), *strips], axis=0)


def retrieval_scores(rendered: RenderedSet, targets: Sequence[Target], samples: Tensor) -> dict[str, float]:
    """Shares of samples [K, 3, S, S] whose nearest rendered image has the requested class, colours A and B, and view.

    Class and view: nearest of 24 views of every class in the requested colours; colours: nearest of the 12 colours in
    that slot at the view found for that class. A view counts as right within 45 degrees of front, side or back, only
    for objects with a front.
    """
    at = np.linspace(0, rendered.views - 1, 24).round().astype(int)
    hits: dict[str, list[bool]] = {"class": [], "colour_a": [], "colour_b": [], "view": []}
    for target, sample in zip(targets, samples.numpy()):
        a, b = COLOURS[target.colour_a], COLOURS[target.colour_b]
        distance = np.stack(
            [_distances(compose(views[at], a, b, WHITE), sample) for views in rendered.buffers]
        )  # [classes, 24]
        own = list(CLASSES).index(target.class_name)
        best = int(distance[own].argmin())
        buffer = rendered.buffers[own, at[best]]
        by_a = _distances(np.stack([compose(buffer, rgb, b, WHITE) for rgb in COLOURS.values()]), sample)
        by_b = _distances(np.stack([compose(buffer, a, rgb, WHITE) for rgb in COLOURS.values()]), sample)
        turn_deg = abs(float(rendered.azimuth_deg[own, at[best]]))
        hits["class"].append(int(distance.min(1).argmin()) == own)
        hits["colour_a"].append(COLOUR_NAMES[int(by_a.argmin())] == target.colour_a)
        hits["colour_b"].append(COLOUR_NAMES[int(by_b.argmin())] == target.colour_b)
        if target.class_name in ONE_SIDED:
            hits["view"].append(abs(turn_deg - AZIMUTH_DEG[target.view_word]) <= 45)
    return {name: float(np.mean(found)) for name, found in hits.items() if found}


def _distances(candidates: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Mean square difference of each candidate [M, 3, S, S] from the sample [3, S, S]."""
    return np.square(candidates - sample).mean(axis=(1, 2, 3))


def draw_targets(count: int, seed: int, held_out_pairs: bool) -> list[Target]:
    """Targets for retrieval_scores: classes and views in turn, colour pairs at random (trained or held-out ones)."""
    rng = np.random.RandomState(seed)
    trained = [(COLOUR_NAMES[a], COLOUR_NAMES[b]) for a, b in allowed_pairs()]
    pairs = HELD_OUT_COLOUR_PAIRS if held_out_pairs else trained
    classes = list(CLASSES)
    return [
        Target(classes[k % len(classes)], *pairs[rng.randint(len(pairs))], VIEWS[(k // len(classes)) % 3])
        for k in range(count)
    ]
