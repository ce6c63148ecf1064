"""The documentation is true: generated pages are up to date, links lead somewhere, and code blocks work."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from support import dataset
from support.server import NastyServer

from img2dataset_dist import cli, fetchers, schedule
from img2dataset_dist.config import EXTRA_COLUMNS, HASHES, NO_DIRECTIVES, FetchConfig, JobConfig, options
from img2dataset_dist.errors import ROW_ERRORS, HttpStatus
from img2dataset_dist.fetchers import curl, deadlines, health, host_table, hosts, intake, profiles, resolver, robots
from img2dataset_dist.fetchers import wire as wires
from img2dataset_dist.fetchers.host_table import HostRule, load_host_table
from img2dataset_dist.fetchers.x_robots import is_disallowed
from img2dataset_dist.urls import MAX_URL_LENGTH
from img2dataset_dist.writers.layout import DESCRIPTIONS, MEDIA_TYPES, Layout

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


def rows_of(page: str) -> dict[str, str]:
    """Every `name` in the first cell of a table row to the whole row; to all of them where a page has several."""
    rows: dict[str, str] = {}
    for line in (ROOT / "docs" / page).read_text().splitlines():
        for name in re.findall(r"`(\w+)`", line.split("|")[1]) if line.startswith("|") else ():
            rows[name] = rows.get(name, "") + line
    return rows


def python_blocks() -> Iterator[object]:
    for page in PAGES:
        for number, code in enumerate(blocks(page, "python")):
            yield pytest.param(code, id=f"{page.name}-{number}")


def command(*arguments: str, folder: Path, **environment: str) -> str:
    """Run a command of the documentation; its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def with_list(server: NastyServer, tmp_path: Path) -> Path:
    """A folder with an urls.txt of 12 pictures and one failure."""
    lines = [server.url(f"/photo/photo_{n:05d}.jpg") for n in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13)]
    (tmp_path / "urls.txt").write_text("\n".join([*lines, server.url("/status/404")]) + "\n")
    return tmp_path


def on_loopback(code: str) -> str:
    """What the manual shows, with the one option that our server on this machine needs."""
    changed = code.replace('download("urls.txt", ', 'download("urls.txt", allow_private_addresses=True, ')
    return changed.replace("--url_list", "--allow_private_addresses --url_list")


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}run: python docs/generate.py"


def test_every_option_is_described() -> None:
    rows = rows_of("reference.md")
    for name, option in options().items():
        assert option.field.description, name
        assert option.field.description in rows[name].replace("\\|", "|")


def test_every_column_is_described() -> None:
    rows = rows_of("reference.md")
    inputs = pa.schema([("caption", pa.string()), ("url", pa.string())])
    for hash_name in HASHES:
        for media in ("jpg", "png", "webp"):
            layout = Layout(input_schema=inputs, exif=True, hash_name=hash_name, encode_format=media, caption=True)
            for name in layout.schema(media=True).names:
                assert DESCRIPTIONS[name].meaning in rows[name]
                assert DESCRIPTIONS[name].null in rows[name]
    assert set(EXTRA_COLUMNS) <= set(rows)


def test_no_description_without_a_column() -> None:
    columns = {"caption", "url", "key", "status", "error_message", "width", "height", "original_width"}
    columns |= {"original_height", "exif", *HASHES, "jpg", "png", "webp", "avif", *EXTRA_COLUMNS}
    columns |= {"mp4", "m4a", "mp3", "media", "parts", "stages", *MEDIA_TYPES["video"]}
    assert set(DESCRIPTIONS) == columns


