# SPDX-License-Identifier: Apache-2.0
"""VQAScore (Lin et al. 2024) with clip-flant5-xl: the probability of "Yes" to `Does this figure show "<prompt>"?`.

A CLIP vision tower, Linear-GELU-Linear and a Flan-T5, whose encoder reads the image's patches in the question's place
of <image>. L tokens of a sequence, P patches, D width of T5.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.preprocess import batches, network_input
from evaluation.weights import MetricUnavailable, fill, from_pretrained, read_weights, repository

WEIGHTS, TOKENIZER, TOWER = "zhiqiulin/clip-flant5-xl", "google/flan-t5-xl", "openai/clip-vit-large-patch14-336"
BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: "
)
AFTER = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
ANSWER = "Yes"


class VQAScore(nn.Module):
    """Holds T5, the vision tower, the projector between them and T5's tokenizer."""

    def __init__(self, t5: Any, tower: Any, tokenizer: Any) -> None:
        super().__init__()
        self.t5, self.tower, self.tokenizer = t5, tower, tokenizer
        width = t5.config.d_model
        self.mm_projector = nn.Sequential(
            nn.Linear(tower.config.hidden_size, width), nn.GELU(), nn.Linear(width, width)
        )

    @torch.no_grad()
    def forward(self, images: np.ndarray, prompt: str) -> np.ndarray:
        """Probabilities in [0, 1], float64 [V], of images uint8 [V, H, W, 3]."""
        return np.concatenate([self._scores(part, prompt) for part in batches(images)])

    def _scores(self, images: np.ndarray, prompt: str) -> np.ndarray:
        patches = self._patches(images)
        count, device = len(patches), patches.device
        before, after, answer = (self._ids(text).to(device) for text in (BEFORE, AFTER.format(prompt), ANSWER))
        words = [self.t5.get_input_embeddings()(ids).expand(count, -1, -1) for ids in (before, after)]
        embeddings = torch.cat([words[0], patches, words[1]], dim=1)  # [V, L + P, D]
        heard = torch.cat([answer.new_tensor([self.tokenizer.pad_token_id]), answer[:-1]])  # T5 starts with padding
        logits = self.t5(inputs_embeds=embeddings, decoder_input_ids=heard.expand(count, -1)).logits.float()
        log_p = torch.log_softmax(logits, dim=-1)[:, torch.arange(len(answer)), answer]  # [V, L] of the answer
        return log_p.mean(dim=1).exp().double().cpu().numpy()

    def _patches(self, images: np.ndarray) -> Tensor:
        """[V, P, D]: the tower's last layer but one, without the class token, projected."""
        like = next(self.mm_projector.parameters())
        x = network_input(images, self.tower.config.image_size, pad=True).to(like)
        return self.mm_projector(self.tower(x, output_hidden_states=True).hidden_states[-2][:, 1:])

    def _ids(self, text: str) -> Tensor:
        """Tokens [L]; each piece of text ends with the end-of-sequence token, before <image> too, as in training."""
        return torch.tensor(self.tokenizer(text).input_ids)


def load(device: torch.device, folder: Path | None, name: str) -> VQAScore:
    """The published checkpoint, with the tower's weights from it or from their own repository.

    Raises MetricUnavailable.
    """
    from transformers import AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, T5Config

    found, tower_folder = repository(name, folder), repository(TOWER, folder)
    words_folder = repository(TOKENIZER, folder, weights=False)
    tokenizer = from_pretrained(words_folder, AutoTokenizer.from_pretrained, weights=False)
    state = read_weights(found)
    t5 = _t5(from_pretrained(found, T5Config.from_pretrained, weights=False), state, len(tokenizer), name)
    tower = CLIPVisionModel(from_pretrained(tower_folder, CLIPVisionConfig.from_pretrained, weights=False))
    fill(tower, below("vision_model.", state) or below("vision_model.", read_weights(tower_folder)), TOWER)
    metric = VQAScore(t5, tower, tokenizer)
    fill(metric.mm_projector, below("mm_projector.", state), name)
    return metric.eval().to(device, precision(device))


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, as the original; float16 overflows in T5."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _t5(config: Any, state: dict[str, Tensor], words: int, source: str) -> Any:
    """The T5 of a checkpoint, with the tokenizer's number of words: rows beyond them are padding of the file."""
    from transformers import T5ForConditionalGeneration

    if "shared.weight" not in state:
        raise MetricUnavailable(f"{source} lacks shared.weight; expected the weights of {WEIGHTS}")
    config.vocab_size = words
    table = {name: state["shared.weight"] for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")}
    cut = {name: tensor[:words] for name, tensor in state.items() if name in ("shared.weight", "lm_head.weight")}
    with torch.device("meta"):  # 3 billion random numbers that nobody needs
        t5 = T5ForConditionalGeneration(config)
    # transformers 5 ties the output layer to the table of words, whatever the config says; Flan-T5 has its own.
    t5.lm_head = nn.Linear(config.d_model, words, bias=False, device="meta")
    t5.to_empty(device="cpu")
    fill(t5, {**state, **{name: tensor[:words] for name, tensor in table.items()}, **cut}, source)
    return t5


def below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What follows the first `prefix` in each name that has it: towers lie one level deeper than transformers 5's."""
    return {name.split(prefix, 1)[1]: tensor for name, tensor in state.items() if prefix in name}
