"""The pex: built by `make pex`, then started as users and Spark start it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import dataset
from support.media_server import MediaServer
from support.server import NastyServer
from support.videos import gallery

from img2dataset_dist import pex_entry
from img2dataset_dist.about import VERSION

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "deploy" / "pex"
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
SPARK_JOB = """
import os, sys
from pyspark import SparkConf, SparkContext
conf = SparkConf().setMaster("local[2]").set("spark.ui.enabled", "false")
context = SparkContext(conf=conf)
def look(numbers):
    import img2dataset_dist, pyspark
    yield sum(numbers), sys.executable, os.environ["PEX"], pyspark.__version__
parts = context.parallelize(range(1000), 2).mapPartitions(look).collect()
assert sum(part[0] for part in parts) == sum(range(1000)), parts
print("WORKER", parts[0][1]); print("PEX", parts[0][2]); print("SPARK", context.version, parts[0][3])
print("DRIVER", sys.executable)
"""


@dataclass(frozen=True)
class Pex:
    """A pex, and the environment it is started in."""

    path: Path
    environment: Mapping[str, str]

    def start(self, *arguments: str, **environment: str | None) -> subprocess.Popen[str]:
        """A variable that is None is not set."""
        merged = {**self.environment, **environment}
        return subprocess.Popen(
            [str(self.path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in merged.items() if value is not None},
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, **environment: str | None) -> tuple[str, str]:
        """What it says on stdout and stderr."""
        process = self.start(*arguments, **environment)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == code, output + errors
        return output, errors


def make(target: str, variable: str, file: Path) -> None:
    command = ["make", "-C", str(ROOT), target, f"VENV={sys.prefix}", f"{variable}={file}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a host that has the right Python, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("host")
    for name in ("home", "tmp", "bin"):
        (folder / name).mkdir()
    (folder / "bin" / PYTHON).symlink_to(os.path.realpath(sys.executable))
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    root = str(folder / "pex root")
    return {"PATH": path, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PEX_ROOT": root}


@pytest.fixture(scope="session")
def cold(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Pex, list[str]]:
    """The pex at a path that needs care, and what its first two starts said, at the same time on one host."""
    folder = tmp_path_factory.mktemp('it\'s "my" folder')
    built = tmp_path_factory.mktemp("built") / "img2dataset.pex"
    make("pex", "PEX_FILE", built)
    pex = Pex(Path(shutil.move(built, folder)), environment)
    starts = [pex.start("-c", "import pyspark, img2dataset_dist, sys; print(sys.executable)") for _ in range(2)]
    said = [process.communicate(timeout=600) for process in starts]
    assert [process.returncode for process in starts] == [0, 0], said
    return pex, [output for output, _ in said]


@pytest.fixture
def pex(cold: tuple[Pex, list[str]]) -> Pex:
    return cold[0]


@pytest.fixture(scope="session")
def thin(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Pex:
    path = tmp_path_factory.mktemp("thin") / "thin.pex"
    make("pex-thin", "PEX_THIN_FILE", path)
    return Pex(path, {**environment, "PEX_ROOT": f"{environment['PEX_ROOT']} thin"})


pytestmark = pytest.mark.timeout(900)  # the first test that needs a pex waits for it


# Without building


@pytest.mark.parametrize("first", ["-", "-c", "-m", "-u", "-uc", "-E", "-I", "-W", "-Wignore", "-X", "-Xdev", "-bb"])
def test_flags_of_python_are_for_python(first: str) -> None:
    assert pex_entry.is_for_python(first)


@pytest.mark.parametrize(
    "first", ["--url_list=a", "-url_list=a", "-h", "-V", "--help", "plan", "urls.txt", "no.py", "", "--"]
)
def test_all_else_is_for_the_command(first: str) -> None:
    assert not pex_entry.is_for_python(first)


def test_a_script_is_for_python_when_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "job.py").touch()
    (tmp_path / "urls.txt").touch()
    (tmp_path / "folder.py").mkdir()
    assert pex_entry.is_for_python(str(tmp_path / "job.py"))
    assert not pex_entry.is_for_python(str(tmp_path / "urls.txt"))
    assert not pex_entry.is_for_python(str(tmp_path / "folder.py"))


def test_a_script_that_is_missing_has_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "download.py").touch()
    assert f"did you mean {tmp_path / 'download.py'}?" in pex_entry.no_script(str(tmp_path / "downlaod.py"))
    assert "did you mean" not in pex_entry.no_script(str(tmp_path / "x.py"))
    assert "did you mean" not in pex_entry.no_script(str(tmp_path / "nowhere" / "x.py"))


def test_what_children_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/big disk/pex/venvs/4/abc/def")
    told = {"PEX": "/opt/a.pex"}
    pex_entry.prepare(told)
    assert told == {"PEX": "/opt/a.pex", "PEX_ROOT": "/big disk/pex", "PYSPARK_PYTHON": "/opt/a.pex"}
    told = {"PEX": "/opt/a.pex", "PYSPARK_PYTHON": "python3"}
    pex_entry.prepare(told)
    assert told["PYSPARK_PYTHON"] == "python3"


def test_outside_a_pex_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/opt/venvs")
    told: dict[str, str] = {}
    pex_entry.prepare(told)
    assert told == {}


def spark_home(folder: Path, version: str) -> str:
    (folder / "jars").mkdir(parents=True)
    (folder / "jars" / f"spark-core_2.13-{version}.jar").touch()
    return str(folder)


@pytest.mark.parametrize(
    ("version", "kept"), [("4.3.0", True), ("4.3.2", True), ("4.2.1", False), ("3.5.0-amzn-1", False)]
)
def test_another_spark_home_is_ignored(
    version: str, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spark_home(tmp_path / "venv" / "pyspark", "4.3.0")
    (tmp_path / "venv" / "pyspark" / "__init__.py").touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "venv")])
    monkeypatch.delitem(sys.modules, "pyspark", raising=False)
    told = {"SPARK_HOME": spark_home(tmp_path / "other", version)}
    pex_entry.prepare(told)
    assert ("SPARK_HOME" in told) == kept
    assert (f"is Spark {version}, this pex has its own Spark 4.3.0" in capsys.readouterr().err) != kept


def test_spark_home_stands_for_a_pyspark_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put on PYTHONPATH by the cluster, or the script was started by spark-submit: the JVM is there already."""
    spark_home(tmp_path / "cluster" / "pyspark", "4.3.0")
    (tmp_path / "cluster" / "pyspark" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "cluster")])
    monkeypatch.delitem(sys.modules, "pyspark", raising=False)
    told = {"SPARK_HOME": "/opt/spark"}
    pex_entry.prepare(told)
    assert told == {"SPARK_HOME": "/opt/spark"}
    submitted = {"SPARK_HOME": "/opt/spark", "PYSPARK_GATEWAY_PORT": "1"}
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "cluster"))
    pex_entry.prepare(submitted)
    assert submitted["SPARK_HOME"] == "/opt/spark"


