# SPDX-License-Identifier: Apache-2.0
"""Files of torch and safetensors that others made: upstream's checkpoints, and LoRA files."""

import io
import json
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from guidance.lora import LoRA, read_lora
from guidance.sources import ModelUnavailable
from scene.upstream_checkpoint import read_upstream
from tests.fuzzing.engine import LawBroken, Target
from tests.fuzzing.mutations import damaged

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
PICKLE_TOKENS = [b"ctorch\nload\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"R.", b"t", b"}", b"(", b"K\x01", b"\x8a\xff", b"X\xff\xff\xff\x7f"]  # fmt: skip
LORA_KEYS = st.sampled_from([
    "unet.a.lora.up.weight", "unet.a.lora.down.weight", "unet.a.lora.alpha", "unet.a.lora_A.weight", "unet.a.lora_B.weight",
    "lora_unet_a.lora_up.weight", "lora_unet_a.lora_down.weight", "lora_unet_a.alpha", "unet:0:up", "unet:0:down", "unet:0:alpha",
    "text_encoder:0:up", "lora_te2_a.alpha", "unet.a.dora_scale", "<word>", "base_model.model.a.lora_A.weight",
])  # fmt: skip
SHAPES = st.sampled_from([(), (1,), (2,), (0,), (2, 2), (2, 3), (3, 2), (2, 2, 1, 1), (0, 2)])
TENSORS = SHAPES.map(torch.ones) | SHAPES.map(lambda shape: torch.full(shape, float("nan")))
SAID = st.sampled_from(["{}", "[]", "null", "[" * 100_000, "1" * 5000, '["CrossAttention"]', "[null, 1]", "<embed>", "{", '{"unet.lora_alpha": 4}', '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": {"a": []}}', '{"unet.alpha_pattern": 3, "unet.use_rslora": 7}'])  # fmt: skip
METADATA = st.dictionaries(
    st.sampled_from(["lora_adapter_metadata", "unet", "text_encoder", "<word>"]), SAID, max_size=3
)


def _captured(count: int = 2) -> tuple:
    shapes = (
        (count, 3),
        (count, 1, 3),
        (count, 0, 3),
        (count, 3),
        (count, 4),
        (count, 1),
        (count,),
        (count, 1),
        (count, 1),
    )
    return (0, *map(torch.zeros, shapes), {"state": {}, "param_groups": []}, 1.5)


def _torch_file(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _with_pickle(pickled: bytes) -> bytes:
    """A torch file whose archive is whole and whose pickle is `pickled`."""
    whole, made = zipfile.ZipFile(io.BytesIO(GOOD)), io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in whole.namelist():
            archive.writestr(name, pickled if name.endswith("data.pkl") else whole.read(name))
    return made.getvalue()


def upstream_law(content: bytes) -> bool:
    """Parameters, or a ValueError of one sentence that names the file."""
    path = FOLDER / "chkpnt1.pth"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            captured, iteration = read_upstream(path)
    except ValueError as error:
        return _refused(path, error)
    if not all(x.isfinite().all() for x in captured["parameters"].values()) or iteration < 0:
        raise LawBroken("numbers that are not finite were accepted")
    return True


def lora_law(content: bytes) -> bool:
    """A LoRA with both factors of every layer, or ModelUnavailable with one sentence that names the file."""
    path = FOLDER / "given.safetensors"
    path.write_bytes(content)
    try:
        lora = read_lora(str(path))
    except ModelUnavailable as error:
        return _refused(path, error)
    if not isinstance(lora, LoRA) or any(x.up is None or x.down is None for x in lora.layers.values()):
        raise LawBroken("half a LoRA was accepted")
    return True


def _refused(path: Path, error: Exception) -> bool:
    if str(path) not in str(error) or "\n" in str(error) or len(str(error)) > 2000:
        raise LawBroken(f"no sentence: {str(error)[:200]!r}") from error
    return False


def _lora_file(parts: tuple[dict[str, torch.Tensor], dict[str, str]]) -> bytes:
    return save(*parts)


def _read_json(path: Path) -> bytes:
    """{"shapes": {key: shape}, "metadata": {...}}: a LoRA file of ones."""
    said = json.loads(path.read_text())
    return _lora_file(({key: torch.ones(shape) for key, shape in said["shapes"].items()}, said["metadata"]))


GOOD = _torch_file((_captured(), 1))
PICKLE = zipfile.ZipFile(io.BytesIO(GOOD)).read("archive/data.pkl")
SEEDS = [GOOD, _torch_file((_captured(0), 0)), _torch_file([1, 2]), _torch_file({"a": torch.ones(2)})]
UPSTREAM = Target("upstream", damaged(SEEDS) | damaged([PICKLE], PICKLE_TOKENS).map(_with_pickle), upstream_law, Path.read_bytes)  # fmt: skip
PAIRS = [("unet.a.lora.up.weight", "unet.a.lora.down.weight"), ("unet.a.lora_B.weight", "unet.a.lora_A.weight"), ("unet:0:up", "unet:0:down")]  # fmt: skip
WHOLE = st.sampled_from(PAIRS).map(lambda pair: {pair[0]: torch.ones(3, 2), pair[1]: torch.ones(2, 3)})
EXTRA = st.dictionaries(LORA_KEYS, TENSORS, max_size=3)
LORA_PARTS = st.tuples(
    EXTRA | st.builds(dict.__or__, WHOLE, EXTRA) | WHOLE, METADATA | st.just({"unet": '["Attention"]'})
)
LORA = Target("lora", LORA_PARTS.map(_lora_file), lora_law, _read_json)
