# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the gradient bank runs, and counts bytes rightly."""

from benchmarks import gradient_bank


def test_a_small_table(capsys) -> None:
    gradient_bank.main(["--gaussians", "1000", "--seen", "1", "0.3", "--repeats", "1", "--device", "cpu"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 1000")]
    assert [row[:2] for row in rows] == [["1000", "1"], ["1000", "0.3"]] and all(len(row) == 9 for row in rows)
    assert {(row[2], row[3], row[4]) for row in rows} == {("10", "10", "0")}  # 180 x 1000 x 14 floats, below the bound
    assert all(float(cell) >= 0 for row in rows for cell in row[5:])
