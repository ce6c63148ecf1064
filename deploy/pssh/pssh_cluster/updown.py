"""cluster-up, cluster-down, workers-add, workers-remove: several steps in order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pssh_cluster import fanout, keys, lifecycle, state, steps, watch
from pssh_cluster.context import Cluster
from pssh_cluster.copying import pex_install, pex_source, spark_install, spark_source
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Outcome
from pssh_cluster.hosts import Host, distinct

Step = Callable[[Cluster, Sequence[Host]], list[Outcome]]
_LOOKING = ("hosts-keys", "hosts-check")


@dataclass(kw_only=True)
class Run:
    """Hosts that are still with us, and why others are not."""

    cluster: Cluster
    hosts: list[Host]
    failed: dict[Host, str] = field(default_factory=dict)
    needed: Host | None = None
    """Without this one there is nothing to go on with."""
    fresh: Sequence[Host] = ()
    """Those that were not ours before."""
    untouched: bool = True
    """Whether nothing was done yet but to look."""

    def step(self, name: str, step: Step, only: Sequence[Host] | None = None) -> None:
        """Run a step on those that are left; who fails takes no part in the next.

        Raises:
            _OverError: The master failed, or nobody is left.
        """
        self.untouched = self.untouched and name in _LOOKING
        for outcome in step(self.cluster, self.hosts if only is None else only):
            if not outcome.ok:
                self.failed[outcome.host] = f"{name}: {outcome.why}"
        self.hosts = [host for host in self.hosts if host not in self.failed]
        dead = next((host for host in self.failed if self.needed and host.key == self.needed.key), None)
        if dead:
            raise _OverError(f"the master {dead.label} failed, so there can be no cluster (MASTER=host takes another)")
        if not self.hosts:
            raise _OverError("no host is left")

    def release(self) -> None:
        """Hosts on which nothing was done are not held: the address may be wrong, another cluster may want them."""
        looked_at = {host.key for host, why in self.failed.items() if why.startswith(tuple(f"{n}:" for n in _LOOKING))}
        self.cluster.release([host for host in self.fresh if self.untouched or host.key in looked_at])


class _OverError(ClusterError):
    """There is nothing to go on with."""


def preparation(cluster: Cluster) -> list[tuple[str, Step]]:
    """What is done to a host before its worker starts."""
    names: list[tuple[str, Step]] = [
        ("hosts-keys", keys.hosts_keys),
        ("hosts-check", steps.hosts_check),
        ("hosts-setup", steps.hosts_setup),
        ("knot-install", steps.knot_install),
        ("pex-install", pex_install),
        ("spark-install", spark_install),
    ]
    if cluster.settings.mount_host:
        names.append(("mount", steps.mount))
    return [(name, step) for name, step in names if name != "knot-install" or cluster.settings.knot]


def check_settings(cluster: Cluster) -> None:
    """What later steps would find only after minutes.

    Raises:
        ClusterError: A file is missing, has another digest, or a setting is wrong.
    """
    settings = cluster.settings
    pex_source(settings)
    spark_source(settings)
    if settings.knot:
        steps.knot_lua(settings)
    if settings.mount_host:
        steps.mount_key(settings)


def cluster_up(cluster: Cluster) -> int:
    """From bare hosts to a cluster that waits for jobs."""
    check_settings(cluster)
    before = cluster.state().keys
    hosts = list(cluster.claim())
    master = cluster.master(hosts)
    fresh = [host for host in cluster.state().everyone if host.key not in before]
    # A master that is not in the list takes no part in the work, but needs the same things.
    run = Run(cluster=cluster, hosts=distinct([*hosts, master]), needed=master, fresh=fresh)
    code = _whole("cluster-up", run, _up)
    if code == 0:
        print(f"cluster {cluster.name} is up: {cluster.state().master_url}")
    return code


def _up(run: Run) -> None:
    cluster = run.cluster
    storage = keys.storage_host(cluster.settings)
    if storage:
        for one in keys.hosts_keys(cluster, storage):
            if not one.ok:
                raise ClusterError(f"the storage machine {one.host.label}: {one.why}")
    working = {host.key for host in cluster.state().hosts}
    for name, step in preparation(cluster):
        run.step(name, step)
    run.step("master-start", lifecycle.master_start)
    run.step("workers-start", lifecycle.workers_start, [host for host in run.hosts if host.key in working])
    watch.status(cluster, run.hosts)


def _whole(name: str, run: Run, do: Callable[[Run], None]) -> int:
    """Steps to their end; however they end, the hosts that failed are named, and those that nobody needs are free."""
    total, ended = len(run.hosts), 0
    try:
        do(run)
    except ClusterError as error:
        sys.stdout.flush()
        print(f"{name}: {error}", file=sys.stderr)
        ended = 1
    finally:
        run.release()
    return fanout.report(name, run.failed, total) or ended


def workers_add(cluster: Cluster) -> int:
    """Bring hosts in; a job that runs uses them."""
    listed = cluster.listed()
    if not listed:
        raise ClusterError("give the new hosts, as IPS=new.txt")
    known = cluster.state()
    if not known.master_url:
        raise ClusterError(f"there is no cluster {cluster.name} to add to; run make cluster-up first")
    check_settings(cluster)
    with state.locked(cluster.where):
        hosts = cluster.free(listed)
        now = cluster.state()
        for host in hosts:
            now = now.with_node(host)
        cluster.save(now)
    if not hosts:
        raise ClusterError("none of these hosts is free")
    run = Run(cluster=cluster, hosts=list(hosts), fresh=[host for host in hosts if host.key not in known.keys])
    return _whole("workers-add", run, _add)


def _add(run: Run) -> None:
    also = run.cluster.state().hosts
    for name, step in preparation(run.cluster):
        run.step(name, _with_names(also) if name == "hosts-setup" else step)
    run.step("workers-start", lifecycle.workers_start)


def _with_names(also: Sequence[Host]) -> Step:
    return lambda cluster, hosts: steps.hosts_setup(cluster, hosts, also)


def workers_remove(cluster: Cluster) -> int:
    """Take hosts out: their workers finish what they have, and nothing of ours stays alive on them."""
    listed = cluster.listed()
    if not listed:
        raise ClusterError("give the hosts that shall leave, as IPS=some.txt")
    known = cluster.state()
    hosts = [host for host in listed if host.key in {own.key for own in known.hosts}]
    strangers = [host.label for host in listed if host not in hosts]
    if strangers:
        print(f"not in the cluster {cluster.name}, nothing to do: {' '.join(strangers)}", flush=True)
    outcomes = lifecycle.decommission(cluster, hosts)
    working = {node.host.key for node in known.nodes}
    leaving = [
        one.host for one in outcomes if one.ok and one.host.key in working and not _is_master(known.master, one.host)
    ]
    after = [*steps.knot_remove(cluster, leaving), *steps.unmount(cluster, leaving), *steps.forget(cluster, leaving)]
    failed = {one.host: one.why for one in (*outcomes, *after) if not one.ok}
    gone = [one for one in outcomes if one.host not in failed or _given_up(cluster, one)]
    lifecycle.forget_hosts(cluster, gone)
    given_up = {one.host for one in gone}
    return fanout.report(
        "workers-remove", {host: why for host, why in failed.items() if host not in given_up}, len(hosts)
    )


def _given_up(cluster: Cluster, outcome: Outcome) -> bool:
    """Whether a host does not answer, and shall be forgotten all the same."""
    if not (outcome.unreachable and cluster.settings.force):
        return False
    print(f"{outcome.host.label} does not answer and is forgotten (FORCE=1): what runs there was not ended", flush=True)
    return True


def _is_master(master: Host | None, host: Host) -> bool:
    return master is not None and master.key == host.key


def cluster_down(cluster: Cluster) -> int:
    """End all of ours on all hosts, and forget the cluster; hosts that do not answer are kept in the state."""
    known = state.load(cluster.where, cluster.name)
    if not known and not cluster.listed():
        print(f"there is no cluster {cluster.name}: nothing to do")
        return 0
    hosts = list(known.hosts) if known else list(cluster.hosts())
    if known and known.master and known.master.key not in {host.key for host in hosts}:
        hosts.append(known.master)
    master = [known.master] if known and known.master else hosts[:1]
    failed: dict[Host, str] = {}
    forgotten: set[Host] = set()
    plan: list[tuple[str, Step, Sequence[Host]]] = [
        ("jobs", lifecycle.jobs_stop, master),
        ("workers-stop", lifecycle.workers_stop, hosts),
        ("master-stop", lifecycle.master_stop, master),
        ("knot-remove", steps.knot_remove, hosts),
        ("unmount", steps.unmount, hosts),
        ("what is left", steps.forget, hosts),
    ]
    for name, step, among in plan:
        wanted = [host for host in among if host not in failed]
        for outcome in step(cluster, wanted) if wanted else ():
            if not outcome.ok:
                failed.setdefault(outcome.host, f"{name}: {outcome.why}")
            if not outcome.ok and _given_up(cluster, outcome):
                forgotten.add(outcome.host)
    with state.locked(cluster.where):
        if not failed.keys() - forgotten:
            state.remove(cluster.where, cluster.name)
        elif known:
            now = cluster.state()
            nodes = tuple(node for node in now.nodes if node.host in failed.keys() - forgotten)
            cluster.save(replace(now, nodes=nodes, master=now.master if now.master in failed else None, master_url=""))
    if not failed.keys() - forgotten:
        print(f"cluster {cluster.name} is down")
    else:
        print("the hosts below are kept in the state; make cluster-down again when they are back, or with FORCE=1")
    kept = {host: why for host, why in failed.items() if host not in forgotten}
    return fanout.report("cluster-down", kept, len(hosts))
