"""The settings: variables of make or of the environment, each with its default and what it is for."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pssh_cluster.errors import ClusterError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TAKE_BACK = "none"
"""The value of a kept setting that is forgotten. An empty one will not do: scripts pass on what they do not have."""
_REMOTE_PATH = re.compile(r"/[A-Za-z0-9._+/-]*")


def _variable(default: str | int, text: str, *, kept: bool = False) -> Any:
    """A setting; `kept` ones are written to the state of a cluster, so that they need to be given only once."""
    return dataclasses.field(default=default, metadata={"help": text, "kept": kept})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; the variable of a field is its name in capitals. Empty means: not given."""

    ips: str = _variable("", "file with one host per line: [user@]host[:port]; # begins a comment")
    hosts: str = _variable("", "the same as csv: ,host,user,password,hostname,comment (passwords are refused)")
    cluster: str = _variable("default", "name of the cluster")
    count: int = _variable(0, "how many hosts of the list to take (0: all that are free)", kept=True)
    master: str = _variable("", "host of the master (default: this machine if it is in the list, else the first)")

    ssh_key: str = _variable("", "file of the private key (default: what ssh finds, an agent too)", kept=True)
    ssh_user: str = _variable("", "user on the hosts, where the list names none", kept=True)
    ssh_opts: str = _variable("", "more arguments for ssh, quoted as in a shell", kept=True)
    known_hosts: str = _variable("", "file of host keys (default: ~/.ssh/known_hosts)", kept=True)
    connect_timeout: int = _variable(10, "seconds until a host counts as unreachable", kept=True)
    hosts_at_once: int = _variable(32, "how many hosts a step goes to at once", kept=True)
    copies_at_once: int = _variable(8, "how many hosts a file is pushed to at once", kept=True)
    step_timeout: int = _variable(0, "seconds a step may take on a host (0: the step's own)")
    local: int = _variable(1, "0: go to this machine by ssh too, where it is in the list", kept=True)

    remote_dir: str = _variable("/opt/img2dataset", "folder on the hosts; all of ours is in it", kept=True)
    pex_root: str = _variable("", "where the pex unpacks (default: REMOTE_DIR/pex-root)", kept=True)
    work_dir: str = _variable("", "where executors log (default: REMOTE_DIR/work)", kept=True)
    local_dirs: str = _variable("", "SPARK_LOCAL_DIRS of the workers, with commas (default: in WORK_DIR)", kept=True)

    packages: str = _variable("", "more packages for hosts-setup")
    python_package: str = _variable("python3", "package of Python, installed where python3 is missing")
    java_package: str = _variable("", "package of Java (default: the headless JRE, 17 or newer)")
    etc_hosts: int = _variable(1, "0: leave /etc/hosts of the hosts alone", kept=True)

    pex_file: str = _variable("img2dataset.pex", "the pex here, which is pushed to the hosts")
    pex_url: str = _variable("", "or: where each host fetches it, with resume")
    pex_sha256: str = _variable("", "its digest (default: that of PEX_FILE, or what PEX_URL.sha256 says)")
    spark_tgz: str = _variable("", "archive of Spark here, pushed (default: the Spark in the pex)")
    spark_url: str = _variable("", "or: where each host fetches the archive, with resume")
    spark_sha512: str = _variable("", "its digest (default: SPARK_TGZ.sha512 if it is there, SPARK_URL.sha512)")
    spark_version: str = _variable("", "the version that it must have")

    master_port: int = _variable(7077, "port of the master", kept=True)
    master_ui_port: int = _variable(8080, "its web page", kept=True)
    worker_port: int = _variable(0, "port of workers (0: random)", kept=True)
    worker_ui_port: int = _variable(8081, "their web pages", kept=True)
    driver_host: str = _variable("", "address of the driver (default: the master's)", kept=True)
    driver_port: int = _variable(5678, "port of the driver", kept=True)
    block_manager_port: int = _variable(6678, "port of the driver's block manager", kept=True)
    ui_port: int = _variable(4040, "the driver's web page", kept=True)
    authenticate: int = _variable(0, "1: Spark's processes must know a secret (spark.authenticate)", kept=True)

    cores: int = _variable(0, "cores of a worker (0: all)", kept=True)
    memory: int = _variable(0, "MiB of a worker (0: all less MEMORY_RESERVE)", kept=True)
    memory_reserve: int = _variable(0, "MiB left to the system (0: 1024 or a tenth, what is more)", kept=True)

    knot: int = _variable(1, "0: cluster-up leaves DNS alone", kept=True)
    knot_processes: int = _variable(0, "kresd processes of a host (0: one per core, 4 at most)", kept=True)
    knot_forward: str = _variable("", "addresses to ask, with spaces (default: the servers of each domain)", kept=True)
    knot_zones: str = _variable("", "own zones and who serves them: 'a.lan=10.0.0.2 b.lan=10.0.0.3@5353'", kept=True)
    knot_conf: str = _variable("", "file of lines to add to kresd.conf")
    knot_check: str = _variable("", "name that knot-check resolves (default: the first zone, else the root)", kept=True)
    knot_cache: int = _variable(200, "MB of kresd's cache", kept=True)

    mount_host: str = _variable("", "storage machine: host[:port]", kept=True)
    mount_user: str = _variable("", "user there", kept=True)
    mount_dir: str = _variable("", "folder there", kept=True)
    mount_key: str = _variable("", "private key for it, a file here; it is sent to the hosts")
    mount_point: str = _variable("/mnt/shared", "where the hosts mount it", kept=True)

    script: str = _variable("examples/download.py", "run: the script")
    args: str = _variable("", "run: its arguments, quoted as in a shell")
    pass_env: str = _variable("", "run: names of variables here that the script shall have, with spaces")
    reconnects: int = _variable(5, "run: how often to connect again when the connection is lost")
    lines: int = _variable(20, "logs: how many lines of each")
    log: str = _variable("all", "logs: master, worker, executors, kresd, job or all")
    tunnel_master_port: int = _variable(0, "ui-tunnel: port here for the master's page (0: the same)")
    tunnel_ui_port: int = _variable(0, "ui-tunnel: port here for the driver's page (0: the same)")
    decommission_timeout: int = _variable(600, "workers-remove: seconds until a worker's tasks must be done")
    force: int = _variable(0, "1: cluster-down and workers-remove forget hosts that do not answer")
    cluster_state: str = _variable("", "folder of state files (default: ~/.local/state/img2dataset/clusters)")

    def __post_init__(self) -> None:
        """Refuse what would go wrong later.

        Raises:
            ClusterError: A value cannot be used.
        """
        if not _NAME.fullmatch(self.cluster):
            raise ClusterError(f"CLUSTER={self.cluster}: letters, digits, - and _ only, 64 at most")
        for name in ("remote_dir", "pex_root", "work_dir"):
            value = getattr(self, name)
            if value and (not _REMOTE_PATH.fullmatch(value) or ".." in value.split("/") or value.strip("/") == ""):
                raise ClusterError(
                    f"{name.upper()}={value}: give a whole path of letters, digits and . _ + - (a pex and Spark do not "
                    "run from paths with other characters)"
                )
        if not self.mount_point.startswith("/") or self.mount_point.strip("/") == "" or "\n" in self.mount_point:
            raise ClusterError(f"MOUNT_POINT={self.mount_point}: give a whole path, such as /mnt/shared")
        if self.ips and self.hosts:
            raise ClusterError("give IPS or HOSTS, not both")
        if self.spark_tgz and self.spark_url:
            raise ClusterError("give SPARK_TGZ or SPARK_URL, not both")

    @property
    def pex(self) -> str:
        """Path of the pex on the hosts."""
        return f"{self.remote_dir}/img2dataset.pex"

    @property
    def pex_folder(self) -> str:
        """Where the pex unpacks on the hosts."""
        return self.pex_root or f"{self.remote_dir}/pex-root"

    @property
    def ssh_arguments(self) -> list[str]:
        """SSH_OPTS as a list.

        Raises:
            ClusterError: A quote is not closed.
        """
        return split_words("SSH_OPTS", self.ssh_opts)


