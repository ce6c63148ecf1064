"""docs/results.md: what the page shows is run, over real results and at dataset scale, and all engines agree."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support import dataset
from support.server import HOSTS, NastyServer

from img2dataset_dist import download
from img2dataset_dist.writers.layout import Layout

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "results.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
QUERIES = [code for language, code in BLOCKS if language == "sql"]
SUCCESS_BY_HOST, FAILURES, REFUSALS, DOWNLOADED, SLOWEST, TWICE, COPIES, ALIKE = QUERIES
PYTHON = [code for language, code in BLOCKS if language == "python"]
ON_S3 = next(code for code in PYTHON if "s3fs" in code)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    """The session that the page's getOrCreate() finds, of this machine alone."""
    sql = pytest.importorskip("pyspark.sql")
    builder = sql.SparkSession.builder.master("local[2]").config("spark.driver.host", "127.0.0.1")
    builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.ui.enabled", "false")
    session = builder.config("spark.sql.shuffle.partitions", "4").getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def run_page(folder: Path, rows_in_a_shard: int = 10_000) -> dict[str, Any]:
    """All Python of the page in one namespace, with the `dataset` of a folder; the object store has its own test."""
    names: dict[str, Any] = {}
    for code in PYTHON:
        if code != ON_S3:
            # Spark looks for relative paths where its JVM was started
            changed = code.replace('"dataset', f'"{folder}/dataset').replace("10_000", str(rows_in_a_shard))
            exec(changed, names)
    return names


def ask(names: dict[str, Any], query: str) -> list[dict[str, Any]]:
    """The answer of DuckDB, if Spark gives the same; with `pytest -s` also how long each took."""
    answers = [timed(names, engine, query) for engine in ("by_duckdb", "by_spark")]
    assert answers[0] == answers[1], query
    return answers[0]