@pytest.mark.parametrize("code", ROW_ERRORS)
def test_every_error_is_described(code: str) -> None:
    kind = ROW_ERRORS[code]
    row = rows_of("errors.md")["http_NNN" if kind is HttpStatus else code]
    _, _, status, transient, meaning, advice, _ = (cell.strip() for cell in row.split("|"))
    assert advice
    assert status == f"`{kind.status}`"
    assert meaning == kind.summary
    if kind is not HttpStatus:
        assert transient == ("yes" if kind.transient else "no")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        aim = (page.parent / name).resolve() if name else page
        assert aim.is_file(), f"{page.name}: {target}"
        assert aim.is_relative_to(ROOT), f"{page.name}: {target} is not in the checkout"
        if anchor:
            assert anchor in anchors(aim), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:tests|docs|img2dataset_dist|examples)/[\w/.]*\w)/?`", page.read_text())
    for name in named:
        assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("code", list(python_blocks()))
def test_python_compiles(code: str) -> None:
    compile(code, "a block of the documentation", "exec")


def test_the_readme_runs(with_list: Path) -> None:
    """Quickstart and loading, all Python of the README in one go, as a script without a guard."""
    code = [on_loopback(block) for block in blocks(ROOT / "README.md", "python")]
    assert "from img2dataset_dist import download" in code[0]
    (with_list / "readme.py").write_text("\n".join(code))
    output = command(sys.executable, "readme.py", folder=with_list)
    assert "12 of 13 rows" in output
    assert "000000000 (256, 256, 3)" in output
    assert "http_404" in output


def test_the_quickstart_command_runs(with_list: Path) -> None:
    shell = next(code for code in blocks(ROOT / "README.md", "sh") if code.startswith("img2dataset-dist"))
    command("sh", "-euc", on_loopback(shell), folder=with_list)
    assert dataset.receipts(with_list / "dataset")["00000"]["successes"] == 12
    assert "rows" in command("img2dataset-dist", "plan", "urls.txt", folder=with_list)
    command("img2dataset-dist", "preview", "dataset", "sheet.jpg", folder=with_list)
    assert (with_list / "sheet.jpg").exists()


def test_the_writer_of_the_manual_runs(with_list: Path) -> None:
    page = ROOT / "docs" / "architecture.md"
    code = next(code for code in blocks(page, "python") if "class JsonLinesWriter" in code)
    shell = next(code for code in blocks(page, "sh") if "my_writers:JsonLinesWriter" in code)
    (with_list / "my_writers.py").write_text(code)
    command("sh", "-euc", on_loopback(shell), folder=with_list)
    assert len((with_list / "rows" / "00000.jsonl").read_text().splitlines()) == 13


def test_the_count_of_errors_runs(with_list: Path) -> None:
    shutil.copy(with_list / "urls.txt", with_list / "list.txt")
    argv = ["list.txt", "--output_folder=dataset", "--output_format=parquet", "--allow_private_addresses"]
    command("img2dataset-dist", *argv, folder=with_list)
    counts, hosts = blocks(ROOT / "docs" / "errors.md", "python")
    (with_list / "count.py").write_text(counts)
    assert "http_404" in command(sys.executable, "count.py", folder=with_list)
    (with_list / "hosts.py").write_text(hosts)
    assert command(sys.executable, "hosts.py", folder=with_list) == "1 127.0.0.1 http_404\n"


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "demo.png").stat().st_size <= 200 * 1024


POLITENESS = ROOT / "docs" / "politeness.md"


def politeness() -> str:
    """The page as one line, so that words are found wherever lines end."""
    return " ".join(POLITENESS.read_text().split())


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of politeness.md, without its own two lines of heading."""
    _, _, rest = POLITENESS.read_text().partition(f"# {heading}\n")
    lines = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert lines, heading
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_the_drawings_of_the_code_are_those_of_the_manual() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for module in (fetchers, schedule):
        assert module.__doc__ is not None
        drawing = re.findall(r"^ {4}(.*[─│└┘▶◀].*|.*\(on disk.*)$", module.__doc__, re.MULTILINE)
        assert len(drawing) >= 2
        assert "\n".join(drawing) in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page: Path) -> None:
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if (found := re.search(r"(?:^| )img2dataset-dist (.*--url_list.*)", line)) is not None:
                argv = shlex.split(found[1], comments=True)
                JobConfig.from_flat(cli._flags(cli.COMMANDS["download"], argv))


def test_politeness_names_every_option_of_the_fetcher() -> None:
    listed = {cells[0].strip("`"): cells[2].strip("`") for cells in table_after("Options")}
    assert set(listed) >= {*FetchConfig.model_fields, "schedule", "lanes", "transform_timeout"}
    assert listed == {name: cli.default_text(options()[name]) for name in listed}


def test_politeness_has_the_defaults_right() -> None:
    for limit, option, default, _ in table_after("How much one host is asked"):
        value = options()[option.strip("`")].field.default
        assert default == ("none" if value is None else str(value)), limit
    page, fetch = politeness(), FetchConfig()
    for text in (
        f"`retry_max_wait` ({fetch.retry_max_wait:g} seconds)",
        f"There are {fetch.retries} by default",
        f"At most {fetch.max_redirects} (`max_redirects`)",
        f"`network_patience` ({fetch.network_patience:g} seconds)",
        f"`disallowed_header_directives`: {', '.join(f'`{name}`' for name in NO_DIRECTIVES)}.",
        f"`lanes` files ({options()['lanes'].field.default},",
        f"`robots_txt` is `{fetch.robots_txt}` by default",
    ):
        assert text in page
    assert fetch.allowed_schemes == ("http", "https")
    assert not fetch.allow_private_addresses
    assert not fetch.ignore_ssl_certificate


