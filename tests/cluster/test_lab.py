"""The lab itself: hosts that are reached, installed on, killed and cut off as real ones are, and nothing that stays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import bare
import pytest
from lab import DEAD, PREFIX, Lab, sweep
from support.processes import processes, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first one makes the root of the hosts


@pytest.fixture(scope="module")
def lab(photo_folder: Path) -> Iterator[Lab]:
    with Lab(3, photos=photo_folder) as running:
        running.trust(*running.hosts)
        yield running


@pytest.fixture(scope="module")
def with_curl(lab: Lab) -> Lab:
    """The first host has got what is needed to fetch."""
    install = "sudo apt-get -qq update && sudo DEBIAN_FRONTEND=noninteractive apt-get -qq install -y curl hello"
    assert "Setting up hello" in lab.ssh(lab["h1"], install).stdout
    return lab


def test_all_hosts_are_reached_at_once(lab: Lab) -> None:
    command = ["parallel-ssh", "-i", "-h", lab.ips_file, "-x", f"-F {lab.ssh_config}", "-t", "10"]
    said = lab.ctl(*command, "hostname; id -un; sudo -n id -un; nproc").stdout
    assert said.count("[SUCCESS]") == 3
    for host in lab.hosts:
        assert f"[SUCCESS] {host.address}\n{host.name}\ndebian\nroot\n{os.cpu_count()}\n" in said


def test_one_address_is_dead(lab: Lab) -> None:
    ips = lab.ips("with a dead one.txt", lab["h1"], DEAD)
    command = ["parallel-ssh", "-h", ips, "-x", f"-F {lab.ssh_config}", "-t", "10", "true"]
    done = lab.ctl(*command, check=False)
    assert done.returncode != 0
    assert re.search(rf"\[SUCCESS\] {lab['h1'].address}\n", done.stdout)
    assert re.search(rf"\[FAILURE\] {DEAD} ", done.stdout)


def test_hosts_are_bare(lab: Lab) -> None:
    there = lab.ssh(lab["h2"], "for name in python3 java curl kresd sshfs; do command -v $name; done; true").stdout
    assert there == ""


def test_a_host_sees_itself_only(lab: Lab) -> None:
    assert int(lab["h1"].exec("sh", "-c", "ls -d /proc/[0-9]* | wc -l").stdout) < 20
    assert lab["h1"].exec("cat", "/proc/1/comm").stdout == "sshd\n"
    assert lab["h1"].exec("ls", "/sys/class/net").stdout == "eth0\nlo\n"
    assert lab["h1"].exec("sh", "-c", "ls /dev/shm /run/sshd").stdout == "/dev/shm:\n\n/run/sshd:\n"


def test_there_is_no_way_out(lab: Lab) -> None:
    for where in (lab.ctl, lab["h1"].exec):
        done = where("timeout", "5", "bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80", check=False)
        assert "Network is unreachable" in done.stderr


def test_unknown_hosts_are_refused(photo_folder: Path, lab: Lab) -> None:
    options = ["-F", lab.ssh_config, "-o", "UserKnownHostsFile=/dev/null"]
    done = lab.ctl("ssh", *options, lab["h1"].address, "true", check=False)
    assert "Host key verification failed" in done.stderr
    scanned = lab.ctl("ssh-keyscan", "-t", "ed25519", lab["h1"].address).stdout
    assert scanned.split()[2] == lab.known_hosts.read_text().split()[2]


def test_packages_come_from_the_repository_of_the_lab(with_curl: Lab) -> None:
    assert with_curl.ssh(with_curl["h1"], "hello").stdout == "Hello, world!\n"
    came = [request for request in with_curl.web.requests() if request.client == with_curl["h1"].address]
    assert any(re.fullmatch(r"/(\./)?hello_.*\.deb", request.target) for request in came)


def test_names_lead_to_pictures(with_curl: Lab, photo_folder: Path) -> None:
    addresses = with_curl.ssh(with_curl["h2"], "getent ahostsv4 photos3.example.test | head -1; getent hosts h2").stdout
    assert addresses.split()[0] == "93.184.216.4"
    name = min(os.listdir(photo_folder))
    url = with_curl.web.photo_url(name, 3)
    assert url == f"http://photos3.example.test/{name}?3"
    told = with_curl.ssh(with_curl["h1"], f"curl -sS -o /tmp/a.jpg -w '%{{http_code}} %{{remote_ip}}' '{url}'").stdout
    assert told == "200 93.184.216.4"
    assert with_curl["h1"].path("tmp/a.jpg").read_bytes() == (photo_folder / name).read_bytes()
    assert with_curl.ssh(with_curl["h1"], "getent hosts nobody.example.test || echo none").stdout == "none\n"


def test_pictures_can_come_slowly(with_curl: Lab, photo_folder: Path) -> None:
    name = min(os.listdir(photo_folder))
    fetch = f"curl -sS -o /dev/null -w '%{{time_total}}' '{with_curl.web.photo_url(name, 1)}'"
    size = (photo_folder / name).stat().st_size
    with_curl.web.limit(f"{size // 2}")
    try:
        assert 0.9 < float(with_curl.ssh(with_curl["h1"], fetch).stdout) < 4
    finally:
        with_curl.web.limit("")
    assert float(with_curl.ssh(with_curl["h1"], fetch).stdout) < 0.5


def test_files_are_served(with_curl: Lab) -> None:
    (with_curl.web.files / "a file.txt").write_text("content")
    fetch = f"curl -sSC 3 -o b '{with_curl.web.file_url('a%20file.txt')}' --output-dir /tmp && cat /tmp/b"
    assert with_curl.ssh(with_curl["h1"], fetch).stdout == "tent"
    assert with_curl.web.requests()[-1].range == "bytes=3-"
    assert with_curl.get(with_curl.web.file_url("a%20file.txt")) == "content\n"


def test_a_host_dies_and_comes_back_with_its_disk(lab: Lab) -> None:
    host = lab["h2"]
    lab.ssh(host, "echo kept > kept; setsid sleep 500 </dev/null >/dev/null 2>&1 & sleep 0.2; pgrep -x sleep || true")
    assert [command for _, command in processes().values() if command.strip() == "sleep 500"]
    host.kill()
    assert not host.alive
    assert not [command for _, command in processes().values() if command.strip() == "sleep 500"]
    assert host.path("home/debian/kept").read_text() == "kept\n"
    assert lab.ssh(host, "true", check=False).returncode == 255
    host.boot()
    assert lab.ssh(host, "cat kept; cat /proc/uptime").stdout.startswith("kept\n")


def test_a_link_is_cut_and_mended(lab: Lab) -> None:
    host = lab["h3"]
    count = "echo 0 > /tmp/count; while sleep 0.1; do echo $(($(cat /tmp/count) + 1)) > /tmp/count; done"
    lab.ssh(host, f"setsid bash -c '{count}' </dev/null >/dev/null 2>&1 &")
    begin = time.monotonic()
    host.link("down")
    assert lab.ssh(host, "true", check=False).returncode == 255
    assert time.monotonic() - begin < 10
    counted = host.exec("cat", "/tmp/count").stdout
    wait_for(lambda: host.exec("cat", "/tmp/count").stdout != counted, 5, "a host that is cut off to go on")
    host.link("up")
    assert lab.ssh(host, "hostname").stdout == "h3\n"


def test_a_host_joins(lab: Lab) -> None:
    late = lab.add_host()
    lab.trust(late)
    assert late.address not in lab.ips_file.read_text()
    (lab.shared / "for all").write_text("all")
    assert lab.ssh(late, "cat '/mnt/shared/for all'; touch /mnt/shared/mine").stdout == "all"
    assert (lab.shared / "mine").stat().st_uid == 1500
    assert lab.ssh(lab["h1"], "ls /mnt/shared").stdout == "for all\nmine\n"


def test_commands_are_bounded(lab: Lab) -> None:
    begin = time.monotonic()
    with pytest.raises(AssertionError, match="not done after 1 s\nbefore"):
        lab.ctl("sh", "-c", "echo before; sleep 123", timeout=1)
    assert time.monotonic() - begin < 3
    assert not [command for _, command in processes().values() if "sleep 123" in command]


def traces(folder: Path) -> list[str]:
    """Of a lab: processes, mounts, names of networks."""
    found = [command for _, command in processes().values() if str(folder) in command]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    return found + [str(folder)] * folder.exists()


def test_nothing_is_left(photo_folder: Path, tmp_path: Path) -> None:
    before = set(processes())
    networks = Path("/proc/net/dev").read_text().count("\n")
    with Lab(1, photos=photo_folder) as lab:
        lab.popen(["sleep", "321"], log=tmp_path / "log")
        assert traces(lab.folder)
        lab.trust(lab["h1"])
        lab.ssh(lab["h1"], "setsid sleep 321 </dev/null >/dev/null 2>&1 &")
    assert traces(lab.folder) == []
    ours = {pid: command for pid, (_, command) in processes().items() if pid not in before}
    assert not [command for command in ours.values() if "sleep 321" in command or "10.77.0" in command]
    assert Path("/proc/net/dev").read_text().count("\n") == networks


def test_a_test_that_fails_leaves_nothing(photo_folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lab(1, photos=photo_folder) as lab:
        _ = 1 / 0
    assert traces(lab.folder) == []


def test_a_lab_that_does_not_come_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
    monkeypatch.setattr("web.NGINX", "nonsense")
    monkeypatch.setattr("web.LATE", 0.5)
    with pytest.raises(RuntimeError, match='expecting ";" or "}"'):
        Lab(1, photos=tmp_path)
    assert set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")) == before


def test_what_a_killed_run_leaves_is_swept(photo_folder: Path, lab: Lab) -> None:
    """Its processes end with it; its folder goes with the next lab."""
    code = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path[:0] = {sys.path!r}
        from lab import Lab
        lab = Lab(1, photos=Path({str(photo_folder)!r}))
        print(lab.folder, flush=True)
        time.sleep(60)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    keeper = json.loads((folder / "owner.json").read_text())["keeper"][0]
    sweep()
    assert (folder / "owner.json").exists()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    wait_for(lambda: keeper not in processes(), 10, "the end of the keeper")
    wait_for(lambda: traces(folder) == [str(folder)], 10, "the end of all else")
    sweep()
    assert not folder.exists()
    assert lab.folder.exists()


def test_elsewhere_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(pytest.skip.Exception, match="take root"):
        bare.require()
    monkeypatch.undo()
    monkeypatch.setitem(bare.PROGRAMS, "no-such-program", "no-such-package")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"no-such-package$"):
        bare.require()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match=r"no-such-package$"):
        bare.require()