def timed(names: dict[str, Any], engine: str, query: str) -> list[dict[str, Any]]:
    began = time.monotonic()
    rows = names[engine](query)
    print(f"{engine} {time.monotonic() - began:6.2f} s  {' '.join(query.split())[:70]}")
    return [{name: plain(value) for name, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """A number as both engines give it: of other types, and with other last digits."""
    return value if value is None or isinstance(value, str) else round(float(value), 6)


def counts(table: pa.Table, *columns: str) -> dict[Any, tuple[int, int | None]]:
    """Values of the columns to rows and bytes, as `count_by` of the page tells them."""
    return {tuple(row[c] for c in columns): (row["total"], row["bytes"]) for row in table.to_pylist()}


@pytest.fixture(scope="module")
def made(server: NastyServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the `dataset` of a list with copies, look-alikes, three hosts and failures of several kinds."""
    folder = tmp_path_factory.mktemp("made")
    good = [server.url(f"/photo/photo_{n:05d}.jpg", host=HOSTS[n % 2]) for n in (0, 1, 2, 4, 5, 6)]
    again = [f"{url}?copy=1" for url in good[:3]]
    bad = [server.url(f"/status/{status}", host=HOSTS[2]) for status in (403, 403, 404)] + [server.refused(), "no url"]
    (folder / "urls.txt").write_text("\n".join(good + again + bad) + "\n")
    options = {"compute_phash": True, "progress": "none", "allow_private_addresses": True, "processes_count": 1}
    download(
        str(folder / "urls.txt"),
        output_folder=str(folder / "dataset"),
        output_format="webdataset",
        number_sample_per_shard=4,
        image_size=64,
        **options,
    )
    return folder


def test_the_page_runs_over_real_results(spark: Any, made: Path) -> None:
    (made / "dataset" / "00009.parquet").write_bytes(b"of a shard that is not complete")
    names = run_page(made, rows_in_a_shard=4)
    (made / "dataset" / "00009.parquet").unlink()
    rows = dataset.rows(made / "dataset")
    assert (names["successes"], names["count"]) == (9, 14)
    assert names["codes"] == Counter(row["error_code"] for row in rows.values() if row["error_code"])
    failures = {row["error_code"]: row["total"] for row in ask(names, FAILURES)}
    assert failures == names["codes"] == {"http_403": 2, "http_404": 1, "connect": 1, "bad_url": 1}
    hosts = {row["host"]: (row["total"], row["successes"]) for row in ask(names, SUCCESS_BY_HOST)}
    assert hosts == {HOSTS[0]: (7, 6), HOSTS[1]: (3, 3), HOSTS[2]: (3, 0), "": (1, 0)}
    assert ask(names, REFUSALS) == [{"host": HOSTS[2], "total": 2}]
    assert {row["status"]: row["total"] for row in ask(names, DOWNLOADED)} == {"success": 9, "failed_to_download": 5}
    assert ask(names, SLOWEST) == []  # no host has 100 answers
    assert [row["copies"] for row in ask(names, TWICE)] == [2, 2, 2]
    copies = [row["key"] for row in ask(names, COPIES)]
    assert {rows[key]["url"].partition("?")[2] for key in copies} == {"copy=1"}
    alike = {(row["first_key"], row["second_key"]) for row in names["by_duckdb"](ALIKE)}
    assert {second for _, second in alike} >= set(copies)
    by_host = counts(names["by_host"], "host", "status")
    assert by_host[HOSTS[2], "failed_to_download"][0] == 3
    assert by_host[HOSTS[1], "success"] == (3, sum(r["bytes"] for r in rows.values() if HOSTS[1] in (r["url"] or "")))
    stored = dict(names["images"](copies))
    assert {key: hashlib.sha256(image).hexdigest() for key, image in stored.items()} == {
        key: rows[key]["stored_hash"] for key in copies
    }


def test_the_glob_finds_what_the_receipts_say(made: Path) -> None:
    folder = made / "dataset"
    assert [path.stem for path in sorted(folder.glob("[0-9]*.parquet"))] == dataset.done(folder)
    assert "`dataset/[0-9]*.parquet`" in PAGE


def test_results_are_read_from_an_object_store(spark: Any, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        s3fs.S3FileSystem().put(str(made / "dataset"), "bucket/dataset", recursive=True)
        names = run_page(made, rows_in_a_shard=4)
        exec(ON_S3, names)
        found = {row["status"]: row["total"] for row in names["on_s3"]}
        assert found == {"success": 9, "failed_to_download": 5}
        assert names["shards"].count_rows() == 14
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


SHARDS, ROWS = 500, 10_000
N_HOSTS = 2000
CODES = ("http_404", "http_403", "timeout_total", "dns", "decode_error")


class Made:
    """What is known of generated rows: all of it follows from their numbers."""

    def __init__(self, start: int, stop: int) -> None:
        self.row = np.arange(start, stop, dtype=np.int64)
        self.host = self.row * 2654435761 % 2**32 % N_HOSTS
        self.failed = self.row % 10 < 3
        self.code = self.row % 7 % len(CODES)
        self.bytes = self.row % 1000 + 1
        self.latency = (self.host + self.row % 5).astype(np.int32)
        # every 1000th row has the picture of the row before it, or that of row 11: one has many copies
        same = np.where(self.row % 3000 == 5, 11, self.row - 1)
        self.picture = np.where(self.row % 1000 == 5, same, self.row)

    def table(self, schema: pa.Schema) -> pa.Table:
        """The rows as the writers would have written them, other columns null."""
        text = pc.cast(pa.array(self.row), pa.string())
        code = pa.array(CODES).take(pa.array(self.code))
        status = pc.if_else(pc.equal(code, "decode_error"), "failed_to_resize", "failed_to_download")
        host = pc.cast(pa.array(self.host), pa.string())
        sha256 = pc.utf8_lpad(pc.cast(pa.array(self.picture), pa.string()), 64, "0")
        failed, null = pa.array(self.failed), pa.scalar(None, pa.string())
        values: dict[str, Any] = {
            "url": pc.binary_join_element_wise("https://Host-", host, ".example.org/pictures/", text, ".jpg", ""),
            "key": pc.utf8_lpad(text, 9, "0"),
            "status": pc.if_else(failed, status, "success"),
            "error_code": pc.if_else(failed, code, null),
            "bytes": pa.array(self.bytes),
            "first_byte_ms": pa.array(self.latency, mask=self.failed),
            "sha256": pc.if_else(failed, null, sha256),
        }
        return pa.table([values.get(f.name, pa.nulls(len(self.row), f.type)) for f in schema], schema=schema)


@pytest.fixture
def generated(tmp_path: Path) -> Iterator[Path]:
    """A folder with a `dataset` of 5 million rows in the schema of the writers, without images; 120 MB."""
    (tmp_path / "dataset").mkdir()
    url = pa.schema([("url", pa.string())])
    schema = Layout(
        input_schema=url, exif=True, hash_name="sha256", encode_format="jpg", caption=False, phash=True
    ).schema()
    for number in range(SHARDS):
        table = Made(number * ROWS, (number + 1) * ROWS).table(schema)
        stem = tmp_path / "dataset" / f"{number:05d}"
        pq.write_table(table, f"{stem}.parquet", compression="zstd", use_dictionary=["status", "error_code"])
        found = Counter(table["error_code"].drop_null().to_pylist())
        receipt = {"count": ROWS, "successes": ROWS - found.total(), "error_codes": dict(found)}
        Path(f"{stem}_stats.json").write_text(json.dumps(receipt))
    tarfile.open(tmp_path / "dataset" / "00000.tar", "w").close()
    yield tmp_path
    shutil.rmtree(tmp_path / "dataset")


def test_the_page_runs_at_the_scale_of_datasets(spark: Any, generated: Path) -> None:
    size = sum(path.stat().st_size for path in (generated / "dataset").iterdir())
    assert size < 300e6
    began = time.monotonic()
    names = run_page(generated)
    print(f"\n{size / 1e6:.0f} MB; opened, counted by pyarrow: {time.monotonic() - began:.1f} s")
    all_rows = Made(0, SHARDS * ROWS)
    good = ~all_rows.failed
    assert (names["count"], names["successes"]) == (SHARDS * ROWS, good.sum())
    answers = {query: ask(names, query) for query in (SUCCESS_BY_HOST, FAILURES, DOWNLOADED)}
    answers |= {query: timed(names, "by_duckdb", query) for query in (REFUSALS, SLOWEST, TWICE, COPIES)}

    codes = Counter({code: int((all_rows.failed & (all_rows.code == n)).sum()) for n, code in enumerate(CODES)})
    assert {row["error_code"]: row["total"] for row in answers[FAILURES]} == codes == names["codes"]

    totals = np.bincount(all_rows.host, minlength=N_HOSTS)
    successes = np.bincount(all_rows.host[good], minlength=N_HOSTS)
    expected = sorted((-totals[n], f"host-{n}.example.org", successes[n]) for n in range(N_HOSTS))[:20]
    assert [(-row["total"], row["host"], row["successes"]) for row in answers[SUCCESS_BY_HOST]] == expected
    by_host = counts(names["by_host"], "host", "status")
    for minus, host, many in expected:
        statuses = ("success", "failed_to_download", "failed_to_resize")
        assert by_host[host, "success"][0] == many
        assert sum(by_host.get((host, status), (0, 0))[0] for status in statuses) == -minus

    refused = all_rows.failed & (all_rows.code == CODES.index("http_403"))
    assert answers[REFUSALS][0]["total"] == np.bincount(all_rows.host[refused]).max()
    stored = next(row for row in answers[DOWNLOADED] if row["status"] == "success")
    assert (stored["total"], stored["bytes"], stored["largest"]) == (good.sum(), all_rows.bytes[good].sum(), 1000)
    assert sum(total for total, _ in counts(names["by_code"], "error_code", "status").values()) == SHARDS * ROWS

    slowest = answers[SLOWEST][0]
    latency = all_rows.latency[good & (all_rows.host == int(slowest["host"][5:].partition(".")[0]))]
    assert (slowest["half_below"], slowest["most_below"]) == (np.median(latency), round(np.percentile(latency, 95), 6))
    assert slowest["most_below"] >= max(row["most_below"] for row in answers[SLOWEST])

    _, copies = np.unique(all_rows.picture[good], return_counts=True)
    assert answers[TWICE][0]["copies"] == copies.max()
    assert answers[TWICE][0]["first_key"] == "000000005"  # row 11, whose picture it has, failed
    assert len(answers[COPIES]) == (copies - 1).sum()