def test_politeness_has_the_constants_right() -> None:
    page = politeness()
    first, second, *others = (f"{seconds:g}" for seconds in hosts.PAUSES)
    for text in (
        f"down after {hosts.DOWN_AFTER} answers in a row",
        f"the last of the {hosts.DOWN_AFTER} must have",
        f"For {first} seconds nobody asks it",
        f"After {second} seconds one row is let through as a probe, then after {', '.join(others)}, and every {others[-1]} s",
        f"halved at once, down to {hosts.MIN_RATE:g} requests per second",
        f"{hosts.STRAIN:.0%} of the recent answers (about {hosts.RECENT:g})",
        f"down to {hosts.MIN_RATE_STRAINED:g} request per second",
        f"reached in about the last {hosts.MEASURED:g} requests",
        f"no more than {intake.ERROR_BODY // 2**10} KiB are read",
        f"else {intake.STEP // 2**10} KiB, then doubling",
        f"idle for more than {wires.IDLE_SECONDS} seconds",
        f"while {curl.LOOKAHEAD:,} of its rows wait",
        f"up to {robots.MAX_DELAY:g} seconds between requests",
        f"The first {robots.MAX_BYTES // 2**10} KiB of a file",
        f"At most {MAX_URL_LENGTH} characters",
        f"{math.ceil(health.SHARE * health.WINDOW)} of the last {health.WINDOW} hosts",
        f"one every {health.FIRST_PROBE:g} to {health.LAST_PROBE:g} seconds",
        f"It takes {health.WINDOW} hosts to know",
        f"up to {resolver.MAX_IN_FLIGHT} at once",
        f"at least {resolver.SHORTEST:g} seconds and at most an hour",
        f"does not exist for {resolver.MISSING_FOR:g} seconds; that nobody could tell for {resolver.FAILED_FOR:g}",
    ):
        assert text in page
    assert resolver.LONGEST == 3600
    assert profiles.MAX_HOSTS == 1_000_000
    assert f"`{profiles.FILE}`" in page
    assert wires.user_agent(None) in POLITENESS.read_text()
    for name in (*curl.AGENT_NAMES, *host_table.HOST_COLUMNS, *host_table.PROXY_SCHEMES):
        assert f"`{name}`" in page


def test_politeness_draws_the_deadlines_of_the_code() -> None:
    assert deadlines.__doc__ is not None
    drawing = re.findall(r"^ {4}(.*[─│└▶].*)$", deadlines.__doc__, re.MULTILINE)
    assert len(drawing) == 3
    assert "\n".join(drawing) in POLITENESS.read_text()


