"""deploy/pssh without any host: lists, settings, quoting, keys, state files, and that make knows all targets."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PSSH = ROOT / "deploy" / "pssh"
sys.path.insert(0, str(PSSH))

from pssh_cluster import cli, copying, driver, fanout, hosts, keys, lifecycle, settings, ssh, state, steps, watch  # noqa: E402
from pssh_cluster.context import Cluster, workers_of  # noqa: E402
from pssh_cluster.errors import ClusterError  # noqa: E402
from pssh_cluster.fanout import Job, Outcome  # noqa: E402
from pssh_cluster.hosts import Host  # noqa: E402

ODD = 'it\'s "odd" $HOME `id` \\ * name\nsecond line'
H1, H2, H3 = (Host(address=f"10.77.9.{n}") for n in (1, 2, 3))


@pytest.fixture
def ips(tmp_path: Path) -> Path:
    path = tmp_path / "it's my ips.txt"
    path.write_text("10.77.9.1\n10.77.9.2\n10.77.9.3\n")
    return path


@pytest.fixture
def cluster(tmp_path: Path, ips: Path) -> Callable[..., Cluster]:
    def make(**given: object) -> Cluster:
        environ = {"CLUSTER_STATE": str(tmp_path / "state"), "IPS": str(ips), "LOCAL": "0"}
        return Cluster.open(environ | {name: str(value) for name, value in given.items()})

    return make


# --- lists of hosts


def test_ips_file(tmp_path: Path) -> None:
    path = tmp_path / "ips.txt"
    path.write_text("# all of them\n\n10.0.0.1\n  debian@10.0.0.2:2222   # the second\nnode-3.example.test\r\n")
    assert hosts.read_ips(str(path), user="me") == (
        Host(address="10.0.0.1", user="me"),
        Host(address="10.0.0.2", user="debian", port=2222),
        Host(address="node-3.example.test", user="me"),
    )
    assert [host.spec for host in hosts.read_ips(str(path))] == [
        "10.0.0.1",
        "debian@10.0.0.2:2222",
        "node-3.example.test",
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("10.0.0.1 10.0.0.2", "is not a host"),
        ("-oProxyCommand=id", "is not a host"),
        ("10.0.0.1:0", "is not a port"),
        ("10.0.0.1:70000", "is not a port"),
        ("10.0.0.1:", "is not a port"),
        ("@10.0.0.1", "is not the name of a user"),
        ("a b@10.0.0.1", "is not the name of a user"),
        ("-l@10.0.0.1", "is not the name of a user"),
        ("fe80::1", "IPv6"),
        ("$(id)", "is not a host"),
        ("10.0.0.9", "twice (first at"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "ips.txt"
    path.write_text(f"10.0.0.9\n\n{line}\n")
    with pytest.raises(ClusterError) as raised:
        hosts.read_ips(str(path))
    assert str(raised.value).startswith(f"{path}:3: ")
    assert says in str(raised.value)


def test_empty_and_missing_lists(tmp_path: Path) -> None:
    path = tmp_path / "ips.txt"
    path.write_text("# nobody\n")
    with pytest.raises(ClusterError, match="there is no host in it"):
        hosts.read_ips(str(path))
    with pytest.raises(ClusterError, match=r"IPS=.*none\.txt: cannot be read"):
        hosts.read_ips(str(tmp_path / "none.txt"))


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "hosts.csv"
    path.write_text(
        '\ufeff,host,user,password,hostname,comment\n0,10.0.0.1,root,,node1,"first, of all"\n1,10.0.0.2:2222,,,,\n,,,,,\n'
    )
    assert hosts.read_csv(str(path), user="me") == (
        Host(address="10.0.0.1", user="root", name="node1"),
        Host(address="10.0.0.2", user="me", port=2222),
    )


def test_passwords_are_refused_and_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "hosts.csv"
    path.write_text(",host,user,password,hostname,comment\n0,10.0.0.1,root,,n1,\n1,10.0.0.2,root,hunter2,n2,\n")
    with pytest.raises(ClusterError) as raised:
        hosts.read_csv(str(path))
    told = str(raised.value)
    assert told.startswith(f"{path}:3: passwords are not used")
    assert "ssh-copy-id root@10.0.0.2" in told
    assert "hunter2" not in told


def test_csv_without_hosts_column(tmp_path: Path) -> None:
    path = tmp_path / "hosts.csv"
    path.write_text("10.0.0.1,root\n")
    with pytest.raises(ClusterError, match=r"hosts\.csv:1: there is no column `host`"):
        hosts.read_csv(str(path))


def names(monkeypatch: pytest.MonkeyPatch, known: dict[str, list[str]]) -> None:
    """Names that this machine knows, and addresses that are its own."""

    def look_up(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if name not in known:
            raise OSError("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (address, 0)) for address in known[name]]

    monkeypatch.setattr(hosts.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(hosts, "is_ours", lambda name: any(one.startswith("127.") for one in known.get(name, [])))


def test_own_address_is_one_that_others_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, {"node1": ["127.0.1.1"], "node2": ["127.0.1.1", "10.0.0.2"]})
    node1 = Host(address="node1")
    assert hosts.own_address(node1, [node1]) == "127.0.1.1", "nobody else wants to know"
    assert hosts.own_address(Host(address="node2"), [H1]) == "10.0.0.2"
    monkeypatch.setattr(hosts, "_address_towards", lambda peer: "10.77.9.100" if peer == H2 else "")
    assert hosts.own_address(node1, [node1, H1, H2]) == "10.77.9.100"
    with pytest.raises(ClusterError, match=r"node1: list this machine by its address .*127\.0\.1\.1"):
        hosts.own_address(node1, [H1])
    with pytest.raises(ClusterError, match=r"six: list this machine by its address .*no IPv4 address"):
        hosts.own_address(Host(address="six"), [])


def test_the_address_towards_a_peer() -> None:
    assert hosts._address_towards(Host(address="127.0.0.1")) == "127.0.0.1"


def test_local_is_this_machine_without_a_port() -> None:
    assert hosts.is_local(Host(address="127.0.0.1"))
    assert not hosts.is_local(Host(address="127.0.0.1", port=2222))
    assert not hosts.is_local(Host(address="127.0.0.1", user="somebody-else"))
    assert not hosts.is_local(Host(address="192.0.2.1"))


# --- settings


def test_defaults_and_given_values() -> None:
    assert settings.load({}) == settings.Settings()
    loaded = settings.load({"MASTER_PORT": "7177", "CLUSTER": "two", "IPS": "", "HOME": "/root"})
    assert (loaded.master_port, loaded.cluster, loaded.ips) == (7177, "two", "")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"MASTER_PORT": "many"}, "MASTER_PORT=many: give a number"),
        ({"CORES": "-1"}, "CORES=-1: give a number"),
        ({"CLUSTER": "../x"}, "CLUSTER=../x: letters"),
        ({"REMOTE_DIR": "/opt/my folder"}, "REMOTE_DIR=/opt/my folder: give a whole path"),
        ({"REMOTE_DIR": "relative"}, "REMOTE_DIR=relative: give a whole path"),
        ({"REMOTE_DIR": "/"}, "REMOTE_DIR=/: give a whole path"),
        ({"REMOTE_DIR": "/opt/../.."}, "give a whole path"),
        ({"MOUNT_POINT": "/"}, "MOUNT_POINT=/: give a whole path"),
        ({"IPS": "a", "HOSTS": "b"}, "give IPS or HOSTS, not both"),
        ({"SPARK_TGZ": "a", "SPARK_URL": "b"}, "give SPARK_TGZ or SPARK_URL, not both"),
    ],
)
def test_bad_settings(given: dict[str, str], says: str) -> None:
    with pytest.raises(ClusterError, match=re.escape(says)):
        settings.load(given)


def test_unclosed_quote() -> None:
    with pytest.raises(ClusterError, match=r"SSH_OPTS=.*No closing quotation"):
        _ = settings.load({"SSH_OPTS": "-o 'x"}).ssh_arguments


def test_what_is_kept_is_found_again_and_may_be_overruled(cluster: Callable[..., Cluster]) -> None:
    first = cluster(SSH_KEY="keys/my key", MASTER_PORT=7200, PEX_URL="http://user:secret@files/x.pex")
    first.claim()
    again = cluster().settings
    assert (again.ssh_key, again.master_port) == (os.path.abspath("keys/my key"), 7200)
    assert again.pex_url == ""
    assert cluster(MASTER_PORT=7300).settings.master_port == 7300


def test_every_setting_has_a_help() -> None:
    told = settings.describe()
    for field in dataclasses.fields(settings.Settings):
        assert re.search(rf"^  {field.name.upper()} +\S", told, re.MULTILINE), field.name


def test_no_secret_is_kept() -> None:
    assert not {"mount_key", "pex_url", "spark_url", "pass_env", "args"} & settings.kept_names()


def test_what_is_kept_can_be_taken_back(cluster: Callable[..., Cluster]) -> None:
    cluster(KNOT_FORWARD="10.0.0.9", SSH_KEY="key", CORES=4).claim()
    assert cluster(KNOT_FORWARD="").settings.knot_forward == "10.0.0.9", "an empty one is not given"
    again = cluster(KNOT_FORWARD="none", SSH_KEY="none", CORES="none")
    assert (again.settings.knot_forward, again.settings.ssh_key, again.settings.cores) == ("", "", 0)
    again.save(again.state())
    assert not {"knot_forward", "ssh_key", "cores"} & set(cluster().state().settings)
    assert cluster(ARGS="none").settings.args == "none", "it is not kept"


# --- ssh and quoting


def test_ssh_checks_keys_and_our_options_yield() -> None:
    loaded = settings.load(
        {"SSH_OPTS": "-F '/my config' -o ConnectTimeout=3", "KNOWN_HOSTS": "/k n%/x", "SSH_KEY": "/a b"}
    )
    command = ssh.command(loaded, Host(address="h", user="u", port=2222), "-N")
    assert command[:6] == ["ssh", "-T", "-F", "/my config", "-o", "ConnectTimeout=3"]
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", "IdentitiesOnly=yes"):
        assert option in command
    assert 'UserKnownHostsFile="/k n%%/x"' in command
    assert 'IdentityFile="/a b"' in command
    assert command[-6:] == ["2222", "-l", "u", "--", "h"][-6:] or command[-7:] == [
        "-N",
        "-p",
        "2222",
        "-l",
        "u",
        "--",
        "h",
    ]


def test_checking_is_never_switched_off() -> None:
    for path in [*PSSH.rglob("*.py"), *PSSH.rglob("*.sh"), PSSH / "cluster.mk"]:
        assert not re.search(r"StrictHostKeyChecking[= ](no|off|accept-new)", path.read_text()), path


def test_values_arrive_as_they_are(tmp_path: Path) -> None:
    loaded = settings.load({"REMOTE_DIR": str(tmp_path / "remote")})
    payload = Job(script="names", values={"ODD": ODD}, timeout=5).payload(loaded, "10.0.0.1")
    payload = payload.replace("\n}\nmain </dev/null", '\nprintf "<%s>" "$ODD"; cat\n}\nmain </dev/null')
    done = subprocess.run(["bash", "-s"], input=payload, capture_output=True, text=True, timeout=20)
    assert f"<{ODD}>" in done.stdout
    assert done.stdout.startswith("@address=10.0.0.1\n")
    assert done.stdout.endswith("@done=0\n")


def test_a_script_that_fails_says_so(tmp_path: Path) -> None:
    loaded = settings.load({"REMOTE_DIR": str(tmp_path / "none")})
    payload = Job(script="spark_conf master_start", values={"SPARK_DEFAULTS": ""}, timeout=5).payload(
        loaded, "127.0.0.1"
    )
    done = subprocess.run(["bash", "-s"], input=payload, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "error: there is no " in done.stdout
    assert "make hosts-setup" in done.stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in (PSSH / "remote").glob("*.sh")))
def test_scripts_parse(name: str) -> None:
    body = Job(script=name, values={}, timeout=1).payload(settings.Settings())
    subprocess.run(["bash", "-n"], input=body, text=True, check=True, timeout=20)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck() -> None:
    scripts = sorted(path.name for path in (PSSH / "remote").glob("*.sh"))
    done = subprocess.run(["shellcheck", *scripts], cwd=PSSH / "remote", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_pass_env(cluster: Callable[..., Cluster]) -> None:
    told = driver.environment(cluster(PASS_ENV="AWS_SECRET", AWS_SECRET=ODD))
    done = subprocess.run(
        ["bash", "-c", f'{told}\nprintf %s "$AWS_SECRET"'], capture_output=True, text=True, timeout=20
    )
    assert done.stdout == ODD
    with pytest.raises(ClusterError, match="PASS_ENV: NONE is not a variable"):
        driver.environment(cluster(PASS_ENV="NONE"))


# --- processes on hosts, tried on this machine


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Run shell code as a step does, with folders of its own; ends what it started."""
    loaded = settings.load({"REMOTE_DIR": str(tmp_path / "remote")})

    def run(code: str) -> str:
        payload = Job(script="names", values={}, timeout=5).payload(loaded, "127.0.0.1")
        payload = payload.replace("\n}\nmain </dev/null", f"\nown_folders\n{code}\n}}\nmain </dev/null")
        done = subprocess.run(["bash", "-s"], input=payload, capture_output=True, text=True, timeout=60)
        return "\n".join(line for line in done.stdout.splitlines() if not line.startswith("@"))

    yield run
    run('for file in "$RUN"/*.pid; do [ ! -f "$file" ] || end_session "$file" 1 || :; done')


