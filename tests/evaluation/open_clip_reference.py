# SPDX-License-Identifier: Apache-2.0
"""HPSv2's network once more, on open_clip's own names and with torch's own attention, and a tiny one in that layout.

float64. Letters: V images, D width of a tower, L tokens.
"""

import shutil
from pathlib import Path

import tiny_models as tiny
import torch
import torch.nn.functional as F

HPS_WORDS = "CLIP-ViT-H-14-laion2B-s32B-b79K"
HEADS, LAYERS, VISION_WIDTH, TEXT_WIDTH, EMBEDDING, PATCH, GRID = 2, 2, 16, 12, 10, 8, 2


def tower_shapes(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for k in range(LAYERS):
        at = f"{prefix}transformer.resblocks.{k}."
        for part, shape in (
            ("ln_1", (width,)), ("ln_2", (width,)), ("attn.out_proj", (width, width)),
            ("mlp.c_fc", (3 * width, width)), ("mlp.c_proj", (width, 3 * width)),
        ):  # fmt: skip
            shapes |= {f"{at}{part}.weight": shape, f"{at}{part}.bias": shape[:1]}
        shapes |= {f"{at}attn.in_proj_weight": (3 * width, width), f"{at}attn.in_proj_bias": (3 * width,)}
    return shapes


def state() -> dict[str, torch.Tensor]:
    """A checkpoint of open_clip: 2 + 2 layers, images of 16 px."""
    shapes = tower_shapes("visual.", VISION_WIDTH) | tower_shapes("", TEXT_WIDTH)
    shapes |= {
        "visual.class_embedding": (VISION_WIDTH,), "visual.positional_embedding": (GRID**2 + 1, VISION_WIDTH),
        "visual.conv1.weight": (VISION_WIDTH, 3, PATCH, PATCH), "visual.proj": (VISION_WIDTH, EMBEDDING),
        "positional_embedding": (77, TEXT_WIDTH), "token_embedding.weight": (514, TEXT_WIDTH),
        "text_projection": (TEXT_WIDTH, EMBEDDING), "logit_scale": (),
    }  # fmt: skip
    for norm, width in (("visual.ln_pre", VISION_WIDTH), ("visual.ln_post", VISION_WIDTH), ("ln_final", TEXT_WIDTH)):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    made = {name: tiny.weight(name, shape) for name, shape in shapes.items()}
    return {name: value + ("ln_" in name and name.endswith("weight")) for name, value in made.items()}


def write_hps(folder: Path) -> None:
    """Both files of xswu/HPSv2, which differ by the sign of a projection, and the repository of its words."""
    (folder / "HPSv2").mkdir(parents=True)
    own = state()
    torch.save({"epoch": 1, "state_dict": own}, folder / "HPSv2" / "HPS_v2_compressed.pt")
    other = {**own, "visual.proj": -own["visual.proj"]}
    torch.save({"state_dict": other}, folder / "HPSv2" / "HPS_v2.1_compressed.pt")
    shutil.copytree(tiny.CLIP_TOKENIZER, folder / HPS_WORDS, dirs_exist_ok=True)


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def block(w, at, x, mask):
    """One residual block of [L, V, D]: attention, then an MLP with GELU."""
    y = norm(w, f"{at}.ln_1", x)
    out, bias = w[f"{at}.attn.out_proj.weight"], w[f"{at}.attn.out_proj.bias"]
    joint, joint_bias = w[f"{at}.attn.in_proj_weight"], w[f"{at}.attn.in_proj_bias"]
    attended, _ = F.multi_head_attention_forward(
        y, y, y, x.shape[-1], HEADS, joint, joint_bias, None, None, False, 0.0, out, bias,
        attn_mask=mask, need_weights=False,
    )  # fmt: skip
    x = x + attended
    hidden = F.gelu(F.linear(norm(w, f"{at}.ln_2", x), w[f"{at}.mlp.c_fc.weight"], w[f"{at}.mlp.c_fc.bias"]))
    return x + F.linear(hidden, w[f"{at}.mlp.c_proj.weight"], w[f"{at}.mlp.c_proj.bias"])


def hps(weights, ids, x) -> list[float]:
    """100 cos of images [V, 3, 16, 16] and one prompt's tokens [L], the end token last."""
    w = {name: value.double() for name, value in weights.items()}
    cells = F.conv2d(x, w["visual.conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)
    h = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), cells], 1) + w["visual.positional_embedding"]
    h = norm(w, "visual.ln_pre", h).transpose(0, 1)
    for k in range(LAYERS):
        h = block(w, f"visual.transformer.resblocks.{k}", h, None)
    image = norm(w, "visual.ln_post", h[0]) @ w["visual.proj"]
    t = (w["token_embedding.weight"][ids] + w["positional_embedding"][: len(ids)])[:, None]
    causal = torch.full((len(ids), len(ids)), -torch.inf, dtype=torch.float64).triu(1)
    for k in range(LAYERS):
        t = block(w, f"transformer.resblocks.{k}", t, causal)
    text = norm(w, "ln_final", t[-1]) @ w["text_projection"]
    return (100 * F.cosine_similarity(image, text)).tolist()
