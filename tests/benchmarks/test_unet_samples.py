# SPDX-License-Identifier: Apache-2.0
"""The table of cheaper inversions: its arithmetic, and that a row's cosine is of that row's setting."""

import pytest

from benchmarks import unet_samples


def test_the_outer_layers_share():
    """In 512 px images 7.9 % of a sample; the share hardly moves with the size."""
    assert unet_samples.outer_share(512) == pytest.approx(0.0787, abs=5e-4)


def test_the_table(monkeypatch, capsys):
    """One timestep, one step's images: costs counted by hand, the reference equal to itself."""
    settings = {name: unet_samples.SETTINGS[name] for name in ("5 steps of 200, as LucidDreamer", "unet_cache_interval 5")}
    monkeypatch.setattr(unet_samples, "SETTINGS", settings)
    monkeypatch.setattr(unet_samples, "TIMESTEPS", (900,))
    monkeypatch.setattr(unet_samples, "outer_share", lambda: 0.1)
    monkeypatch.setattr(unet_samples, "RUN", unet_samples.RUN | {"image_w": 32, "image_h": 32, "init_num_pts": 100, "C_batch_size": 2})
    unet_samples.compare_gradients([1])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    _, reference, cached, noise = rows
    assert reference[1:] == ["1.00", "1.00", "1.0000", "1.000"]
    # Six rounds, from 0, 200, 400, 600, 800 and 850, of which four are cached, and two texts, with Perp-Neg four.
    assert cached[1:3] == [f"{(2 + 2 + 4 * 0.1) / 8:.2f}", f"{(2 + 4 + 4 * 0.1) / 10:.2f}"]
    assert 0.5 < float(cached[3]) < 1 and float(noise[3]) < 1