def test_processes_outlive_us_and_end_with_all_they_made(shell: Callable[[str], str]) -> None:
    start = 'launch "$RUN/a.pid" "$LOGS/a.log" bash -c \'trap "" TERM; sleep 300 & (setsid sleep 300 &) ; wait\''
    assert shell(f'{start}; alive "$RUN/a.pid" && echo lives') == "lives"
    ended = shell(
        'alive "$RUN/a.pid"; sleep 0.3; all=$(members "$PID"); set -- $all; echo $#; end_session "$RUN/a.pid" 1; echo "[$(living $all)]"'
    )
    count, left = ended.splitlines()
    assert int(count) >= 2
    assert left == "[]"
    assert shell('end_session "$RUN/a.pid" 1 || echo already') == "already"


def test_a_pid_that_was_given_anew_is_not_ours(shell: Callable[[str], str]) -> None:
    said = shell(
        'sleep 300 & other=$!; disown; echo "$other 1 $BOOT" >"$RUN/b.pid"; alive "$RUN/b.pid" || echo stale; '
        'end_session "$RUN/b.pid" 1 || echo nothing; kill -0 "$other" && echo untouched; kill "$other"; ls "$RUN"'
    )
    assert said.split() == ["stale", "nothing", "untouched"]


def test_a_pid_of_before_the_reboot_is_not_ours(shell: Callable[[str], str]) -> None:
    said = shell('echo "$$ $(start_time $$) another-boot" >"$RUN/c.pid"; alive "$RUN/c.pid" || echo stale')
    assert said == "stale"


