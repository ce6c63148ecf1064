"""Steps that prepare hosts: check, setup, DNS, storage. Each takes a cluster and hosts, and returns outcomes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from pssh_cluster import keys
from pssh_cluster.context import Cluster, read_file
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Job, Outcome
from pssh_cluster.hosts import Host, distinct
from pssh_cluster.settings import Settings

MAX_CLOCK_SECONDS = 5
LOW_DISK_MIB = 5000
_ZONE = re.compile(r"([A-Za-z0-9._-]+)=([0-9a-fA-F.:]+)(?:@([0-9]{1,5}))?")
_ADDRESS = re.compile(r"[0-9a-fA-F.:]+(?:@[0-9]{1,5})?")
_TYPE_A, _TYPE_SOA, _TYPE_NS = 1, 6, 2


def hosts_check(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """What each host is: OS, cores, memory, disk, clock, Python, Java."""
    job = Job(script="check", values={}, timeout=60, title="hosts-check", show=_shape)
    outcomes = cluster.run(hosts, job)
    for outcome in outcomes:
        for warning in _warnings(outcome):
            print(f"  note   {outcome.host.label}: {warning}", flush=True)
    return outcomes


def _shape(outcome: Outcome) -> str:
    facts = outcome.facts
    memory, disk = (int(facts.get(name, "0")) / 1024 for name in ("memory", "disk"))
    return (
        f"{facts.get('hostname')}: {facts.get('os', '').strip()} {facts.get('machine')}, {facts.get('cores')} cores, "
        f"{memory:.1f} GiB, {disk:.0f} GiB free, python {facts.get('python')}, java {facts.get('java')}, "
        f"root {facts.get('root')}"
    )


def _warnings(outcome: Outcome) -> list[str]:
    """What is not wrong yet. A host looks at its clock last, so just before its outcome is here."""
    if not outcome.ok:
        return []
    found = []
    offset = int(outcome.facts.get("clock", "0")) - outcome.at
    if abs(offset) > MAX_CLOCK_SECONDS:
        found.append(f"its clock is {offset:+.0f} s off: set up NTP, or signed requests and leases will fail")
    if int(outcome.facts.get("disk", "0")) < LOW_DISK_MIB:
        found.append(f"less than {LOW_DISK_MIB} MiB are free where REMOTE_DIR is")
    if outcome.facts.get("python") == "-" or outcome.facts.get("java") == "-":
        found.append("hosts-setup will install what is missing")
    return found


def hosts_setup(cluster: Cluster, hosts: Sequence[Host], also: Sequence[Host] = ()) -> list[Outcome]:
    """Packages, the folder, and names of all hosts in /etc/hosts; `also` are hosts that are only named there."""
    settings = cluster.settings
    names = []
    if settings.etc_hosts:
        for outcome in cluster.addresses(distinct([*hosts, *also])):
            known = dict.fromkeys((outcome.facts.get("hostname", ""), outcome.host.name))
            names += [f"{outcome.facts['address']} {name}" for name in known if outcome.ok and name]
    values = {
        "NAMES": "\n".join(names),
        "ETC_HOSTS": str(settings.etc_hosts),
        "PACKAGES": settings.packages,
        "PYTHON_PACKAGE": settings.python_package,
        "JAVA_PACKAGE": settings.java_package,
    }
    return cluster.run(hosts, Job(script="setup", values=values, timeout=900, title="hosts-setup"))


def knot_lua(settings: Settings) -> str:
    """What the settings add to kresd.conf.

    Raises:
        ClusterError: An address or zone is not one.
    """
    zones, lines = [], []
    for entry in settings.knot_zones.split():
        found = _ZONE.fullmatch(entry)
        if not found:
            raise ClusterError(f"KNOT_ZONES: {entry}: write zone=address or zone=address@port")
        zone, address, port = found.group(1).rstrip(".") + ".", found.group(2), found.group(3)
        server = json.dumps(address + (f"@{port}" if port else ""))
        names = f"policy.todnames({{ {json.dumps(zone)} }})"
        zones.append(json.dumps(zone))
        lines.append(f"policy.add(policy.suffix(policy.STUB({{ {server} }}), {names}))")
    servers = settings.knot_forward.split()
    for server in servers:
        if not _ADDRESS.fullmatch(server):
            raise ClusterError(f"KNOT_FORWARD: {server}: write addresses, with spaces between")
    if servers:
        lines.append(f"policy.add(policy.all(policy.STUB({{ {', '.join(map(json.dumps, servers))} }})))")
    if settings.knot_conf:
        lines.append(read_file("KNOT_CONF", settings.knot_conf).rstrip("\n"))
    if zones:  # the call replaces what was set, by KNOT_CONF too: so it comes last, with what is there
        lines += [
            f"local insecure = {{ {', '.join(zones)} }}",
            "for _, zone in ipairs(trust_anchors.insecure or {}) do table.insert(insecure, zone) end",
            "trust_anchors.set_insecure(insecure)",
        ]
    return "\n".join(lines)


def knot_install(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """knot-resolver on each host, for itself, and resolv.conf that points to it."""
    settings = cluster.settings
    values = {
        "KNOT_PROCESSES": str(settings.knot_processes),
        "KNOT_CACHE": str(settings.knot_cache),
        "KNOT_LUA": knot_lua(settings),
    }
    return cluster.run(hosts, Job(script="knot_install", values=values, timeout=600, title="knot-install"))


def knot_check(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Whether each host's resolver answers."""
    zones = cluster.settings.knot_zones.split()
    if cluster.settings.knot_check:
        name, kind = cluster.settings.knot_check, _TYPE_A
    elif zones:
        name, kind = zones[0].split("=")[0], _TYPE_SOA
    else:
        name, kind = ".", _TYPE_NS
    job = Job(script="knot_check", values={"NAME": name, "KIND": str(kind)}, timeout=60, title="knot-check")
    return cluster.run(hosts, job)


