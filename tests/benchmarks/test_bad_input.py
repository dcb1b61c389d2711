# SPDX-License-Identifier: Apache-2.0
"""A run that is not there is one sentence of the benchmarks that take one."""

import pytest

from benchmarks import exports, mesh, web_page


@pytest.mark.parametrize(
    ("main", "words"), [(exports.main, ["--run"]), (mesh.main, []), (web_page.main, ["--run"])], ids=["exports", "mesh", "web_page"]
)
def test_a_run_that_is_not_there(tmp_path, capsys, main, words) -> None:
    assert main([*words, str(tmp_path / "nowhere")]) == 2
    told = capsys.readouterr().err
    assert "nowhere does not exist" in told and told.count("\n") == 1