def script(name: str) -> str:
    """A script of remote/, to run within another one."""
    return (PSSH / "remote" / f"{name}.sh").read_text()


def test_jobs_have_the_time_that_they_need(shell: Callable[[str], str]) -> None:
    """Two at once take no longer than one."""
    slow = "trap 'sleep 3; echo orderly; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    start = "".join(
        f'launch "$RUN/job-{n}.pid" "$LOGS/{n}.log" bash -c "{slow}"; wait_until 5 grep -q ready "$LOGS/{n}.log"\n'
        for n in (1, 2)
    )
    begin = f"{start}NAMES='job-*.pid' GRACE=20 SECONDS=0\n"
    said = shell(f'{begin}{script("stop")}\n[ "$SECONDS" -lt 6 ] || echo slow; cat "$LOGS"/*.log; ls "$RUN"')
    assert said.splitlines() == ["ended job-1 job-2", "ready", "orderly", "ready", "orderly"]
    assert shell(f"NAMES='job-*.pid' GRACE=20\n{script('stop')}") == "already stopped"


def test_an_exit_code_may_be_asked_for_again(shell: Callable[[str], str]) -> None:
    ask = f'JOB=1 SIGNAL=\n{script("job_end")}\ncat "$RUN/job-1.exit"'
    shell('echo 0 >"$RUN/job-1.exit"')
    assert [shell(ask) for _ in range(2)] == ["ended\n0", "ended\n0"]


