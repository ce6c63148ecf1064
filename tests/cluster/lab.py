"""A provider on this machine: bare hosts that one reaches by ssh, a controller, and a web.

    with Lab(3, photos=folder) as lab:
        lab.ssh(lab["h1"], "uname -a")          as one does it, from the controller
        lab.ctl("parallel-ssh", "-h", lab.ips_file, ..., timeout=60)
        lab["h2"].kill(), lab["h2"].boot()      the whole host; its disk stays
        lab["h3"].link("down")                  cut off, and running
        lab["h1"].exec("ss", "-ltn")            as root, past ssh
        late = lab.add_host()
        lab.shared / "dataset"                  a folder that all hosts see as /mnt/shared

A host has a network, mounts, processes and a name of its own, and the root folder of a small Debian (`bare`) of which
it changes a copy. sshd is its process 1; there is no init system. It knows the DNS server of the lab and its repository
of packages, and nothing else: there is no way out. All hosts have the cores and the memory of this machine, and its
kernel and clock.

Nothing is visible outside but a folder in the folder for temporary files. `close` removes it; what a killed run has left
goes when the next lab begins.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, final

from bare import USER, Bare, bare
from spaces import Keeper, Space, kill_group, start_time
from web import DNS, FIRST_HOST, HOST_NET, PHOTO_NET, Web

CONTROLLER = f"{HOST_NET}.1"
DEAD = f"{HOST_NET}.250"
"""An address of the network where nobody is."""
SHARED = "/mnt/shared"
PREFIX = "img2dataset-lab-"
LATE = 20.0

BOOT = """
set -e
root=$1 name=$2 shared=$3
hostname "$name"
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for device in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0' 'fuse 10 229'; do
    set -- $device; mknod -m 666 "dev/$1" c "$2" "$3"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
for link in ptmx:pts/ptmx fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -s "${link#*:}" "dev/${link%%:*}"; done
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/sshd run/lock
if [ -n "$shared" ]; then mkdir -p ./mnt/shared; mount --bind "$shared" ./mnt/shared; fi
mkdir -p .old
pivot_root . .old
cd /
umount -l .old
rmdir .old
ip link set lo up
echo started
exec env -i PATH="$PATH" /usr/sbin/sshd -D -e >>/var/log/sshd.log 2>&1 </dev/null
"""
DISKS = """
truncate -s 64G "$1.img" && mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=1,nodiscard "$1.img" 2>/dev/null &&
    mount -o loop,noatime "$1.img" "$1" 2>/dev/null || { rm -f "$1.img"; mount -t tmpfs tmpfs "$1"; }
