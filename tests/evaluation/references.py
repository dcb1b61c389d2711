# SPDX-License-Identifier: Apache-2.0
"""The metrics' networks once more, in plain tensor operations on the published names, written from the papers.

`python tests/evaluation/references.py` writes recorded.json: their values on the tiny models. The tests compare the
metrics with that file, so a release of transformers that computes something else is noticed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).with_name("recorded.json")
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])


def prepared(images: np.ndarray, side: int) -> torch.Tensor:
    """Square images only."""
    small = [
        np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
        for p in images
    ]
    return torch.tensor((np.stack(small) / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def linear(w, name, x):
    bias = w.get(f"{name}.bias")
    return x @ w[f"{name}.weight"].T + (0 if bias is None else bias)


def norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def attend(q, k, v, heads, scale, bias=0.0):
    """Multi-head attention of [V, L, D]."""
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    scores = split(q) @ split(k).transpose(2, 3) * scale + bias
    return (scores.softmax(dim=-1) @ split(v)).transpose(1, 2).flatten(2)


def patches(w, name, x):
    kernel = w[f"{name}.weight"]
    return F.conv2d(x, kernel, w.get(f"{name}.bias"), stride=kernel.shape[-1]).flatten(2).transpose(1, 2)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def clip_layer(w, at, x, heads, bias=0.0):
    y = norm(w, f"{at}.layer_norm1", x, 1e-5)
    q, k, v = (linear(w, f"{at}.self_attn.{n}_proj", y) for n in "qkv")
    x = x + linear(w, f"{at}.self_attn.out_proj", attend(q, k, v, heads, (q.shape[-1] // heads) ** -0.5, bias))
    return x + linear(w, f"{at}.mlp.fc2", quick_gelu(linear(w, f"{at}.mlp.fc1", norm(w, f"{at}.layer_norm2", x, 1e-5))))


def clip_vision(w, x, layers, heads):
    """Hidden states after `layers` layers, [V, 1 + P, D]."""
    cells = patches(w, "embeddings.patch_embedding", x)
    first = w["embeddings.class_embedding"].expand(len(x), 1, -1)
    h = norm(w, "pre_layrnorm", torch.cat([first, cells], dim=1) + w["embeddings.position_embedding.weight"], 1e-5)
    for k in range(layers):
        h = clip_layer(w, f"encoder.layers.{k}", h, heads)
    return h


def part(state, prefix):
    return {name.removeprefix(prefix): value.double() for name, value in state.items() if name.startswith(prefix)}


def clip_similarity(state, ids, x) -> list[float]:
    """ids: one prompt with its end token last."""
    vision, text = part(state, "vision_model."), part(state, "text_model.")
    image = (
        norm(vision, "post_layernorm", clip_vision(vision, x, 3, 2)[:, 0], 1e-5)
        @ state["visual_projection.weight"].double().T
    )
    h = text["embeddings.token_embedding.weight"][ids] + text["embeddings.position_embedding.weight"][: len(ids)]
    causal = torch.full((len(ids), len(ids)), -torch.inf, dtype=torch.float64).triu(1)
    h = h[None]
    for k in range(2):
        h = clip_layer(text, f"encoder.layers.{k}", h, 2, causal)
    words = norm(text, "final_layer_norm", h[0, -1], 1e-5) @ state["text_projection.weight"].double().T
    return (100 * F.cosine_similarity(image, words[None])).tolist()


def t5_bucket(distance: int, both_ways: bool, buckets: int = 8, largest: int = 20) -> int:
    """Of key minus query position, as Raffel et al. bin it."""
    offset = 0
    if both_ways:
        buckets //= 2
        offset = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    return offset + min(
        exact + int(math.log(distance / exact) / math.log(largest / exact) * (buckets - exact)), buckets - 1
    )


def rms(w, name, x):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"]


def t5_stack(w, side, h, seen=None):
    table = w[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    count = h.shape[1]
    bins = torch.tensor([[t5_bucket(k - q, side == "encoder") for k in range(count)] for q in range(count)])
    bias = table[bins].permute(2, 0, 1)
    if side == "decoder":
        bias = bias + torch.full((count, count), -torch.inf, dtype=torch.float64).triu(1)
    for block in range(2):
        at = f"{side}.block.{block}.layer"
        y = rms(w, f"{at}.0.layer_norm", h)
        q, k, v = (linear(w, f"{at}.0.SelfAttention.{n}", y) for n in "qkv")
        h = h + linear(w, f"{at}.0.SelfAttention.o", attend(q, k, v, 2, 1.0, bias))
        if seen is not None:
            y = rms(w, f"{at}.1.layer_norm", h)
            q, (k, v) = (
                linear(w, f"{at}.1.EncDecAttention.q", y),
                (linear(w, f"{at}.1.EncDecAttention.{n}", seen) for n in "kv"),
            )
            h = h + linear(w, f"{at}.1.EncDecAttention.o", attend(q, k, v, 2, 1.0))
        last = f"{at}.{1 if seen is None else 2}"
        y = rms(w, f"{last}.layer_norm", h)
        gate = F.gelu(linear(w, f"{last}.DenseReluDense.wi_0", y), approximate="tanh")
        h = h + linear(w, f"{last}.DenseReluDense.wo", gate * linear(w, f"{last}.DenseReluDense.wi_1", y))
    return rms(w, f"{side}.final_layer_norm", h)


def vqascore(state, tower, before, after, answer, x, words: int) -> list[float]:
    w, tower = part(state, ""), part(tower, "vision_model.")
    cells = clip_vision(tower, x, 2, 2)[:, 1:]  # the last of three layers is not used
    cells = linear(w, "mm_projector.2", F.gelu(linear(w, "mm_projector.0", cells)))
    table = w["shared.weight"]
    prompt = torch.cat([table[before].expand(len(x), -1, -1), cells, table[after].expand(len(x), -1, -1)], dim=1)
    asked = table[torch.tensor([0, *answer[:-1].tolist()])].expand(len(x), -1, -1)
    out = t5_stack(w, "decoder", asked, t5_stack(w, "encoder", prompt))
    log_p = (out @ w["lm_head.weight"][:words].T).log_softmax(-1)
    return log_p[:, torch.arange(len(answer)), answer].mean(1).exp().tolist()


def image_reward(state, ids, mask, x) -> list[float]:
    vision, text = part(state, "blip.visual_encoder."), part(state, "blip.text_encoder.")
    h = (
        torch.cat([vision["cls_token"].expand(len(x), -1, -1), patches(vision, "patch_embed.proj", x)], 1)
        + vision["pos_embed"]
    )
    for k in range(2):
        at = f"blocks.{k}"
        q, key, v = linear(vision, f"{at}.attn.qkv", norm(vision, f"{at}.norm1", h, 1e-6)).chunk(3, -1)
        h = h + linear(vision, f"{at}.attn.proj", attend(q, key, v, 2, 8**-0.5))
        h = h + linear(
            vision, f"{at}.mlp.fc2", F.gelu(linear(vision, f"{at}.mlp.fc1", norm(vision, f"{at}.norm2", h, 1e-6)))
        )
    seen = norm(vision, "norm", h, 1e-6)
    y = text["embeddings.word_embeddings.weight"][ids] + text["embeddings.position_embeddings.weight"][: len(ids)]
    y = norm(text, "embeddings.LayerNorm", y, 1e-12).expand(len(x), -1, -1)
    hidden = torch.where(mask.bool(), 0.0, -torch.inf).double()
    for k in range(2):
        for block, source, bias in (("attention", None, hidden), ("crossattention", seen, 0.0)):
            at = f"encoder.layer.{k}.{block}"
            keys = y if source is None else source
            a = attend(
                linear(text, f"{at}.self.query", y),
                linear(text, f"{at}.self.key", keys),
                linear(text, f"{at}.self.value", keys),
                2,
                6**-0.5,
                bias,
            )
            y = norm(text, f"{at}.output.LayerNorm", linear(text, f"{at}.output.dense", a) + y, 1e-12)
        at = f"encoder.layer.{k}"
        z = F.gelu(linear(text, f"{at}.intermediate.dense", y))
        y = norm(text, f"{at}.output.LayerNorm", linear(text, f"{at}.output.dense", z) + y, 1e-12)
    reward = y[:, 0]
    for n in (0, 2, 4, 6, 7):
        reward = linear(part(state, ""), f"mlp.layers.{n}", reward)
    return ((reward[:, 0] - 0.16717362830052426) / 1.0333394966054072).tolist()


def record() -> dict[str, list[float]]:
    """The metrics on four square images of 40 pixels and tiny_models.PROMPT."""
    import tempfile

    import open_clip_reference as open_clip
    import tiny_models as tiny
    from transformers import AutoTokenizer, CLIPModel

    shown = tiny.images(4, 40, 40)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tiny.write_clip(folder, "clip"), tiny.write_image_reward(folder)
        clip = CLIPModel.from_pretrained(folder / "clip").state_dict()
        ids = torch.tensor(AutoTokenizer.from_pretrained(folder / "clip")(tiny.PROMPT).input_ids)
        bert = AutoTokenizer.from_pretrained(folder / "bert-base-uncased")(
            tiny.PROMPT, padding="max_length", max_length=35
        )
    words = tiny.t5_tokenizer()
    system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. USER: "
    question = f'\nDoes this figure show "{tiny.PROMPT}"? Please answer yes or no. ASSISTANT: '
    before, after, answer = (torch.tensor(words(text).input_ids) for text in (system, question, "Yes"))
    state = {**tiny.flan_t5(), **tiny.projector()}
    of_clip = clip_similarity(clip, ids, prepared(shown, 16))
    scale = math.exp(float(clip["logit_scale"]))
    return {
        "clip": of_clip,
        "pick_score": [scale * score / 100 for score in of_clip],
        "hps_v2": open_clip.hps(open_clip.state(), ids, prepared(shown, 16)),
        "vqascore": vqascore(
            state, tiny.clip_tower("vision_model."), before, after, answer, prepared(shown, 24), tiny.T5_WORDS
        ),
        "image_reward": image_reward(
            tiny.image_reward_state(),
            torch.tensor(bert.input_ids),
            torch.tensor(bert.attention_mask),
            prepared(shown, 16),
        ),
    }


def main(argv: list[str]) -> None:
    RECORDED.write_text(json.dumps(record(), indent=1) + "\n")
    print(RECORDED.read_text())


if __name__ == "__main__":
    program.run(main)
