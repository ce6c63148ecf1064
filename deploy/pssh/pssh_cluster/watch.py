"""status, logs, clusters: look, and change nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from pssh_cluster import state
from pssh_cluster.context import Cluster, workers_of
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Job, Outcome
from pssh_cluster.hosts import Host

LOGS = ("all", "master", "worker", "executors", "kresd", "job")
_HEADER = ("host", "", "worker", "cores", "memory", "executors", "kresd", "free disk", "load", "in", "out")


def status(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """A table of hosts, and what the master says of workers and applications."""
    known = cluster.state()
    everyone = list(hosts)
    if known.master and known.master.key not in {host.key for host in everyone}:
        everyone.append(known.master)
    port = str(cluster.settings.master_ui_port)
    job = Job(script="status", values={"MASTER_UI_PORT": port}, timeout=40, title="status", quiet=True)
    outcomes = cluster.run(everyone, job)
    jobs = " ".join(one.facts.get("jobs", "") for one in outcomes).split()
    said = next((one.facts["json"] for one in outcomes if one.facts.get("json")), "")
    print(f"cluster {cluster.name}: {known.master_url or 'no master yet'}")
    _table([_HEADER, *(_row(cluster, one, workers_of(said)) for one in outcomes)])
    checked = _spark(cluster, outcomes, said)
    print(f"jobs of make run: {' '.join(jobs) or 'none runs'}")
    return checked


def _row(cluster: Cluster, one: Outcome, workers: Sequence[dict[str, object]]) -> tuple[str, ...]:
    if not one.ok:
        return (one.host.label, "DEAD", *("-" for _ in _HEADER[2:]))
    facts = one.facts
    mine = [worker for worker in workers if worker.get("host") == facts["address"]]
    alive = next((worker for worker in mine if worker.get("state") == "ALIVE"), mine[-1] if mine else {})
    wanted = next((node.worker for node in cluster.state().nodes if node.host.key == one.host.key), False)
    if facts["worker"] != "yes":
        alive = {}
    shown = str(alive.get("state", "not registered")) if facts["worker"] == "yes" else ("GONE" if wanted else "-")
    memory = f"{int(str(alive['memory'])) / 1024:.1f} GiB" if alive else "-"
    cores = f"{alive.get('coresused')}/{alive.get('cores')}" if alive else "-"
    role = "master" if facts["master"] == "yes" else "up"
    return (
        *(one.host.label, role, shown, cores, memory, facts["executors"], facts["kresd"]),
        *(f"{int(facts['disk']) / 1024:.0f} GiB", facts["load"], _rate(facts["rx"]), _rate(facts["tx"])),
    )


def _rate(bytes_per_second: str) -> str:
    return f"{int(bytes_per_second) * 8 / 1e6:.1f} Mbit/s"


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _spark(cluster: Cluster, outcomes: Sequence[Outcome], said: str) -> list[Outcome]:
    """Lines on workers and applications; the outcomes, where a process that does not run and should is a failure."""
    known = cluster.state()
    try:
        master = json.loads(said)
        live = [worker for worker in master["workers"] if worker["state"] == "ALIVE"]
        print(
            f"workers alive: {len(live)} of {len(known.workers)}, cores {sum(one['coresused'] for one in live)} of "
            f"{sum(one['cores'] for one in live)} in use, memory {sum(one['memory'] for one in live) / 1024:.1f} GiB"
        )
        apps = master["activeapps"]
        for app in apps:
            print(
                f"application {app['id']}: {app['name']}, {app['state']}, {app['cores']} cores, "
                f"{app['duration'] / 1000:.0f} s"
            )
        print(f"applications: {len(apps)} running, {len(master['completedapps'])} completed")
    except (ValueError, KeyError, TypeError):
        if known.master_url:
            print("the master does not answer")
    down = {node.host.key for node in known.nodes if node.worker}
    checked = []
    for one in outcomes:
        why = one.why
        if (
            one.ok
            and known.master
            and one.host.key == known.master.key
            and known.master_url
            and one.facts["master"] != "yes"
        ):
            why = "its master does not run: make master-start starts it again"
        elif one.ok and one.host.key in down and one.facts["worker"] != "yes":
            why = "its worker does not run: make workers-start starts it again"
        checked.append(replace(one, ok=not why, why=why))
    return checked


def logs(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """The last lines of the logs of each host.

    Raises:
        ClusterError: LOG is none of those.
    """
    settings = cluster.settings
    if settings.log not in LOGS:
        raise ClusterError(f"LOG={settings.log}: one of {', '.join(LOGS)}")
    values = {
        "LOG": settings.log,
        "LINES_WANTED": str(settings.lines),
        "WORK_DIR": settings.work_dir or f"{settings.remote_dir}/work",
    }
    known = cluster.state()
    everyone = list(hosts)
    if known.master and known.master.key not in {host.key for host in everyone}:
        everyone.append(known.master)
    outcomes = cluster.run(everyone, Job(script="logs", values=values, timeout=60, title="logs", quiet=True))
    for one in outcomes:
        for line in one.text.splitlines() or (["(no logs)"] if one.ok else [one.why]):
            print(f"{one.host.label}: {line}")
    return outcomes


def clusters(cluster: Cluster) -> int:
    """A line for each cluster."""
    found = state.all_of(cluster.where)
    if not found:
        print(f"no clusters (state files are in {cluster.where})")
        return 0
    rows = [("cluster", "master", "hosts", "workers", "cores", "memory", "url")]
    for one in found:
        working = [node for node in one.nodes if node.worker]
        rows.append(
            (
                *(one.name, one.master.label if one.master else "-", str(len(one.nodes)), str(len(working))),
                *(str(sum(node.cores for node in working)), f"{sum(node.memory for node in working) / 1024:.1f} GiB"),
                one.master_url or "-",
            )
        )
    _table(rows)
    return 0
