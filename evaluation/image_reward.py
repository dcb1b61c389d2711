# SPDX-License-Identifier: Apache-2.0
"""ImageReward-v1.0 (Xu et al. 2023): what people would say of an image and its prompt, about N(0, 1) over images.

A BLIP vision transformer, BLIP's text encoder with cross-attention to the image, and five linear layers on token 0.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.preprocess import batches, network_input
from evaluation.weights import MetricUnavailable, fill, from_pretrained, read_weights, repository

WEIGHTS, TOKENIZER = "THUDM/ImageReward", "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the raw reward, in the published model
TOKENS = 35
VISION_HEADS, TEXT_HEADS = 16, 12

VISION_NAMES = (  # published name -> transformers' name
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.\1.self_attn.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.projection."),
    (r"^blocks\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)


class ImageReward(nn.Module):
    """Holds the two halves of BLIP, the reward head and BERT's tokenizer."""

    def __init__(self, vision: Any, text: Any, head: nn.Sequential, tokenizer: Any) -> None:
        super().__init__()
        self.vision, self.text, self.tokenizer = vision, text, tokenizer
        self.head = head

    @torch.no_grad()
    def forward(self, images: np.ndarray, prompt: str) -> np.ndarray:
        """Rewards, float64 [V], of images uint8 [V, H, W, 3]; a prompt beyond 35 tokens is cut off."""
        return np.concatenate([self._rewards(part, prompt) for part in batches(images)])

    def _rewards(self, images: np.ndarray, prompt: str) -> np.ndarray:
        device = next(self.head.parameters()).device
        seen = self.vision(network_input(images, self.vision.config.image_size).to(device)).last_hidden_state
        words = self.tokenizer(
            prompt, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(device)
        read = self.text(
            input_ids=words.input_ids.expand(len(seen), -1),
            attention_mask=words.attention_mask.expand(len(seen), -1),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], device=device),
            is_decoder=False,  # every word sees every other; only the config says decoder, for the cross-attention
        ).last_hidden_state[:, 0]
        return ((self.head(read)[:, 0] - MEAN) / STD).double().cpu().numpy()


def load(device: torch.device, folder: Path | None, name: str) -> ImageReward:
    """The published checkpoint, float32. Raises MetricUnavailable."""
    from transformers import AutoTokenizer

    found = repository(name, folder, files=("ImageReward.pt",), weights=False)
    tokenizer_folder = repository(TOKENIZER, folder, weights=False)
    tokenizer = from_pretrained(tokenizer_folder, AutoTokenizer.from_pretrained, weights=False)
    return from_state(read_weights(found), tokenizer, VISION_HEADS, TEXT_HEADS).to(device)


def from_state(state: dict[str, Tensor], tokenizer: Any, vision_heads: int, text_heads: int) -> ImageReward:
    """The metric from a checkpoint in the published layout; all sizes but the heads' number are read off it."""
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    vision, text = vision_weights(_below("blip.visual_encoder.", state)), _below("blip.text_encoder.", state)
    head = reward_head(_below("mlp.layers.", state))
    if not (vision and text and head):
        raise MetricUnavailable(f"the weights of {WEIGHTS} lack blip.* or mlp.*; expected its ImageReward.pt")
    metric = ImageReward(
        BlipVisionModel(BlipVisionConfig(**vision_sizes(vision), num_attention_heads=vision_heads)),
        BlipTextModel(BlipTextConfig(**text_sizes(text, vision), num_attention_heads=text_heads), False),
        head,
        tokenizer,
    )
    fill(metric.vision, vision, WEIGHTS)
    fill(metric.text, text, WEIGHTS)
    return metric.eval()


def reward_head(state: dict[str, Tensor]) -> nn.Sequential:
    """Linear layers one after the other, as published without activations; the gaps in their numbers are dropout."""
    layers = []
    for number in sorted(int(name.split(".")[0]) for name in state if name.endswith("weight")):
        weight = state[f"{number}.weight"]
        layers.append(nn.Linear(weight.shape[1], weight.shape[0]))
        layers[-1].load_state_dict({"weight": weight, "bias": state[f"{number}.bias"]})
    return nn.Sequential(*layers)


def vision_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A vision transformer's weights under transformers' names."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, new in VISION_NAMES:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    return renamed


def vision_sizes(state: dict[str, Tensor]) -> dict[str, Any]:
    """Keys of BlipVisionConfig; layer norms of this family have eps 1e-6."""
    patch = state["embeddings.patch_embedding.weight"]  # [width, 3, side, side]
    grid = round((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    return {
        "hidden_size": patch.shape[0],
        "intermediate_size": len(state["encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": sum(name.endswith("mlp.fc1.weight") for name in state),
        "patch_size": patch.shape[-1],
        "image_size": grid * patch.shape[-1],
        "layer_norm_eps": 1e-6,
    }


def text_sizes(state: dict[str, Tensor], vision: dict[str, Tensor]) -> dict[str, Any]:
    """Keys of BlipTextConfig; BERT's layer norms have eps 1e-12."""
    vocabulary, width = state["embeddings.word_embeddings.weight"].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": len(state["encoder.layer.0.intermediate.dense.weight"]),
        "num_hidden_layers": sum(name.endswith("intermediate.dense.weight") for name in state),
        "max_position_embeddings": len(state["embeddings.position_embeddings.weight"]),
        "bos_token_id": None,
        "sep_token_id": None,
        "encoder_hidden_size": len(vision["embeddings.patch_embedding.weight"]),
        "is_decoder": True,  # else no cross-attention is built
        "layer_norm_eps": 1e-12,
    }


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