def test_old_jobs_are_removed_but_not_those_that_run(shell: Callable[[str], str]) -> None:
    end = script("job_start").partition("# Old ones are not")[2].partition("echo started")[0]
    said = shell(
        'jobs=$REMOTE_DIR/jobs; mkdir -p "$jobs/old" "$jobs/runs" "$jobs/new"; touch "$RUN/job-old.exit" "$LOGS/job-old.log"\n'
        'launch "$RUN/job-runs.pid" "$LOGS/job-runs.log" sleep 60\n'
        f'touch -d "40 days ago" "$jobs"/old "$jobs"/runs "$RUN"/* "$LOGS/job-old.log"\n#{end}\nls "$jobs" "$RUN" "$LOGS"'
    )
    assert "job-runs.pid" in said
    assert "job-old" not in said
    assert [line for line in said.splitlines() if line in {"old", "runs", "new"}] == ["new", "runs"]


def test_kresd_of_another_cluster_is_left_alone(shell: Callable[[str], str], tmp_path: Path) -> None:
    run = script("knot_remove").replace("/etc/resolv.conf", "$REMOTE_DIR/resolv.conf")
    run = run.replace("/run/systemd/system", "/nowhere").replace("/etc/systemd/system", "/nowhere")
    (tmp_path / "remote").mkdir()
    resolv = tmp_path / "remote" / "resolv.conf"
    resolv.write_text("# made by img2dataset: make knot-remove brings back what was here\nnameserver 127.0.0.1\n")
    start = 'mkdir -p "$REMOTE_DIR/run/a" "$REMOTE_DIR/conf"; echo before >"$REMOTE_DIR/conf/resolv.conf.before"\n'
    start += 'launch "$REMOTE_DIR/run/a/kresd-1.pid" "$LOGS/a.log" sleep 60\n'
    ended = 'end_session "$REMOTE_DIR/run/a/kresd-1.pid" 1\n'
    root = 'as_root() { "$@"; }\nneed_root() { :; }\n'
    try:
        assert shell(f"{start}{root}{run}") == "DNS is left as it is, for the cluster a"
        assert "127.0.0.1" in resolv.read_text()
        assert shell('alive "$REMOTE_DIR/run/a/kresd-1.pid" && echo lives') == "lives"
    finally:
        shell(ended)
    assert shell(f"{root}{run}") == "restored resolv.conf"
    assert resolv.read_text() == "before\n"