"""
"""The disks of all hosts are in one file, so that they are gone at once; in memory where there are no loop devices."""
SSHD = "UsePAM no\nUseDNS no\nPasswordAuthentication no\nMaxStartups 100\nMaxSessions 100\n"


@final
class Host:
    """One host of a lab; made by `Lab.add_host`."""

    def __init__(self, lab: Lab, number: int, *, shared: bool) -> None:
        self._number = number
        self.name = f"h{number}"
        self.address = f"{HOST_NET}.{FIRST_HOST + number}"
        self.root = lab.folder / "hosts" / self.name / "root"
        """Its disk, in the mounts of `lab.keeper`."""
        self._lab = lab
        self._shared = lab.shared if shared else ""
        self._boots = 0
        self._space: Space | None = None

    def __repr__(self) -> str:
        return self.name

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._space is not None and self._space.alive

    def exec(self, *command: object, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command as root, without ssh; `check` raises when it fails."""
        assert self._space is not None, f"{self} does not run"
        return self._space.run(*command, check=check, timeout=timeout)

    def path(self, path: str) -> Path:
        """A file of its disk as seen from here, whether it runs or not; not what is in /tmp/..., /proc, /run, /mnt."""
        return self._lab.keeper.root / self.root.relative_to("/") / path.lstrip("/")

    def boot(self) -> None:
        """Start it, and wait until sshd answers."""
        assert not self.alive, f"{self} runs"
        self._boots += 1
        keeper = self._lab.keeper
        command = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL"]
        words = ["bash", "-c", BOOT, "bash", self.root, self.name, self._shared]
        process = keeper.start([*command, "--propagation=private", *words])
        self._space = Space(process)
        keeper.links(
            f"link add {self._port} type veth peer name eth0 netns {self._space.pid}",
            f"link set {self._port} master lab0 up",
        )
        keeper.links(
            f"link set eth0 address 02:00:00:00:00:{self._number:02x} up",  # the same after a reboot
            f"addr add {self.address}/24 dev eth0",
            f"route add {PHOTO_NET}.0/24 dev eth0",
            inside=self._space,
        )
        deadline = time.monotonic() + LATE
        while self.exec("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/22", check=False).returncode:
            assert time.monotonic() < deadline, self.path("var/log/sshd.log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill all its processes at once. Its connections are reset, as far as its link is up."""
        if self._space is not None:
            self._space.end()
            self._space = None
            deadline = time.monotonic() + LATE
            while self._lab.keeper.run("ip", "link", "show", self._port, check=False).returncode == 0:
                assert time.monotonic() < deadline, f"{self} has not gone"
                time.sleep(0.02)

    def link(self, state: Literal["up", "down"]) -> None:
        """Connect it to the network, or cut it off; it does not notice."""
        self._lab.keeper.links(f"link set {self._port} {state}")

    @property
    def _port(self) -> str:
        """Of the switch; another one at each start, since the kernel takes its time to remove the old one."""
        return f"{self.name}-{self._boots}"


@final
class Lab:
    """See the module. Skips the test where this cannot be.

    Args:
        hosts: how many there are from the start: h1, h2, ...
        photos: what the photo server has.
        shared: whether the hosts see the folder `shared`.
    """

    def __init__(self, hosts: int = 3, *, photos: Path, shared: bool = True) -> None:
        self._bare: Bare = bare()
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._started: list[subprocess.Popen[str]] = []
        self.hosts: list[Host] = []
        try:
            self.keeper = Keeper()
            self._sign()
            self._make_folders()
            self._make_networks(photos)
            for _ in range(hosts):
                self.add_host(shared=shared)
            self.ips_file = self.ips("ips.txt", *self.hosts)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> Host:
        return next(host for host in self.hosts if host.name == name)

    def add_host(self, *, shared: bool = True) -> Host:
        """One more, booted. It is in no file of addresses."""
        host = Host(self, len(self.hosts) + 1, shared=shared)
        self.hosts.append(host)
        self._make_disk(host)
        host.boot()
        return host

    def ips(self, name: str, *hosts: Host | str) -> Path:
        """Write a file with the addresses of these, one a line; `DEAD` may be among them."""
        path = self.home / name
        path.write_text("".join(f"{host.address if isinstance(host, Host) else host}\n" for host in hosts))
        return path

    def trust(self, *hosts: Host) -> None:
        """Take the host keys of these for known."""
        with self.known_hosts.open("a") as file:
            for host in hosts:
                file.write(f"{host.address} {host.path('etc/ssh/ssh_host_ed25519_key.pub').read_text()}")

    def ctl(
        self,
        *command: object,
        check: bool = True,
        timeout: float = 60.0,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller: this machine's files, the lab's network, and a home folder of its own."""
        return self.controller.run(*command, check=check, timeout=timeout, cwd=cwd or self.home, env=env, stdin=stdin)

    def popen(
        self,
        command: Sequence[object],
        *,
        log: Path,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command on the controller, with its output in a file; it ends with the lab at the latest."""
        with log.open("w") as output:
            process = self.controller.start(command, stdout=output, cwd=cwd or self.home, env=env)
        self._started.append(process)
        return process

    def ssh(
        self, host: Host, command: str, *, user: str = USER, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """A shell command on a host, by ssh from the controller. The host must be known: `trust`."""
        ssh = ["ssh", "-F", self.ssh_config, "-l", user, host.address, command]
        return self.ctl(*ssh, check=check, timeout=timeout)

    def get(self, url: str, *, timeout: float = 10.0) -> str:
        """What the controller gets from a URL; empty when it gets nothing."""
        code = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode())"
        return self.ctl("python3", "-c", code, url, check=False, timeout=timeout).stdout

    def close(self) -> None:
        """End all, and remove all."""
        for process in self._started:
            kill_group(process)
        if hasattr(self, "keeper"):
            self.keeper.end()
            spaces = [getattr(self, name, None) for name in ("controller", "_web_space")]
            spaces += [host._space for host in self.hosts]
            for space in spaces:
                if space is not None:
                    space.end()
        for process in self._started:
            process.wait(LATE)
        remove(self.folder)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sign(self) -> None:
        """Whose folder it is."""
        pids = {"owner": os.getpid(), "keeper": self.keeper.pid}
        (self.folder / "owner.json").write_text(
            json.dumps({name: [pid, start_time(pid)] for name, pid in pids.items()})
        )

    def _make_folders(self) -> None:
        self.home, self.shared = self.folder / "home", self.folder / "shared"
        """The home folder of the controller, and what all hosts see."""
        for folder in (self.home / ".ssh", self.shared, self.folder / "hosts", self.folder / "bare"):
            folder.mkdir(parents=True)
        self.shared.chmod(0o1777)
        self.key = self.home / ".ssh" / "id_ed25519"
        self.known_hosts = self.home / ".ssh" / "known_hosts"
        self.ssh_config = self.home / ".ssh" / "config"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.known_hosts.touch()
        self.ssh_config.write_text(
            f"Host *\n  User {USER}\n  IdentityFile {self.key}\n  IdentitiesOnly yes\n  BatchMode yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  StrictHostKeyChecking yes\n  ConnectTimeout 5\n"
        )
        (self.folder / "hosts.bare").write_text("127.0.0.1 localhost\n")
        (self.folder / "resolv.conf").write_text(f"nameserver {DNS}\n")
        self.keeper.run("mount", "--bind", self._bare.root, self.folder / "bare")
        self.keeper.run("bash", "-c", DISKS, "bash", self.folder / "hosts")

    def _make_networks(self, photos: Path) -> None:
        binds = [(self.folder / "hosts.bare", "/etc/hosts"), (self.folder / "resolv.conf", "/etc/resolv.conf")]
        environment = {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "state")}
        self.keeper.links("link add lab0 type bridge", "link set lab0 up")
        self.controller = self.keeper.space(*binds, hostname="ctl", environment=environment)
        self._web_space = self.keeper.space(*binds, hostname="web", environment={})
        for name, space, addresses in (
            ("ctl", self.controller, [CONTROLLER]),
            ("web", self._web_space, Web.addresses()),
        ):
            self.keeper.links(
                f"link add {name} type veth peer name eth0 netns {space.pid}", f"link set {name} master lab0 up"
            )
            added = [f"addr add {address}/24 dev eth0" for address in addresses]
            self.keeper.links(*added, "link set eth0 up", inside=space)
        self.keeper.links(f"route replace {PHOTO_NET}.0/24 dev eth0", inside=self.controller)
        self.keeper.links(f"route replace {HOST_NET}.0/24 dev eth0", inside=self._web_space)
        self.web = Web(self._web_space, self.folder / "web", photos=photos, packages=self._bare.packages)

    def _make_disk(self, host: Host) -> None:
        """A copy on write of the bare root, in the mounts of the keeper, with what makes it this host."""
        top = host.root.parent
        options = f"lowerdir={self.folder}/bare,upperdir={top}/upper,workdir={top}/work,volatile"
        script = 'mkdir -p "$1/upper" "$1/work" "$1/root"; mount -t overlay overlay -o "$2" "$1/root"'
        self.keeper.run("bash", "-ec", script, "bash", top, options)
        files = {
            "etc/hostname": f"{host.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {host.name}\n",
            "etc/resolv.conf": f"nameserver {DNS}\n",
            "etc/apt/sources.list": "deb [trusted=yes] http://packages.example.test/ ./\n",
            "etc/ssh/sshd_config.d/provider.conf": SSHD,
        }
        for path, content in files.items():
            host.path(path).write_text(content)
        key = str(host.path("etc/ssh/ssh_host_ed25519_key"))
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", host.name, "-f", key], check=True)
        for home, owner in (("root", 0), (f"home/{USER}", 1500)):
            folder = host.path(home) / ".ssh"
            folder.mkdir(mode=0o700)
            shutil.copyfile(f"{self.key}.pub", folder / "authorized_keys")
            for owned in (folder, folder / "authorized_keys"):
                os.chown(owned, owner, owner)


def sweep() -> None:
    """Remove what labs have left whose process is gone."""
    for signature in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/owner.json"):
        with contextlib.suppress(OSError, ValueError):
            pids = json.loads(signature.read_text())
            lives = {name: bool(start) and start_time(pid) == start for name, (pid, start) in pids.items()}
            if not lives["owner"]:
                if lives["keeper"]:
                    os.kill(pids["keeper"][0], signal.SIGKILL)
                remove(signature.parent)


def remove(folder: Path) -> None:
    """With what tells whose it is at last, so that a removal that was cut off is done by the next lab."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    shutil.rmtree(folder)