def knot_remove(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """resolv.conf as it was; no kresd of ours."""
    return cluster.run(hosts, Job(script="knot_remove", values={}, timeout=120, title="knot-remove"))


def mount_key(settings: Settings) -> str:
    """The private key for the storage machine; empty when none is given.

    Raises:
        ClusterError: It cannot be read, or another setting is missing.
    """
    if not (settings.mount_host and settings.mount_dir):
        raise ClusterError("give MOUNT_HOST and MOUNT_DIR (and MOUNT_USER, MOUNT_KEY)")
    return read_file("MOUNT_KEY", settings.mount_key).rstrip("\n") if settings.mount_key else ""


def mount(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """The folder of the storage machine, on each host.

    Raises:
        ClusterError: A setting is missing, or the storage machine's host key is not known.
    """
    settings = cluster.settings
    key = mount_key(settings)
    (storage,) = keys.storage_host(settings)
    target = keys.look_up(settings, storage)
    known = keys.known_keys(target)
    if not known:
        raise ClusterError(f"the host key of {storage.label} is not in {target.file}; make hosts-keys fetches it")
    plain = f"[{storage.address}]:{storage.port}" if storage.port not in {0, 22} else storage.address
    values = {
        "MOUNT_HOST": storage.address,
        "MOUNT_PORT": str(storage.port or ""),
        "MOUNT_USER": storage.user,
        "MOUNT_DIR": settings.mount_dir,
        "MOUNT_POINT": settings.mount_point.rstrip("/"),
        "MOUNT_KEY": key,
        "MOUNT_KNOWN_HOSTS": "\n".join(f"{plain} {key.kind} {key.text}" for key in known),
    }
    return cluster.run(hosts, Job(script="mount", values=values, timeout=300, title="mount"))


def unmount(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Undo it."""
    return cluster.run(hosts, Job(script="unmount", values={}, timeout=90, title="unmount"))


def forget(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """The last step of cluster-down: nothing of ours may live."""
    return cluster.run(hosts, Job(script="forget", values={}, timeout=60, title="what is left"))
