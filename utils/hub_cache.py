# SPDX-License-Identifier: Apache-2.0
"""Whether what a hub id names is on this machine, known before anything is computed."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)


def in_cache(name: str, find: Callable[[bool], Path], missing: type[ValueError]) -> Path | None:
    """The folder that `find` has without a download; None, and a notice, where the start downloads it.

    find: given whether it may use the cache alone. missing: what it raises for files that are not there; in the hub
    client's offline mode, where a start finds no more, that is raised here.
    """
    from huggingface_hub.constants import is_offline_mode

    with contextlib.suppress(missing):
        return find(True)
    if is_offline_mode():
        return find(False)  # its sentence says so
    logger.warning("%s is not on this machine; the start downloads it", name)
    return None
