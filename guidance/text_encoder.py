# SPDX-License-Identifier: Apache-2.0
"""From texts to embeddings: learned words are expanded, and what is too long for the text encoder is cut and reported.

Letters of shapes: K texts, L tokens, D width of a token's embedding.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guidance.textual_inversion import tokens_of

logger = logging.getLogger(__name__)

BRACKETED = re.compile(r"<[^<>\s]+>")


class TextEncoder:
    """A tokenizer and its text encoder; remembers which learned words it has reported as unused."""

    def __init__(
        self,
        tokenizer: Any,
        model: Any,
        learned_words: Mapping[str, int],
        normalize: Callable[[Sequence[str], Sequence[str]], Sequence[str]] = lambda texts, learned: texts,
    ):
        """learned_words: word -> number of its vectors, each of which is a token of its own.

        normalize: (texts, learned words) -> texts as the tokenizer gets them.
        """
        self.tokenizer, self.model, self.normalize = tokenizer, model, normalize
        self.limit: int = min(model.config.max_position_embeddings, tokenizer.model_max_length)
        self._vectors = {
            tokenizer.convert_tokens_to_ids(word): tokenizer.convert_tokens_to_ids(tokens_of(word, count))
            for word, count in learned_words.items()
        }
        self._unreported = {tokenizer.convert_tokens_to_ids(word): word for word in learned_words}

    def tokens(self, text: str) -> list[int]:
        """Ids of a text with its begin and end token; a learned word stands as all of its vectors."""
        [row] = self._rows([text])
        return row

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        texts = self.normalize(texts, list(self.tokenizer.get_added_vocab()))
        plain = self.tokenizer(list(texts)).input_ids
        return [[vector for token in row for vector in self._vectors.get(token, [token])] for row in plain]

    def fits(self, text: str) -> bool:
        """Whether the text encoder takes the whole text."""
        return len(self.tokens(text)) <= self.limit

    def shorten(self, text: str, endings: Sequence[str] = ("",)) -> str:
        """The longest beginning of `text`, in whole words, that the text encoder takes with each of `endings`."""

        def fits(beginning: str) -> bool:
            return all(self.fits(beginning + ending) for ending in endings)

        if fits(text):
            return text
        words = [k for k, letter in enumerate(text) if letter.isspace()]
        places = words if words and fits(_tidy(text[: words[0]])) else list(range(len(text)))
        low, high = 0, len(places)  # places[:low] fit
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if fits(_tidy(text[: places[middle]])) else (low, middle)
        return _tidy(text[: places[low - 1]]) if low else ""

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [K,L,D] float32; texts that are too long lose their end, which one warning reports.

        Raises ValueError for words that are not known.
        """
        rows = self._rows(texts)
        self._report_unused(rows)
        self._report_untaught(texts)
        if cut := [text for text, row in zip(texts, rows) if len(row) > self.limit]:
            shown = "; ".join(map(_short, dict.fromkeys(cut)))
            logger.warning("the text encoder takes %d tokens; cut at the end: %s", self.limit, shown)
        begin = [row if len(row) <= self.limit else [*row[: self.limit - 1], row[-1]] for row in rows]
        mask = torch.tensor([[k < len(row) for k in range(self.limit)] for row in begin])
        padded = [row + [self.tokenizer.pad_token_id] * (self.limit - len(row)) for row in begin]
        options = {}
        if getattr(self.model.config, "use_attention_mask", False):
            options["attention_mask"] = mask.to(self.model.device)
        return self.model(torch.tensor(padded, device=self.model.device), **options)[0].float()

    def _report_unused(self, rows: Sequence[Sequence[int]]) -> None:
        """One warning, once for each learned word that no text of the run contains."""
        used = {token for row in rows for token in row}
        if unused := [word for token, word in self._unreported.items() if token not in used]:
            logger.warning(
                "learned word %s: it is in none of the run's texts, so it changes nothing; write it in "
                "GuidanceParams.text, negative or inverse_text",
                ", ".join(map(repr, unused)),
            )
        self._unreported = {}


    def _report_untaught(self, texts: Sequence[str]) -> None:
        """One warning for words in angle brackets, as learned words are written, that no file brought."""
        known = {word.lower() for word in self.tokenizer.get_added_vocab()}
        words = dict.fromkeys(word for text in texts for word in BRACKETED.findall(text) if word.lower() not in known)
        if words:
            named = ", ".join(map(repr, words))
            logger.warning("%s: no file of LoRA_path or textual_inversion_path has the word; it is read as text", named)


def _tidy(text: str) -> str:
    """Without what a cut leaves hanging at the end."""
    return text.rstrip(" \t\r\n,;:-")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
