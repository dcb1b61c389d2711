# SPDX-License-Identifier: Apache-2.0
"""A slice of the fuzzer, the corpus with everything that it has found, and whether it would notice."""

import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzzing import engine
from tests.fuzzing.engine import Tally, Target, check, run_round
from tests.fuzzing.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
CORPUS = [pytest.param(target, path, id=f"{target.name}-{path.name}") for target in TARGETS for path in target.seeds()]


@pytest.mark.slow
def test_a_slice_of_the_fuzzer_finds_nothing():
    """In a process of its own: hypothesis also draws the constants of whatever modules other tests have imported."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzzing", "--seed", "0", "--cases", "1", "--round", "250"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    counts = re.findall(
        r"^(\w+): 1 rounds from 0, \d+ inputs, (\d+) accepted, (\d+) refused, 0 kinds", ended.stdout, re.M
    )
    assert [name for name, *_ in counts] == [target.name for target in TARGETS]
    assert all(int(accepted) > 3 and int(refused) > 3 for _, accepted, refused in counts)


@pytest.mark.parametrize(("target", "path"), CORPUS)
def test_the_corpus(target, path):
    """Files named good are accepted; the others are traps, and what the fuzzer found before it was mended."""
    tally = Tally()
    check(target, target.read(path), tally)
    assert tally.accepted or path.stem != "good"


def made_up(law):
    return Target("made-up", st.integers(0, 10**6), law, int)


def test_a_round_is_a_seed():
    first, again = [], []
    for seen in (first, again):
        assert run_round(Target("made-up", st.integers(), partial(_remember, seen), int), 5, Tally(), 50) is None
    assert first == again and len(first) == 50


def _remember(seen, number):
    seen.append(number)
    return True


def test_an_undocumented_exception_is_found_and_made_small():
    def law(number):
        if number > 1000:
            raise KeyError("a")
        return False

    error = run_round(made_up(law), 1, tally := Tally())
    assert "KeyError" in str(error) and any("value=1001" in note for note in error.__notes__)
    assert tally.refused and list(tally.failures) == ["KeyError: 'a'"]


def _compute_for_ever():
    while True:
        pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarm on this system")
@pytest.mark.parametrize("hang", [lambda: time.sleep(60), _compute_for_ever], ids=["waits", "computes"])
def test_an_input_that_hangs_is_found(monkeypatch, hang):
    assert engine.LIMIT_S == 10
    monkeypatch.setattr(engine, "LIMIT_S", 0.05)
    monkeypatch.setattr(engine, "WAIT_LIMIT_S", 0.05)
    with pytest.raises(engine.LawBroken, match=r"TooSlow: more than 0\.05 s"):
        check(made_up(lambda number: hang()), 1, Tally())


def test_an_input_that_eats_memory_is_found(monkeypatch):
    assert engine.LIMIT_MB == 256
    monkeypatch.setattr(engine, "LIMIT_MB", -1)
    with pytest.raises(engine.LawBroken, match=r"TooMuchMemory: 0 MB"):
        check(made_up(lambda number: True), 1, Tally())
