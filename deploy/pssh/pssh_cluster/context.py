"""What a target works on: the settings, and which hosts are meant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pssh_cluster import fanout, hosts, settings, state
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Job, Outcome
from pssh_cluster.hosts import Host
from pssh_cluster.settings import Settings
from pssh_cluster.state import State


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster, as far as it is there."""

    settings: Settings
    where: Path
    environ: Mapping[str, str]

    @staticmethod
    def open(environ: Mapping[str, str]) -> Cluster:
        """The cluster that the environment means; what its state keeps counts where nothing is given."""
        first = settings.load(environ)
        where = state.folder(first)
        known = state.load(where, first.cluster)
        return Cluster(settings=settings.load(environ, known.settings if known else None), where=where, environ=environ)

    @property
    def name(self) -> str:
        """Its name."""
        return self.settings.cluster

    def state(self) -> State:
        """What is known of it."""
        return state.load(self.where, self.name) or State(name=self.name)

    @property
    def is_known(self) -> bool:
        """Whether there is a state file."""
        return state.load(self.where, self.name) is not None

    def save(self, now: State) -> None:
        """Write down what is known of it, with the settings that were given."""
        state.save(self.where, replace(now, settings=settings.kept(self.environ, now.settings)))

    def forget(self, prefix: str) -> None:
        """Keep no settings whose names begin so: cluster-up would do again what was undone."""
        now = self.state()
        kept = {name: value for name, value in now.settings.items() if not name.startswith(prefix)}
        state.save(self.where, replace(now, settings=kept))

    def listed(self) -> tuple[Host, ...]:
        """The hosts of IPS or HOSTS; none if neither is given."""
        if self.settings.hosts:
            return hosts.read_csv(self.settings.hosts, self.settings.ssh_user)
        if self.settings.ips:
            return hosts.read_ips(self.settings.ips, self.settings.ssh_user)
        return ()

    def free(self, listed: Sequence[Host]) -> tuple[Host, ...]:
        """Those that no other cluster holds; a line says which are left out."""
        taken: dict[str, list[str]] = {}
        free = []
        holders = {
            key: other.name for other in state.all_of(self.where) if other.name != self.name for key in other.keys
        }
        for host in listed:
            if host.key in holders:
                taken.setdefault(holders[host.key], []).append(host.label)
            else:
                free.append(host)
        for name, labels in taken.items():
            print(f"left out, the cluster {name} has them: {' '.join(labels)}", flush=True)
        return tuple(free)

    def hosts(self) -> tuple[Host, ...]:
        """The hosts that are meant: of the list, COUNT of the free ones, ours first; without a list those we have.

        Raises:
            ClusterError: There are none, or too few.
        """
        own = self.state()
        listed = self.listed()
        if not listed:
            if own.hosts:
                return own.hosts
            names = ", ".join(other.name for other in state.all_of(self.where)) or "none"
            raise ClusterError(
                f"which hosts? Give IPS=ips.txt or HOSTS=hosts.csv; there is no cluster {self.name} yet "
                f"(there are: {names})"
            )
        free = self.free(listed)
        count = self.settings.count
        if count and not self.environ.get("COUNT"):  # remembered: hosts may have been added since
            count = max(count, sum(host.key in own.keys for host in free))
        if count:
            if len(free) < count:
                raise ClusterError(f"COUNT={count}, but only {len(free)} hosts of the list are free")
            first = [host for host in free if host.key in own.keys]
            chosen = {host.key for host in (first + [host for host in free if host not in first])[:count]}
            free = tuple(host for host in free if host.key in chosen)
        if not free:
            raise ClusterError("no host of the list is free; make clusters says who has them")
        return free

    def claim(self) -> tuple[Host, ...]:
        """The hosts that are meant, which are ours from now on."""
        with state.locked(self.where):
            chosen = self.hosts()
            now = self.state()
            for host in chosen:
                now = now.with_node(host)
            self.save(now)
        return chosen

    def release(self, outcomes: Sequence[Outcome]) -> None:
        """Let go of hosts that were never reached: the address may be wrong, or another cluster may want them."""
        with state.locked(self.where):
            now = self.state()
            nodes = {node.host.key: node for node in now.nodes}
            for one in outcomes:
                if one.unreachable and one.host.key in nodes and not nodes[one.host.key].address:
                    now = now.without(one.host)
            self.save(now)

    def master(self, among: Sequence[Host]) -> Host:
        """The host of the master: MASTER, else what it was, else this machine, else the first."""
        text = self.settings.master
        if "://" in text:
            raise ClusterError(f"MASTER={text}: give the host of the master as user@host:port, or leave it out")
        if text:
            wanted = hosts.parse_host(text, user=self.settings.ssh_user)
            return next((host for host in among if host.key == wanted.key), wanted)
        known = self.state().master
        if known:
            return known
        if not among:
            raise ClusterError("there is no master yet; run make master-start IPS=ips.txt first")
        return next(hosts.own_first(among), among[0])

    def run(self, chosen: Sequence[Host], job: Job) -> list[Outcome]:
        """Run a job on hosts."""
        return fanout.run(self.settings, chosen, job) if chosen else []

    def addresses(self, chosen: Sequence[Host]) -> list[Outcome]:
        """By which address and name each host knows itself; nothing is printed."""
        return self.run(chosen, Job(script="names", values={}, timeout=30, title="names", quiet=True))


def finish(title: str, outcomes: Sequence[Outcome]) -> int:
    """The exit code of a target that ran one step."""
    failed = {outcome.host: outcome.why for outcome in outcomes if not outcome.ok}
    return fanout.report(title, failed, len(outcomes), outcomes)


def workers_of(text: str) -> list[dict[str, object]]:
    """The workers of the master's /json/; none if it is not that."""
    try:
        found = json.loads(text)["workers"]
    except (ValueError, KeyError, TypeError):
        return []
    return [worker for worker in found if isinstance(worker, dict)]


def read_file(variable: str, path: str) -> str:
    """A text file of the user's.

    Raises:
        ClusterError: It cannot be read.
    """
    try:
        return Path(os.path.expanduser(path)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{variable}={path}: cannot be read ({error})") from None