@pytest.mark.parametrize(
    ("status", "body", "row"),
    [
        (200, b"User-agent: *\nDisallow: /private/", 0),
        (200, b"User-agent: *\nDisallow: /", 1),
        (404, b"", 2),
        (403, b"", 2),
        (302, b"", 3),
        (429, b"", 4),
        (503, b"", 4),
        (None, b"", 4),
    ],
)
def test_politeness_has_the_verdicts_of_robots_txt_right(status: int | None, body: bytes, row: int) -> None:
    _, state, fetched, held = table_after("robots.txt")[row]
    now = 1000.0
    cache = robots.RobotsCache(curl.AGENT_NAMES, clock=lambda: now)
    cache.store("http://example.org", status, body)
    verdict = cache.verdict("http://example.org/a.jpg")
    assert verdict is not None
    assert (f"`{verdict.state}`", "yes" if verdict.allowed else "no") == (state, fetched)
    now += {"24 hours": 24 * 3600, "5 minutes": 300}[held] - 1
    assert cache.verdict("http://example.org/a.jpg") == verdict
    now += 1
    assert cache.verdict("http://example.org/a.jpg") is None
    assert robots.MAX_REDIRECTS == 5


def test_politeness_has_the_forms_of_x_robots_tag_right() -> None:
    for form, binds in table_after("X-Robots-Tag"):
        assert is_disallowed([form.strip("`")], curl.AGENT_NAMES, NO_DIRECTIVES) == binds.startswith("yes"), form


def test_politeness_has_the_columns_of_profiles_right() -> None:
    names = [
        name for cells in table_after("What a run learns about hosts") for name in re.findall(r"`(\w+)`", cells[0])
    ]
    assert names == list(profiles.HostProfile.__dataclass_fields__)


def host_tables(folder: Path) -> list[str]:
    """Write the host tables that the page shows, each under the name in its first line; those names."""
    names = []
    for text in blocks(POLITENESS, "yaml"):
        name = text.partition("\n")[0].removeprefix("# ")
        (folder / name).write_text(text)
        names.append(name)
    return names


def test_the_host_tables_of_politeness_mean_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret")
    monkeypatch.setenv("PROXY_PASSWORD", "pass")
    assert host_tables(tmp_path) == ["hosts.yaml", "archive.yaml", "api.yaml"]
    table = load_host_table(FetchConfig(host_table=str(tmp_path / "hosts.yaml")))
    assert table.rule("elsewhere.org") == HostRule(rate=5, connections=8)
    assert table.rule("example.org") == table.rule("img.example.org") == HostRule(rate=20, connections=8)
    assert table.rule("api.example.com") == HostRule(
        rate=2,
        connections=2,
        headers=(("Authorization", "Bearer s3cret"),),
        proxy="http://me:pass@10.0.0.1:3128",
    )
    assert table.rule("private.example.net").ignore
    archive = load_host_table(FetchConfig(host_table=str(tmp_path / "archive.yaml")))
    assert archive.rule("a.example.org") == HostRule(rate=20, connections=16)
    assert load_host_table(FetchConfig(host_table=str(tmp_path / "api.yaml"))).rule("example.com") == HostRule()


def test_the_recipes_of_politeness_run(with_list: Path) -> None:
    host_tables(with_list)
    archive, slowest, bucket, api = blocks(POLITENESS, "sh")
    command("sh", "-euc", on_loopback(archive), folder=with_list)
    rows = dataset.rows(with_list / "archive")
    assert sum(row["status"] == "success" for row in rows.values()) == 12
    assert {row["robots_txt"] for row in rows.values()} == {"missing"}
    assert "127.0.0.1," in command("sh", "-euc", slowest, folder=with_list)
    for recipe, name in ((bucket, "mine"), (api, "from_api")):
        command("sh", "-euc", on_loopback(recipe), folder=with_list)
        assert dataset.receipts(with_list / name)["00000"]["successes"] == 12
