# SPDX-License-Identifier: Apache-2.0
"""The toy prior's model card, written from measured facts."""

from pathlib import Path

from toy.captions import COLOURS, HELD_OUT_CLASSES, HELD_OUT_COLOUR_PAIRS, SYNONYMS
from toy.objects import CLASSES, PARTS
from toy.training.checks import WORDINGS
from toy.training.tokenizer import LENGTH
from utils.wording import markdown

CARD = """---
license: apache-2.0
library_name: diffusers
---
# Toy prior: a tiny Stable-Diffusion-shaped model of a toy world

Trained by this project with `tools/train_toy_prior.py` on images that the project itself renders (`toy/`),
so that text-to-3D runs for real on a laptop CPU, through the same guidance code as Stable Diffusion, against objects
whose true shape is known. It knows the toy world's words and nothing else. Licence: Apache-2.0, weights and images
alike; no outside data, no outside weights.

![Samples](samples.png)

Each pair of tiles: the truth from the ray caster (left), one unpicked sample (right; DDIM, 25 steps, guidance 3).

## How far it got

{progress}

{remarks}

Share of {images} unpicked samples whose nearest rendered image has the requested class, colours and view
(view: objects with a front only; {chance}):

{samples}

## Does it listen?

Mean square error of the predicted clean latents by band of t and by caption, averaged weights. Same images, same
noise; only the caption differs. A word has an effect where its wrong variant costs more than `right`.

{text}

The same for colour pairs that were never trained together:

{text_held_out}

Colour A readable from the noisy latents alone, by the best possible reader (chance {colour_chance:.2f}):
{identification}.

## Parts

| part | what | parameters |
|---|---|---|
| unet | UNet2DConditionModel {channels}, predicts the clean latents (`prediction_type: sample`) | {unet:,} |
| text_encoder | CLIPTextModel, {text_layers} layers x {text_width} | {text_encoder:,} |
| vae | LinearAutoencoder: {latent_channels} principal components of 4 x 4 patches, white is latent zero | fitted |
| tokenizer | CLIPTokenizer, one token a word, {length} tokens a prompt | |
| scheduler | Stable Diffusion's betas (scaled linear, 1000 steps) | |

The U-Net has one layer a block and cross-attention at its two coarse levels; scaling_factor {scaling_factor}.
Images are 64 x 64, latents 16 x 16. Cameras: elevation -15 to 40 degrees, any azimuth, distance 3.4 to 3.6, field of
view 0.42 to 0.46 rad. Background: white (85 %), black (5 %) or any colour (10 %).
Unknown words and the empty prompt mean the same: nothing in particular. Use a guidance scale of 2 to 4.

## Words

`a <colour> <object> with <colour> <part>, front view` (or side view, back view; view and part can be left out).

- Colours: {colours}
- Objects and their parts: {objects}
- Synonyms: {synonyms}

Held out: on {held_out_classes} no setting was tuned (they are trained on); these colour pairs were never seen together:
{held_out_pairs}.

## How it was trained

AdamW, peak lr {lr}, batch {batch}, cosine, running average {ema}, {views} views a class, objects with a front
twice as often as the others, 12 % of captions dropped, half of the view words blended by azimuth as
guidance blends them, noise with guidance's offset. `training_log.jsonl` has every logged loss and text check (steps
that a stop threw away are in it twice), `measured.json` the numbers above. To train again:

    python tools/train_toy_prior.py train --folder RUN
    python tools/train_toy_prior.py export --folder RUN --to assets/toy-prior
"""


def write_card(facts: dict, path: Path) -> None:
    """Writes the card from export's facts.

    Those are step, seconds, settings, sizes, parameters, measured, views, images, remarks.
    """
    settings, sizes, measured = facts["settings"], facts["sizes"], facts["measured"]
    fields = {
        "progress": _progress(facts),
        "chance": f"by chance: class {1 / len(CLASSES):.2f}, colour {1 / len(COLOURS):.2f}, view 0.25 to 0.50",
        "samples": markdown(["", *next(iter(measured["samples"].values()))], _rows(measured["samples"], "{:.2f}")),
        "text": markdown(["t", *WORDINGS], _rows(measured["text"], "{:.5f}")),
        "text_held_out": markdown(["t", *WORDINGS], _rows(measured["text_held_out_pairs"], "{:.5f}")),
        "colour_chance": 1 / len(COLOURS),
        "identification": ", ".join(f"t = {t}: {share:.2f}" for t, share in measured["identification"].items()),
        "channels": tuple(sizes["channels"]),
        "colours": ", ".join(COLOURS),
        "objects": ", ".join(f"{name} ({PARTS[name]})" for name in CLASSES),
        "synonyms": ", ".join(f"{word} = {meaning}" for word, meaning in SYNONYMS.items()),
        "held_out_classes": " and ".join(HELD_OUT_CLASSES),
        "held_out_pairs": ", ".join(f"{a} with {b}" for a, b in HELD_OUT_COLOUR_PAIRS),
        "length": LENGTH,
        "views": facts["views"],
        "images": facts["images"],
        "remarks": facts["remarks"],
    }
    sized = {name: sizes[name] for name in ("text_layers", "text_width")}
    trained = {name: settings[name] for name in ("lr", "batch", "ema", "latent_channels", "scaling_factor")}
    path.write_text(CARD.format(**fields, **sized, **trained, **facts["parameters"]))


def _progress(facts: dict) -> str:
    settings = facts["settings"]
    planned = f"{settings['steps']} steps" if settings["steps"] else f"{settings['minutes']:g} minutes"
    images = facts["step"] * settings["batch"]
    return (
        f"{facts['step']:,} steps of {settings['batch']} images ({images:,} in all) in {facts['seconds'] / 60:.0f}"
        f" minutes; the schedule was {planned}."
        " Small one-sided features (faces, doors, dots) were estimated to need one to three million images."
    )


def _rows(table: dict[str, dict[str, float]], form: str) -> list[list[str]]:
    return [[name, *(form.format(value) for value in row.values())] for name, row in table.items()]
