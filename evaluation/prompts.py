# SPDX-License-Identifier: Apache-2.0
"""The prompts that are evaluated: the DreamFusion gallery's, a repeatable choice of them, or a user's own file."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.bounded_file import read_text

GALLERY = Path(__file__).resolve().parents[1] / "assets" / "prompts" / "dreamfusion_gallery.json"
PAPER_COUNT = 80
MAX_BYTES = 1 << 20


def gallery() -> list[str]:
    """All 415; assets/prompts/README.md says where they come from."""
    return read_prompts(GALLERY)


def chosen(prompts: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` of them in their own order: those with the smallest SHA-256 of "<seed>:<prompt>".

    The paper names no list of its 80; this rule depends on no library's random numbers, and 40 of 80 are 40 of them.
    """
    if not 1 <= count <= len(prompts):
        raise ValueError(f"{count} prompts requested, {len(prompts)} are there; request 1..{len(prompts)}")
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}:{prompt}".encode()).hexdigest())
    kept = set(ranked[:count])
    return [prompt for prompt in prompts if prompt in kept]


def read_prompts(path: Path) -> list[str]:
    """Of a .json file a list of strings, of any other file its lines; empty lines and lines with # are left out.

    Raises ValueError for a file that cannot be read, holds no prompt, or one twice.
    """
    try:
        text = read_text(path, MAX_BYTES)
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); expected a prompt a line, or a JSON list") from error
    if not isinstance(found, list) or not all(isinstance(prompt, str) for prompt in found):
        raise ValueError(f"{path}: expected a JSON list of strings")
    prompts = [prompt.strip() for prompt in found if prompt.strip() and not prompt.lstrip().startswith("#")]
    twice = sorted(prompt for prompt, count in Counter(prompts).items() if count > 1)
    if twice or not prompts:
        problem = f"{twice[0]!r} is there twice" if twice else "no prompt is there"
        raise ValueError(f"{path}: {problem}; expected each prompt once, a line each")
    return prompts
