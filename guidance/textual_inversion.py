# SPDX-License-Identifier: Apache-2.0
"""Textual inversion: learned words, each with one or more embeddings, added to a model's tokenizer and text encoder.

Files that are understood, .safetensors or pickled: diffusers (word -> vectors, any number of words), AUTOMATIC1111 and
the first textual inversions (string_to_param; emb_params), or a folder of such files.
Letters of shapes: V vectors of a word, D width of the text encoder's embeddings.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance.components import Components
from guidance.sources import ModelUnavailable, quiet
from guidance.tensor_files import SUFFIXES, check_values, read_file
from utils.model_ids import expanded

FOLDER_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
UNNAMED = ("emb_params", "*", "string_to_param")  # names of vectors that are not a word: the file's name is
ENCODERS = {  # tensors of models with more than one text encoder
    "t5xxl": "Stable Diffusion 3",
    "clip_g": "Stable Diffusion XL",
    "text_encoder_2": "Stable Diffusion XL",
    "clip_l": "Stable Diffusion XL",
}
MODEL_OF_WIDTH = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 1280: "Stable Diffusion XL"}
OTHER_KINDS = {
    r".*(\.lora_|_lora\.|\.lora\.|:up$)": "a LoRA; name it in LoRA_path",
    r"(model\.diffusion_model|first_stage_model|cond_stage_model)\.": "a whole checkpoint; name it in model_key",
}
WHICH_FILE = "give GuidanceParams.textual_inversion_path an embedding made for this model"


def read_words(path: str) -> dict[str, Tensor]:
    """Word -> vectors [V,D] float32 of a file, or of a folder's files.  Raises ModelUnavailable, one sentence."""
    place = expanded(path)
    if not place.exists():
        raise ModelUnavailable(
            f"textual_inversion_path {path!r} does not exist; give the embedding's .safetensors or .bin file"
        )
    words: dict[str, Tensor] = {}
    for file in _files(place):
        source = f"textual inversion {file}"
        contents, _ = read_file(file, source, WHICH_FILE)
        for word, vectors in _named_vectors(contents, file, source):
            if word in words:
                raise ModelUnavailable(f"{source} has the word {word!r} a second time; leave one of the files out")
            words[word] = checked_vectors(vectors, word, source)
    return words


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    named = [place / name for name in FOLDER_FILES if (place / name).is_file()]
    files = named[:1] or [file for file in sorted(place.iterdir()) if file.suffix in SUFFIXES]
    if not files:
        raise ModelUnavailable(f"textual inversion folder {place} holds no embedding; {WHICH_FILE}")
    return files


def _named_vectors(contents: Any, file: Path, source: str) -> Iterator[tuple[str, Any]]:
    """(word, vectors) of what a file holds."""
    if torch.is_tensor(contents):
        contents = {"*": contents}
    if not isinstance(contents, dict) or not contents:
        raise ModelUnavailable(f"{source} holds {type(contents).__name__}, no vectors by name; {WHICH_FILE}")
    if "string_to_param" in contents and not torch.is_tensor(contents["string_to_param"]):
        vectors = dict(contents["string_to_param"])
        named = contents.get("name")
        contents = {str(named) if named and key == "*" else key: value for key, value in vectors.items()}
    for name in map(str, contents):
        for pattern, kind in OTHER_KINDS.items():
            if re.match(pattern, name):
                raise ModelUnavailable(f"{source} is {kind} (it holds {name!r}); {WHICH_FILE}")
    for key, model in ENCODERS.items():
        if any(str(name).split(".")[0] == key for name in contents):
            raise ModelUnavailable(f"{source} is for {model} (it holds {key!r}); {WHICH_FILE}")
    for name, vectors in contents.items():
        yield (file.stem if name in UNNAMED else str(name)), vectors


def checked_vectors(vectors: Any, word: str, source: str) -> Tensor:
    """[V,D] float32 of what stands for a word: finite, one vector or a list of them.  Raises ModelUnavailable."""
    if not torch.is_tensor(vectors) or vectors.ndim not in (1, 2) or vectors.numel() == 0:
        shape = list(vectors.shape) if torch.is_tensor(vectors) else type(vectors).__name__
        raise ModelUnavailable(f"{source}: {word!r} is {shape}; expected one vector or a list of vectors; {WHICH_FILE}")
    return check_values(vectors.detach(), word, source).reshape(-1, vectors.shape[-1])


def check_widths(words: dict[str, Tensor], width: int, source: str) -> None:
    """Raise ModelUnavailable for a word whose vectors [V,D] are not as wide as those of the text encoder."""
    for word, vectors in words.items():
        if vectors.shape[1] != width:
            kinds = [MODEL_OF_WIDTH.get(size, "") for size in (vectors.shape[1], width)]
            theirs, ours = (f" ({kind})" if kind else "" for kind in kinds)
            raise ModelUnavailable(
                f"{source}: {word!r} has width {vectors.shape[1]}{theirs}, the text encoder has {width}{ours}; "
                "use one made for this model"
            )


def add_words(components: Components, words: dict[str, Tensor], source: str) -> None:
    """Add words with their vectors [V,D] to tokenizer and text encoder; `source` names their file in ModelUnavailable.

    A word of V vectors takes V tokens, which TextEncoder puts in its place.
    """
    encoder, tokenizer = components.text_encoder, components.tokenizer
    dtype = encoder.dtype
    check_widths(words, encoder.get_input_embeddings().weight.shape[1], source)
    for word, vectors in words.items():
        check_values(vectors, word, source, dtype)
        tokens = tokens_of(word, len(vectors))
        known = tokenizer.get_vocab()
        if taken := [token for token in tokens if token in known]:
            raise ModelUnavailable(
                f"{source}: the tokenizer has {taken[0]!r} already; give the learned word another name"
            )
    for word, vectors in words.items():
        tokens = tokens_of(word, len(vectors))
        with quiet(), torch.no_grad():
            tokenizer.add_tokens(tokens)
            size = max(len(tokenizer), encoder.get_input_embeddings().num_embeddings)
            encoder.resize_token_embeddings(size, mean_resizing=False)
            weight = encoder.get_input_embeddings().weight
            weight[tokenizer.convert_tokens_to_ids(tokens)] = vectors.to(weight)
        components.learned_words[word] = len(vectors)


def tokens_of(word: str, count: int) -> list[str]:
    """The tokens that stand for a word of `count` vectors, named as diffusers names them."""
    return [word, *(f"{word}_{k}" for k in range(1, count))]
