"""hosts-keys: the host keys of hosts that are not known yet, as ssh-keyscan finds them."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pssh_cluster import ssh
from pssh_cluster.context import Cluster
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Job, Outcome, summary
from pssh_cluster.hosts import Host, distinct, is_local, parse_host
from pssh_cluster.settings import Settings

_q = shlex.quote
_JOB = Job(script="", values={}, timeout=0)


@dataclass(frozen=True, kw_only=True)
class Key:
    """A host key: its type and the key."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of one host's keys."""

    ok: bool
    text: str
    new_lines: tuple[str, ...] = ()


def judge(known: Sequence[Key], scanned: Sequence[Key], name: str, file: str) -> Finding:
    """Compare what is known of a host with what it shows; a key that changed is never replaced."""
    by_kind = {key.kind: {other.text for other in known if other.kind == key.kind} for key in known}
    changed = [key.kind for key in scanned if key.kind in by_kind and key.text not in by_kind[key.kind]]
    if changed:
        return Finding(
            ok=False,
            text=f"the key CHANGED ({', '.join(changed)}): it was set up anew, or somebody is in between. If "
            f"you know that it was set up anew: ssh-keygen -R {_q(name)} -f {_q(file)}, then make hosts-keys again",
        )
    if known and not scanned:
        return Finding(ok=False, text="does not answer (its key is known)")
    if not scanned:
        return Finding(ok=False, text="does not answer: is it up, is the port right, does a firewall let us in?")
    if not known:
        return Finding(ok=True, text="added", new_lines=tuple(f"{name} {key.kind} {key.text}" for key in scanned))
    if any(key.kind in by_kind for key in scanned):
        return Finding(ok=True, text="already known")
    return Finding(
        ok=False,
        text="shows keys of other types than the known ones; to take them: "
        f"ssh-keygen -R {_q(name)} -f {_q(file)}, then make hosts-keys again",
    )


@dataclass(frozen=True, kw_only=True)
class Target:
    """A host as ssh sees it after all its configuration."""

    name: str
    """Under which its key is looked for."""
    address: str
    port: int
    file: str
    """Of known hosts."""


def storage_host(settings: Settings) -> tuple[Host, ...]:
    """The storage machine, if there is one: its host key is fetched with the others'."""
    if not settings.mount_host:
        return ()
    return (parse_host(settings.mount_host, user=settings.mount_user, where="MOUNT_HOST"),)


def hosts_keys(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Fill known_hosts; a line per host, with the fingerprints of what was added."""
    hosts = distinct(hosts)
    print(f"== hosts-keys ({len(hosts)} host{'s' if len(hosts) != 1 else ''})", flush=True)
    outcomes = []
    with ThreadPoolExecutor(max_workers=min(16, cluster.settings.hosts_at_once)) as pool:
        for host, (finding, file, seconds) in zip(
            hosts, pool.map(lambda one: _look(cluster.settings, one), hosts), strict=True
        ):
            text = finding.text
            if finding.new_lines:
                _append(Path(file), finding.new_lines)
                text = "; ".join(f"added {fingerprint}" for fingerprint in _fingerprints(finding.new_lines))
            why = "" if finding.ok else finding.text
            outcome = Outcome(host=host, ok=finding.ok, seconds=seconds, text="" if why else text, why=why)
            print(summary(outcome, _JOB), flush=True)
            outcomes.append(outcome)
    return outcomes


def known_keys(target: Target) -> list[Key]:
    """The keys that are known of a host; lines for certificates and revoked keys do not count."""
    if not os.path.exists(target.file):
        return []
    return parse_keys(_call(["ssh-keygen", "-F", target.name, "-f", target.file], 20))


def parse_keys(text: str) -> list[Key]:
    """The keys in lines `name type key`."""
    keys = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and not line.startswith(("#", "@")):  # noqa: PLR2004 (name, type, key)
            keys.append(Key(kind=words[1], text=words[2]))
    return keys


def look_up(settings: Settings, host: Host) -> Target:
    """Where ssh goes for a host, and where it looks for its key; ~/.ssh/config and SSH_OPTS count."""
    asked = _call([*ssh.command(settings, host, "-G")], 20)
    values = dict(line.split(" ", 1) for line in asked.splitlines() if " " in line)
    address = values.get("hostname", host.address)
    port = int(values.get("port", "22"))
    files = values.get("userknownhostsfile", "~/.ssh/known_hosts").split()
    file = os.path.abspath(os.path.expanduser(settings.known_hosts or files[0]))
    name = values.get("hostkeyalias", "") or (address if port == 22 else f"[{address}]:{port}")  # noqa: PLR2004 (ssh's)
    return Target(name=name, address=address, port=port, file=file)


def _look(settings: Settings, host: Host) -> tuple[Finding, str, float]:
    """What is to be said of a host, and in which file."""
    begin = time.monotonic()
    # Of the storage machine the others need the key, also where it is this machine.
    if settings.local and is_local(host) and host.key not in {one.key for one in storage_host(settings)}:
        return Finding(ok=True, text="this machine, no key needed"), "", 0
    target = look_up(settings, host)
    known = known_keys(target)
    wait = settings.connect_timeout
    scan = ["ssh-keyscan", "-T", str(wait), "-p", str(target.port), "-t", "ed25519,ecdsa,rsa", "--", target.address]
    scanned = parse_keys(_call(scan, 3 * wait + 5))
    return judge(known, scanned, target.name, target.file), target.file, time.monotonic() - begin


def _call(command: list[str], timeout: int) -> str:
    """What a program prints; nothing if it fails.

    Raises:
        ClusterError: It is not installed.
    """
    try:
        done = subprocess.run(  # noqa: S603 (no shell is involved)
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout
        )
    except FileNotFoundError:
        raise ClusterError(f"there is no {command[0]} on this machine; install openssh-client") from None
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


def _append(file: Path, lines: Sequence[str]) -> None:
    """Add lines, also to a file whose last one has no end."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(file, "a+", encoding="utf-8") as out:
        out.seek(0)
        before = out.read()
        out.write(("\n" if before and not before.endswith("\n") else "") + "".join(f"{line}\n" for line in lines))


def _fingerprints(lines: Sequence[str]) -> list[str]:
    """As ssh shows them: `SHA256:... (ED25519)`."""
    done = subprocess.run(
        ["ssh-keygen", "-lf", "-"],  # noqa: S607 (as in the user's shell)
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    found = [line.split() for line in done.stdout.splitlines()]
    return [f"{words[1]} {words[-1]}" for words in found if len(words) > 2]  # noqa: PLR2004 (bits, fingerprint, ...)