def test_all_that_is_needed_is_locked() -> None:
    """What setup.py asks for has a line in a lock; if not: make pex-locks."""
    locked = {
        re.sub("[-_.]+", "-", name).lower()
        for lock in LOCKS.glob("*.txt")
        for name in re.findall(r"^([\w.-]+)==", lock.read_text(), re.MULTILINE)
    }
    setup = (ROOT / "setup.py").read_text().replace("install_requires=", "\nDEPENDENCIES = ")
    lists = re.findall(r"^(?:WANDB|SPARK|STORES|DEPENDENCIES) = \[(.*?)\]", setup, re.MULTILINE | re.DOTALL)
    wanted = {name.replace("_", "-").lower() for text in lists for name in re.findall(r'"([\w-]+)[^"]*"', text)}
    assert {"numpy", "pyspark", "s3fs", "huggingface-hub", "wandb"} <= wanted
    assert wanted | {"yt-dlp", "pex"} <= locked


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda lock: lock.name)
def test_locks_are_versions_and_hashes(lock: Path) -> None:
    for line in lock.read_text().splitlines():
        assert re.match(r"[\w.-]+==[\w.]+( ; .+)? \\$|    --hash=sha256:[0-9a-f]{64}( \\)?$| *#", line), line
        assert "://" not in line


# The full one


@pytest.mark.slow
def test_two_cold_starts_unpack_once(cold: tuple[Pex, list[str]], environment: dict[str, str]) -> None:
    said = cold[1]
    root = Path(environment["PEX_ROOT"])
    assert said[0] == said[1]
    assert said[0].startswith(f"{root}/venvs/")
    assert len(list(root.glob("venvs/*/*/*/PEX-INFO"))) == 1
    wheels = [path.name for path in root.glob("installed_wheels/*/*/*")]
    assert len(wheels) == len(set(wheels)) > 50
    assert list(root.rglob("*.work*")) == []
    assert os.listdir(environment["TMPDIR"]) == []
    assert os.listdir(environment["HOME"]) == []


