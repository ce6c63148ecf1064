"""Bring a big file to many hosts: pushed from here with resume, or fetched by the hosts themselves."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

from pssh_cluster import ssh
from pssh_cluster.context import Cluster
from pssh_cluster.errors import ClusterError
from pssh_cluster.fanout import Job, Outcome, summary
from pssh_cluster.hosts import Host, distinct, is_local
from pssh_cluster.settings import Settings

_DIGITS = {"sha256": 64, "sha512": 128}
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file here, or a URL, with its digest as far as it is known."""

    path: str = ""
    url: str = ""
    kind: str
    digest: str = ""

    @property
    def size(self) -> int:
        """Of the file here."""
        return os.path.getsize(self.path) if self.path else 0


def checked_digest(variable: str, value: str, kind: str) -> str:
    """A digest as it was given.

    Raises:
        ClusterError: It is not one.
    """
    digest = value.strip().lower()
    if digest and not re.fullmatch(f"[0-9a-f]{{{_DIGITS[kind]}}}", digest):
        raise ClusterError(f"{variable}={value}: a {kind} has {_DIGITS[kind]} hex digits")
    return digest


def local_source(variable: str, path: str, kind: str, digest: str, advice: str) -> Source:
    """A file here; its digest is compared with that given, or computed.

    Raises:
        ClusterError: There is no such file, or it has another digest.
    """
    full = os.path.abspath(os.path.expanduser(path))
    try:
        about = os.stat(full)
        found = _digest_of(full, kind, (about.st_size, about.st_mtime_ns))
    except OSError as error:
        raise ClusterError(f"{variable}={path}: cannot be read ({error.strerror}); {advice}") from None
    if digest and digest != found:
        raise ClusterError(f"{variable}={path}: its {kind} is {found}, not {digest}: fetch or build it again")
    return Source(path=full, kind=kind, digest=found)


@lru_cache(maxsize=8)
def _digest_of(path: str, kind: str, _about: tuple[int, int]) -> str:
    """Of a file; cluster-up asks before its first step and again when it copies."""
    found = hashlib.new(kind)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def push(cluster: Cluster, hosts: Sequence[Host], source: Source, name: str, unpacked: str = "") -> list[Outcome]:
    """Bring a file to `REMOTE_DIR/name` of hosts, as a part that a later step checks and takes.

    A host that has it, or has it unpacked (`unpacked`, a pattern), is left alone. What is there of it is not sent
    again.
    """
    target = f"{cluster.settings.remote_dir}/{name}"
    values = {
        "DEST": target,
        "DIGEST": source.digest,
        "KIND": source.kind,
        "SIZE": str(source.size),
        "UNPACKED": unpacked,
    }
    looked = cluster.run(
        hosts, Job(script="files file_state", values=values, timeout=120, title=f"{name}: what is there", quiet=True)
    )
    missing = [one for one in looked if one.ok and one.facts.get("have") != "yes"]
    done = {one.host: one for one in looked}
    for one in looked:
        if not one.ok:
            print(summary(one, Job(script="", values={}, timeout=0)), flush=True)
    if missing:
        title = Job(script="", values={}, timeout=0)
        print(f"== copy {name}, {source.size >> 20} MiB ({len(missing)} of {len(hosts)} hosts)", flush=True)
        part = f"{target}.{source.digest[:16]}.part"
        timeout = cluster.settings.step_timeout or 3600
        with ThreadPoolExecutor(max_workers=cluster.settings.copies_at_once) as pool:
            for outcome in pool.map(lambda one: _push_one(cluster.settings, one, source, part, timeout), missing):
                print(summary(outcome, title), flush=True)
                done[outcome.host] = outcome
    return [done[host] for host in hosts]


