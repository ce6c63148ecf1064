"""The documentation is true: generated pages are up to date, links lead somewhere, and code blocks work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from support import dataset
from support.server import NastyServer

from img2dataset_dist.config import EXTRA_COLUMNS, HASHES, options
from img2dataset_dist.errors import ROW_ERRORS, HttpStatus
from img2dataset_dist.writers.layout import DESCRIPTIONS, Layout

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(page.read_text()) if name == language]


def rows_of(page: str) -> dict[str, str]:
    """Every `name` in the first cell of a table row to the whole row."""
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return {name: line for line in lines if line.startswith("|") for name in re.findall(r"`(\w+)`", line.split("|")[1])}


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
    changed = code.replace("download(", "download(allow_private_addresses=True, ")
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
    columns |= {"original_height", "exif", *HASHES, "jpg", "png", "webp", *EXTRA_COLUMNS}
    assert set(DESCRIPTIONS) == columns


@pytest.mark.parametrize("code", ROW_ERRORS)
def test_every_error_is_described(code: str) -> None:
    kind = ROW_ERRORS[code]
    row = rows_of("errors.md")["http_NNN" if kind is HttpStatus else code]
    _, _, status, transient, meaning, _ = (cell.strip() for cell in row.split("|"))
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
    (code,) = blocks(ROOT / "docs" / "errors.md", "python")
    (with_list / "count.py").write_text(code)
    assert "http_404" in command(sys.executable, "count.py", folder=with_list)


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "demo.png").stat().st_size <= 200 * 1024
