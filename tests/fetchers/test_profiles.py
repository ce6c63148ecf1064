"""What was learnt about hosts: pieces of workers, folded into one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from img2dataset_dist.errors import ConfigError
from img2dataset_dist.fetchers import profiles
from img2dataset_dist.fetchers.profiles import FILE, PIECES, HostProfile, merge_pieces, read_profiles, write_piece
from img2dataset_dist.storage import Folder

A = HostProfile(
    host="a.example",
    requests=100,
    successes=90,
    errors=10,
    slow_downs=3,
    rate=2.5,
    latency_ms=200,
    last_seen="2025-01-02T03:04:05+00:00",
)
B = replace(A, host="b.example", rate=None, last_seen="2025-01-01T00:00:00Z", requests=7)


@pytest.fixture(params=["disk", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "disk":
        yield Folder.at(str(tmp_path / "dataset"), "_img2dataset/scratch")
        return
    yield Folder.at("memory://profiles-test/dataset")
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm("/profiles-test", recursive=True)


def merged(output: Folder) -> dict[str, HostProfile]:
    merge_pieces(output)
    assert output.sub(PIECES).names() == []
    return read_profiles(output.url(FILE))


def test_round_trip(output: Folder) -> None:
    write_piece(output, "worker-0", [A, B])
    assert output.sub(PIECES).names() == ["worker-0.csv"]
    assert merged(output) == {"a.example": A, "b.example": B}
    assert (output.read(FILE) or b"").splitlines()[:2] == [
        b"host,requests,successes,errors,slow_downs,rate,latency_ms,last_seen",
        b"a.example,100,90,10,3,2.5,200,2025-01-02T03:04:05+00:00",
    ]


def test_pieces_of_a_run_and_the_file_of_an_earlier_one(output: Folder) -> None:
    old = replace(A, rate=1.0, last_seen="2024-01-01T00:00:00+00:00", latency_ms=100)
    write_piece(output, "old", [old, replace(B, rate=4.0)])
    merge_pieces(output)
    write_piece(output, "w0", [replace(A, rate=8.0), B])
    write_piece(output, "w1", [replace(A, rate=5.0, requests=200, latency_ms=400)])
    write_piece(output, "w2", [replace(A, rate=None, requests=0, successes=0, errors=0, slow_downs=0, latency_ms=9)])
    found = merged(output)
    assert found["a.example"] == replace(
        A, requests=400, successes=270, errors=30, slow_downs=9, rate=5.0, latency_ms=275
    )
    assert found["b.example"] == replace(B, requests=14, successes=180, errors=20, slow_downs=6, rate=4.0)


def test_no_pieces_no_file(output: Folder) -> None:
    merge_pieces(output)
    write_piece(output, "w0", [])
    merge_pieces(output)
    assert output.files_below() == []


def test_a_piece_is_replaced_by_one_of_its_name(output: Folder) -> None:
    write_piece(output, "w0", [A])
    write_piece(output, "w0", [B])
    assert merged(output) == {"b.example": B}


TORN = [
    b"",
    b"\xff\xfe\x00",
    b"\0" * 100,
    b"host,requests\na.example,1\n",
    b"key,url\n1,2\n",
    b'"',
    b"<html>",
    b"host,requests,successes,errors,slow_downs,rate,latency_ms,last_seen\na.example,5,5,0,0,,1,2025-01-02T03:0",
    b"host,requests,successes,errors,slow_downs,rate,latency_ms,last_seen\na.example,5,5",
    b'host,requests,successes,errors,slow_downs,rate,latency_ms,last_seen\n"a.example,5,5,0,0,,1,2025-01-02T03:04:05Z\n',
    b"host,requests,successes,errors,slow_downs,rate,latency_ms,last_seen\na.example,5,5,0,0,inf,1,2025-01-02T03:04:05Z\n",
    b"host,requests,successes,errors,slow_downs,rate,latency_ms,last_seen\na.example,-5,5,0,0,,1,2025-01-02T03:04:05Z\n",
]


def test_torn_and_foreign_pieces_are_passed_over(output: Folder) -> None:
    write_piece(output, "w0", [A])
    for number, content in enumerate(TORN):
        output.write_whole(f"{PIECES}/torn{number}.csv", content)
    assert merged(output) == {"a.example": A}


def test_any_cut_of_a_piece_is_passed_over_or_whole(tmp_path: Path) -> None:
    output = Folder.at(str(tmp_path))
    write_piece(output, "w", [replace(A, last_seen="2025-01-02T03:04:05Z")])
    whole = output.read(f"{PIECES}/w.csv") or b""
    for size in range(len(whole) - 2):
        (tmp_path / FILE).unlink(missing_ok=True)
        output.write_whole(f"{PIECES}/w.csv", whole[:size])
        found = merged(output)
        assert {host: replace(one, last_seen="") for host, one in found.items()} in (
            {},
            {"a.example": replace(A, last_seen="")},
        )


def test_a_broken_file_does_not_stop_the_merge(output: Folder) -> None:
    output.write_whole(FILE, b"host,requ")
    write_piece(output, "w0", [A])
    assert merged(output) == {"a.example": A}


def test_other_files_beside_the_pieces_are_left_alone(output: Folder) -> None:
    output.write_whole(f"{PIECES}/README.md", b"mine")
    write_piece(output, "w0", [A])
    merge_pieces(output)
    assert output.sub(PIECES).names() == ["README.md"]


def test_pieces_stay_when_the_file_cannot_be_written(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_piece(output, "w0", [A])

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write_whole", full)
        with pytest.raises(OSError, match="no space"):
            merge_pieces(output)
    assert merged(output) == {"a.example": A}


def test_the_hosts_with_most_requests_are_kept(output: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "MAX_HOSTS", 10)
    for piece in range(5):
        write_piece(output, f"w{piece}", [replace(A, host=f"h{n}.example", requests=n) for n in range(piece, 100, 5)])
    assert set(merged(output)) == {f"h{n}.example" for n in range(90, 100)}


def test_odd_host_names_survive(output: Folder) -> None:
    odd = replace(A, host='a,"b"\nc')
    write_piece(output, "w0", [odd])
    assert merged(output) == {odd.host: odd}


def test_files_that_people_edit(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(
        b"\xef\xbb\xbfnote,last_seen,host,requests,successes,errors,slow_downs,rate,latency_ms\r\n"
        b"slow!,2025-01-02T03:04:05+00:00,a.example,100,90,10,3,2.5,200\r\n\r\n"
    )
    assert read_profiles(str(path)) == {"a.example": A}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: column 'host' is missing"),
        ("host,requests,successes\n", "line 1: column 'errors' is missing"),
        ("{HEADER}\na.example,1,1,0,0,,5\n", "line 2: has 7 fields instead of 8"),
        ("{HEADER}\na.example,1,1,0,0,fast,5,2025-01-02T03:04:05Z\n", "line 2: rate is 'fast'"),
        ("{HEADER}\n\na.example,1,1,0,0,0,5,2025-01-02T03:04:05Z\n", "line 3: rate is '0'"),
        ("{HEADER}\na.example,x,1,0,0,,5,2025-01-02T03:04:05Z\n", "line 2: requests is 'x'"),
        ("{HEADER}\n,1,1,0,0,,5,2025-01-02T03:04:05Z\n", "line 2: host"),
        ("{HEADER}\na.example,1,1,0,0,,5,yesterday\n", "line 2: last_seen"),
        ('{HEADER}\n"a', "line 2: "),
    ],
)
def test_files_that_are_no_profiles(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content.replace("{HEADER}", ",".join(profiles._COLUMNS)))
    with pytest.raises(ConfigError) as caught:
        read_profiles(str(path))
    assert str(caught.value).startswith(f"host_profiles={str(path)!r}, {words}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.csv"), "memory://none.csv", "nosuch://x"):
        with pytest.raises(ConfigError, match="host_profiles="):
            read_profiles(path)
