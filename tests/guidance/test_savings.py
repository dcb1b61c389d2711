# SPDX-License-Identifier: Apache-2.0
"""What a run that was out of memory is advised to set."""

import re

import pytest
import torch

from arguments.load import load_config
from guidance import savings
from guidance.savings import remedy_of, savings_of
from utils.failures import MachineFailure, machine_failure

SD = ["--text", "a mug", "--guidance", "SD", "--model_key", "tests/data/golden/tiny-sd", "--image_w", "256", "--image_h", "256"]
BANK = ["--CoGradParams.enabled", "true", "--init_num_pts", "100000"]
FOUR = ["--C_batch_size", "4"]


@pytest.mark.parametrize("words", [[*SD, *BANK, *FOUR], ["--text", "a red mug", "--guidance", "ideal", *BANK, *FOUR]], ids=["SD", "ideal"])
def test_the_largest_saving_comes_first(words) -> None:
    found = savings_of(load_config(words), torch.device("cpu"))
    sizes = [saved for _, saved in found]
    assert sizes == sorted(sizes, reverse=True) and min(sizes) > 0
    assert {"bank_on_cpu: true", "C_batch_size: 1"} <= {setting for setting, _ in found}
    assert ("vram_O: true" in {setting for setting, _ in found}) == ("SD" in words)


def test_what_is_set_already_is_not_advised() -> None:
    words = [*SD, *BANK, "--bank_on_cpu", "true", "--C_batch_size", "1", "--vram_O", "true", "--unet_batch", "1"]
    assert savings_of(load_config(words), torch.device("cpu")) == []


def test_the_advice_names_sizes(capsys) -> None:
    told = remedy_of(MachineFailure(True, "x"), load_config([*SD, *BANK]))
    assert re.match(r"set (\w+: \w+ \(saves about [\d.]+ [GM]B\), )+smaller image_w and image_h", told)


def test_advice_that_cannot_be_estimated_is_still_advice(monkeypatch) -> None:
    def fails(*args):
        raise MemoryError

    monkeypatch.setattr(savings, "savings_of", fails)
    told = remedy_of(MachineFailure(True, "x"), load_config(SD))
    assert told == "set smaller image_w and image_h, or fewer init_num_pts"


def test_a_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    failure = machine_failure(caught.value)
    assert failure is not None and failure.of_memory
    with pytest.raises(MemoryError) as caught_too:
        bytearray(1 << 60)
    assert machine_failure(caught_too.value) == MachineFailure(True, "MemoryError")


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ValueError("out of memory"), OSError(28, "No space left")])
def test_other_errors_are_not_of_the_machine(error) -> None:
    assert machine_failure(error) is None
