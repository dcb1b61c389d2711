# SPDX-License-Identifier: Apache-2.0
"""`make gpu` rehearsed whole, with tiny models: on the CPU, and on the simulated GPU."""

import subprocess
import sys

import pytest

from tests.checkout import ROOT

pytestmark = [pytest.mark.device, pytest.mark.slow]
NOTHING_TO_DO = {"sanitizer", "step, cuda_graphs", "several GPUs", "miniature"}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_whole_rehearsal(tmp_path, device):
    launcher = [] if device == "cpu" else ["-m", "tests.simulated_cuda"]
    words = ["--device", device, "--size", "tiny", "--budget", "1800", "--out", str(tmp_path)]
    words += [] if device == "cpu" else ["--under", "tests.simulated_cuda"]
    done = subprocess.run([sys.executable, *launcher, "tools/gpu_check.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {line.split(": ")[0].split(" s  ")[1]: line.split()[0] for line in done.stdout.splitlines() if " s  " in line}
    assert {name for name, state in results.items() if state == "skip"} == NOTHING_TO_DO
    assert set(results.values()) == {"pass", "skip"} and (tmp_path / "gpu_check.md").is_file()
