# SPDX-License-Identifier: Apache-2.0
"""Whether the prior of a run knows the words of its prompt: asked before anything is loaded, without diffusers.

Stable Diffusion takes any text. The ideal prior knows the toy world's words; so does a model whose folder has
tokenizer/words.txt, the list of the words that it was trained on.
"""

import re
from collections.abc import Collection, Iterator, Sequence

from arguments import Config, GuidanceParams
from arguments.checks import Problem
from arguments.coerce import show
from guidance.lora_file import read_lora
from guidance.model_checks import read_words
from guidance.sources import ModelUnavailable, local_folder
from guidance.textual_inversion import read_words as read_learned
from toy.captions import known_words
from toy.objects import CLASSES
from toy.reading import FUNCTION_WORDS, Reading, UnknownPrompt, known_form, listed, read_prompt, words_of

ANYWAY = "--allow_unknown_words takes it all the same; Stable Diffusion (configs/prompt.yaml) takes any text"


def vocabulary_of(params: GuidanceParams) -> frozenset[str] | None:
    """The words of the list beside the model of model_key; None for a model without one, or not on this machine."""
    folder = local_folder(params.model_key)
    path = folder / "tokenizer" / "words.txt" if folder is not None else None
    return read_words(path) if path is not None and path.is_file() else None


def read_words_of(params: GuidanceParams) -> Reading | None:
    """How the run's prior reads the prompt; None where it takes any text, or its files of learned words are unreadable.

    `problem`, `unknown` (with the nearest known words) and `refusal` of a Reading are for messages and forms.
    """
    if not params.text.strip():
        return None
    if params.guidance == "ideal":
        return read_prompt(params.text)
    if not is_toy_world(vocabulary_of(params)):
        return None
    try:
        return read_prompt(params.text, learned_words_of(params))
    except ModelUnavailable:  # guidance.model_files reports it with the settings
        return None


def learned_words_of(params: GuidanceParams) -> list[str]:
    """Words that the run's textual inversion and LoRA bring.  Raises ModelUnavailable for unreadable files."""
    inversion = read_learned(params.textual_inversion_path) if params.textual_inversion_path else ()
    return [*inversion, *(read_lora(params.LoRA_path).words if params.LoRA_path else ())]


def is_toy_world(vocabulary: Collection[str] | None) -> bool:
    """Whether a model with these words knows the toy world's objects."""
    return vocabulary is not None and set(CLASSES) <= set(vocabulary)


def prompt_problems(config: Config) -> Iterator[Problem]:
    """A prompt in words that the prior does not know, for arguments.load.load_config."""
    reading = read_words_of(config.guidance)
    if reading is not None and reading.problem and not config.guidance.allow_unknown_words:
        expected = f"a prompt that the toy world knows, this one {reading.problem}. {known_words()} {ANYWAY}"
        yield "GuidanceParams.text", show(config.guidance.text), expected


def prompt_notices(config: Config) -> list[str]:
    """Sentences on words of the run's texts that have no effect, and on a prompt that is trained though unknown."""
    params = config.guidance
    reading = read_words_of(params)
    if reading is None:
        return []
    if params.guidance == "ideal":
        if reading.spec is None:
            return [f"the prompt {show(reading.text)} {reading.problem}: the prior shows a mixture of all objects"]
        return [reading.notice] if reading.notice else []
    texts = [params.text, params.negative, params.inverse_text]
    unknown = unknown_words(texts, vocabulary_of(params) or (), learned_words_of(params))
    effect = "are given to it all the same" if params.allow_unknown_words else "are left out"
    return [f"words that the model {params.model_key} does not know {effect}: {listed(unknown)}"] if unknown else []


def unknown_words(texts: Sequence[str], known: Collection[str], learned: Sequence[str] = ()) -> list[str]:
    """Words of the texts that are neither in `known`, in this or another form, nor learned; each once."""
    plain = [part for text in texts for part in _split_at(text, learned) if part not in learned]
    return list(dict.fromkeys(word for part in plain for word in words_of(part) if not _known(word, known)))


def in_known_words(
    texts: Sequence[str], known: Collection[str], learned: Sequence[str] = (), prompt: str = ""
) -> list[str]:
    """Texts for a tokenizer of `known` words: plurals and synonyms in their known form, unknown words left out.

    Learned words and punctuation stay as they are. Raises ValueError for unknown words, or, with the toy world's
    vocabulary, for a run's `prompt` that it does not know: `prompt_problems` sees only models on this machine.
    """
    unknown = [word for word in unknown_words(texts, known, learned) if word not in FUNCTION_WORDS]
    if unknown and not is_toy_world(known):
        raise ValueError(
            f"the prompt has words that this model does not know: {listed(unknown)}. "
            f"Known words: {', '.join(sorted(known))}. {ANYWAY}"
        )

    if prompt.strip() and is_toy_world(known) and (refusal := read_prompt(prompt, learned).refusal):
        raise UnknownPrompt(f"{refusal} {ANYWAY}")

    def of_part(part: str) -> str:
        return part if part in learned else re.sub(r"[^\W_]+", lambda found: _known(found[0].lower(), known), part)

    return ["".join(map(of_part, _split_at(text, learned))) for text in texts]


def _split_at(text: str, words: Sequence[str]) -> list[str]:
    """The text in pieces, which are learned words or what stands between them."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if words else [text]


def _known(word: str, known: Collection[str]) -> str:
    """The word in a form that is known; "" where there is none."""
    return next((form for form in (word, known_form(word)) if form in known), "")
