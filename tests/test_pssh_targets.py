"""Targets of deploy/pssh with hosts that are played: who is told what, in which order, and what remains when it fails."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "deploy" / "pssh"))

from pssh_cluster import cli, driver, fanout, hosts, keys, lifecycle, settings, steps, updown, watch  # noqa: E402
from pssh_cluster.context import Cluster  # noqa: E402
from pssh_cluster.errors import ClusterError  # noqa: E402
from pssh_cluster.fanout import Job, Outcome  # noqa: E402
from pssh_cluster.hosts import Host  # noqa: E402

H1, H2, H3 = (Host(address=f"10.77.9.{n}") for n in (1, 2, 3))
FACTS = {"url": "spark://10.77.9.1:7077", "cores": "2", "memory": "1024", "hostname": "h", "have": "yes"}


@dataclasses.dataclass
class Played:
    """Hosts that do what they are told, but for those that fail."""

    told: list[tuple[str, list[str]]] = dataclasses.field(default_factory=list)
    """Which script went to which hosts."""
    jobs: list[Job] = dataclasses.field(default_factory=list)
    fails: dict[tuple[str, Host], str] = dataclasses.field(default_factory=dict)

    def run(self, _: settings.Settings, chosen: Sequence[Host], job: Job, peers: Sequence[Host] = ()) -> list[Outcome]:
        """In place of `fanout.run`."""
        self.jobs.append(job)
        self.told.append((job.script, [host.address for host in chosen]))
        return [self._one(job.script.split()[-1], host) for host in chosen]

    def keys(self, _: Cluster, chosen: Sequence[Host]) -> list[Outcome]:
        """In place of `keys.hosts_keys`."""
        self.told.append(("keys", [host.address for host in chosen]))
        return [self._one("keys", host) for host in chosen]

    def _one(self, script: str, host: Host) -> Outcome:
        why = self.fails.get((script, host), "")
        facts = {**FACTS, "address": host.address}
        return Outcome(host=host, ok=not why, seconds=0, facts=facts, why=why, unreachable=why == "no route")

    @property
    def scripts(self) -> list[str]:
        """What was done."""
        return [script for script, _ in self.told]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    found = Played()
    monkeypatch.setattr(fanout, "run", found.run)
    monkeypatch.setattr(keys, "hosts_keys", found.keys)
    monkeypatch.setattr(watch, "status", lambda *_: [])
    monkeypatch.setattr(hosts, "is_ours", lambda _: False)
    monkeypatch.setattr(lifecycle, "is_ours", lambda _: False)
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Callable[..., Cluster]:
    ips = tmp_path / "ips.txt"
    ips.write_text("10.77.9.1\n10.77.9.2\n10.77.9.3\n")
    (tmp_path / "a.pex").write_text("")

    def make(**given: object) -> Cluster:
        environ = {"CLUSTER_STATE": str(tmp_path / "state"), "IPS": str(ips), "LOCAL": "0"}
        environ |= {"PEX_FILE": str(tmp_path / "a.pex")} | {name: str(value) for name, value in given.items()}
        return Cluster.open({name: value for name, value in environ.items() if value})

    return make


# --- cluster-up and workers-add


def test_the_same_hosts_in_another_form(cluster: Callable[..., Cluster], played: Played, tmp_path: Path) -> None:
    assert updown.cluster_up(cluster()) == 0
    table = tmp_path / "hosts.csv"
    table.write_text(",host,user,hostname\n0,10.77.9.1,u,node1\n1,10.77.9.2,u,node2\n")
    again = cluster(IPS="", HOSTS=table)
    assert updown.cluster_up(again) == 0
    assert updown.workers_add(again) == 0
    for script, among in played.told:
        assert len(among) == len(set(among)), script
    assert again.state().master == Host(address="10.77.9.1", user="u", name="node1")


def test_a_machine_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object, chosen: Sequence[Host], *more: Callable[[Outcome], None]) -> None:
        for host in chosen:
            more[-1](Outcome(host=host, ok=True, seconds=0))

    monkeypatch.setattr(fanout, "_run_remote", run)
    twice = [H1, Host(address="10.77.9.1", user="u"), H2]
    job = Job(script="names", values={}, timeout=5, quiet=True)
    assert [one.host for one in fanout.run(settings.load({"LOCAL": "0"}), twice, job)] == [H1, H2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"PEX_FILE": "none.pex"}, "PEX_FILE=none.pex: cannot be read"),
        ({"PEX_SHA256": "0" * 64}, "its sha256 is"),
        ({"SPARK_TGZ": "none.tgz"}, "SPARK_TGZ=none.tgz: cannot be read"),
        ({"KNOT_ZONES": "a.lan"}, "KNOT_ZONES: a.lan"),
        ({"KNOT_CONF": "none.lua"}, "KNOT_CONF=none.lua: cannot be read"),
        ({"MOUNT_HOST": "10.0.0.9", "MOUNT_DIR": "/d", "MOUNT_KEY": "none"}, "MOUNT_KEY=none: cannot be read"),
        ({"MOUNT_HOST": "10.0.0.9"}, "give MOUNT_HOST and MOUNT_DIR"),
    ],
)
def test_what_is_wrong_here_is_said_before_anything_is_done(
    cluster: Callable[..., Cluster], played: Played, given: dict[str, str], says: str
) -> None:
    with pytest.raises(ClusterError, match=says):
        updown.cluster_up(cluster(**given))
    assert played.told == []
    assert not cluster().is_known


def test_a_dead_storage_machine_holds_no_hosts(
    cluster: Callable[..., Cluster], played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    played.fails["keys", Host(address="10.0.0.9")] = "does not answer"
    mine = cluster(MOUNT_HOST="10.0.0.9", MOUNT_DIR="/d", MASTER="10.0.0.7")
    assert updown.cluster_up(mine) == 1
    assert "cluster-up: the storage machine 10.0.0.9: does not answer" in capsys.readouterr().err
    assert mine.state().everyone == ()
    assert cluster(CLUSTER="b").claim() == (H1, H2, H3)


def test_an_error_in_the_middle_names_the_hosts_that_failed_before(
    cluster: Callable[..., Cluster], played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> list[Outcome]:
        raise ClusterError("somebody removed the pex")

    monkeypatch.setattr(updown, "pex_install", broken)
    played.fails["setup", H2] = "no room"
    played.fails["keys", H3] = "does not answer"
    mine = cluster()
    assert updown.cluster_up(mine) == 1
    said = capsys.readouterr().err
    assert "cluster-up: somebody removed the pex" in said
    assert "10.77.9.2: hosts-setup: no room" in said
    assert "10.77.9.3: hosts-keys: does not answer" in said
    assert mine.state().hosts == (H1, H2), "the third was never reached; on the others something was done"


def test_workers_start_without_a_master_holds_no_hosts(
    cluster: Callable[..., Cluster], played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = cluster()
    with pytest.raises(ClusterError, match="has no master yet"):
        cli._claiming("workers-start", mine)
    assert mine.state().hosts == ()
    played.fails["master_start", H1] = "no route"
    assert cli._claiming("master-start", mine) == 1
    assert mine.state().hosts == (H2, H3)


def test_a_master_that_only_this_machine_reaches(cluster: Callable[..., Cluster], played: Played) -> None:
    mine = cluster()
    url = {"master_url": "spark://127.0.1.1:7077", "master_address": "127.0.1.1"}
    mine.save(dataclasses.replace(mine.state(), master=H1, **url))
    with pytest.raises(ClusterError, match=r"the master is at 127\.0\.1\.1, where no other host reaches it"):
        lifecycle.workers_start(mine, (H2,))
    assert played.told == []


def test_this_machine_under_a_name_that_leads_nowhere_fails_like_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> str:
        raise ClusterError("node1: list this machine by its address")

    monkeypatch.setattr(fanout, "own_address", none)
    monkeypatch.setattr(fanout, "is_local", lambda _: True)
    job = Job(script="names", values={}, timeout=5, quiet=True)
    (one,) = fanout.run(settings.load({}), [Host(address="node1")], job, [H1])
    assert (one.ok, one.why) == (False, "node1: list this machine by its address")


# --- keys, check, mount, jobs


def test_the_key_of_a_storage_machine_is_fetched_where_it_is_this_one(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "known_hosts"
    monkeypatch.setattr(keys, "is_local", lambda _: True)
    monkeypatch.setattr(keys, "known_keys", lambda _: [])
    monkeypatch.setattr(keys, "_call", lambda command, _: "h ssh-ed25519 AA" if command[0] == "ssh-keyscan" else "")
    mine = cluster(LOCAL=1, MOUNT_HOST="10.77.9.1", MOUNT_DIR="/d", KNOWN_HOSTS=file)
    found = cli._keys(mine, (H1, H2))
    assert [one.host for one in found] == [H1, H2]
    assert file.read_text() == "10.77.9.1 ssh-ed25519 AA\n"
    assert found[1].text == "this machine, no key needed"


@pytest.mark.parametrize("seconds", [-7, 7])
def test_clocks_are_compared_both_ways(seconds: int) -> None:
    """However long another host took."""
    facts = {"clock": str(1_000_000 + seconds), "disk": "9000"}
    one = Outcome(host=H1, ok=True, seconds=1, facts=facts, at=1_000_000)
    assert f"its clock is {seconds:+d} s off" in " ".join(steps._warnings(one))
    assert steps._warnings(dataclasses.replace(one, at=one.at + seconds)) == []


def test_unmounting_some_hosts_does_not_forget_the_others(
    cluster: Callable[..., Cluster], played: Played, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = {"MOUNT_HOST": "10.0.0.9", "MOUNT_DIR": "/d"}
    cluster(**told).claim()
    some = tmp_path / "some.txt"
    some.write_text("10.77.9.2\n")
    mine = cluster()
    for ips, kept in ((some, "10.0.0.9"), (tmp_path / "ips.txt", None)):
        for name, value in {**mine.environ, "IPS": str(ips)}.items():
            monkeypatch.setenv(name, value)
        assert cli.main(["unmount"]) == 0
        assert mine.state().settings.get("mount_host") == kept


def test_jobs_are_given_longer_than_the_script_takes(cluster: Callable[..., Cluster], played: Played) -> None:
    lifecycle.jobs_stop(cluster(), (H1,))
    (job,) = played.jobs
    assert int(job.values["GRACE"]) >= 20 + 10, "examples/download.py takes up to 20 s"
    assert job.timeout > int(job.values["GRACE"]) + 5, "and it may have to be killed"


def test_status_names_jobs(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = dict.fromkeys(("disk", "load", "rx", "tx", "executors", "kresd"), "1")
    facts |= {"address": "a", "worker": "no", "master": "yes", "jobs": "20261121-1 20261121-2"}
    for jobs, line in ((facts["jobs"], facts["jobs"]), ("", "none runs")):
        one = Outcome(host=H1, ok=True, seconds=1, facts={**facts, "jobs": jobs})
        monkeypatch.setattr(fanout, "run", lambda *_, one=one: [one])
        watch.status(cluster(), (H1,))
        assert f"jobs of make run: {line}\n" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("parallel-ssh") is None, reason="parallel-ssh is not installed")
def test_secrets_are_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes to stdin has no name, also while it runs."""
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    seen, folder = tmp_path / "seen", tmp_path / "tmp"
    folder.mkdir()
    fake.write_text(
        f'#!/bin/bash\ngrep -rl hunter2 "{folder}" >>"{seen}"\n'
        'SSH_CONNECTION="1.1.1.1 1 10.77.9.9 22" exec bash -c "${@: -1}"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(fanout.tempfile, "tempdir", str(folder))
    loaded = settings.load({"REMOTE_DIR": str(tmp_path / "remote"), "LOCAL": "0"})
    outcomes = fanout.run(loaded, (H1, H2), Job(script="names", values={"SECRET": "hunter2"}, timeout=20))
    assert [one.ok for one in outcomes] == [True, True]
    assert seen.read_text() == ""


# --- run


class Script(driver.Follower):
    """Answers as they are listed: of `_ask`, by signal; an exception is raised."""

    def __init__(self, cluster: Cluster, answers: list[object]) -> None:
        super().__init__(cluster=cluster, host=H1, job="j")
        self.answers = answers
        self.asked: list[str] = []

    def _stream(self) -> None:
        """There is no output."""

    def _ask(self, signal_name: str) -> Outcome:
        self.asked.append(signal_name or "?")
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        lost = Outcome(host=H1, ok=False, seconds=0, why="no route")
        facts = {"running": "no", "code": str(answer)} if isinstance(answer, int) else {"running": "yes"}
        return lost if answer == "lost" else Outcome(host=H1, ok=True, seconds=0, facts=facts)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(driver.time, "sleep", found.append)
    return found


def test_losses_count_from_the_last_answer(cluster: Callable[..., Cluster], slept: list[float]) -> None:
    """And the waits grow."""
    assert Script(cluster(RECONNECTS=2), ["lost", "lost", "runs"] * 4 + [0]).follow() == 0
    slept.clear()
    assert Script(cluster(RECONNECTS=7), ["lost"] * 8).follow() == 1
    assert slept == [2, 4, 8, 16, 30, 30, 30]


def test_an_interrupt_while_it_waits_ends_the_job(
    cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: float) -> None:
        monkeypatch.setattr(driver.time, "sleep", lambda _: None)
        raise KeyboardInterrupt

    monkeypatch.setattr(driver.time, "sleep", interrupt)
    followed = Script(cluster(), ["lost", "sent", "runs", 9])
    assert followed.follow() == 9
    assert followed.asked == ["?", "USR1", "?", "?"]
    assert "once more ends it at once" in capsys.readouterr().err


def test_it_is_told_until_it_has_heard(cluster: Callable[..., Cluster], slept: list[float]) -> None:
    followed = Script(cluster(), [KeyboardInterrupt(), "lost", "lost", "lost", "runs", "sent", "runs", 9])
    assert followed.follow() == 9
    assert followed.asked == ["?", "USR1", "?", "USR1", "?", "USR1", "?", "?"]


def test_a_second_interrupt_while_the_first_is_handed_on(
    cluster: Callable[..., Cluster], played: Played, slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert Script(cluster(), [KeyboardInterrupt(), KeyboardInterrupt()]).follow() == 130
    assert played.jobs[0].values["NAMES"] == "job-j.pid"
    assert "may still run" not in capsys.readouterr().err
    played.fails["stop", H1] = "no route"
    assert Script(cluster(), [KeyboardInterrupt(), KeyboardInterrupt()]).follow() == 130
    assert "the job may still run on 10.77.9.1: make status shows it, make jobs-stop" in capsys.readouterr().err


def test_a_job_that_was_not_told_is_not_said_to_end(
    cluster: Callable[..., Cluster], slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert Script(cluster(RECONNECTS=1), [KeyboardInterrupt(), *["lost"] * 4]).follow() == 1
    assert "the job may go on there and does not know that it shall end" in capsys.readouterr().err
