# SPDX-License-Identifier: Apache-2.0
"""Training images of the toy world: G-buffers are rendered once, colours, background and caption are drawn per batch.

Letters of shapes: V stored views of a class, C classes, B images of a batch, S image size in pixels.
"""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import toy
from guidance.prompts import nearest_views
from toy.captions import COLOURS, HELD_OUT_COLOUR_PAIRS, SYNONYMS, caption
from toy.compose import compose
from toy.objects import CLASSES, ONE_SIDED
from toy.raycast import View, render_gbuffers
from toy.rendered_set import PoseRanges
from utils.general_utils import atomic_path

COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
LEAD_INS: tuple[str, ...] = ("a photo of", "a dslr photo of", "an image of", "a toy of")
POSES = PoseRanges(radius=(3.4, 3.6), theta_deg=(50.0, 105.0), fov_rad=(0.42, 0.46))
SIZE_PX = 64


@dataclass(frozen=True)
class RenderedSet:
    """G-buffers of all classes, uint8 [C, V, 6, S, S], and the azimuth of each, [C, V] in -180..180."""

    buffers: np.ndarray
    azimuth_deg: np.ndarray

    @property
    def views(self) -> int:
        """Stored views of a class."""
        return self.buffers.shape[1]


@dataclass(frozen=True)
class Picks:
    """What a batch shows, all indices [B]: class, view, colours A and B, and the background rgb [B, 3]."""

    class_index: Tensor
    view_index: Tensor
    colour_a: Tensor
    colour_b: Tensor
    background: Tensor
    flip: Tensor


@dataclass(frozen=True)
class Batch:
    """Images [B, 3, S, S] in [0, 1] and their captions.

    Each image is conditioned on (1 - share) * embedding(near) + share * embedding(far): with share 0 the plain
    caption, otherwise the blend of two view captions that guidance.prompts makes for that azimuth.
    """

    images: Tensor
    near: tuple[str, ...]
    far: tuple[str, ...]
    share: Tensor  # [B]


def draw_views(count: int, rng: np.random.RandomState) -> list[View]:
    """`count` camera poses, azimuth stratified over the turn, the rest uniform in POSES."""
    phi_deg = -180 + 360 * (np.arange(count) + rng.rand(count)) / count
    columns = [phi_deg, *(rng.uniform(*span, count) for span in (POSES.theta_deg, POSES.radius, POSES.fov_rad))]
    return [View(float(theta), float(phi), float(radius), float(fov)) for phi, theta, radius, fov in zip(*columns)]


def render_set(views: int, seed: int, workers: int = 2) -> RenderedSet:
    """Renders `views` views of every class; some 8 ms each on one core at 64 pixels."""
    buffers, azimuths = [], []
    for index, class_name in enumerate(CLASSES):
        poses = draw_views(views, np.random.RandomState(seed + index))
        buffers.append(render_gbuffers(class_name, poses, SIZE_PX, workers=workers))
        azimuths.append([pose.phi_deg for pose in poses])
    return RenderedSet(np.stack(buffers), np.array(azimuths, np.float32))


def load_or_render(cache: Path | None, views: int, seed: int, workers: int = 2) -> RenderedSet:
    """The rendered set from the .npz `cache` if it fits, otherwise rendered (and written there, if a path is given).

    Raises ValueError for a file that no call of this wrote whole.
    """
    facts = {"views": views, "seed": seed, "sources": sources_digest()}
    if cache is not None and cache.exists():
        stored = _read_cache(cache)
        if facts == {name: stored[name].item() for name in facts if name in stored}:
            return RenderedSet(stored["buffers"], stored["azimuth_deg"])
        print(f"{cache} is of other views, another seed or other sources of the toy world; rendering again", flush=True)
    rendered = render_set(views, seed, workers=workers)
    if cache is not None:
        arrays = {"buffers": rendered.buffers, "azimuth_deg": rendered.azimuth_deg}
        with atomic_path(cache) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **{name: np.array(fact) for name, fact in facts.items()})
    return rendered


