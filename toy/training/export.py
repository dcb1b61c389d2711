# SPDX-License-Identifier: Apache-2.0
"""Writes a trained toy prior in diffusers layout, with model card, sample grid and training log."""

import copy
import json
import shutil
from pathlib import Path

import diffusers

from guidance.linear_autoencoder import LinearAutoencoder
from toy.captions import HELD_OUT_COLOUR_PAIRS
from toy.training.card import write_card
from toy.training.checks import build_check_set, identification_curve, text_sensitivity
from toy.training.data import RenderedSet
from toy.training.model import CaptionTable, PriorNetworks, Sizes, build_networks, build_scheduler
from toy.training.sampling import draw_targets, retrieval_scores, sample_grid, sample_images
from toy.training.tokenizer import save_tokenizer
from toy.training.training import read_checkpoint
from utils.image_utils import write_png

LARGEST_BYTES = 20 * 2**20


def load_average(checkpoint: Path) -> tuple[PriorNetworks, LinearAutoencoder, dict]:
    """The averaged networks and the autoencoder of a checkpoint, with its plain entries (step, seconds, settings)."""
    if not checkpoint.exists():
        raise ValueError(f"{checkpoint} does not exist; run the train command with this folder first.")
    state = read_checkpoint(checkpoint)
    settings = state["settings"]
    sizes = Sizes(**{**state["sizes"], "channels": tuple(state["sizes"]["channels"])})
    networks = build_networks(sizes, settings["latent_channels"], CaptionTable().tokenizer)
    networks.load_state_dict(state["average"])
    autoencoder = LinearAutoencoder(
        latent_channels=settings["latent_channels"], scaling_factor=settings["scaling_factor"]
    )
    autoencoder.load_state_dict(state["autoencoder"])
    facts = {name: state[name] for name in ("step", "seconds", "settings", "sizes")}
    return networks.eval().requires_grad_(False), autoencoder, facts


def write_pipeline(networks: PriorNetworks, autoencoder: LinearAutoencoder, folder: Path) -> None:
    """model_index.json and the five subfolders; U-Net and text encoder in half precision, safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    halved = copy.deepcopy(networks).half()
    halved.unet.save_pretrained(folder / "unet", safe_serialization=True)
    halved.text_encoder.save_pretrained(folder / "text_encoder")
    autoencoder.save_pretrained(folder / "vae", safe_serialization=True)
    build_scheduler().save_pretrained(folder / "scheduler")
    save_tokenizer(CaptionTable().tokenizer, folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["guidance.linear_autoencoder", "LinearAutoencoder"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def measure(
    networks: PriorNetworks, autoencoder: LinearAutoencoder, rendered: RenderedSet, images: int = 90, steps: int = 25
) -> dict:
    """Text sensitivity and sample scores, each for trained and for held-out colour pairs, and identification."""
    table, alphas = CaptionTable(), build_scheduler().alphas_cumprod
    usual = build_check_set(rendered, autoencoder)
    unseen = build_check_set(rendered, autoencoder, pairs=HELD_OUT_COLOUR_PAIRS)
    scores = {}
    for name, held_out in (("trained pairs", False), ("held-out pairs", True)):
        targets = draw_targets(images, 11, held_out)
        texts = [target.text() for target in targets]
        samples = sample_images(networks, autoencoder, table, texts, steps=steps, seed=11)
        scores[name] = retrieval_scores(rendered, targets, samples)
    return {
        "text": text_sensitivity(networks, usual, table, alphas),
        "text_held_out_pairs": text_sensitivity(networks, unseen, table, alphas),
        "samples": scores,
        "identification": identification_curve(rendered, autoencoder, alphas),
    }


def export_prior(
    run: Path, folder: Path, rendered: RenderedSet, images: int = 90, steps: int = 25, remarks: str = ""
) -> dict:
    """Writes everything that ships, with samples made in `steps` DDIM steps; returns what was measured.

    `remarks` is what a person saw in the grid; the card quotes it.
    Raises ValueError if there is no checkpoint, or if the folder is too large to ship.
    """
    networks, autoencoder, facts = load_average(run / "checkpoint.pt")
    write_pipeline(networks, autoencoder, folder)
    write_png(folder / "samples.png", sample_grid(networks, autoencoder, CaptionTable(), steps))
    shutil.copyfile(run / "log.jsonl", folder / "training_log.jsonl")
    measured = measure(networks, autoencoder, rendered, images, steps)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in networks.named_children()}
    facts = {
        **facts,
        "parameters": counts,
        "measured": measured,
        "views": rendered.views,
        "images": images,
        "remarks": remarks,
    }
    (folder / "measured.json").write_text(json.dumps(facts, indent=2) + "\n")
    write_card(facts, folder / "README.md")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LARGEST_BYTES:
        raise ValueError(
            f"{folder} holds {size / 2**20:.1f} MB, at most 20 MB may ship; train with smaller --channels."
        )
    return facts
