"""The command line: what flags mean, one clear line for what is wrong, and exit codes that tell the truth."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import yaml
from support.photos import url_list
from support.server import NastyServer

from img2dataset_dist import __version__, cli
from img2dataset_dist.config import JobConfig, options
from img2dataset_dist.errors import InputError, MissingExtra
from img2dataset_dist.storage import Folder

TESTS = Path(__file__).parent


class Said(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """The command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> Said:
        code = cli.run(list(argv))
        return Said(code, *capfd.readouterr())

    return run


@pytest.fixture
def parsed(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The options that a download with these arguments would have."""
    jobs: list[JobConfig] = []
    monkeypatch.setattr(cli, "run_job", jobs.append)

    def parsed(*argv: str) -> dict[str, Any]:
        said = run(*argv)
        assert said == Said(0, "", ""), said
        return jobs.pop().flat()

    return parsed


@pytest.fixture
def refused(run: Callable[..., Said], tmp_path: Path) -> Callable[..., str]:
    """What is said about arguments that are wrong: one line; and nothing was written."""

    def refused(*argv: str, code: int = 2) -> str:
        before = sorted(tmp_path.rglob("*"))
        said = run(*argv)
        assert (said.code, said.out) == (code, "")
        assert said.err.startswith("img2dataset-dist: ")
        assert said.err.endswith("\n")
        assert said.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return said.err.removeprefix("img2dataset-dist: ").rstrip()

    return refused


def a_list(kind: str = "txt", name: str = "urls", **columns: list[Any]) -> str:
    """A list in the working folder, of hosts that nobody has."""
    return url_list(Path(f"{name}.{kind}"), ["http://127.0.0.1:1/x"], columns)


# what flags mean


@pytest.mark.parametrize(
    "argv",
    [
        ["--image_size=128"],
        ["--image_size", "128"],
        ["--image-size=128"],
        ["--image-size", "128"],
        ["-image_size=128"],
        ["--image_size=64", "--image_size=128"],
    ],
)
def test_spellings_of_a_flag(parsed: Callable[..., dict[str, Any]], argv: list[str]) -> None:
    for command in (["--url_list=urls.txt", *argv], ["urls.txt", *argv], ["download", "urls.txt", *argv]):
        got = parsed(*command)
        assert (got["image_size"], got["url_list"]) == (128, "urls.txt")


@pytest.mark.parametrize(
    ("argv", "want"),
    [
        (["--skip_reencode"], True),
        (["--skip_reencode=True"], True),
        (["--skip_reencode=true"], True),
        (["--skip_reencode", "1"], True),
        (["--skip-reencode"], True),
        (["--skip_reencode=False"], False),
        (["--skip_reencode", "False"], False),
        (["--noskip_reencode"], False),
        ([], False),
    ],
)
def test_booleans(parsed: Callable[..., dict[str, Any]], argv: list[str], want: bool) -> None:
    assert parsed("--url_list=urls.txt", *argv, "--image_size=3")["skip_reencode"] is want


def test_a_switch_does_not_take_the_list_for_its_value(parsed: Callable[..., dict[str, Any]]) -> None:
    got = parsed("--skip_reencode", "urls.txt", "--image_size=3")
    assert (got["skip_reencode"], got["url_list"]) == (True, "urls.txt")


def test_negated_boolean_whose_default_is_true(parsed: Callable[..., dict[str, Any]]) -> None:
    assert parsed("urls.txt", "--noextract_exif")["extract_exif"] is False
    assert parsed("--noextract_exif", "--url_list=urls.txt")["extract_exif"] is False


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("[a,b]", ("a", "b")),
        ('["a","b"]', ("a", "b")),
        ("['a', 'b']", ("a", "b")),
        ("a,b", ("a", "b")),
        ("(a, b)", ("a", "b")),
        ("a", ("a",)),
        ("'a'", ("a",)),
        ("[größe,b c]", ("größe", "b c")),
        ("[1,2]", ("1", "2")),
        ("2024", ("2024",)),
        ("007,1e3,True", ("007", "1e3", "True")),
        ('["a,b", "c"]', ("a,b", "c")),
        ('["a",1]', ("a", "1")),
        ("[]", ()),
        ("None", None),
    ],
)
def test_lists(parsed: Callable[..., dict[str, Any]], text: str, want: tuple[str, ...] | None) -> None:
    for argv in ([f"--save_additional_columns={text}"], ["--save_additional_columns", text]):
        assert parsed("urls.csv", "--input_format=csv", *argv)["save_additional_columns"] == want


@pytest.mark.parametrize("text", ["[sum,md5]", '["sum", "md5"]', "sum,md5"])
def test_pair(parsed: Callable[..., dict[str, Any]], text: str) -> None:
    got = parsed("urls.csv", "--input_format=csv", f"--verify_hash={text}", "--compute_hash=md5")
    assert got["verify_hash"] == ("sum", "md5")


@pytest.mark.parametrize(
    ("flag", "want"),
    [
        ("--url_col=1", "1"),
        ("--url_col=None", "None"),
        ("--url_col=[a]", "[a]"),
        ("--url_col=help", "help"),
        ("--caption_col=None", None),
        ("--caption_col=True", "True"),
        ("--caption_col=1.50", "1.50"),
        ("--user_agent_token=007", "007"),
        ("--compute_hash=None", None),
        ("--processes_count=None", None),
        ("--processes_count=3", 3),
        ("--timeout=2", 2.0),
        ("--max_image_area=inf", float("inf")),
        ("--disallowed_header_directives=[]", ()),
        ("--disallowed_header_directives=NoAI", ("noai",)),
        ("--output_folder=memory://x/y=z", "memory://x/y=z"),
    ],
)
def test_the_type_of_the_option_decides_what_a_text_means(
    parsed: Callable[..., dict[str, Any]], flag: str, want: Any
) -> None:
    name, _, text = flag.removeprefix("--").partition("=")
    for argv in ([flag], [f"--{name}", text]):
        got = parsed("urls.csv", "--input_format=csv", *argv)[name]
        assert (got, type(got)) == (want, type(want))


CONFIG = {"image_size": 64, "save_additional_columns": ["a", "b"], "caption_col": None, "input_format": "csv"}
FILES = {
    "job.yaml": yaml.safe_dump(CONFIG),
    "job.yml": "image_size: 64 # pixels\nsave_additional_columns: [a, b]\ninput_format: csv\n",
    "job.json": json.dumps(CONFIG),
    "tabs.json": json.dumps(CONFIG, indent="\t"),
}


@pytest.mark.parametrize("name", FILES)
def test_config_file(parsed: Callable[..., dict[str, Any]], name: str) -> None:
    Path(name).write_text(FILES[name])
    got = parsed("urls.csv", f"--config={name}")
    assert (got["image_size"], got["save_additional_columns"], got["caption_col"]) == (64, ("a", "b"), None)
    got = parsed("urls.csv", "--image_size=32", "--config", name, "--save_additional_columns=None")
    assert (got["image_size"], got["save_additional_columns"], got["input_format"]) == (32, None, "csv")


def test_config_file_that_names_the_list_and_lies_elsewhere(
    parsed: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text("url_list: urls.txt\n")
    assert parsed(f"--config=file://{tmp_path}/job.yaml")["url_list"] == "urls.txt"


# what is wrong


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--image_sise=3"], "unknown flag --image_sise; did you mean 'image_size'?"),
        (["--image-sise=3"], "unknown flag --image_sise; did you mean 'image_size'?"),
        (["--confg=x"], "unknown flag --confg; did you mean 'config'?"),
        (["--zzz=3"], "unknown flag --zzz"),
        (["--zzz"], "unknown flag --zzz"),
        (["-z"], "unknown flag --z"),
        (["--as_json"], "unknown flag --as_json"),
        (["--image_size=big"], "image_size='big' is not valid: input should be a valid integer"),
        (["--image_size"], "image_size='True' is not valid: input should be a valid integer"),
        (["--image_size="], "image_size='' is not valid: input should be a valid integer"),
        (["--image_size=0"], "image_size='0' is not valid: input should be greater than or equal to 1"),
        (["--encode_format=jpeg"], "encode_format='jpeg' is not one of jpg, png, webp, avif; did you mean 'jpg'?"),
        (["--encode_format=png"], "encode_quality is the compression for png"),
        (["--extract_exif=perhaps"], "extract_exif='perhaps' is not valid"),
        (["--verify_hash=sum"], "verify_hash=['sum'] is not valid"),
        (["--caption_col=text"], "caption_col='text' needs a list with columns"),
        (["--output_format=webdatasets"], "output_format='webdatasets' is not one of"),
        (["--output_format=nowhere.at_all:Writer"], "output_format='nowhere.at_all:Writer': cannot import nowhere"),
        (["--output_format=json:Writer"], "output_format='json:Writer': json has no Writer"),
        (["--distributor=multi"], "distributor='multi' is not one of multiprocessing, inline"),
        (["extra"], "unexpected argument 'extra'; flags look like --name=value"),
        (["--", "--trace"], "unexpected argument '--'; flags look like --name=value"),
        (["-"], "unexpected argument '-'"),
        (["--config=nothing.yaml"], "config: cannot read nothing.yaml"),
        (["--config=."], "config: cannot read ."),
        (["--output_folder=nonsense://x"], "output_folder: cannot write to nonsense://x"),
        (["--output_folder=urls.txt/sub"], "output_folder: cannot write to urls.txt/sub"),
    ],
)
def test_wrong_flags(refused: Callable[..., str], argv: list[str], message: str) -> None:
    assert refused(a_list(), *argv).startswith(message)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing.txt"], "url_list: there is no file or folder nothing.txt"),
        (["./empty.txt"], "url_list: ./empty.txt holds no rows"),
        (["./folder"], "url_list: no file matches"),
        (["broken.parquet", "--input_format=parquet"], "url_list: "),
        (["broken.txt.gz", "--input_format=txt.gz"], "url_list: "),
        (["broken.parquet"], "input_format='txt', but "),
        (["fine.csv", "--input_format=csv", "--url_col=link"], "url_col: no column 'link' in"),
        (["fine.csv", "--input_format=csv", "--caption_col=txt"], "caption_col: no column 'txt' in"),
        (["nonsense://bucket/l.txt"], "url_list: cannot read nonsense://bucket/l.txt"),
        (["--image_size=3"], "url_list is missing"),
        (["download"], "url_list is missing"),
        (["downlod", "urls.txt"], "unknown command 'downlod'; did you mean 'download'?"),
        (["plans"], "unknown command 'plans'; did you mean 'plan'?"),
        (["lists"], "unknown command 'lists' (commands: download, plan, video2dataset, any2dataset, preview)"),
        (["plan", "fine.csv", "--top=many"], "top='many' is not a whole number"),
        (["plan"], "url_list is missing"),
        (["plan", "nothing.txt"], "url_list: there is no file or folder nothing.txt"),
        (["preview"], "dataset is missing"),
        (["preview", "folder"], "image is missing"),
        (["preview", "folder", "x.jpg", "--seed=x"], "seed='x' is not a whole number"),
        (["preview", "folder", "x.jpg", "--image_size=3"], "unknown flag --image_size"),
        (["preview", "folder", "x.jpg", "--config=x"], "unknown flag --config"),
    ],
)
def test_wrong_inputs_and_commands(refused: Callable[..., str], argv: list[str], message: str) -> None:
    a_list("csv", "fine", text=["x"])
    Path("folder").mkdir()
    Path("empty.txt").write_text("\n")
    Path("broken.parquet").write_bytes(b"PAR1 nonsense PAR1")
    Path("broken.txt.gz").write_bytes(b"\x1f\x8b nonsense")
    assert refused(*argv).startswith(message)


@pytest.mark.parametrize("argv", [["urls.txt", "--url_list=other.txt"], ["--url_list", "other.txt", "urls.txt"]])
@pytest.mark.parametrize("command", ["download", "plan"])
def test_positional_that_repeats_a_flag(refused: Callable[..., str], command: str, argv: list[str]) -> None:
    a_list()
    a_list(name="other")
    assert refused(command, *argv) == "unexpected argument 'urls.txt': there is --url_list=other.txt already"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("job.yaml", "image_sise: 3", "config: job.yaml: unknown option 'image_sise'; did you mean 'image_size'?"),
        ("job.json", '{"image_sise": 3}', "config: job.json: unknown option 'image_sise'; did you mean 'image_size'?"),
        ("job.yaml", "1: 3", "config: job.yaml: unknown option '1'"),
        ("job.yaml", "config: x", "config: job.yaml: unknown option 'config'"),
        ("job.yaml", "image_size: big", "image_size='big' is not valid"),
        ("job.yaml", "image_size: [", "config: cannot read job.yaml: "),
        ("job.json", "image_size: 3", "config: cannot read job.json: "),
        ("job.yaml", "", "config: job.yaml must hold names and values, for example 'image_size: 256'"),
        ("job.yaml", "- image_size", "config: job.yaml must hold names and values"),
        ("job.yaml", "!!python/object:os.system x", "config: cannot read job.yaml: "),
        ("job.yaml", b"\xff\xfe\xff", "config: cannot read job.yaml: "),
    ],
)
def test_wrong_config_files(refused: Callable[..., str], name: str, content: str | bytes, message: str) -> None:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused(a_list(), f"--config={name}").startswith(message)


# help, version, plan


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"], ["download", "--help"], ["plan", "help"]])
def test_help_mentions_every_option_with_its_default(run: Callable[..., Said], argv: list[str]) -> None:
    said = run(*argv)
    assert (said.code, said.err) == (0, "")
    lines = {line.split()[0]: line for line in said.out.splitlines() if line.startswith("  --")}
    assert {f"--{name}" for name in options()} <= set(lines)
    assert lines["--image_size"].endswith("[256]")
    assert lines["--url_list"].endswith("[required]")
    assert lines["--disallowed_header_directives"].endswith('["noai", "noimageai", "noindex", "noimageindex"]]')
    assert all(command in said.out for command in cli.COMMANDS)


def test_help_of_a_command_has_its_own_flags(run: Callable[..., Said]) -> None:
    assert "flags of plan:\n  --top " in run("plan", "--help").out
    said = run("preview", "x", "-h")
    assert "flags of preview:\n  --dataset " in said.out
    assert "--image_size" not in said.out


def test_version(run: Callable[..., Said]) -> None:
    assert run("--version") == run("version") == Said(0, f"img2dataset-dist {__version__}\n", "")


def test_plan_prints_a_table_and_writes_nothing(run: Callable[..., Said], tmp_path: Path) -> None:
    urls = ["http://a.example/1", "http://a.example/2", "http://b.example/", "nonsense"]
    url_list(Path("urls.csv"), urls)
    before = sorted(tmp_path.rglob("*"))
    said = run("plan", "urls.csv", "--input_format=csv", "--number_sample_per_shard=3")
    assert (said.code, said.err) == (0, "")
    table = [line.split() for line in said.out.splitlines()]
    for row in (["shards", "2"], ["rows", "4"], ["hosts", "2"], ["malformed", "1"], ["a.example", "2"]):
        assert any(cells[-len(row) :] == row or [c for c in cells if c.isalnum() or "." in c] == row for cells in table)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "json"])
def test_plan_as_json(run: Callable[..., Said], kind: str, tmp_path: Path) -> None:
    url_list(Path(f"urls.{kind}"), ["http://a.example/1", "http://b.example/", "http://a.example/2", "nonsense"])
    before = sorted(tmp_path.rglob("*"))
    argv = [f"urls.{kind}", f"--input_format={kind}", "--number_sample_per_shard=3", "--top", "1"]
    said = run("plan", *argv, "--as_json=True")
    assert (said.code, said.err) == (0, "")
    plan = json.loads(said.out)
    assert plan.pop("fingerprint").isalnum()
    assert plan == {
        "files": 1,
        "shards": 2,
        "rows": 4,
        "host_count": 2,
        "hosts": {"a.example": 2},
        "malformed": {"URL has no scheme (http:// or https://)": 1},
    }
    assert sorted(tmp_path.rglob("*")) == before
    assert run("plan", *argv, "--as_json").out == said.out
    assert run("plan", *argv, "--noas_json").out != said.out


# exit codes


def download_args(server: NastyServer, *more: str) -> list[str]:
    url_list(Path("urls.txt"), [server.url(f"/photo/photo_0000{n}.jpg?cli") for n in (0, 1)])
    return [
        "urls.txt",
        "--output_folder=out",
        "--image_size=32",
        "--distributor=inline",
        "--progress=none",
        "--allow_private_addresses",
        *more,
    ]


def test_success_is_0(run: Callable[..., Said], server: NastyServer) -> None:
    assert run(*download_args(server, "--output_format=parquet")) == Said(0, "", "")
    assert pq.read_table("out/00000.parquet")["status"].to_pylist() == ["success"] * 2


def test_rows_that_fail_are_no_failure_of_the_job(run: Callable[..., Said], server: NastyServer) -> None:
    argv = download_args(server, "--output_format=parquet")
    url_list(Path("urls.txt"), ["nonsense", server.url("/status/404")])
    assert run(*argv).code == 0
    assert pq.read_table("out/00000.parquet")["error_code"].to_pylist() == ["bad_url", "http_404"]


def test_shards_that_stay_failed_are_1(run: Callable[..., Said], server: NastyServer) -> None:
    said = run(*download_args(server, "--output_format=support.plugins:BrokenWriter", "--max_shard_retry=0"))
    assert (said.code, said.out) == (1, "")
    last = said.err.splitlines()[-1]
    assert last.startswith("img2dataset-dist: 1 shard(s) failed, the first is 0: OSError: [Errno 28] No space left")
    assert not list(Path("out").glob("*_stats.json"))


def test_another_list_for_the_same_folder_is_2(run: Callable[..., Said], server: NastyServer) -> None:
    argv = download_args(server)
    assert run(*argv).code == 0
    url_list(Path("urls.txt"), ["http://127.0.0.1:1/other"])
    said = run(*argv)
    assert said.code == 2
    assert said.err.startswith("img2dataset-dist: the output folder holds another dataset: url_list has other content")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("l.txt: the file\n  changed"), 1, "l.txt: the file changed"),
        (MissingExtra("pip install it"), 2, "pip install it"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on"),
        (cli.Terminated(), 143, "stopped; run the same command again to go on"),
    ],
)
def test_exit_codes(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(_: JobConfig) -> None:
        raise error

    monkeypatch.setattr(cli, "run_job", fail)
    assert refused("urls.txt", code=code) == line


# as a process


def command(*argv: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    program = [sys.executable, "-m", "img2dataset_dist", *argv]
    return subprocess.run(program, capture_output=True, text=True, check=False, env=environment, timeout=60, **more)


def test_process_that_is_refused(tmp_path: Path) -> None:
    url_list(tmp_path / "urls.txt", ["http://127.0.0.1:1/x"])
    done = command("urls.txt", "--output_folder=out", "--image_sise=3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "img2dataset-dist: unknown flag --image_sise; did you mean 'image_size'?\n"
    assert os.listdir(tmp_path) == ["urls.txt"]


def test_process_that_downloads_and_one_that_fails(server: NastyServer, tmp_path: Path) -> None:
    url_list(tmp_path / "urls.txt", [server.url("/photo/photo_00000.jpg?process")] * 3)
    argv = ["--url_list", "urls.txt", "--output_folder=out", "--image-size", "32", "--number_sample_per_shard=2"]
    argv.append("--allow_private_addresses")
    done = command(*argv, "--processes_count=1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert sorted(p.name for p in (tmp_path / "out").glob("*/*.jpg")) == [f"{n:06d}.jpg" for n in (0, 1, 10)]
    done = command(
        *argv[2:], "urls.txt", "--incremental_mode=overwrite", "--output_format=support.plugins:BrokenWriter",
        "--processes_count=1", "--max_shard_retry=0", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "2 shard(s) failed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_process_that_is_stopped(server: NastyServer, tmp_path: Path, number: int, code: int) -> None:
    url_list(tmp_path / "urls.txt", [server.url(f"/hang?stopped={number}")])
    program = [sys.executable, "-m", "img2dataset_dist", "urls.txt", "--timeout=60", "--processes_count=1"]
    program.append("--allow_private_addresses")
    target = f"/hang?stopped={number}"
    with subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not server.count(target):
            assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert err.splitlines()[-1].endswith("run the same command again to go on")


def test_reader_of_the_output_that_leaves_early(tmp_path: Path) -> None:
    url_list(tmp_path / "urls.txt", [f"http://h{n}.example/" for n in range(5000)])
    program = [sys.executable, "-m", "img2dataset_dist", "plan", "urls.txt", "--top=5000", "--as_json"]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_a_disk_of_the_driver_that_is_full_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Folder.write_whole

    def full(folder: Folder, name: str, content: bytes) -> None:
        if name.endswith("-0.txt"):  # the slice of the first shard
            raise OSError(28, "No space left on device")
        real(folder, name, content)

    (tmp_path / "urls.txt.gz").write_bytes(gzip.compress(b"http://127.0.0.1:9/a.jpg\n"))
    monkeypatch.setattr(Folder, "write_whole", full)
    argv = [f"--url_list={tmp_path}/urls.txt.gz", "--input_format=txt.gz", f"--output_folder={tmp_path}/out"]
    assert cli.run([*argv, "--distributor=inline", "--progress=none"]) == 1
    assert "No space left on device" in capsys.readouterr().err
