"""Start and stop Spark's master and workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pssh_cluster import state
from pssh_cluster.context import Cluster
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Job, Outcome
from pssh_cluster.hosts import Host, is_loopback, is_ours

GRACE = 15  # seconds that a process has to end by itself
JOB_GRACE = 40  # the same of a job: examples/download.py takes up to 20 to end in order


def spark_defaults(cluster: Cluster) -> str:
    """spark-defaults.conf of master, workers and drivers; with the secret, if there is one."""
    settings = cluster.settings
    values = {
        "spark.decommission.enabled": "true",  # for workers-remove; a worker does not listen to SIGPWR without it
        "spark.worker.cleanup.enabled": "true",
        "spark.master.rest.enabled": "false",  # one more port, where whoever reaches it could run things
        "spark.ui.prometheus.enabled": "true",
        "spark.ui.port": str(settings.ui_port),
        "spark.driver.port": str(settings.driver_port),
        "spark.driver.blockManager.port": str(settings.block_manager_port),
        "spark.executorEnv.PEX_ROOT": settings.pex_folder,
    }
    address = cluster.state().master_address
    if settings.driver_host or address:
        values["spark.driver.host"] = settings.driver_host or address
        values["spark.driver.bindAddress"] = address or settings.driver_host
    if settings.authenticate:
        values["spark.authenticate"] = "true"
        values["spark.authenticate.secret"] = state.secret(cluster.where, cluster.name)
        values["spark.network.crypto.enabled"] = "true"
    return "\n".join(f"{name} {value}" for name, value in values.items())


def _spark_values(cluster: Cluster) -> dict[str, str]:
    settings = cluster.settings
    return {
        "SPARK_DEFAULTS": spark_defaults(cluster),
        "PEX_ROOT": settings.pex_folder,
        "WORK_DIR": settings.work_dir or f"{settings.remote_dir}/work",
        "LOCAL_DIRS": settings.local_dirs,
        "MASTER_PORT": str(settings.master_port),
        "MASTER_UI_PORT": str(settings.master_ui_port),
    }


def master_start(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Start the master on its host; the state learns where it is.

    Raises:
        ClusterError: The cluster has another master already.
    """
    host = cluster.master(hosts)
    before = cluster.state()
    if before.master and before.master_url and before.master.key != host.key:
        raise ClusterError(
            f"the master of {cluster.name} is on {before.master.label}: make cluster-down first, to move it"
        )
    if not before.master_url:  # the configuration names it
        asked = cluster.addresses([host])
        if not asked[0].ok:
            return [replace(asked[0], why=f"the master: {asked[0].why}")]
        before = replace(before, master=host, master_address=asked[0].facts["address"])
        cluster.save(before)
    job = Job(script="spark_conf master_start", values=_spark_values(cluster), timeout=180, title="master-start")
    outcomes = cluster.run([host], job)
    if outcomes[0].ok:
        facts = outcomes[0].facts
        now = replace(cluster.state(), master=host, master_address=facts["address"], master_url=facts["url"])
        if any(node.host.key == host.key for node in now.nodes):
            now = now.with_node(host, address=facts["address"])
        cluster.save(now)
    return outcomes


def master_stop(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """End the master, and jobs that were started on it."""
    host = cluster.master(hosts)
    return cluster.run([host], _stop("master.pid", "master-stop"))


def _stop(names: str, title: str) -> Job:
    return Job(script="stop", values={"NAMES": names, "GRACE": str(GRACE)}, timeout=60, title=title)


def jobs_stop(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """End jobs that `make run` started."""
    host = cluster.master(hosts)
    values = {"NAMES": "job-*.pid", "GRACE": str(JOB_GRACE)}
    return cluster.run([host], Job(script="stop", values=values, timeout=JOB_GRACE + 50, title="jobs"))


def workers_start(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Start a worker on each host; the state learns its cores and memory.

    Raises:
        ClusterError: There is no master yet, or none that these hosts could reach.
    """
    settings = cluster.settings
    known = cluster.state()
    url = known.master_url
    if not url:
        raise ClusterError(f"the cluster {cluster.name} has no master yet; run make master-start first")
    if is_loopback(known.master_address) and not all(is_ours(host.address) for host in hosts):
        raise ClusterError(
            f"the master is at {known.master_address}, where no other host reaches it: make cluster-down, then list "
            "this machine by its address"
        )
    values = {
        **_spark_values(cluster),
        "MASTER_URL": url,
        "WORKER_PORT": str(settings.worker_port),
        "WORKER_UI_PORT": str(settings.worker_ui_port),
        "CORES": str(settings.cores),
        "MEMORY": str(settings.memory),
        "MEMORY_RESERVE": str(settings.memory_reserve),
    }
    outcomes = cluster.run(
        hosts, Job(script="spark_conf worker_start", values=values, timeout=180, title="workers-start")
    )
    with state.locked(cluster.where):
        now = cluster.state()
        for one in outcomes:
            if one.ok:
                cores, memory = int(one.facts["cores"]), int(one.facts["memory"])
                now = now.with_node(one.host, address=one.facts["address"], worker=True, cores=cores, memory=memory)
        cluster.save(now)
    return outcomes


def workers_stop(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """End the workers, and their executors; what these had is done again elsewhere."""
    outcomes = cluster.run(hosts, _stop("worker.pid", "workers-stop"))
    _no_workers(cluster, outcomes, forget=False)
    return outcomes


def decommission(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Let the workers finish what they have, then end them; they leave the state."""
    wait = cluster.settings.decommission_timeout
    job = Job(
        script="decommission", values={"DECOMMISSION_TIMEOUT": str(wait)}, timeout=wait + 60, title="workers-remove"
    )
    return cluster.run(hosts, job)


def _no_workers(cluster: Cluster, outcomes: Sequence[Outcome], *, forget: bool) -> None:
    """Write down that hosts have no worker any more."""
    known = state.load(cluster.where, cluster.name)
    if not known:
        return
    with state.locked(cluster.where):
        now = cluster.state()
        for one in outcomes:
            if (one.ok or forget) and one.host.key in now.keys:
                now = now.without(one.host) if forget else now.with_node(one.host, worker=False)
        cluster.save(now)


def forget_hosts(cluster: Cluster, outcomes: Sequence[Outcome]) -> None:
    """Hosts that left: they are free for other clusters."""
    _no_workers(cluster, outcomes, forget=True)