def test_systemd_ends_kresds_above_the_number(shell: Callable[[str], str]) -> None:
    start = re.search(r"^start_systemd\(\) \{.*?^\}", script("knot_install"), re.MULTILINE | re.DOTALL)
    assert start
    listed = "img2dataset-kresd@%d.service loaded active running x\\n"
    said = shell(
        f"""{start.group()}
        as_root() {{ "$@"; }}
        systemctl() {{ case $1 in list-units) printf '{listed}' 1 2 3 4;; is-active) ;; *) echo "$*";; esac; }}
        unit=$REMOTE_DIR/unit changed= did= processes=2; touch "$unit"
        start_systemd; echo "$did" """
    )
    assert said.splitlines() == [
        *(f"disable -q --now img2dataset-kresd@{n}" for n in (3, 4)),
        "ended kresd 3, ended kresd 4",
    ]


def test_status_names_the_jobs(shell: Callable[[str], str], tmp_path: Path) -> None:
    payload = f'launch "$RUN/job-20261121-1.pid" "$LOGS/job.log" sleep 60\nMASTER_UI_PORT=\n{script("status")}'
    loaded = settings.load({"REMOTE_DIR": str(tmp_path / "remote")})
    whole = Job(script="names", values={}, timeout=5).payload(loaded, "127.0.0.1")
    whole = whole.replace("\n}\nmain </dev/null", f"\nown_folders\n{payload}\n}}\nmain </dev/null")
    done = subprocess.run(["bash", "-s"], input=whole, capture_output=True, text=True, timeout=60)
    assert "@jobs=20261121-1" in done.stdout.splitlines(), done.stdout


def test_nothing_is_ended_by_name() -> None:
    for path in PSSH.rglob("*"):
        if path.suffix in {".sh", ".py", ".mk"}:
            assert not re.search(r"\b(pkill|killall)\b", path.read_text()), path


# --- outcomes


def outcome(code: int, out: str = "", err: str = "") -> Outcome:
    return fanout._outcome(H1, code, (out, err), 1.0, 60)


def test_outcome_facts_and_note() -> None:
    one = outcome(0, '@address=10.0.0.1\n@json={"a": "b=c"}\nfirst\nlast\n@done=0\n')
    assert one.ok
    assert one.facts["json"] == '{"a": "b=c"}'
    assert (one.text, one.note) == ("first\nlast", "last")


@pytest.mark.parametrize(
    ("code", "out", "err", "says"),
    [
        (255, "", "Host key verification failed.", "make hosts-keys"),
        (255, "", "u@h: Permission denied (publickey).", "SSH_USER and SSH_KEY"),
        (255, "", "ssh: connect to host h port 22: No route to host", "cannot be reached: ssh: connect"),
        (255, "half a line", "", "the connection was lost"),
        (124, "working\n", "", "took longer than 60 s (STEP_TIMEOUT"),
        (1, "a\nerror: no room\n", "", "no room"),
        (3, "odd\n", "", "exit code 3: odd"),
    ],
)
def test_why_a_host_failed(code: int, out: str, err: str, says: str) -> None:
    one = outcome(code, out, err)
    assert not one.ok
    assert says in one.why


def test_report_names_failed_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    assert fanout.report("step", {}, 3) == 0
    assert fanout.report("step", {H2: "no room"}, 3) == 1
    assert capsys.readouterr().err == "step: FAILED on 1 of 3 hosts:\n  10.77.9.2: no room\n"


