# SPDX-License-Identifier: Apache-2.0
"""evaluation/experiments/cluster.py: two Ray nodes on this machine, one of them killed; what is told where it cannot work."""

import ast
import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from evaluation.experiments import cluster, runs
from evaluation.experiments.cluster import Cluster, Node
from evaluation.experiments.runs import ROOT, RunFailed, Sweep
from evaluation.reproduction.order import Order, order_of
from tests.patience import PATIENCE_S
from tools import reproduce

WORDS = ["--prior", "toy", "--variants", "luciddreamer", "full", "--count", "1", "--seeds", "2", "--view_px", "16"]
TINY = ["--iterations", "20", "--warmup_iter", "20", "--image_w", "16", "--image_h", "16", "--init_num_pts", "60"]
NODE = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}


def _order(out) -> Order:
    return order_of(reproduce.parser().parse_args(["--out", str(out), *WORDS]), TINY, train.main)


# --- two real nodes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes():
    """A connection to a cluster of two nodes of a core, and the process of the second one's raylet."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    from ray.cluster_utils import Cluster as Started

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    started = Started(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    raylet = started.add_node(**NODE).all_processes["raylet"][0].process
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "PROBE_S", 1800.0)  # a busy machine took more than the 120 s
        with cluster.connected(started.address, False, print) as found:
            yield found, raylet.pid
    started.shutdown()


@pytest.mark.slow
def test_a_real_node_that_has_no_time_to_answer_is_not_called_unable(nodes, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "PROBE_S", 0)
    with pytest.raises(ValueError, match="did not answer within 0 s, so that it is not known"):
        cluster._check_revisions(nodes[0].ray, nodes[0].nodes)


@pytest.mark.slow
def test_after_ctrl_c_the_rest_is_done(tmp_path, nodes) -> None:
    """In a folder that both nodes see."""
    order, told = _order(tmp_path), []
    names = {run.name for run in order.runs[:3]}

    def interrupt(run, result) -> None:
        told.append(run.name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.run_all(order.runs[:3], order.sweep, interrupt, nodes[0].run_pass)
    assert not _running_under(nodes[1])
    done = {path.stem for path in tmp_path.glob("*.json")}
    assert set(told) <= done < names  # one more may have ended at the same moment
    again = []
    assert runs.run_all(order.runs[:3], order.sweep, lambda run, _: again.append(run.name), nodes[0].run_pass) == []
    assert sorted(again) == sorted(names - done)


@pytest.mark.slow
def test_a_node_is_killed_in_the_middle_and_nothing_is_lost(tmp_path, nodes, monkeypatch) -> None:
    """In a folder that no node sees, so that everything comes back through the object store."""
    monkeypatch.setattr(cluster, "_marker", lambda folder: contextlib.nullcontext(Path("nowhere")))
    order, told, seen = _order(tmp_path), [], {}
    watch = threading.Thread(target=_kill_in_the_middle, args=(nodes[1], tmp_path, seen), daemon=True)
    watch.start()
    failed = runs.run_all(order.runs, order.sweep, lambda run, result: told.append(run.name), nodes[0].run_pass)
    results = runs.read_results(tmp_path, told)
    assert failed == [] and sorted(told) == sorted(run.name for run in order.runs)
    assert [result["steps"] for result in results] == [20] * 4 and seen["victim"] in told
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert seen["done"] and {name: stamps[name] for name in seen["done"]} == seen["done"]  # none was made again
    assert not _locked(seen["pid"])  # the run of the lost node has ended too
    assert reproduce.main(["--out", str(tmp_path), *WORDS, "--report_only", "--", *TINY]) == 0
    assert (tmp_path / "report.html").read_text().count("<video") == 2


def _kill_in_the_middle(raylet: int, out: Path, seen: dict) -> None:
    """Once an asset is done and another is being made under `raylet`: kills that node, and notes what there was."""
    end = time.monotonic() + PATIENCE_S
    while "victim" not in seen and time.monotonic() < end:
        done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.json")}
        for pid, name in _running_under(raylet).items() if done else ():
            os.kill(pid, signal.SIGSTOP)  # so that it cannot end before its node does
            if not (out / f"{name}.json").exists():
                os.kill(raylet, signal.SIGKILL)
                seen |= {"victim": name, "pid": pid, "done": done}
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)


def _running_under(pid: int) -> dict[int, str]:
    """Process -> asset, of the runs of train.py that descend from a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    mine = {pid}
    for _ in range(3):  # worker, fork server, run
        mine |= {child for child, parent in parents.items() if parent in mine}
    return {child: name for child in mine if (name := _locked(child))}