@pytest.mark.slow
def test_it_says_its_version(pex: Pex) -> None:
    for flag in ("--version", "-V", "version"):
        said = pex.run(flag)[0]
        assert re.fullmatch(rf"img2dataset-dist {VERSION} \(CPython 3\.\d+\.\d+, pyspark 4\.\d+\.\d+\)\n", said)


@pytest.mark.slow
def test_help(pex: Pex) -> None:
    said = pex.run()[0]
    assert said == pex.run("--help")[0]
    assert "img2dataset.pex SCRIPT.py | -m MODULE | -c CODE" in said
    assert "--url_list" in said


@pytest.mark.slow
def test_a_script(pex: Pex, tmp_path: Path) -> None:
    script = tmp_path / "my script.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "import neighbour, numpy, s3fs, gcsfs, adlfs, huggingface_hub, yt_dlp, wandb, img2dataset_dist\n"
        "print(__name__, sys.argv[1:], os.environ['PEX'], os.environ['PYSPARK_PYTHON'])\n"
        "subprocess.run([sys.executable, '-c', 'import img2dataset_dist'], check=True)\n"
        "sys.exit(7)\n"
    )
    (tmp_path / "neighbour.py").touch()
    said = pex.run(str(script), "a b", "--c='d'", code=7)[0]
    assert said == f"""__main__ ['a b', "--c='d'"] {pex.path} {pex.path}\n"""


@pytest.mark.slow
def test_a_script_that_is_not_there(pex: Pex, tmp_path: Path) -> None:
    (tmp_path / "download.py").touch()
    errors = pex.run(str(tmp_path / "downlaod.py"), code=2)[1]
    assert errors.startswith(f"img2dataset.pex: there is no script {tmp_path / 'downlaod.py'}")
    assert errors.endswith("did you mean " + str(tmp_path / "download.py") + "?\n")


@pytest.mark.slow
def test_code_modules_and_stdin(pex: Pex, tmp_path: Path) -> None:
    assert pex.run("-c", "import sys; print(sys.argv)", "x")[0] == "['-c', 'x']\n"
    assert pex.run("-uc", "import sys; print(sys.stdout.write_through)")[0] == "True\n"
    assert pex.run("-W", "error", "-c", "import warnings; warnings.warn('x')", code=1)[1].endswith("Warning: x\n")
    assert pex.run("-m", "img2dataset_dist", "--version")[0] == f"img2dataset-dist {VERSION}\n"
    command = [str(pex.path), "-", "x"]
    code = "import sys; print(__name__, sys.argv)"
    done = subprocess.run(command, input=code, env=dict(pex.environment), capture_output=True, text=True)
    assert done.stdout == "__main__ ['-', 'x']\n", done.stderr


@pytest.mark.slow
def test_it_becomes_the_interpreter(pex: Pex) -> None:
    """No process stands between: signals and their exit codes are those of Python."""
    process = pex.start("-c", "import os; print(os.getpid(), flush=True); os.kill(os.getpid(), 15)")
    assert process.communicate(timeout=60)[0] == f"{process.pid}\n"
    assert process.returncode == -15


@pytest.fixture
def url_list(server: NastyServer, photo_folder: Path, tmp_path: Path) -> Path:
    names = sorted(path.name for path in photo_folder.iterdir() if path.suffix == ".jpg")[:50]
    path = tmp_path / "urls.txt"
    path.write_text("".join(server.url(f"/photo/{name}?pex") + "\n" for name in names))
    return path


def check(folder: Path) -> None:
    dataset.check_whole(folder)
    rows = dataset.rows(folder)
    assert len(rows) == 50
    assert sum(row["status"] == "success" for row in rows.values()) >= 40


@pytest.mark.slow
def test_a_download_by_flags_needs_no_java(pex: Pex, url_list: Path, tmp_path: Path) -> None:
    bin_folder = str(Path(pex.environment["PATH"].split(":")[0]))
    assert shutil.which("java", path=bin_folder) is None
    out = tmp_path / "out"
    flags = ["--output_format=webdataset", "--image_size=64", "--processes_count=2", "--number_sample_per_shard=20"]
    pex.run(f"--url_list={url_list}", f"--output_folder={out}", "--allow_private_addresses", *flags, PATH=bin_folder)
    check(out)
    pex.run("preview", str(out), str(tmp_path / "sheet.jpg"))
    assert "50" in pex.run("plan", str(url_list))[0]


