# SPDX-License-Identifier: Apache-2.0
"""Names of a U-Net's layers in the original Stable Diffusion checkpoints, which some programs still write."""

import re
from collections.abc import Iterable

TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
}
RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
BLOCK = re.compile(r"(?P<side>down|up)_blocks\.(?P<block>\d+)\.(?P<kind>\w+)\.(?P<layer>\d+)\.(?P<rest>.*)")
MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<layer>\d+)\.(?P<rest>.*)")


def original_names(names: Iterable[str]) -> dict[str, str]:
    """Today's name -> original name, of the layers of a U-Net; empty for another network."""
    blocks = [found for name in names if (found := BLOCK.fullmatch(name))]
    sizes: dict[tuple[str, str], int] = {}  # (side, block) -> resnets in it
    for found in blocks:
        if found["kind"] == "resnets":
            place = found["side"], found["block"]
            sizes[place] = max(sizes.get(place, 0), int(found["layer"]) + 1)
    with_attention = {(found["side"], found["block"]) for found in blocks if found["kind"] == "attentions"}
    result = {name: _in_block(name, sizes, with_attention) for name in names}
    return {name: old for name, old in result.items() if old} if blocks else {}


def _in_block(name: str, sizes: dict[tuple[str, str], int], with_attention: set[tuple[str, str]]) -> str:
    if found := MIDDLE.fullmatch(name):
        place = 2 * int(found["layer"]) if found["kind"] == "resnets" else 1
        return f"middle_block.{place}.{RESNET.get(found['rest'], found['rest'])}"
    found = BLOCK.fullmatch(name)
    if found is None:
        return TOP.get(name, "")
    side, block, kind, rest = found["side"], int(found["block"]), found["kind"], found["rest"]
    before = sum(sizes[side, str(k)] for k in range(block))  # resnets in the blocks before this one
    here = sizes[side, found["block"]]
    if kind == "downsamplers":
        return f"input_blocks.{before + here + block + 1}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{before + here - 1}.{2 if (side, found['block']) in with_attention else 1}.conv"
    place = before + int(found["layer"])
    stem = f"input_blocks.{place + block + 1}" if side == "down" else f"output_blocks.{place}"
    return f"{stem}.0.{RESNET.get(rest, rest)}" if kind == "resnets" else f"{stem}.1.{rest}"