def _push_one(settings: Settings, looked: Outcome, source: Source, part: str, timeout: int) -> Outcome:
    """Append what a host lacks of a file."""
    begin = time.monotonic()
    offset = int(looked.facts.get("part", "0"))
    append = f"cat >> {shlex.quote(part)}"
    local = settings.local and is_local(looked.host)
    command = ["bash", "-c", append] if local else [*ssh.command(settings, looked.host, "-o", "Compression=no"), append]
    # A file, not a pipe: so nothing of it is kept in memory, and a host that is slow holds back nobody else.
    with open(source.path, "rb") as file:
        file.seek(offset)
        try:
            done = subprocess.run(  # noqa: S603 (no shell here, and the path is quoted for the one there)
                command, stdin=file, capture_output=True, text=True, errors="replace", check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            why = (
                f"took longer than {timeout} s (STEP_TIMEOUT=seconds gives it more); the same again goes on from there"
            )
            return replace(looked, ok=False, seconds=time.monotonic() - begin, why=why)
    seconds = time.monotonic() - begin
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return replace(looked, ok=False, seconds=seconds, why=f"{said}; the same again goes on from there")
    sent = (source.size - offset) / 1e6
    return replace(looked, seconds=seconds, text=f"{sent:.0f} MB, {sent / max(seconds, 0.001):.0f} MB/s")


def install(
    cluster: Cluster,
    hosts: Sequence[Host],
    job: Job,
    *,
    source: Source,
    name: str,
    unpacked: str = "",
) -> list[Outcome]:
    """Push a file if it is one here, then run the job that takes or fetches it."""
    hosts = distinct(hosts)
    outcomes: dict[Host, Outcome] = {}
    if source.path:
        for one in push(cluster, hosts, source, name, unpacked):
            if not one.ok:
                outcomes[one.host] = one
    rest = [host for host in hosts if host not in outcomes]
    given = {"URL": source.url, "DIGEST": source.digest, "KIND": source.kind}
    for one in cluster.run(rest, replace(job, values={**job.values, **given})):
        outcomes[one.host] = one
    return [outcomes[host] for host in hosts]


def pex_source(settings: Settings) -> Source:
    """Where the pex comes from.

    Raises:
        ClusterError: There is none here, or its digest is another one.
    """
    digest = checked_digest("PEX_SHA256", settings.pex_sha256, "sha256")
    if settings.pex_url:
        return Source(url=settings.pex_url, kind="sha256", digest=digest)
    return local_source("PEX_FILE", settings.pex_file, "sha256", digest, "make pex builds it, PEX_URL fetches one")


def pex_install(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Bring the pex to the hosts and unpack it there."""
    settings = cluster.settings
    values = {"PEX_ROOT": settings.pex_folder}
    job = Job(script="files pex_install", values=values, timeout=1800, title="pex-install")
    return install(cluster, hosts, job, source=pex_source(settings), name="img2dataset.pex")


def spark_source(settings: Settings) -> Source:
    """Where Spark comes from; neither a path nor a URL means the pex.

    Raises:
        ClusterError: There is no such archive here, or its digest is another one.
    """
    digest = checked_digest("SPARK_SHA512", settings.spark_sha512, "sha512")
    if settings.spark_url:
        return Source(url=settings.spark_url, kind="sha512", digest=digest)
    if settings.spark_tgz:
        digest = digest or _digest_beside(settings.spark_tgz)
        advice = "give the path of spark-...-bin-hadoop3.tgz"
        return local_source("SPARK_TGZ", settings.spark_tgz, "sha512", digest, advice)
    return Source(kind="sha512")


def spark_install(cluster: Cluster, hosts: Sequence[Host]) -> list[Outcome]:
    """Bring Spark to the hosts: from an archive here, from a URL, or from the pex."""
    settings = cluster.settings
    source = spark_source(settings)
    origin = "archive" if source.url or source.path else "pex"
    values = {"SOURCE": origin, "SPARK_VERSION": settings.spark_version, "PEX_ROOT": settings.pex_folder}
    job = Job(script="files spark_install", values=values, timeout=1800, title="spark-install")
    unpacked = f"{settings.remote_dir}/spark-*-{source.digest[:12]}" if source.digest else ""
    return install(cluster, hosts, job, source=source, name="spark.tgz", unpacked=unpacked)


def _digest_beside(path: str) -> str:
    """The digest in the file that Spark publishes beside its archive, if it is here too."""
    try:
        with open(os.path.expanduser(path) + ".sha512", encoding="utf-8") as file:
            text = file.read()
    except OSError:
        return ""
    # Either `digest  name`, or `name: GROUPS OF DIGITS`.
    found = re.search(r"[0-9a-f]{128}", re.sub(r"\s", "", text.split(":")[-1]).lower())
    if not found:
        raise ClusterError(f"{path}.sha512: there is no sha512 in it; remove it, or give SPARK_SHA512")
    return found.group()