def _locked(pid: int) -> str:
    """The asset whose run folder a process has locked."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(link).endswith("/run.lock"):
                return Path(os.readlink(link)).parent.name
    return ""


# --- what is told, and what a task is given; a pretended Ray ----------------------------------------------------------


class RayError(Exception):
    """Of the pretended Ray."""


class GetTimeoutError(RayError):
    """Likewise."""


class PretendedRay:
    """A Ray of one node; a task runs when its result is asked for, or gives `answer` instead."""

    exceptions = SimpleNamespace(RayError=RayError, GetTimeoutError=GetTimeoutError)
    util = SimpleNamespace(scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: None))

    def __init__(self) -> None:
        self.resources, self.answer, self.wanted = {"CPU": 4.0}, None, []

    def init(self, *_, **__) -> None: ...

    def shutdown(self) -> None: ...

    def nodes(self) -> list:
        return [{"Alive": True, "NodeManagerHostname": "left", "Resources": self.resources, "NodeID": "1"}]

    def remote(self, task):
        def options(**wanted):
            self.wanted.append(wanted)
            return SimpleNamespace(remote=lambda *words: lambda: task(*words))

        return SimpleNamespace(options=options)

    def wait(self, refs, **_):
        return refs[:1], refs[1:]

    def get(self, ref, timeout=None):
        if isinstance(self.answer, RayError):
            raise self.answer
        return self.answer or ref()

    def get_runtime_context(self):
        return SimpleNamespace(get_accelerator_ids=lambda: {"GPU": ["5"]})


@pytest.fixture
def ray(monkeypatch):
    pretended = PretendedRay()
    monkeypatch.setitem(sys.modules, "ray", pretended)
    return pretended


def _refused(capsys, out, address: str, *words) -> str:
    assert reproduce.main(["--out", str(out), "--ray", address, "--yes", *(words or ("--prior", "toy"))]) == 2
    return capsys.readouterr().err


def test_only_one_file_imports_ray_and_only_when_it_is_asked() -> None:
    for path in [
        ROOT / "train.py",
        *(p for room in ("tools", "evaluation", "utils") for p in (ROOT / room).rglob("*.py")),
    ]:
        tree = ast.parse(path.read_text())
        names = lambda nodes: {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}  # noqa: E731
        assert "ray" not in names(tree.body), path
        assert "ray" not in names(ast.walk(tree)) or path.name == "cluster.py", path


def test_without_ray_it_says_what_to_install(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "not installed: pip install -r requirements-ray.txt" in _refused(capsys, tmp_path, "auto")


@pytest.mark.parametrize("address", ["local", "nonsense", "head", "http://head:6379", "ray://head", "head:6379:1x"])
def test_what_is_no_address_is_told(tmp_path, ray, capsys, address) -> None:
    assert "expected auto, HOST:PORT (such as head:6379) or ray://HOST:PORT" in _refused(capsys, tmp_path, address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_told_at_once(tmp_path, ray, capsys, scheme) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        told = _refused(capsys, tmp_path, f"{scheme}127.0.0.1:{held.getsockname()[1]}")
    assert "no cluster answers there" in told and "ray start --head --disable-usage-stats" in told


def test_what_ray_says_is_told_in_a_line(tmp_path, ray, capsys) -> None:
    def init(*words, **more):
        raise ConnectionError("Traceback\nCould not find any running Ray instance.")

    ray.init = init
    told = _refused(capsys, tmp_path, "auto")
    assert (
        told.startswith("reproduce: --ray auto: Could not find any running Ray instance; start")
        and told.count("\n") == 1
    )


def test_a_cluster_without_a_gpu_is_told_where_the_prior_wants_one(tmp_path, ray, capsys) -> None:
    told = _refused(capsys, tmp_path, "auto", "--prior", "sd", "--count", "1")
    assert "a run needs a core and a GPU and no node has that (left: 4 cores, 0 GPUs)" in told
    ray.resources = {"CPU": 4.0, "GPU": 2.0}
    assert reproduce.main(["--out", str(tmp_path), "--ray", "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert "2 GPUs" in told and "on a Ray cluster of 1 nodes, 4 cores and 2 GPUs" in told
    ray.resources = {}
    assert "a run needs a core and no node has that" in _refused(capsys, tmp_path, "auto")


def test_nodes_with_other_code_are_told(tmp_path, ray, capsys) -> None:
    ray.answer = "0" * 40
    assert re.search(
        f"node left has revision {'0' * 40} of the code, this machine ", _refused(capsys, tmp_path, "auto")
    )
    ray.answer = RayError("No module named 'tools'")
    told = _refused(capsys, tmp_path, "auto")
    assert "node left cannot run this checkout (No module named 'tools'); every node needs it at " in told


def test_a_slow_node_is_not_called_unable(tmp_path, ray, capsys, monkeypatch) -> None:
    """What is known is said, of nodes and of addresses, and what to do."""
    ray.answer = GetTimeoutError("Get timed out: some object(s) not ready.")
    told = _refused(capsys, tmp_path, "auto")
    waited = f"node left did not answer within {cluster.PROBE_S:g} s"  # `nodes` patches it
    assert f"{waited}, so that it is not known whether it can run this checkout; `ray" in told
    assert "give the same command again" in told and "cannot run" not in told and told.count("\n") == 1

    def slow(*_: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", slow)
    told = _refused(capsys, tmp_path, "head:6379")
    assert "--ray head:6379: no answer within 5 s; that machine may be slow" in told and told.count("\n") == 1


def test_cores_and_places_are_those_of_the_gpus() -> None:
    nodes = [Node("a", 16, 2, "1"), Node("b", 7, 1, "2"), Node("c", 64, 0, "3")]
    assert (Cluster(None, nodes, True, print).threads(), Cluster(None, nodes, False, print).threads()) == (7, 1)
    assert Cluster(None, nodes, True, print).slots(7) == 3 and Cluster(None, nodes, False, print).slots(1) == 87


def test_a_lost_node_is_told_once(ray) -> None:
    told = []
    nodes = [Node("left", 4, 0, "1"), Node("right", 4, 0, "2")]
    found = Cluster(ray, nodes, False, told.append)
    assert found._report_lost(found._report_lost({"1", "2"})) == {"1"}
    assert told == ["node right is lost; its runs restart on other nodes, nodes left: 1"]


@pytest.mark.parametrize("shared", [True, False])
def test_a_task_gets_its_gpu_and_returns_failures_and_files(tmp_path, ray, monkeypatch, shared) -> None:
    wrote, heard = [], []

    def run_one(run, sweep):
        wrote.append((sweep.out == tmp_path, sweep.gpus))
        if run.name == "bad":
            raise RunFailed("no memory")
        (sweep.folder(run.name) / "report").mkdir(parents=True)
        (sweep.folder(run.name) / "report" / "views.jpg").write_bytes(b"image")
        return run.facts

    monkeypatch.setattr(cluster, "run_one", run_one)
    if not shared:
        monkeypatch.setattr(cluster, "_marker", lambda folder: contextlib.nullcontext(Path("nowhere")))
    wanted = [runs.Run(name, (), {"name": name}) for name in ("good", "bad")]
    found = Cluster(ray, [Node("left", 4, 1, "1")], True, print)
    failures = found.run_pass(wanted, Sweep(tmp_path, train.main, print, threads=3), lambda run, result: heard.append(run.name))
    assert heard == ["good", "bad"] and re.fullmatch(r".+: no memory", str(failures["bad"]))
    assert wrote == [(shared, ("5",))] * 2
    assert ray.wanted == [{"num_cpus": 3, "num_gpus": 1, "max_retries": cluster.LOST}]
    assert runs.read_results(tmp_path, ["good", "bad"]) == [{"name": "good"}]
    assert (tmp_path / "runs" / "good" / "report" / "views.jpg").read_bytes() == b"image"
    assert not list(tmp_path.glob(".ray-*"))


def test_what_ray_gives_up_is_a_failed_run(tmp_path, ray) -> None:
    ray.answer = RayError("Traceback\nThe worker died.")
    found = Cluster(ray, [Node("left", 4, 0, "1")], False, print)
    failures = found.run_pass([runs.Run("lost", (), {})], Sweep(tmp_path, train.main, print), lambda run, result: None)
    assert str(failures["lost"]) == "Ray: The worker died"
