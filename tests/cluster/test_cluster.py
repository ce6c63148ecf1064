"""deploy/pssh on real hosts: from bare machines to datasets, with hosts that die, are cut off, come and go.

The tests go on from each other's cluster, in the order in which they stand.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pexes
import pytest
from bare import USER
from control import Control, facts, ours, receipts
from lab import DEAD, Host, Lab
from support import dataset
from support.photos import photos
from support.processes import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(900)]

ROWS, SHARD = 2000, 50
SHARDS = ROWS // SHARD
UP_SECONDS = 300.0
LARGEST = 100_000
RATE = "30k"
"""Bytes per second of each picture, where a job shall last until something has happened to it. The largest one takes
a third of the time after which a fetch is given up."""
SLOW = "12k"
"""The same where something takes a minute; just within that time."""

ON_HOSTS = {
    "hosts-keys": "already known", "hosts-check": "debian 12", "hosts-setup": "already set up",
    "knot-install": "already runs", "knot-check": "no error", "pex-install": "already there",
    "spark-install": "already there", "workers-start": "already runs",
}  # fmt: skip
"""Targets that do something on each host, and what they say there when all is done."""


@dataclass(frozen=True, kw_only=True)
class World:
    """A lab with a list of pictures, and the controls of its first cluster."""

    lab: Lab
    control: Control
    logs: Path

    @property
    def first(self) -> list[Host]:
        """The hosts that are there from the start; the first one is the master."""
        return self.lab.hosts[:3]

    def arguments(self, name: str, **more: object) -> str:
        """Of a job that writes the folder `name`."""
        told = {
            "url_list": "/mnt/shared/urls.txt",
            "output_folder": f"/mnt/shared/{name}",
            "number_sample_per_shard": SHARD,
            **more,
        }
        return " ".join(f"--{key}={value}" for key, value in told.items())

    def healthy(self) -> None:
        """All workers are there."""
        wanted = sorted(host.address for host in self.first)
        wait_for(lambda: self.control.alive(self.first[0]) == wanted, 120, "three workers")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    pex = pexes.pex()
    folder = tmp_path_factory.mktemp("cluster")
    names = photos(folder / "photos", 150)
    names = [name for name in names if (folder / "photos" / name).stat().st_size <= LARGEST]
    assert len(names) > 60
    with Lab(3, photos=folder / "photos") as lab:
        urls = [lab.web.photo_url(names[number % len(names)], number) for number in range(ROWS)]
        (lab.shared / "urls.txt").write_text("".join(f"{url}\n" for url in urls))
        (lab.shared / "few.txt").write_text("".join(f"{url}\n" for url in urls[:200]))
        yield World(lab=lab, control=Control(lab, PEX_FILE=pex), logs=folder)


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    """The dataset of a job that nobody disturbed, and what could be seen while it ran."""
    return world.lab.shared / "whole"


def test_from_bare_hosts_to_a_cluster(world: World) -> None:
    done = world.control.make("cluster-up", IPS=world.lab.ips_file)
    print(done.text)
    assert done.seconds < UP_SECONDS
    assert "workers alive: 3 of 3" in done.said
    assert "cluster default is up: spark://10.77.0.11:7077" in done.said
    world.healthy()
    for host in world.first:
        assert "nameserver 127.0.0.1" in host.path("etc/resolv.conf").read_text().splitlines()
        names = host.path("etc/hosts").read_text()
        assert all(f"{other.address} {other.name}\n" in names for other in world.first if other is not host)
        listening = host.exec("ss", "-Hltn").stdout.split()[3::5]
        assert {address.rpartition(":")[0].removeprefix("[::ffff:").removesuffix("]") for address in listening} <= {
            host.address, "127.0.0.1", "0.0.0.0", "[::", "[", "*",
        }  # fmt: skip
        assert not {"0.0.0.0:7077", "*:7077", "0.0.0.0:8080", "*:8080", "*:8081"} & set(listening)
    assert "Spark Master" in world.lab.get(f"http://{world.first[0].address}:8080/")


def test_nothing_changes_the_second_time(world: World) -> None:
    before = [facts(host) for host in world.first]
    done = world.control.make("cluster-up")
    for host in world.first:
        said = done.ok(host)
        wanted = [text for target, text in ON_HOSTS.items() if target != "knot-check"]
        assert all(any(line.startswith(text) or text in line for line in said) for text in wanted), done.text
    world.control.make("knot-check")
    assert "already runs" in world.control.make("master-start").said
    assert [facts(host) for host in world.first] == before
    assert "spark://10.77.0.11:7077" in world.control.make("clusters").said


@pytest.mark.parametrize("target", [target for target in ON_HOSTS if target != "workers-start"])
def test_one_dead_host_is_named_and_the_others_are_done(world: World, target: str) -> None:
    """It is also the second time, or the third, for those that live. (Of workers-start: at the end.)"""
    ips = world.lab.ips("one is dead.txt", *world.first, DEAD)
    done = world.control.make(target, code=None, IPS=ips)
    assert done.code != 0, done.text
    assert DEAD in done.complained, done.text
    assert "1 of 4 hosts" in done.complained
    for host in world.first:
        assert any(ON_HOSTS[target] in line for line in done.ok(host)), done.text
        assert host.address not in done.complained
    world.healthy()


def test_hosts_of_a_table(world: World) -> None:
    table = world.lab.home / "hosts.csv"
    rows = [f"{number},{host.address},debian,,," for number, host in enumerate(world.first)]
    table.write_text("\n".join([",host,user,password,hostname,comment", *rows, ""]))
    done = world.control.make("hosts-check", HOSTS=table, SSH_USER=None)
    assert all("debian 12" in done.ok(host)[0] for host in world.first)
    table.write_text(table.read_text().replace("debian,,", "debian,secret,", 1))
    done = world.control.make("hosts-check", code=2, HOSTS=table)
    assert "hosts.csv:2: passwords are not used" in done.complained
    assert "secret" not in done.text


def test_status_and_logs_with_a_dead_host(world: World) -> None:
    ips = world.lab.ips("one is dead.txt", *world.first, DEAD)
    for target, line in (("status", "ALIVE"), ("logs", "worker.log")):
        done = world.control.make(target, code=None, IPS=ips)
        assert done.code != 0
        assert DEAD in done.complained
        assert all(
            any(host.address in said and line in said for said in done.said.splitlines()) for host in world.first
        ), done.text


def test_a_job_from_names_to_a_dataset(world: World, whole: Path) -> None:
    asked = len(world.lab.web.requests())
    seen = ""
    world.lab.web.limit(RATE)
    with world.control.start("run", world.logs / "whole.log", ARGS=world.arguments("whole")) as job:
        job.wait_for(lambda: receipts(whole) >= 2, "two shards")
        page = "http://10.77.0.11:4040/api/v1/applications"
        driver = wait_for(lambda: world.lab.get(page), 60, "the driver's page")
        seen = world.control.make("status").said
        world.lab.web.limit("")
        said = job.wait()
    assert json.loads(driver)[0]["name"].startswith("img2dataset")
    assert "1 running" in seen
    assert re.search(r"^jobs of make run: \d{8}-\S+$", seen, re.MULTILINE)
    assert f"{ROWS} of {ROWS} rows in /mnt/shared/whole" in said
    dataset.check_whole(whole)
    assert dataset.leftovers(whole) == []
    assert receipts(whole) == SHARDS
    requests = [one for one in world.lab.web.requests()[asked:] if one.host.startswith("photos")]
    assert {one.client for one in requests} == {host.address for host in world.first}
    assert len({one.target for one in requests}) == ROWS
    for host in world.first:
        world.control.make("knot-check", KNOT_CHECK="photos3.example.test")
        assert "nameserver 10.77.0.5" not in host.path("etc/resolv.conf").read_text()


def disturbed(world: World, name: str) -> Path:
    """The folder of a job that is to be disturbed; pictures come slowly."""
    world.healthy()
    world.lab.web.limit(RATE)
    return world.lab.shared / name


def check_same(world: World, out: Path, whole: Path) -> None:
    dataset.check_whole(out)
    dataset.assert_same(whole, out)
    assert dataset.leftovers(out) == []


def test_a_worker_host_is_killed(world: World, whole: Path) -> None:
    out, victim = disturbed(world, "killed"), world.first[2]
    with world.control.start("run", world.logs / "killed.log", ARGS=world.arguments("killed")) as job:
        job.wait_for(lambda: receipts(out) >= 4, "four shards")
        victim.kill()
        assert receipts(out) < SHARDS - 6
        world.lab.web.limit("")
        job.wait()
    done = world.control.make("status", code=2)
    assert victim.address in done.complained
    victim.boot()
    table = world.lab.home / "named.csv"  # the same hosts, written in another way
    rows = [f"{host.address},{USER},the-{host.name}" for host in world.first]
    table.write_text("\n".join(["host,user,hostname", *rows, ""]))
    assert "workers alive: 3 of 3" in world.control.make("cluster-up", HOSTS=table).said
    assert f"{world.first[0].address} the-{world.first[0].name}\n" in victim.path("etc/hosts").read_text()
    check_same(world, out, whole)


def test_a_link_is_cut(world: World, whole: Path) -> None:
    out, victim = disturbed(world, "cut"), world.first[1]
    try:
        with world.control.start("run", world.logs / "cut.log", ARGS=world.arguments("cut")) as job:
            job.wait_for(lambda: receipts(out) >= 4, "four shards")
            victim.link("down")
            assert receipts(out) < SHARDS - 6
            world.lab.web.limit("")
            job.wait()
    finally:
        victim.link("up")
    check_same(world, out, whole)
    wait_for(lambda: victim.address in world.control.alive(world.first[0]), 120, "the worker that was cut off")


def test_a_host_is_added(world: World, whole: Path) -> None:
    """It was set up before, so that the job need not last for a minute more."""
    out = disturbed(world, "added")
    world.lab.web.limit(SLOW)
    late = world.lab.add_host()
    new = world.lab.ips("new.txt", late)
    for target in ("hosts-keys", "hosts-setup", "knot-install", "pex-install", "spark-install"):
        world.control.make(target, IPS=new)
    asked = len(world.lab.web.requests())
    with world.control.start("run", world.logs / "added.log", ARGS=world.arguments("added")) as job:
        job.wait_for(lambda: receipts(out) >= 1, "a shard")
        print(world.control.make("workers-add", IPS=new).text)
        assert receipts(out) < SHARDS - 6
        job.wait_for(
            lambda: any(one.client == late.address and "photo" in one.host for one in world.lab.web.requests()[asked:]),
            "work of the new host",
        )
        world.lab.web.limit("")
        job.wait()
    check_same(world, out, whole)
    assert late.address in world.control.alive(world.first[0])


def test_a_host_is_removed(world: World, whole: Path) -> None:
    leaving = world.lab.hosts[3]
    wait_for(lambda: len(world.control.alive(world.first[0])) == 4, 60, "four workers")
    world.lab.web.limit(RATE)
    out = world.lab.shared / "removed"
    with world.control.start("run", world.logs / "removed.log", ARGS=world.arguments("removed")) as job:
        job.wait_for(lambda: receipts(out) >= 4, "four shards")
        ips = world.lab.ips("leaving.txt", leaving, DEAD)
        done = world.control.make("workers-remove", IPS=ips)
        print(done.text)
        assert f"not in the cluster default, nothing to do: {DEAD}" in done.said
        assert receipts(out) < SHARDS
        assert ours(leaving) == []
        assert leaving.path("etc/resolv.conf").read_text() == "nameserver 10.77.0.5\n"
        world.lab.web.limit("")
        job.wait()
    check_same(world, out, whole)
    world.healthy()
    assert world.control.make("workers-remove", IPS=ips).code == 0


def test_a_second_cluster_takes_nobodys_hosts(world: World, tmp_path: Path) -> None:
    """One file of hosts for both. This one fetches pex and Spark, knows a secret, and has odd names for everything."""
    lab, other = world.lab, world.lab.hosts[3]
    odd = lab.home / "it's our folder"
    odd.mkdir()
    shutil.copy(lab.key, odd / "the key")
    script = odd / "my job's.py"
    script.write_text("import os, sys\nprint(sys.argv[1:], os.environ['WORD'])\nsys.exit(7)\n")
    everybody = lab.ips("all of 'them'.txt", *lab.hosts)
    (lab.web.files / "a.pex").symlink_to(pexes.pex())
    digest = lab.ctl("sha256sum", pexes.pex()).stdout.split()[0]
    (lab.web.files / "a.pex.sha256").write_text(f"{digest}  a.pex\n")
    other.exec("rm", "-f", "/opt/img2dataset/img2dataset.pex")
    archive = pexes.spark()
    (lab.web.files / "a spark.tgz").symlink_to(archive)
    control = Control(
        lab, CLUSTER="other", IPS=everybody, COUNT=1, PEX_URL=lab.web.file_url("a.pex"), AUTHENTICATE=1,
        SPARK_URL=lab.web.file_url("a%20spark.tgz"), SSH_KEY=odd / "the key",
    )  # fmt: skip
    done = control.make("cluster-up", code=2, MASTER=world.first[0].address)
    assert "the cluster default has this host" in done.complained
    done = control.make("cluster-up", code=2, SPARK_SHA512="0" * 128)
    assert "it was removed; is the digest right?" in done.text
    digest = lab.ctl("sha512sum", archive).stdout.split()[0]
    (lab.web.files / "a spark.tgz.sha512").write_text(f"a spark.tgz: {digest}\n")
    done = control.make("cluster-up")
    assert f"Spark {pexes.SPARK} (from the archive)" in done.said
    assert "left out, the cluster default has them: 10.77.0.11 10.77.0.12 10.77.0.13" in done.said
    assert control.alive(other) == [other.address]
    said = control.make("run", code=None, SCRIPT=script, ARGS="""'a b' "it's" '$HOME'""", PASS_ENV="WORD", WORD="a 'b'")
    assert """['a b', "it's", '$HOME'] a 'b'\n""" in said.said
    assert "the job ended with exit code 7" in said.complained
    arguments = world.arguments("other", url_list="/mnt/shared/few.txt")
    assert "200 of 200 rows" in control.make("run", ARGS=arguments).said
    secret = next(lab.home.rglob("other.secret")).read_text().strip()
    assert len(secret) >= 32
    assert secret not in next(lab.home.rglob("other.json")).read_text()
    assert not [command for command in ours(other) if secret in command]
    assert {"default", "other"} <= set(control.make("clusters").said.split())
    control.make("cluster-down")
    assert ours(other) == []
    assert list(lab.home.rglob("other.*")) == []
    world.healthy()


def test_a_folder_of_a_storage_machine(world: World) -> None:
    """sshfs, with a job that writes there; and a host that is dead."""
    storage = world.lab.hosts[3]
    storage.exec("install", "-d", "-o", "debian", "/srv/the data")
    told = {
        "MOUNT_HOST": storage.address, "MOUNT_USER": "debian", "MOUNT_DIR": "/srv/the data",
        "MOUNT_KEY": world.lab.key, "MOUNT_POINT": "/mnt/storage",
    }  # fmt: skip
    control = Control(world.lab, **told)
    control.make("hosts-keys")
    done = control.make("mount")
    assert all("mounted debian@10.77.0.14:/srv/the data" in done.ok(host)[0] for host in world.first)
    again = control.make("mount", code=2, IPS=world.lab.ips("one is dead.txt", *world.first, DEAD))
    assert all(again.ok(host) == ["already mounted"] for host in world.first)
    assert DEAD in again.complained
    arguments = world.arguments("", url_list="/mnt/shared/few.txt", output_folder="/mnt/storage/out")
    assert "200 of 200 rows" in world.control.make("run", ARGS=arguments).said
    copy = world.lab.shared / "of the storage"
    storage.exec("cp", "-r", "/srv/the data/out", "/mnt/shared/of the storage")
    dataset.check_whole(copy)
    assert len(dataset.rows(copy)) == 200
    again = control.make("unmount", code=2, IPS=world.lab.ips("one is dead.txt", *world.first, DEAD))
    assert DEAD in again.complained
    assert "already unmounted" in control.make("unmount").said
    assert "sshfs" not in world.first[0].exec("cat", "/proc/mounts").stdout


def test_dns_is_given_back(world: World) -> None:
    done = world.control.make("knot-remove", code=2, IPS=world.lab.ips("one is dead.txt", *world.first, DEAD))
    assert DEAD in done.complained
    for host in world.first:
        assert host.path("etc/resolv.conf").read_text() == "nameserver 10.77.0.5\n"
        assert not [command for command in ours(host) if "kresd" in command]
    done = world.control.make("knot-remove")
    assert all(done.ok(host) == ["already removed"] for host in world.first)
    conf = world.lab.home / "more.lua"  # a call of its own, which replaces the list of zones
    conf.write_text("trust_anchors.set_insecure({ 'corp.lan' })\n")
    world.control.make("knot-install", KNOT_CONF=conf)
    assert conf.read_text() in world.first[0].path("opt/img2dataset/conf/kresd.conf").read_text()
    assert "no error" in world.control.make("knot-check", KNOT_CHECK="photos3.example.test").said


def test_a_tunnel_to_the_pages(world: World) -> None:
    with world.control.start("ui-tunnel", world.logs / "tunnel.log") as tunnel:
        tunnel.wait_for(lambda: "Spark Master" in world.lab.get("http://127.0.0.1:8080/"), "the page", 30)
        tunnel.interrupt()
        tunnel.process.wait(10)
    assert world.lab.get("http://127.0.0.1:8080/") == ""


def test_ctrl_c_reaches_the_job(world: World, tmp_path: Path) -> None:
    script = world.lab.home / "waits.py"
    script.write_text(
        "import time\nprint('begun', flush=True)\n"
        "try:\n    time.sleep(100)\nexcept KeyboardInterrupt:\n    print('told to end'); raise SystemExit(9)\n"
    )
    with world.control.start("run", world.logs / "waits.log", SCRIPT=script) as job:
        job.wait_for(lambda: "begun" in job.text, "its begin", 60)
        job.interrupt()
        job.process.wait(30)
        assert "told to end" in job.text
    assert not [command for command in ours(world.first[0]) if "waits.py" in command]


def test_a_cluster_with_a_dead_worker_host_comes_up(world: World) -> None:
    """And down again, but for a host that has died, which is kept for another time."""
    world.control.make("workers-stop")
    assert all(line == ["already stopped"] for line in map(world.control.make("workers-stop").ok, world.first))
    world.control.make("master-stop")
    assert "already stopped" in world.control.make("master-stop").said
    ips = world.lab.ips("one is dead.txt", *world.first, DEAD)
    done = world.control.make("cluster-up", code=2, IPS=ips)
    assert f"{DEAD}: hosts-keys: does not answer" in done.complained
    world.healthy()
    done = world.control.make("workers-start", code=2, IPS=ips)
    assert DEAD in done.complained
    assert all("already runs" in done.ok(host)[0] for host in world.first)
    assert DEAD not in world.control.make("status").said, "it was never there"
    victim = world.first[2]
    victim.kill()
    done = world.control.make("cluster-down", code=2)
    assert victim.address in done.complained
    assert all(ours(host) == [] for host in world.first[:2])
    victim.boot()


def test_nothing_of_ours_is_left(world: World) -> None:
    world.control.make("cluster-down", code=None)
    for host in world.first:
        assert ours(host) == []
        assert host.path("etc/resolv.conf").read_text() == "nameserver 10.77.0.5\n"
        assert host.path("etc/hosts").read_text() == f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n"
