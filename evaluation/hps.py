# SPDX-License-Identifier: Apache-2.0
"""HPSv2 and HPSv2.1 (Wu et al. 2023): CLIP-H fine-tuned on people's preferences; 100 times the cosine, about 27.

The weights are published in open_clip's layout and are read here into transformers' CLIP. The published code enlarges
by the long side and pads; the images here are square, for which that is the same.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluation.clip_similarity import ClipSimilarity
from evaluation.pick_score import TOKENIZER
from evaluation.weights import MetricUnavailable, fill, from_pretrained, read_file, repository

VISION_HEADS, TEXT_HEADS = 16, 16  # of CLIP-H; a checkpoint does not tell

TOWER_NAMES = (  # open_clip's name -> transformers' name, below a tower
    (r"^transformer\.resblocks\.(\d+)\.ln_(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
    (r"^class_embedding$", "embeddings.class_embedding"),
    (r"^conv1\.", "embeddings.patch_embedding."),
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^ln_pre\.", "pre_layrnorm."),
    (r"^ln_post\.", "post_layernorm."),
    (r"^ln_final\.", "final_layer_norm."),
)
JOINT = re.compile(r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$")
"""Queries, keys and values in one tensor."""


def load(device: torch.device, folder: Path | None, source: str) -> ClipSimilarity:
    """From `source`, a file of a hub repository. Raises MetricUnavailable."""
    from transformers import AutoTokenizer

    name, file = source.rsplit("/", 1)
    found, words = repository(name, folder, (file,), weights=False), repository(TOKENIZER, folder, weights=False)
    if not (found / file).is_file():
        raise MetricUnavailable(f"{found / file} does not exist; expected the file {file} of the hub repository {name}")
    tokenizer = from_pretrained(words, AutoTokenizer.from_pretrained, weights=False)
    state = read_file(found / file)
    return ClipSimilarity(clip_of(state.get("state_dict", state), tokenizer.eos_token_id, source), tokenizer, device)


def clip_of(state: dict[str, Tensor], end_token: int, source: str) -> Any:
    """transformers' CLIP, float32, with the weights of an open_clip checkpoint. Raises MetricUnavailable."""
    from transformers import CLIPConfig, CLIPModel

    converted = from_open_clip(state)
    try:
        config = CLIPConfig(**sizes(converted), text_config=text_sizes(converted, end_token))
    except KeyError as missing:
        raise MetricUnavailable(f"the weights of {source} lack {missing}; expected an open_clip checkpoint") from None
    model = CLIPModel(config)
    fill(model, converted, source)
    return model.eval()


def from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in open_clip's layout under transformers' names; names that neither needs are left out."""
    converted = {"logit_scale": state["logit_scale"]} if "logit_scale" in state else {}
    for name, own in (("visual.proj", "visual_projection.weight"), ("text_projection", "text_projection.weight")):
        if name in state:
            converted[own] = state[name].T.contiguous()  # [width, D] there, [D, width] here
    for name, tensor in state.items():
        tower = "vision_model." if name.startswith("visual.") else "text_model."
        for own, part in _renamed(name.removeprefix("visual."), tensor).items():
            converted[tower + own] = part
    return {name: tensor.float() for name, tensor in converted.items()}


def _renamed(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if found := JOINT.match(name):
        at = f"encoder.layers.{found[1]}.self_attn."
        return {f"{at}{part}_proj.{found[2]}": own for part, own in zip("qkv", tensor.chunk(3))}
    for pattern, own in TOWER_NAMES:
        if re.search(pattern, name):
            return {re.sub(pattern, own, name): tensor}
    return {}


def sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """Keys of CLIPConfig for the vision tower, and the size of an embedding."""
    patch = state["vision_model.embeddings.patch_embedding.weight"]  # [width, 3, side, side]
    grid = round((len(state["vision_model.embeddings.position_embedding.weight"]) - 1) ** 0.5)
    vision = {"patch_size": patch.shape[-1], "image_size": grid * patch.shape[-1], "num_attention_heads": VISION_HEADS}
    return {
        "projection_dim": len(state["visual_projection.weight"]),
        "vision_config": {**vision, **_tower_sizes(state, "vision_model.", patch.shape[0])},
    }


def text_sizes(state: dict[str, Tensor], end_token: int) -> dict[str, Any]:
    """Keys of CLIPTextConfig; the embedding is read at the end token."""
    words, width = state["text_model.embeddings.token_embedding.weight"].shape
    return {
        "vocab_size": words,
        "max_position_embeddings": len(state["text_model.embeddings.position_embedding.weight"]),
        "eos_token_id": end_token,
        "num_attention_heads": TEXT_HEADS,
        **_tower_sizes(state, "text_model.", width),
    }


def _tower_sizes(state: dict[str, Tensor], tower: str, width: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": len(state[f"{tower}encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": sum(n.startswith(tower) and n.endswith("mlp.fc1.weight") for n in state),
        "hidden_act": "gelu",  # not quick_gelu, CLIP's own
    }
