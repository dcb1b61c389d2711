# SPDX-License-Identifier: Apache-2.0
"""A CLIPTokenizer that knows the toy world's words, one token a word.

Its byte-pair merges only ever put one letter in front of the end of a known word, so at most one merge applies at any
time and their order cannot matter. Letters and word ends are tokens too: an unknown word falls apart into them, and
training shows the network that such pieces mean nothing.
"""

import json
import string
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

from toy.captions import SYNONYMS, vocabulary

LENGTH = 20
"""Tokens of a prompt, start and end included; longer prompts are cut."""

EXTRA_WORDS = (
    "the",
    "of",
    "and",
    "in",
    "its",
    "photo",
    "dslr",
    "image",
    "picture",
    "toy",
    "object",
    "background",
    "view",
)
START, END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Every word that is one token, sorted: captions, synonyms and a few fillers."""
    return sorted({*vocabulary(), *SYNONYMS, *EXTRA_WORDS})


def word_level_bpe(known: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) under which each known word becomes the single token "word</w>"."""
    known = sorted(set(known))
    merges: dict[tuple[str, str], None] = {}
    for word in known:
        for start in range(len(word) - 2, -1, -1):
            merges[word[start], word[start + 1 :] + "</w>"] = None
    letters = [*string.ascii_lowercase, *(letter + "</w>" for letter in string.ascii_lowercase), ",</w>", ".</w>"]
    tokens = [START, END, *(word + "</w>" for word in known), *letters, *(a + b for a, b in merges)]
    return {token: at for at, token in enumerate(dict.fromkeys(tokens))}, list(merges)


def build_tokenizer() -> CLIPTokenizer:
    """The toy world's tokenizer; raises ValueError if a word of the vocabulary is not exactly one token."""
    vocab, merges = word_level_bpe(words())
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    check_one_token_a_word(tokenizer, words())
    return tokenizer


def check_one_token_a_word(tokenizer: CLIPTokenizer, known: Iterable[str]) -> None:
    """Raises ValueError naming the words that the tokenizer splits."""
    split = [word for word in known if len(tokenizer(word, add_special_tokens=False).input_ids) != 1]
    if split:
        raise ValueError(
            f"These words are not one token each: {', '.join(split)}; use letters a-z, and add them to the vocabulary."
        )


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Writes the tokenizer, words.txt (what the prior can be asked for), and vocab.json and merges.txt, which
    transformers 5 leaves out and older ones need."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    vocab, merges = word_level_bpe(words())
    (folder / "words.txt").write_text("\n".join(words()) + "\n")
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