def split_words(name: str, value: str) -> list[str]:
    """The words of a variable that is quoted as in a shell.

    Raises:
        ClusterError: A quote is not closed.
    """
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ClusterError(f"{name}={value}: {error}; quote it as in a shell") from None


def kept_names() -> set[str]:
    """Names of the fields that a state file keeps."""
    return {field.name for field in dataclasses.fields(Settings) if field.metadata["kept"]}


def given(environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment says, by field name; empty values are as good as none."""
    names = (field.name for field in dataclasses.fields(Settings))
    return {name: environ[name.upper()] for name in names if environ.get(name.upper(), "") != ""}


def load(environ: Mapping[str, str], kept: Mapping[str, str] | None = None) -> Settings:
    """The settings: what is given, else what the state of the cluster keeps, else the default.

    Raises:
        ClusterError: A value cannot be used.
    """
    before = {name: value for name, value in (kept or {}).items() if name in kept_names()}
    raw = _without_taken_back(before | given(environ))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        if field.name not in raw:
            continue
        text = raw[field.name]
        if field.type != "int":
            values[field.name] = text
        elif re.fullmatch(r"[0-9]{1,9}", text.strip()):
            values[field.name] = int(text)
        else:
            raise ClusterError(f"{field.name.upper()}={text}: give a number ({field.metadata['help']})")
    return Settings(**values)


def kept(environ: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """What a state file shall keep: files by whole path, so that it holds in any folder."""
    now = {name: value for name, value in given(environ).items() if name in kept_names()}
    for name in ("ssh_key", "known_hosts"):
        if now.get(name, _TAKE_BACK) != _TAKE_BACK:
            now[name] = os.path.abspath(os.path.expanduser(now[name]))
    return _without_taken_back(dict(before) | now)


def _without_taken_back(raw: Mapping[str, str]) -> dict[str, str]:
    """So that defaults count again."""
    return {name: value for name, value in raw.items() if value != _TAKE_BACK or name not in kept_names()}


def describe() -> str:
    """All variables with their defaults, as text."""
    rows = []
    for field in dataclasses.fields(Settings):
        default = f" [{field.default}]" if field.default not in {"", 0} else ""
        rows.append(f"  {field.name.upper():<22}{field.metadata['help']}{default}")
    return "\n".join(rows)
