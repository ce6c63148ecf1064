"""The targets: what `make TARGET` calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from pssh_cluster import copying, driver, keys, lifecycle, settings, steps, updown, watch
from pssh_cluster.context import Cluster, finish
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Outcome
from pssh_cluster.hosts import Host

Step = Callable[[Cluster, Sequence[Host]], list[Outcome]]


def _keys(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    return keys.hosts_keys(cluster, [*hosts, *keys.storage_host(cluster.settings)])


STEPS: dict[str, Step] = {
    "hosts-keys": _keys,
    "hosts-check": steps.hosts_check,
    "hosts-setup": steps.hosts_setup,
    "knot-install": steps.knot_install,
    "knot-check": steps.knot_check,
    "knot-remove": steps.knot_remove,
    "pex-install": copying.pex_install,
    "spark-install": copying.spark_install,
    "jobs-stop": lifecycle.jobs_stop,
    "master-stop": lifecycle.master_stop,
    "workers-stop": lifecycle.workers_stop,
    "mount": steps.mount,
    "unmount": steps.unmount,
    "status": watch.status,
    "logs": watch.logs,
}
"""Steps on hosts of the list, or of the state."""

PREPARING = {name for name in STEPS if name.startswith(("hosts-", "knot-", "pex-", "spark-", "mount", "unmount"))}
"""What a master needs as well that is not in the list."""

CLAIMING: dict[str, Step] = {"master-start": lifecycle.master_start, "workers-start": lifecycle.workers_start}
"""Steps that make hosts ours."""

WHOLE: dict[str, Callable[[Cluster], int]] = {
    "cluster-up": updown.cluster_up,
    "cluster-down": updown.cluster_down,
    "workers-add": updown.workers_add,
    "workers-remove": updown.workers_remove,
    "clusters": watch.clusters,
    "run": lambda cluster: driver.run_script(cluster, cluster.hosts()),
    "ui-tunnel": lambda cluster: driver.ui_tunnel(cluster, cluster.hosts()),
}

TARGETS = (*STEPS, *CLAIMING, *WHOLE, "cluster-settings")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a target; the exit code is 0, or 1 if it failed on some host, or 2 if it could not begin."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) != 1 or words[0] not in TARGETS:
        print(f"usage: cluster.py TARGET, where TARGET is one of {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    try:
        return _target(words[0])
    except ClusterError as error:
        sys.stdout.flush()
        print(f"{words[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{words[0]}: interrupted; run it again, it goes on from there", file=sys.stderr)
        return 130


def _target(name: str) -> int:
    if name == "cluster-settings":
        print(settings.describe())
        return 0
    cluster = Cluster.open(os.environ)
    if name in WHOLE:
        return WHOLE[name](cluster)
    if name in CLAIMING:
        return _claiming(name, cluster)
    hosts = cluster.hosts()
    master = cluster.state().master
    if name in PREPARING and not cluster.listed() and master and master.key not in {host.key for host in hosts}:
        hosts = (*hosts, master)
    done = STEPS[name](cluster, hosts)
    if name in PREPARING and cluster.is_known:
        cluster.save(cluster.state())  # with what was given, such as MOUNT_POINT: cluster-down wants to know it
        if name == "unmount" and cluster.state().keys <= {one.host.key for one in done if one.ok}:
            cluster.forget("mount_")
    return finish(name, done)


def _claiming(name: str, cluster: Cluster) -> int:
    """A step that makes hosts ours, but for those on which it did nothing."""
    before = cluster.state().keys
    hosts = cluster.claim()
    fresh = [host for host in cluster.state().everyone if host.key not in before]
    try:
        outcomes = CLAIMING[name](cluster, hosts)
    except ClusterError:  # it did not even begin
        cluster.release(fresh)
        raise
    lost = {one.host.key for one in outcomes if one.unreachable}
    cluster.release([host for host in fresh if host.key in lost])
    return finish(name, outcomes)
