"""What is known of each cluster: one small JSON file, nothing secret in it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pssh_cluster.errors import ClusterError
from pssh_cluster.hosts import Host, distinct
from pssh_cluster.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Node:
    """A host of a cluster."""

    host: Host
    address: str = ""
    """By which the other hosts reach it; empty until it was asked."""
    worker: bool = False
    cores: int = 0
    memory: int = 0
    """MiB."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A cluster."""

    name: str
    nodes: tuple[Node, ...] = ()
    master: Host | None = None
    master_address: str = ""
    master_url: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What was given, by name of field: so that it need not be given again."""

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts that it holds."""
        return tuple(node.host for node in self.nodes)

    @property
    def workers(self) -> tuple[Host, ...]:
        """The hosts with a worker."""
        return tuple(node.host for node in self.nodes if node.worker)

    @property
    def everyone(self) -> tuple[Host, ...]:
        """All hosts that it holds, and that of a master outside of the list."""
        return tuple(distinct((*self.hosts, *((self.master,) if self.master else ()))))

    @property
    def keys(self) -> set[tuple[str, int]]:
        """What tells all these apart."""
        return {host.key for host in self.everyone}

    def with_node(self, host: Host, **changes: Any) -> State:
        """The same with a node added or changed."""
        nodes = {node.host.key: node for node in self.nodes}
        nodes[host.key] = replace(nodes.get(host.key, Node(host=host)), host=host, **changes)
        return replace(self, nodes=tuple(nodes.values()))

    def without(self, host: Host) -> State:
        """The same without a node."""
        return replace(self, nodes=tuple(node for node in self.nodes if node.host.key != host.key))


def folder(settings: Settings) -> Path:
    """Where the state files are."""
    if settings.cluster_state:
        return Path(settings.cluster_state).expanduser().absolute()
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "img2dataset" / "clusters"


def load(where: Path, name: str) -> State | None:
    """The state of a cluster; none if there is none.

    Raises:
        ClusterError: The file is damaged.
    """
    path = where / f"{name}.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        nodes = tuple(Node(**{**node, "host": Host(**node["host"])}) for node in raw.pop("nodes"))
        master = raw.pop("master")
        return State(**{**raw, "nodes": nodes, "master": Host(**master) if master else None})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ClusterError(f"{path}: is not the state of a cluster ({error!r}); repair it or move it away") from None


def save(where: Path, state: State) -> None:
    """Write a state file; readers see the old one or the new one."""
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = where / f"{state.name}.json"
    temporary = path.with_suffix(f".{os.getpid()}.new")
    temporary.write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def remove(where: Path, name: str) -> None:
    """Forget a cluster, and its secret."""
    for path in (where / f"{name}.json", secret_file(where, name)):
        path.unlink(missing_ok=True)


def all_of(where: Path) -> list[State]:
    """All clusters, by name."""
    names = sorted(path.stem for path in where.glob("*.json"))
    return [state for state in (load(where, name) for name in names) if state]


@contextmanager
def locked(where: Path) -> Iterator[None]:
    """While it lasts nobody else takes hosts; for short times only."""
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(where / ".lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def secret_file(where: Path, name: str) -> Path:
    """The file with the secret of a cluster that has one (AUTHENTICATE=1)."""
    return where / f"{name}.secret"


def secret(where: Path, name: str) -> str:
    """The secret of a cluster, made when there is none; only this user can read the file."""
    import secrets  # noqa: PLC0415 (rarely needed)

    path = secret_file(where, name)
    with locked(where):
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        return path.read_text().strip()