@pytest.mark.slow
def test_a_download_by_a_script_without_a_guard(pex: Pex, url_list: Path, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "from img2dataset_dist import download\n"
        f"stats = download({str(url_list)!r}, output_folder={str(tmp_path / 'out')!r}, image_size=64,\n"
        "    allow_private_addresses=True, processes_count=2, number_sample_per_shard=20)\n"
        "print(stats.count)\n"
    )
    assert pex.run(str(tmp_path / "job.py"))[0].endswith("50\n")
    check(tmp_path / "out")


@pytest.mark.slow
def test_videos_need_no_ffmpeg_of_the_host(pex: Pex, tmp_path: Path) -> None:
    """Clips of a file and a page with a video, encoded again: ffmpeg, libav and yt-dlp are inside."""
    bin_folder = str(Path(pex.environment["PATH"].split(":")[0]))
    assert shutil.which("ffmpeg", path=bin_folder) is None
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    shutil.copy(gallery()("silent"), films / "film.mp4")
    (films / "page.html").write_text('<html><body><video src="film.mp4"></video></body></html>')
    with MediaServer(films) as media:
        wanted = [[media.url("/film.mp4"), "[[0, 1], [1, 2]]"], [media.url("/page.html"), ""]]
        (tmp_path / "list.jsonl").write_text("".join(json.dumps({"url": u, "clip": c}) + "\n" for u, c in wanted))
        flags = ["--media=video", "--input_format=jsonl", "--clip_col=clip", "--video_size=64", "--processes_count=1"]
        flags += ["--output_format=webdataset", "--allow_private_addresses", "--clip_precision=exact"]
        pex.run(f"--url_list={tmp_path / 'list.jsonl'}", f"--output_folder={out}", *flags, PATH=bin_folder)
    rows = dataset.rows(out)
    assert {key: row["error_code"] for key, row in rows.items()} == dict.fromkeys(
        ["00000000_00000", "00000000_00001", "00000001"]
    )
    assert {min(row["width"], row["height"]) for row in rows.values()} == {64}


