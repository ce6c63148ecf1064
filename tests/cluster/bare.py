"""What a bare host is made of: a small Debian with sshd, and the packages that it could install.

Both are made once per environment of Python (a minute, from the mirror that this machine's apt uses) and kept there.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

INCLUDED = ("openssh-server", "iproute2", "ca-certificates", "sudo")
"""What a provider's image has beside Debian's minimum. There is no python3, no java, no curl."""
OFFERED = (
    "default-jre-headless", "python3", "python3-venv", "curl", "rsync", "procps", "xz-utils", "libgl1", "libglib2.0-0",
    "knot-resolver", "knot-dnsutils", "dnsutils", "sshfs", "fuse3", "chrony", "hello", "util-linux-extra",
)  # fmt: skip
"""What the repository has, with all that these need."""
USER = "debian"
"""May use sudo without a password, as in the images of most providers."""
PROGRAMS = {
    "debootstrap": "debootstrap", "ip": "iproute2", "knotd": "knot", "nginx": "nginx-light", "ssh": "openssh-client",
    "ssh-keygen": "openssh-client", "parallel-ssh": "pssh", "unshare": "util-linux", "nsenter": "util-linux",
}  # fmt: skip
"""Programs that must be on this machine, and their Debian packages."""
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUILD_SECONDS = 480


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Folders that are only read.

    Attributes:
        root: the root folder of a host, before its first start.
        packages: .deb files and their index, for apt's `deb [trusted=yes] URL ./`.
    """

    root: Path
    packages: Path


def program(name: str) -> str:
    """Full path of a program of this machine."""
    found = shutil.which(name, path=SBIN)
    if found is None:
        raise RuntimeError(f"{name} is missing: apt-get install {PROGRAMS.get(name, name)}")
    return found


def require() -> None:
    """Skip the test where there can be no hosts, with the reason; where CI is set, what is not installed is a failure."""
    release = platform.freedesktop_os_release() if sys.platform == "linux" else {}
    if (release.get("ID"), release.get("VERSION_ID")) != ("debian", "12"):
        pytest.skip(f"hosts are made of Debian 12, on Debian 12; this is {release.get('PRETTY_NAME', sys.platform)}")
    if os.geteuid() != 0:
        pytest.skip("hosts out of namespaces take root")
    done = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine does not let root make namespaces: {done.stderr.strip()}")
    missing = sorted({package for name, package in PROGRAMS.items() if shutil.which(name, path=SBIN) is None})
    if missing:
        reason = f"not installed (`make test` does it): {' '.join(missing)}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def cache() -> Path:
    """A folder that lasts as long as this environment of Python."""
    home = Path(sys.prefix if sys.prefix != sys.base_prefix else Path.home() / ".cache") / "img2dataset_dist-tests"
    home.mkdir(parents=True, exist_ok=True)
    return home


def bare() -> Bare:
    """The folders, made now if this is the first time."""
    require()
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    how = inspect.getsource(_make_root) + inspect.getsource(_fetch_packages)
    told = hashlib.sha256(repr((suite, INCLUDED, OFFERED, USER, how)).encode()).hexdigest()[:12]
    ready = cache() / f"bare-{suite}-{told}"
    if not ready.exists():
        fresh = Path(tempfile.mkdtemp(prefix=".bare-", dir=cache()))
        try:
            _make_root(fresh / "root", suite)
            _fetch_packages(fresh / "packages", fresh / "root")
            fresh.chmod(0o755)
            with contextlib.suppress(OSError):  # somebody else was faster
                fresh.rename(ready)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return Bare(root=ready / "root", packages=ready / "packages")


def _make_root(root: Path, suite: str) -> None:
    command = [program("debootstrap"), "--variant=minbase", f"--include={','.join(INCLUDED)}", suite, str(root)]
    _run([*command, *_mirror(suite)])
    _run(["chroot", str(root), "useradd", "--create-home", "--password=*", "--uid=1500", "--shell=/bin/bash", USER])
    (root / "etc/sudoers.d/provider").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    (root / "etc/sudoers.d/provider").chmod(0o440)
    for path in [*root.glob("etc/ssh/ssh_host_*"), *root.glob("var/cache/apt/archives/*.deb")]:
        path.unlink()
    shutil.rmtree(root / "var/lib/apt/lists")
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)


def _mirror(suite: str) -> list[str]:
    """Where this machine gets its packages from; debootstrap's own choice when that cannot be seen."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Release: {suite}"]
    found = _run([*command, "Origin: Debian", "Component: main"]).split()
    return found[:1]


def _fetch_packages(folder: Path, root: Path) -> None:
    """What `OFFERED` and all it needs take beyond what the root has, and the index of it."""
    (folder / "partial").mkdir(parents=True)
    options = {
        "Dir::Cache::archives": folder,
        "Dir::State::status": root / "var/lib/dpkg/status",
        "Debug::NoLocking": "true",
        "APT::Sandbox::User": "root",
    }
    flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "--download-only", *flags, *OFFERED]
    try:
        _run(command)
    except RuntimeError:  # a machine whose lists are old or not there
        _run(["apt-get", "update", "-qq"])
        _run(command)
    shutil.rmtree(folder / "partial")
    (folder / "lock").unlink(missing_ok=True)
    index = []
    for path in sorted(folder.glob("*.deb")):
        content = path.read_bytes()
        facts = f"Filename: ./{path.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
        index.append(_run(["dpkg-deb", "--field", str(path)]).rstrip("\n") + "\n" + facts)
    (folder / "Packages").write_text("\n".join(index))


def _run(command: list[str]) -> str:
    environment = {**os.environ, "PATH": SBIN, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=BUILD_SECONDS
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout
