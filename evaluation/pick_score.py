# SPDX-License-Identifier: Apache-2.0
"""PickScore (Kirstain et al. 2023): CLIP-H fine-tuned on which of two images people picked; its logits, about 20."""

from pathlib import Path

import torch

from evaluation.clip_similarity import ClipSimilarity
from evaluation.weights import from_pretrained, repository

TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def load(device: torch.device, folder: Path | None, name: str) -> ClipSimilarity:
    """From the repository `name`; the score is the model's own scale times the cosine. Raises MetricUnavailable."""
    from transformers import AutoTokenizer, CLIPModel

    found, words = repository(name, folder), repository(TOKENIZER, folder, weights=False)
    tokenizer = from_pretrained(words, AutoTokenizer.from_pretrained, weights=False)
    model = from_pretrained(found, CLIPModel.from_pretrained, dtype=torch.float32)
    return ClipSimilarity(model, tokenizer, device, float(model.logit_scale.detach().exp()))