def sources_digest() -> str:
    """Changes when a source that the views depend on does."""
    sources = [*sorted(Path(toy.__file__).parent.glob("*.py")), Path(__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def _read_cache(cache: Path) -> dict[str, np.ndarray]:
    try:
        with cache.open("rb") as file, np.load(file) as stored:
            arrays = dict(stored)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as problem:
        raise ValueError(f"--data-cache {cache} cannot be read ({problem}); {CACHE_HELP}") from problem
    if not {"buffers", "azimuth_deg", "seed"} <= arrays.keys():
        raise ValueError(f"--data-cache {cache} is not a set of views; {CACHE_HELP}")
    return arrays


CACHE_HELP = "expected a file that --data-cache wrote; delete it to render the views again, or give another path"


def allowed_pairs() -> list[tuple[int, int]]:
    """Colour pairs (index A, index B) that may be trained on: distinct, and not held out."""
    held_out = {(COLOUR_NAMES.index(a), COLOUR_NAMES.index(b)) for a, b in HELD_OUT_COLOUR_PAIRS}
    count = len(COLOUR_NAMES)
    return [(a, b) for a in range(count) for b in range(count) if a != b and (a, b) not in held_out]


def draw_picks(rendered: RenderedSet, count: int, generator: torch.Generator) -> Picks:
    """Draws what `count` images show: white background for 85 %, black for 5 %, any colour for 10 %.

    Objects with a front on one side only come twice as often: they have more to learn.
    """
    weights = torch.tensor([2.0 if name in ONE_SIDED else 1.0 for name in CLASSES])
    pairs = torch.tensor(allowed_pairs())
    pair = pairs[torch.randint(len(pairs), (count,), generator=generator)]
    kind = torch.rand(count, generator=generator)
    background = torch.ones(count, 3)
    background[kind > 0.85] = 0
    random_ground = torch.rand(count, 3, generator=generator)
    background[kind > 0.90] = random_ground[kind > 0.90]
    return Picks(
        torch.multinomial(weights, count, replacement=True, generator=generator),
        torch.randint(rendered.views, (count,), generator=generator),
        pair[:, 0],
        pair[:, 1],
        background,
        torch.rand(count, generator=generator) < 0.5,
    )


def compose_batch(rendered: RenderedSet, picks: Picks) -> Tensor:
    """Images [B, 3, S, S] in [0, 1], with one colour pair per image."""
    planes = rendered.buffers[picks.class_index.numpy(), picks.view_index.numpy()]  # [B, 6, S, S]
    a, b = (np.array(list(COLOURS.values()))[picked.numpy()] for picked in (picks.colour_a, picks.colour_b))
    images = torch.from_numpy(compose(planes, a, b, picks.background.numpy()))
    return torch.where(picks.flip[:, None, None, None], images.flip(-1), images)


def view_blend(azimuth_deg: float) -> tuple[str, str, float]:
    """(near, far, share of far): how guidance blends the view captions at this azimuth."""
    return nearest_views(abs((azimuth_deg + 180) % 360 - 180) / 90)


def draw_captions(rendered: RenderedSet, picks: Picks, generator: torch.Generator):
    """(near, far, share): two captions per image and the share of the second, see Batch.

    Half of the images get the blend that guidance uses, 40 % one view word drawn in proportion to that blend, 10 %
    none; 12 % of the captions are dropped (two thirds empty, one third gibberish, so that an unknown negative prompt
    means nothing); some get a lead-in ("a photo of"), a synonym, or leave the second colour out.
    """
    near, far = [], []
    share = torch.zeros(len(picks.flip))
    draws = torch.rand(len(picks.flip), 6, generator=generator)
    for row, draw in enumerate(draws.tolist()):
        first, second, part = view_blend(float(rendered.azimuth_deg[picks.class_index[row], picks.view_index[row]]))
        if draw[0] < 0.5:
            words: tuple[str | None, str | None] = (first, second)
            share[row] = part
        else:
            word = None if draw[0] > 0.9 else (second if draw[1] < part else first)
            words = (word, word)
        near.append(_wording(picks, row, words[0], draw))
        far.append(_wording(picks, row, words[1], draw))
    return tuple(near), tuple(far), share


def _wording(picks: Picks, row: int, view_word: str | None, draw: list[float]) -> str:
    if draw[2] < 0.08:
        return ""
    if draw[2] < 0.12:
        return _gibberish(int(draw[3] * 2**31))
    class_name = list(CLASSES)[picks.class_index[row]]
    colour_a, colour_b = (COLOUR_NAMES[int(index[row])] for index in (picks.colour_a, picks.colour_b))
    text = caption(class_name, colour_a, colour_b if draw[3] > 0.12 else None, view_word)
    if draw[4] < 0.15:
        text = LEAD_INS[int(draw[4] / 0.15 * len(LEAD_INS))] + " " + text
    if draw[5] < 0.10:
        others = [word for word, meaning in SYNONYMS.items() if meaning == class_name]
        if others:
            text = text.replace(f" {class_name}", f" {others[int(draw[5] / 0.10 * len(others))]}", 1)
    return text


def _gibberish(seed: int) -> str:
    rng = np.random.RandomState(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join(
        "".join(letters[i] for i in rng.randint(26, size=rng.randint(2, 6))) for _ in range(rng.randint(1, 4))
    )


def draw_batch(rendered: RenderedSet, count: int, generator: torch.Generator) -> Batch:
    """One training batch; everything random comes from `generator`."""
    picks = draw_picks(rendered, count, generator)
    near, far, share = draw_captions(rendered, picks, generator)
    return Batch(compose_batch(rendered, picks), near, far, share)
