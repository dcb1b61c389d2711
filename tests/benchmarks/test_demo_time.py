# SPDX-License-Identifier: Apache-2.0
"""The comparison of the demo's CPU times: its tables, and that it runs what `make demo` runs."""

from benchmarks.demo_time import DEMO, print_scores, print_table
from tests.checkout import ROOT


def test_tables_by_hand(capsys) -> None:
    print_table([{"all, s": 8.0}, {"all, s": 12.0}, {"all, s": 10.0}], [{"all, s": 5.0}] * 3)
    assert "| all, s | 8.00 to 12.0 | 5.00 | 0.50 |" in capsys.readouterr().out
    before, after = ([{"psnr": x, "ssim": 1.0, "detail": 0.5} for x in column] for column in ((20.0, 22.0), (21.0, 22.0)))
    print_scores(before, after)
    printed = capsys.readouterr().out
    assert "| psnr | 21.000 | 21.500 | +0.500 +- 0.500 |" in printed and "| detail | 0.500 | 0.500 | +0.000 +- 0.000 |" in printed


def test_the_demo_of_a_makefile_is_found() -> None:
    found = DEMO.search((ROOT / "Makefile").read_text())
    assert found is not None and found[1].split()[:4] == ["--opt", "configs/quickstart.yaml", "--workspace", "quickstart"]
