# SPDX-License-Identifier: Apache-2.0
"""What the plain loss hides: can the answer be read from x_t alone, and does the network listen to each word?

Letters of shapes: B images, C h w latent, K colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guidance.linear_autoencoder import LinearAutoencoder
from toy.captions import COLOURS, caption
from toy.objects import CLASSES
from toy.training.data import COLOUR_NAMES, Picks, RenderedSet, compose_batch, draw_picks, view_blend
from toy.training.model import CaptionTable, PriorNetworks, to_latents

BANDS: tuple[tuple[int, int], ...] = ((50, 250), (250, 450), (450, 650), (650, 850), (850, 980))
WORDINGS: tuple[str, ...] = ("right", "wrong_colour", "wrong_class", "wrong_view", "empty")


@dataclass(frozen=True)
class CheckSet:
    """Fixed images on white, with one right caption and one wrong one per kind of word, for each."""

    latents: Tensor  # [B, C, h, w], scaled
    captions: dict[str, tuple[str, ...]]


@torch.no_grad()
def identification_curve(
    rendered: RenderedSet,
    autoencoder: LinearAutoencoder,
    alphas_cumprod: Tensor,
    timesteps: Sequence[int] = (300, 500, 650, 800, 900),
    images: int = 48,
) -> dict[int, float]:
    """Share of images whose colour A the best possible reader finds in x_t, given all else, by timestep.

    Chance is 1 / number of colours. Near 1 at large t means that the latents are scaled too large and that a network
    has no need of the text; a scale that gives below one half at t = 800 worked.
    """
    generator = torch.Generator().manual_seed(0)
    picks = draw_picks(rendered, images, generator)
    picks = Picks(**{**vars(picks), "background": torch.ones(images, 3)})
    candidates = torch.stack(
        [
            to_latents(
                autoencoder, compose_batch(rendered, Picks(**{**vars(picks), "colour_a": torch.full((images,), k)}))
            )
            for k in range(len(COLOURS))
        ],
        dim=1,
    )  # [B, K, C, h, w]
    true = candidates[torch.arange(images), picks.colour_a]
    found = {}
    for t in timesteps:
        a = alphas_cumprod[t]
        noise = torch.randn(8, *true.shape, generator=generator)
        noisy = a.sqrt() * true + (1 - a).sqrt() * noise  # [8, B, C, h, w]
        distance = (noisy[:, :, None] - a.sqrt() * candidates).flatten(3).square().sum(-1)
        found[t] = float((distance.argmin(-1) == picks.colour_a).float().mean())
    return found


def build_check_set(
    rendered: RenderedSet,
    autoencoder: LinearAutoencoder,
    images: int = 48,
    seed: int = 123,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> CheckSet:
    """Images drawn once; `pairs` fixes the colour pairs (to look at held-out ones)."""
    generator = torch.Generator().manual_seed(seed)
    picks = draw_picks(rendered, images, generator)
    picks = Picks(**{**vars(picks), "background": torch.ones(images, 3)})
    if pairs is not None:
        chosen = [tuple(map(COLOUR_NAMES.index, pairs[row % len(pairs)])) for row in range(images)]
        a, b = torch.tensor(chosen).unbind(1)
        picks = Picks(**{**vars(picks), "colour_a": a, "colour_b": b})
    latents = to_latents(autoencoder, compose_batch(rendered, picks))
    other = torch.rand(images, 2, generator=generator)
    rows = [_wordings(rendered, picks, row, *other[row].tolist()) for row in range(images)]
    return CheckSet(latents, {kind: tuple(row[at] for row in rows) for at, kind in enumerate(WORDINGS)})


def _wordings(
    rendered: RenderedSet, picks: Picks, row: int, other_colour: float, other_class: float
) -> tuple[str, ...]:
    classes = list(CLASSES)
    index = int(picks.class_index[row])
    a, b = int(picks.colour_a[row]), int(picks.colour_b[row])
    near, far, share = view_blend(float(rendered.azimuth_deg[index, picks.view_index[row]]))
    view = far if share > 0.5 else near
    wrong_view = {"front": "back", "back": "front", "side": "front"}[view]
    free = [k for k in range(len(COLOUR_NAMES)) if k not in (a, b)]
    wrong_colour = COLOUR_NAMES[free[int(other_colour * len(free))]]
    wrong_class = classes[(index + 1 + int(other_class * (len(classes) - 1))) % len(classes)]
    name, colour_a, colour_b = classes[index], COLOUR_NAMES[a], COLOUR_NAMES[b]
    return (
        caption(name, colour_a, colour_b, view),
        caption(name, wrong_colour, colour_b, view),
        caption(wrong_class, colour_a, colour_b, view),
        caption(name, colour_a, colour_b, wrong_view),
        "",
    )


@torch.no_grad()
def text_sensitivity(
    networks: PriorNetworks, check_set: CheckSet, table: CaptionTable, alphas_cumprod: Tensor
) -> dict[str, dict[str, float]]:
    """Band of t -> wording -> mean square error of the predicted clean latents; same noise for every wording.

    The U-Net listens to a word where its wrong variant costs visibly more than the right caption.
    """
    generator = torch.Generator().manual_seed(7)
    clean = check_set.latents
    table_of = {kind: networks.embed(table.ids(texts)) for kind, texts in check_set.captions.items()}
    result = {}
    for low, high in BANDS:
        t = torch.randint(low, high, (len(clean),), generator=generator)
        a = alphas_cumprod[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * clean + (1 - a).sqrt() * torch.randn(clean.shape, generator=generator)
        errors = {
            kind: float((networks.predict_clean(noisy, t, embedded) - clean).square().mean())
            for kind, embedded in table_of.items()
        }
        result[f"{low}-{high}"] = errors
    return result