def facts(output: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in output.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_spark_needs_no_spark_home(pex: Pex) -> None:
    """The pex is driver and worker; the JVM's Spark and the worker's pyspark are the ones inside."""
    said = facts(pex.run("-c", SPARK_JOB)[0])
    assert said["WORKER"] == said["DRIVER"]
    assert said["PEX"] == str(pex.path)
    assert len(set(said["SPARK"].split())) == 1
    assert os.listdir(pex.environment["HOME"]) == []  # no second unpacking


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_spark_with_a_spark_home_of_another(pex: Pex, tmp_path: Path) -> None:
    home = spark_home(tmp_path / "spark", "3.5.0")
    output, errors = pex.run("-c", SPARK_JOB, SPARK_HOME=home)
    assert f"SPARK_HOME={home} is Spark 3.5.0" in errors
    assert facts(output)["SPARK"].startswith("4.")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_a_download_with_spark(pex: Pex, url_list: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = ["--distributor=pyspark", "--image_size=64", "--number_sample_per_shard=20", "--allow_private_addresses"]
    pex.run(f"--url_list={url_list}", f"--output_folder={out}", *flags)
    check(out)


@pytest.mark.slow
def test_plug_ins_are_found_on_pythonpath(pex: Pex, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("VALUE = 3\n")
    code = "import mine, subprocess, sys; print(mine.VALUE)"
    assert pex.run("-c", code, PYTHONPATH=str(tmp_path))[0] == "3\n"
    errors = pex.run("--url_list=x", "--output_folder=y", "--output_format=mine:No", code=2, PYTHONPATH=str(tmp_path))[
        1
    ]
    assert "mine has no No" in errors


@pytest.mark.slow
def test_without_python_it_says_which(pex: Pex, tmp_path: Path) -> None:
    errors = pex.run("--version", code=1, PATH=str(tmp_path), PEX_ROOT=str(tmp_path / "root"))[1]
    wanted = PYTHON.removeprefix("python")
    assert f"img2dataset.pex needs CPython {wanted} (as {PYTHON} or python3)" in errors


def another_python() -> str | None:
    names = [f"python3.{minor}" for minor in (10, 11, 12, 13, 14) if minor != sys.version_info.minor]
    found = [name for name in names if shutil.which(name)]
    works = [name for name in found if subprocess.run([name, "-c", ""], capture_output=True).returncode == 0]
    return os.path.realpath(shutil.which(works[0]) or "") if works else None


@pytest.mark.slow
def test_with_another_python_it_says_which(pex: Pex, tmp_path: Path) -> None:
    other = another_python()
    if other is None:
        pytest.skip("this machine has one Python only")
    (tmp_path / "python3").symlink_to(other)
    errors = pex.run("--version", code=1, PATH=str(tmp_path), PEX_ROOT=str(tmp_path / "root"))[1]
    assert "No interpreter compatible with the requested constraints was found" in errors
    assert f"CPython=={PYTHON.removeprefix('python')}.*" in errors


# The thin one


@pytest.mark.slow
def test_the_same_sources_give_the_same_bytes(thin: Pex, tmp_path: Path) -> None:
    """From another folder, with younger files of other modes, by a user with another umask."""
    copy = tmp_path / "checkout"
    shutil.copytree(LOCKS, copy / "deploy" / "pex", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "img2dataset_dist", copy / "img2dataset_dist", copy_function=shutil.copyfile)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    cache = Path(sys.prefix) / "pex"
    command = [sys.executable, "deploy/pex/build.py", "--cache", cache, "--output", tmp_path / "again.pex", "--thin"]
    done = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *command], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "again.pex").read_bytes() == thin.path.read_bytes()


@pytest.mark.slow
def test_a_home_that_cannot_be_written(thin: Pex, tmp_path: Path) -> None:
    """It is unpacked once into a folder of the user, not at every start into another."""
    code = "import os; print(os.environ['PEX_ROOT'])"
    nowhere = {"HOME": "/dev/null", "PEX_ROOT": None, "TMPDIR": str(tmp_path)}
    wanted = tmp_path / f"img2dataset-pex-{os.getuid()}"
    for _ in range(2):
        output, errors = thin.run("-c", code, **nowhere)
        assert (output, errors) == (f"{wanted}\n", "")
        assert os.listdir(tmp_path) == [wanted.name]
    assert wanted.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_a_folder_that_another_user_has_put_there(thin: Pex, tmp_path: Path) -> None:
    """It could hold their code; pex makes a new folder for this start, and removes it."""
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of another user")
    trap = tmp_path / "img2dataset-pex-0"
    trap.mkdir(mode=0o777)
    os.chown(trap, 65534, 65534)
    output, errors = thin.run("-c", "print(1)", HOME="/dev/null", PEX_ROOT=None, TMPDIR=str(tmp_path))
    assert output == "1\n"
    assert "PEX_ROOT is configured as" in errors
    assert os.listdir(tmp_path) == [trap.name]
    assert os.listdir(trap) == []


@pytest.fixture
def cluster_python(tmp_path: Path) -> str:
    """A folder with a pyspark, as a cluster has it."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    for name in ("pyspark", "py4j"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        (folder / name).symlink_to(Path(spec.origin).parent)
    return str(folder)


@pytest.mark.slow
def test_the_thin_one_has_no_pyspark(thin: Pex) -> None:
    assert ", no pyspark)" in thin.run("--version")[0]
    assert "No module named 'pyspark'" in thin.run("-c", "import pyspark", code=1)[1]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_the_thin_one_takes_the_clusters_pyspark(
    thin: Pex, cluster_python: str, url_list: Path, tmp_path: Path
) -> None:
    said = facts(thin.run("-c", SPARK_JOB, PYTHONPATH=cluster_python)[0])
    assert said["WORKER"] == said["DRIVER"]
    assert said["PEX"] == str(thin.path)
    flags = ["--distributor=pyspark", "--image_size=64", "--number_sample_per_shard=20", "--allow_private_addresses"]
    out = tmp_path / "out"
    thin.run(f"--url_list={url_list}", f"--output_folder={out}", *flags, PYTHONPATH=cluster_python)
    check(out)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="no Java on this machine")
def test_the_thin_one_as_the_python_of_workers_only(thin: Pex, tmp_path: Path) -> None:
    """As on a cluster: the driver is another Python; what workers import of Spark is what Spark gives them."""
    clean = {name: value for name, value in os.environ.items() if name not in ("SPARK_HOME", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", SPARK_JOB],
        env={**clean, "PYSPARK_PYTHON": str(thin.path), "PEX_ROOT": thin.environment["PEX_ROOT"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    said = facts(done.stdout)
    assert said["PEX"] == str(thin.path)
    assert said["WORKER"].startswith(thin.environment["PEX_ROOT"])