def test_many_hosts_through_parallel_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an ssh that is a shell here: each host gets the script on stdin, and nothing of it on a command line."""
    if shutil.which("parallel-ssh") is None:
        pytest.skip("parallel-ssh is not installed")
    fake = tmp_path / "bin" / "ssh"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$*" >>"$FAKE_LOG"\ncase "$*" in *10.77.9.2*) echo "no route" >&2; exit 255;; esac\n'
        'SSH_CONNECTION="1.1.1.1 1 10.77.9.9 22" exec bash -c "${@: -1}"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    loaded = settings.load({"REMOTE_DIR": str(tmp_path / "remote"), "LOCAL": "0", "SSH_KEY": "/k e'y"})
    job = Job(script="names", values={"SECRET": "hunter2"}, timeout=20)
    outcomes = fanout.run(loaded, (H1, H2, Host(address="10.77.9.3", user="u", port=2200)), job)
    assert [one.ok for one in outcomes] == [True, False, True]
    assert outcomes[0].facts["address"] == "10.77.9.9"
    assert outcomes[1].unreachable
    assert "no route" in outcomes[1].why
    calls = (tmp_path / "log").read_text()
    assert "hunter2" not in calls
    assert calls.count("StrictHostKeyChecking=yes") == 3
    assert 'IdentityFile="/k e\'y"' in calls


# --- host keys

A1, A2, B1 = (
    keys.Key(kind=kind, text=text) for kind, text in (("ssh-ed25519", "AA"), ("ssh-ed25519", "BB"), ("ssh-rsa", "CC"))
)


def test_new_hosts_are_added() -> None:
    found = keys.judge([], [A1, B1], "[h]:2222", "file")
    assert found.ok
    assert found.new_lines == ("[h]:2222 ssh-ed25519 AA", "[h]:2222 ssh-rsa CC")


def test_known_hosts_stay() -> None:
    assert keys.judge([A1], [A1, B1], "h", "file") == keys.Finding(ok=True, text="already known")


def test_changed_keys_are_reported_and_never_replaced() -> None:
    found = keys.judge([A1, B1], [A2, B1], "h", "/my file")
    assert not found.ok
    assert not found.new_lines
    assert "CHANGED (ssh-ed25519)" in found.text
    assert "ssh-keygen -R h -f '/my file'" in found.text


def test_hosts_that_do_not_answer() -> None:
    assert not keys.judge([], [], "h", "file").ok
    assert not keys.judge([A1], [], "h", "file").ok
    assert not keys.judge([A1], [B1], "h", "file").ok


def test_known_hosts_file_is_read_as_ssh_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "it's known hosts"
    public = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", public], check=True, timeout=20)
    kind, text, *_ = Path(f"{public}.pub").read_text().split()
    file.write_text(f"@revoked * ssh-rsa AAAA\n[10.77.9.1]:2222 {kind} {text}")  # no end of line
    loaded = settings.load({"KNOWN_HOSTS": str(file), "SSH_OPTS": "-F none"})
    target = keys.look_up(loaded, Host(address="10.77.9.1", port=2222))
    assert (target.name, target.address, target.port, target.file) == ("[10.77.9.1]:2222", "10.77.9.1", 2222, str(file))
    assert keys.known_keys(target) == [keys.Key(kind=kind, text=text)]
    assert keys.known_keys(keys.look_up(loaded, H1)) == []
    keys._append(file, [f"10.77.9.1 {kind} {text}"])
    assert keys.known_keys(keys.look_up(loaded, H1)) == [keys.Key(kind=kind, text=text)]
    assert keys._fingerprints([f"h {kind} {text}"])[0].startswith("SHA256:")


# --- state, and two clusters on one list


def test_state_survives(tmp_path: Path) -> None:
    before = state.State(name="x", master=H1, master_address="10.77.9.1", master_url="spark://10.77.9.1:7077")
    before = before.with_node(H1).with_node(H2, worker=True, cores=8, memory=1024, address="10.77.9.2")
    state.save(tmp_path / "deep" / "state", before)
    assert state.load(tmp_path / "deep" / "state", "x") == before
    assert state.load(tmp_path / "deep" / "state", "y") is None
    assert [one.name for one in state.all_of(tmp_path / "deep" / "state")] == ["x"]
    assert before.workers == (H2,)
    assert before.without(H2).hosts == (H1,)


def test_damaged_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ClusterError, match=r"x\.json: is not the state"):
        state.load(tmp_path, "x")


def test_two_clusters_share_a_list(cluster: Callable[..., Cluster], capsys: pytest.CaptureFixture[str]) -> None:
    one = cluster(CLUSTER="one", COUNT=2)
    assert one.claim() == (H1, H2)
    assert cluster(CLUSTER="two").claim() == (H3,)
    assert "left out, the cluster one has them: 10.77.9.1 10.77.9.2" in capsys.readouterr().out
    assert cluster(CLUSTER="one").claim() == (H1, H2)  # COUNT is kept
    with pytest.raises(ClusterError, match="no host of the list is free"):
        cluster(CLUSTER="three").hosts()
    with pytest.raises(ClusterError, match="COUNT=3, but only 2 hosts"):
        cluster(CLUSTER="one", COUNT=3).hosts()


def test_hosts_come_from_the_state(cluster: Callable[..., Cluster]) -> None:
    with pytest.raises(ClusterError, match="which hosts"):
        cluster(IPS="").hosts()
    cluster(COUNT=2).claim()
    assert cluster(IPS="").hosts() == (H1, H2)


def test_own_hosts_come_first(cluster: Callable[..., Cluster]) -> None:
    mine = cluster(COUNT=1)
    mine.save(mine.state().with_node(H3))
    assert cluster(COUNT=1).hosts() == (H3,)


def test_a_master_of_another_cluster_is_refused(cluster: Callable[..., Cluster]) -> None:
    cluster(CLUSTER="a", COUNT=1).claim()
    with pytest.raises(ClusterError, match=r"MASTER=u@10\.77\.9\.1: the cluster a has this host"):
        cluster(CLUSTER="b", MASTER="u@10.77.9.1").claim()
    assert state.load(cluster().where, "b") is None
    outside = cluster(CLUSTER="b", MASTER="10.0.0.7")
    assert outside.claim() == (H2, H3)
    with pytest.raises(ClusterError, match="the cluster b has this host"):
        cluster(CLUSTER="c", MASTER="10.0.0.7").master((H1,))
    outside.release([Host(address="10.0.0.7")])
    assert outside.state().master is None


def test_a_host_is_the_same_whoever_logs_in(cluster: Callable[..., Cluster]) -> None:
    mine = cluster()
    named = Host(address="10.77.9.2", name="node2", user="me")
    mine.save(dataclasses.replace(mine.state(), master=H2))
    assert mine.master((H1, named)) is named
    assert hosts.distinct([H1, named, H2, H3]) == [H1, named, H3]


def test_master(cluster: Callable[..., Cluster]) -> None:
    here = Host(address="127.0.0.1")
    assert cluster().master((H1, H2)) == H1
    assert cluster().master((H1, here)) == here
    assert cluster(MASTER="u@10.77.9.2").master((H1, H2)) == H2
    assert cluster(MASTER="u@10.0.0.7:22").master((H1, H2)) == Host(address="10.0.0.7", user="u", port=22)
    with pytest.raises(ClusterError, match="give the host of the master"):
        cluster(MASTER="spark://10.0.0.1:7077").master((H1,))


def test_state_files_hold_no_secret(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    mine = cluster(AUTHENTICATE=1, PEX_URL="http://u:hunter2@x/y")
    mine.claim()
    secret = state.secret(mine.where, mine.name)
    assert secret == state.secret(mine.where, mine.name)
    file = state.secret_file(mine.where, mine.name)
    assert file.stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "state" / "default.json").read_text()
    assert secret not in text
    assert "hunter2" not in text
    json.loads(text)
    state.remove(mine.where, mine.name)
    assert not file.exists()


def test_master_json() -> None:
    assert workers_of("") == []
    assert workers_of('{"workers": [{"host": "a"}]}') == [{"host": "a"}]


# --- digests, DNS


def test_digests(tmp_path: Path) -> None:
    file = tmp_path / "spark it's.tgz"
    file.write_bytes(b"x")
    source = copying.local_source("SPARK_TGZ", str(file), "sha512", "", "")
    assert len(source.digest) == 128
    groups = " ".join(source.digest[i : i + 8].upper() for i in range(0, 128, 8))
    for text in (f"{source.digest}  {file.name}\n", f"{file.name}: {groups[:70]}\n   {groups[70:]}\n"):
        Path(f"{file}.sha512").write_text(text)
        assert copying._digest_beside(str(file)) == source.digest
    with pytest.raises(ClusterError, match="its sha512 is"):
        copying.local_source("SPARK_TGZ", str(file), "sha512", "0" * 128, "")
    with pytest.raises(ClusterError, match="a sha256 has 64 hex digits"):
        copying.checked_digest("PEX_SHA256", "abc", "sha256")
    with pytest.raises(ClusterError, match="make pex builds it"):
        copying.local_source("PEX_FILE", "none.pex", "sha256", "", "make pex builds it")


def test_published_digest_formats(tmp_path: Path) -> None:
    """As the hosts read them."""
    digest = "ab" * 64
    groups = " ".join(digest[i : i + 8].upper() for i in range(0, 128, 8))
    loaded = settings.load({"REMOTE_DIR": str(tmp_path)})
    for text in (f"{digest}  deadbeef.tgz", f"deadbeef.tgz: {groups}", digest):
        payload = Job(script="files", values={"TEXT": text}, timeout=5).payload(loaded, "127.0.0.1")
        code = (
            '\nget() { echo "$TEXT"; }\npublished_digest http://x/y.tgz?a=b sha512\necho "$DIGEST"\n}\nmain </dev/null'
        )
        payload = payload.replace("\n}\nmain </dev/null", code)
        done = subprocess.run(["bash", "-s"], input=payload, capture_output=True, text=True, timeout=20)
        assert digest in done.stdout.splitlines(), done.stdout


def test_knot_zones() -> None:
    lua = steps.knot_lua(
        settings.load({"KNOT_ZONES": "a.lan=10.0.0.2 b.lan=10.0.0.3@5353", "KNOT_FORWARD": "10.0.0.9"})
    )
    assert lua.splitlines() == [
        'policy.add(policy.suffix(policy.STUB({ "10.0.0.2" }), policy.todnames({ "a.lan." })))',
        'policy.add(policy.suffix(policy.STUB({ "10.0.0.3@5353" }), policy.todnames({ "b.lan." })))',
        'policy.add(policy.all(policy.STUB({ "10.0.0.9" })))',
        'local insecure = { "a.lan.", "b.lan." }',
        "for _, zone in ipairs(trust_anchors.insecure or {}) do table.insert(insecure, zone) end",
        "trust_anchors.set_insecure(insecure)",
    ]
    with pytest.raises(ClusterError, match=r"KNOT_ZONES: a\.lan: write"):
        steps.knot_lua(settings.load({"KNOT_ZONES": "a.lan"}))


def test_lines_of_knot_conf_stay_as_they_are(tmp_path: Path) -> None:
    """Also those that set what KNOT_ZONES sets: the zones are added to theirs, in whatever way they are written."""
    conf = tmp_path / "more.lua"
    conf.write_text("trust_anchors.set_insecure({ 'corp.lan' })\ntrust_anchors.set_insecure({ \"x.lan\" })\n")
    lua = steps.knot_lua(settings.load({"KNOT_CONF": str(conf)}))
    assert lua == conf.read_text().rstrip("\n")
    lua = steps.knot_lua(settings.load({"KNOT_CONF": str(conf), "KNOT_ZONES": "a.lan=10.0.0.2"}))
    assert conf.read_text() in lua
    assert lua.index("x.lan") < lua.index("ipairs(trust_anchors.insecure") < lua.index("set_insecure(insecure)")


# --- make


def test_make_knows_all_targets() -> None:
    text = (PSSH / "cluster.mk").read_text()
    documented = re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE)
    assert sorted(documented) == sorted(cli.TARGETS)
    listed = re.search(r"^CLUSTER_TARGETS := (.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    assert listed
    assert sorted(listed.group(1).replace("\\\n", " ").split()) == sorted(cli.TARGETS)


def test_make_hands_variables_on(ips: Path, tmp_path: Path) -> None:
    odd = tmp_path / 'it\'s "my" state'
    command = ["make", "-s", "-f", "deploy/pssh/cluster.mk", "clusters", f"IPS={ips}", f"CLUSTER_STATE={odd}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.stdout == f"no clusters (state files are in {odd})\n", done.stderr


def test_messages_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["nonsense"]) == 2
    assert "usage" in capsys.readouterr().err
    for name in ("IPS", "HOSTS", "MASTER", "CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLUSTER_STATE", str(tmp_path))
    assert cli.main(["status"]) == 2
    assert "status: which hosts? Give IPS=ips.txt" in capsys.readouterr().err
    assert cli.main(["cluster-down"]) == 0
    monkeypatch.setenv("LOG", "nonsense")
    monkeypatch.setenv("IPS", str(tmp_path / "ips"))
    (tmp_path / "ips").write_text("10.77.9.1\n")
    assert cli.main(["logs"]) == 2
    assert "LOG=nonsense: one of all, master" in capsys.readouterr().err
    assert set(watch.LOGS) >= {"all", "master", "worker", "executors", "kresd", "job"}


def test_hosts_that_are_given_up_leave_the_state(cluster: Callable[..., Cluster]) -> None:
    mine = cluster()
    mine.claim()
    lost = dataclasses.replace(outcome(255, "", "no route"), host=H2)
    assert lost.unreachable
    lifecycle.forget_hosts(mine, [lost])
    assert mine.state().hosts == (H1, H3)


def test_hosts_that_were_added_are_not_cut_by_a_remembered_count(cluster: Callable[..., Cluster]) -> None:
    first = cluster(COUNT=1)
    first.claim()
    first.save(first.state().with_node(H3))
    assert cluster().claim() == (H1, H3)
    assert cluster(COUNT=1).hosts() == (H1,)


def test_a_remembered_count_is_only_for_claiming(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster(COUNT=3).claim()
    short = tmp_path / "one.txt"
    short.write_text("10.77.9.2\n")
    assert cluster(IPS=short).hosts() == (H2,)
    assert cluster(IPS=short).claim() == (H2,), "a host has left the list"
    with pytest.raises(ClusterError, match="COUNT=3, but only 1 hosts"):
        cluster(IPS=short, COUNT=3).hosts()
    new = tmp_path / "new.txt"
    new.write_text("".join(f"10.77.8.{n}\n" for n in range(1, 6)))
    assert len(cluster(IPS=new).hosts()) == 5
    looked = cluster(IPS=short, COUNT=1)
    looked.save(looked.state())
    assert cluster().settings.count == 3
