"""What a target works on: the settings, and which hosts are meant."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
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
        """Write down what is known of it, with the settings that were given; COUNT is for `claim`."""
        given = {name: value for name, value in self.environ.items() if name != "COUNT"}
        state.save(self.where, replace(now, settings=settings.kept(given, now.settings)))

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
        holders = self._holders()
        for host in listed:
            if host.key in holders:
                taken.setdefault(holders[host.key], []).append(host.label)
            else:
                free.append(host)
        for name, labels in taken.items():
            print(f"left out, the cluster {name} has them: {' '.join(labels)}", flush=True)
        return tuple(free)

    def _holders(self) -> dict[tuple[str, int], str]:
        """Which other cluster has a host, by its key."""
        others = (other for other in state.all_of(self.where) if other.name != self.name)
        return {key: other.name for other in others for key in other.keys}

    def hosts(self) -> tuple[Host, ...]:
        """The hosts that are meant: of the list, COUNT of the free ones, ours first; without a list those we have.

        A COUNT of an earlier call does not count here, only for `claim`: the list may be of some hosts, or of new ones.

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
        if not free:
            raise ClusterError("no host of the list is free; make clusters says who has them")
        if self._count_is_given:
            if len(free) < self.settings.count:
                raise ClusterError(f"COUNT={self.settings.count}, but only {len(free)} hosts of the list are free")
            return _first(free, self.settings.count, own)
        return free

    @property
    def _count_is_given(self) -> bool:
        return bool(self.settings.count and "count" in settings.given(self.environ))

    def claim(self) -> tuple[Host, ...]:
        """The hosts that are meant, which are ours from now on; so is the host of MASTER, where it is none of them."""
        with state.locked(self.where):
            chosen = self.hosts()
            now = self.state()
            if self.settings.count and self.listed() and not self._count_is_given:
                have = sum(host.key in now.keys for host in chosen)  # some may have been added since
                chosen = _first(chosen, max(self.settings.count, have), now)
            for host in chosen:
                now = now.with_node(host)
            if self.settings.master:
                master = self.master(chosen)
                if not now.master_url and master.key not in now.keys:
                    now = replace(now, master=master)
            state.save(self.where, replace(now, settings=settings.kept(self.environ, now.settings)))
        return chosen

    def release(self, untouched: Iterable[Host]) -> None:
        """Let go of hosts on which nothing was done: the address may be wrong, or another cluster may want them."""
        with state.locked(self.where):
            now = self.state()
            held = {node.host.key: node for node in now.nodes}
            for host in untouched:
                if host.key in held and not held[host.key].address:
                    now = now.without(host)
                if now.master and now.master.key == host.key and not now.master_url:
                    now = replace(now, master=None, master_address="")
            self.save(now)

    def master(self, among: Sequence[Host]) -> Host:
        """The host of the master: MASTER, else what it was, else this machine, else the first.

        Raises:
            ClusterError: MASTER is no host, or one of another cluster; or there is nothing to choose from.
        """
        text = self.settings.master
        if "://" in text:
            raise ClusterError(f"MASTER={text}: give the host of the master as user@host:port, or leave it out")
        wanted = hosts.parse_host(text, user=self.settings.ssh_user) if text else self.state().master
        if text and wanted and wanted.key in (holders := self._holders()):
            raise ClusterError(
                f"MASTER={text}: the cluster {holders[wanted.key]} has this host; take another, or first make "
                f"cluster-down CLUSTER={holders[wanted.key]}"
            )
        if wanted:  # as the list has it: the user may be another by now
            return next((host for host in among if host.key == wanted.key), wanted)
        if not among:
            raise ClusterError("there is no master yet; run make master-start IPS=ips.txt first")
        return next(hosts.own_first(among), among[0])

    def run(self, chosen: Sequence[Host], job: Job) -> list[Outcome]:
        """Run a job on hosts."""
        return fanout.run(self.settings, chosen, job, self.state().hosts) if chosen else []

    def addresses(self, chosen: Sequence[Host]) -> list[Outcome]:
        """By which address and name each host knows itself; nothing is printed."""
        return self.run(chosen, Job(script="names", values={}, timeout=30, title="names", quiet=True))


def _first(free: Sequence[Host], count: int, own: State) -> tuple[Host, ...]:
    """So many of them, those that are ours first, in the order of the list."""
    ours_first = sorted(free, key=lambda host: host.key not in own.keys)
    chosen = {host.key for host in ours_first[:count]}
    return tuple(host for host in free if host.key in chosen)


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
