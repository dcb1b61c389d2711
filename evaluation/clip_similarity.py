# SPDX-License-Identifier: Apache-2.0
"""CLIP similarity (Radford et al. 2021): a scale times the cosine between an image's and a prompt's embedding.

Letters: V images, P prompts, D size of an embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from evaluation.preprocess import batches, network_input
from evaluation.weights import from_pretrained, repository


class ClipSimilarity:
    """Holds a CLIP model, its tokenizer and the scale of its scores."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device, scale: float = 100.0) -> None:
        self.model, self.tokenizer, self.device, self.scale = model.to(device), tokenizer, device, scale

    def __call__(self, images: np.ndarray, prompt: str) -> np.ndarray:
        """scale cos [V] of images, uint8 [V, H, W, 3]."""
        return self.similarities(images, [prompt])[:, 0]

    @torch.no_grad()
    def similarities(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """scale cos, float64 [V, P]; a prompt beyond CLIP's 77 tokens is cut off."""
        text = torch.cat([self._of_prompt(prompt) for prompt in prompts])  # one by one: nothing is padded
        side_px = self.model.config.vision_config.image_size
        parts = [network_input(part, side_px).to(self.device) for part in batches(images)]
        embeddings = torch.cat([_embedding(self.model.get_image_features(pixel_values=part)) for part in parts])
        return (self.scale * embeddings @ text.T).double().cpu().numpy()

    def _of_prompt(self, prompt: str) -> Tensor:
        """[1, D]."""
        longest = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer([prompt], truncation=True, max_length=longest, return_tensors="pt").to(self.device)
        return _embedding(self.model.get_text_features(**words))


def _embedding(output: Any) -> Tensor:
    """Unit vectors [n, D]. transformers 5 returns an object whose pooler_output is the projected embedding."""
    return normalize(output.pooler_output, dim=-1)


def load(device: torch.device, folder: Path | None, name: str) -> ClipSimilarity:
    """From the repository `name`, a CLIP model of transformers. Raises MetricUnavailable."""
    from transformers import AutoTokenizer, CLIPModel

    found = repository(name, folder)
    model = from_pretrained(found, CLIPModel.from_pretrained, dtype=torch.float32)
    return ClipSimilarity(model, from_pretrained(found, AutoTokenizer.from_pretrained, weights=False), device)
