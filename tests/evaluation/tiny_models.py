# SPDX-License-Identifier: Apache-2.0
"""Tiny models with random weights in the layouts in which the metrics' weights are published.

Weights come from numpy by name and shape, so that they are the same under every release of torch.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, PreTrainedTokenizerFast, T5Config

CLIP_TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "golden" / "tiny-sd" / "tokenizer"
PROMPT = "a photo of a dog"
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
TOWER_PX = 24
T5_WORDS, T5_ROWS = 40, 44  # the file's table has more rows than the tokenizer has words
T5_SIZES = {
    "d_model": 12,
    "d_kv": 6,
    "num_heads": 2,
    "d_ff": 20,
    "num_layers": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
}


def weight(name: str, shape, scale: float = 0.25) -> torch.Tensor:
    """Numbers that depend on name and shape alone; layer norms' scales are around 1."""
    values = np.random.RandomState(zlib.crc32(name.encode()) % 2**31).standard_normal(tuple(shape)) * scale
    norm = (
        name.endswith("norm.weight")
        or "norm1.weight" in name
        or "norm2.weight" in name
        or "LayerNorm.weight" in name
        or "layrnorm.weight" in name
    )
    return torch.tensor(values + (1.0 if norm else 0.0), dtype=torch.float32)


def images(count: int, height: int, width: int) -> np.ndarray:
    """Smooth colours and an edge, uint8 [count, height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    made = [
        np.stack([(7 * x + 31 * k) % 256, (5 * y + 3 * x) % 256, 255 * (x > (k + 2) * width // 6)], axis=-1)
        for k in range(count)
    ]
    return np.stack(made).astype(np.uint8)


def write_clip(folder: Path, name: str) -> None:
    text = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 514,
        "bos_token_id": 512,
        "eos_token_id": 513,
        "pad_token_id": 513,
    }
    config = CLIPConfig(text_config=text, vision_config={**VISION, "image_size": 16}, projection_dim=8)
    model = CLIPModel(config)
    model.load_state_dict({key: weight(key, value.shape) for key, value in model.state_dict().items()})
    model.save_pretrained(folder / name)
    shutil.copytree(CLIP_TOKENIZER, folder / name, dirs_exist_ok=True)


def clip_tower(prefix: str) -> dict[str, torch.Tensor]:
    """A vision tower under its published names, which begin with vision_model."""
    width, hidden = VISION["hidden_size"], VISION["intermediate_size"]
    shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, 8, 8),
        "embeddings.position_embedding.weight": ((TOWER_PX // 8) ** 2 + 1, width),
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for k in range(VISION["num_hidden_layers"]):
        at = f"encoder.layers.{k}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{at}self_attn.{part}.weight": (width, width), f"{at}self_attn.{part}.bias": (width,)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        shapes |= {
            f"{at}mlp.fc1.weight": (hidden, width),
            f"{at}mlp.fc1.bias": (hidden,),
            f"{at}mlp.fc2.weight": (width, hidden),
            f"{at}mlp.fc2.bias": (width,),
        }
    return {prefix + name: weight("vision_model." + name, shape) for name, shape in shapes.items()}


def flan_t5() -> dict[str, torch.Tensor]:
    """T5 v1.1 under its published names: gated GELU, an output layer of its own."""
    d, inner, ff, heads = (
        T5_SIZES["d_model"],
        T5_SIZES["d_kv"] * T5_SIZES["num_heads"],
        T5_SIZES["d_ff"],
        T5_SIZES["num_heads"],
    )
    shapes = {"shared.weight": (T5_ROWS, d), "lm_head.weight": (T5_ROWS, d)}
    for side, parts in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        shapes[f"{side}.final_layer_norm.weight"] = (d,)
        shapes[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (8, heads)
        for k in range(T5_SIZES["num_layers"]):
            for n, part in enumerate((*parts, "DenseReluDense")):
                at = f"{side}.block.{k}.layer.{n}."
                shapes[f"{at}layer_norm.weight"] = (d,)
                if part == "DenseReluDense":
                    shapes |= {
                        f"{at}{part}.wi_0.weight": (ff, d),
                        f"{at}{part}.wi_1.weight": (ff, d),
                        f"{at}{part}.wo.weight": (d, ff),
                    }
                else:
                    shapes |= {f"{at}{part}.{q}.weight": (inner, d) for q in "qkv"} | {
                        f"{at}{part}.o.weight": (d, inner)
                    }
    return {name: weight(name, shape) for name, shape in shapes.items()}


def projector() -> dict[str, torch.Tensor]:
    sizes = {"0": (T5_SIZES["d_model"], VISION["hidden_size"]), "2": (T5_SIZES["d_model"], T5_SIZES["d_model"])}
    return {
        f"mm_projector.{k}.{part}": weight(f"mm_projector.{k}.{part}", shape if part == "weight" else shape[:1])
        for k, shape in sizes.items()
        for part in ("weight", "bias")
    }


def write_vqascore(folder: Path, tower_inside: bool = True) -> None:
    """Two pickled shards, the tokenizer's and the tower's repositories; the tower's weights lie in one or the other."""
    found, tower, words = (folder / name for name in ("clip-flant5-xl", "clip-vit-large-patch14-336", "flan-t5-xl"))
    state = {
        **flan_t5(),
        **projector(),
        **(clip_tower("vision_tower.vision_tower.vision_model.") if tower_inside else {}),
    }
    T5Config(
        **T5_SIZES,
        vocab_size=T5_ROWS,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    ).save_pretrained(found)
    config = json.loads((found / "config.json").read_text()) | {"tie_word_embeddings": False}
    (found / "config.json").write_text(json.dumps(config))
    names = sorted(state)
    for k, part in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: state[name] for name in part}, found / f"pytorch_model-0000{k}-of-00002.bin")
    CLIPVisionConfig(**VISION, image_size=TOWER_PX).save_pretrained(tower)
    if not tower_inside:
        torch.save(clip_tower("vision_model."), tower / "pytorch_model.bin")
    t5_tokenizer().save_pretrained(words)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """A word a token, pad 0, end of sequence 1, after every text."""
    known = [
        "a",
        "photo",
        "of",
        "dog",
        "Does",
        "this",
        "figure",
        "show",
        "Please",
        "answer",
        "yes",
        "or",
        "no",
        "USER",
        "ASSISTANT",
        "chat",
        "between",
        "user",
        "and",
        "Yes",
        "curious",
        "an",
    ]
    vocabulary = {word: k for k, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(known)])}
    vocabulary |= {f"<extra_{k}>": k for k in range(len(vocabulary), T5_WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def image_reward_state() -> dict[str, torch.Tensor]:
    """ImageReward.pt with 2 + 2 layers, width 16 (vision) and 12 (text), 16-pixel images."""
    d, e, ff = 16, 12, 24
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 5, d),
        "patch_embed.proj.weight": (d, 3, 8, 8),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    for k in range(2):
        for part, shape in (
            ("norm1", (d,)),
            ("norm2", (d,)),
            ("attn.qkv", (3 * d, d)),
            ("attn.proj", (d, d)),
            ("mlp.fc1", (ff, d)),
            ("mlp.fc2", (d, ff)),
        ):
            shapes |= {f"blocks.{k}.{part}.weight": shape, f"blocks.{k}.{part}.bias": shape[:1]}
    state = {f"blip.visual_encoder.{name}": weight(name, shape) for name, shape in shapes.items()}
    shapes = {
        "embeddings.word_embeddings.weight": (32, e),
        "embeddings.position_embeddings.weight": (40, e),
        "embeddings.LayerNorm.weight": (e,),
        "embeddings.LayerNorm.bias": (e,),
    }
    for k in range(2):
        for block, seen in (("attention", e), ("crossattention", d)):
            for part, shape in (
                ("self.query", (e, e)),
                ("self.key", (e, seen)),
                ("self.value", (e, seen)),
                ("output.dense", (e, e)),
                ("output.LayerNorm", (e,)),
            ):
                shapes |= {
                    f"encoder.layer.{k}.{block}.{part}.weight": shape,
                    f"encoder.layer.{k}.{block}.{part}.bias": shape[:1],
                }
        for part, shape in (("intermediate.dense", (ff, e)), ("output.dense", (e, ff)), ("output.LayerNorm", (e,))):
            shapes |= {f"encoder.layer.{k}.{part}.weight": shape, f"encoder.layer.{k}.{part}.bias": shape[:1]}
    state |= {f"blip.text_encoder.{name}": weight(name, shape) for name, shape in shapes.items()}
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]  # as in the published file: unused
    state["blip.text_proj.weight"] = weight("text_proj", (4, e))
    for n, (a, b) in zip(
        (0, 2, 4, 6, 7), ((e, 10), (10, 8), (8, 6), (6, 4), (4, 1))
    ):  # dropout layers are numbered too
        state |= {
            f"mlp.layers.{n}.weight": weight(f"mlp{n}.weight", (b, a)),
            f"mlp.layers.{n}.bias": weight(f"mlp{n}.bias", (b,)),
        }
    return state


def write_image_reward(folder: Path) -> None:
    (folder / "ImageReward").mkdir(parents=True)
    torch.save(image_reward_state(), folder / "ImageReward" / "ImageReward.pt")
    words = folder / "bert-base-uncased"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "photo",
        "of",
        "dog",
        *[f"w{k}" for k in range(23)],
    ]
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(words)
