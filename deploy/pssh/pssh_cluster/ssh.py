"""The arguments of ssh: keys, users and known hosts as the settings say, checking never switched off by us."""

from __future__ import annotations

import os

from pssh_cluster.hosts import Host
from pssh_cluster.settings import Settings


def quoted(path: str) -> str:
    """A path as the value of an option of ssh, which knows quotes, backslashes and percent signs."""
    for special in ("\\", '"'):
        path = path.replace(special, "\\" + special)
    return '"' + path.replace("%", "%%") + '"'


def options(settings: Settings) -> list[str]:
    """Arguments for every call of ssh. SSH_OPTS come first: of an option that is given twice ssh takes the first."""
    found = [*settings.ssh_arguments]
    wanted = {
        "BatchMode": "yes",
        "ConnectTimeout": str(settings.connect_timeout),
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "StrictHostKeyChecking": "yes",
    }
    if settings.known_hosts:
        wanted["UserKnownHostsFile"] = quoted(os.path.abspath(os.path.expanduser(settings.known_hosts)))
    if settings.ssh_key:
        wanted["IdentityFile"] = quoted(os.path.abspath(os.path.expanduser(settings.ssh_key)))
        wanted["IdentitiesOnly"] = "yes"
    for name, value in wanted.items():
        found += ["-o", f"{name}={value}"]
    return found


def command(settings: Settings, host: Host, *more: str) -> list[str]:
    """A call of ssh to one host; `more` are options, the host comes after them."""
    target = ["ssh", "-T", *options(settings), *more]
    if host.port:
        target += ["-p", str(host.port)]
    if host.user:
        target += ["-l", host.user]
    return [*target, "--", host.address]
