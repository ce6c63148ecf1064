"""A server of pages and playlists, and a fake site, on this machine.

    with SiteServer() as server:
        server.url("/page/source"), server.count("/page/source"), server.total(), server.log

It serves videos, HLS and DASH made by ffmpeg, once per session. It is a proxy too, for whatever host. The fake site is an extractor for
yt-dlp, loaded only where a test says so: `plugin_folder(folder, server)` gives what goes to `yt_args["plugin_dirs"]`.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import shlex
import shutil
import subprocess
import tempfile
import textwrap
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import final
from urllib.parse import urlsplit

import imageio_ffmpeg

TYPES = {
    ".mp4": "video/mp4", ".m4s": "video/iso.segment", ".m4a": "audio/mp4", ".ts": "video/mp2t",
    ".m3u8": "application/vnd.apple.mpegurl", ".mpd": "application/dash+xml", ".vtt": "text/vtt", ".srt": "text/plain",
}  # fmt: skip
SECONDS = 3
HEIGHTS = (90, 180, 360)
VTT = "WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n\n00:01.000 --> 00:02.000\ngood\nbye\n"
SRT = "1\n00:00:00,000 --> 00:00:01,000\nhallo\n"


@functools.cache
def media_folder() -> Path:
    """Three sizes of one video, its sound, HLS of the sizes with sound, DASH with the sound apart."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sizes = [f"-s:v:{n} {height * 16 // 9 // 2 * 2}x{height}" for n, height in enumerate(HEIGHTS)]
    source = f"-f lavfi -i testsrc=d={SECONDS}:s=640x360:r=10 -f lavfi -i sine=d={SECONDS}:r=44100"
    codecs = "-c:v libx264 -preset ultrafast -g 10 -c:a aac -b:a 64k -pix_fmt yuv420p"
    for height in HEIGHTS:
        _ffmpeg(folder, f"{source} {codecs} -s {height * 16 // 9 // 2 * 2}x{height} -movflags +faststart {height}p.mp4")
        _ffmpeg(folder, f"-i {height}p.mp4 -c copy -an silent_{height}p.mp4")
    _ffmpeg(folder, "-i 90p.mp4 -c copy -vn sound.m4a")
    three = "-map 0:v -map 0:v -map 0:v"
    _ffmpeg(
        folder,
        f"{source} {three} -map 1:a -map 1:a -map 1:a {codecs} {' '.join(sizes)} -f hls -hls_time 1 -hls_list_size 0 "
        "-hls_playlist_type vod -master_pl_name master.m3u8 -hls_segment_filename hls_%v_%d.ts "
        "-var_stream_map 'v:0,a:0 v:1,a:1 v:2,a:2' hls_%v.m3u8",
    )
    _ffmpeg(
        folder,
        f"{source} {three} -map 1:a {codecs} {' '.join(sizes)} -f dash -seg_duration 1 -use_template 1 "
        "-use_timeline 1 -init_seg_name dash_init_$RepresentationID$.m4s "
        "-media_seg_name dash_$RepresentationID$_$Number$.m4s -adaptation_sets 'id=0,streams=v id=1,streams=a' dash.mpd",
    )
    return folder


def _ffmpeg(folder: Path, arguments: str) -> None:
    words = shlex.split(arguments)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *words]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL)


def page(body: str, head: str = "") -> str:
    """An HTML page."""
    return f"<!doctype html><html><head><title>A page</title>{head}</head><body>{body}</body></html>"


@functools.cache
def bomb() -> bytes:
    """1.25 GiB of zeros by gzip."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(2**24)) for _ in range(80)), packer.flush()])


FILLER = "<p>" + "Nothing but words. " * 400 + "</p>"
PAGES: dict[str, str] = {
    "/page/video": page('<video src="/media/180p.mp4" controls></video>'),
    "/page/source": page(
        '<video><source src="/media/90p.mp4" type="video/mp4" height="90" label="90p">'
        '<source src="/media/360p.mp4" type="video/mp4" height="360" label="360p"></video>'
    ),
    "/page/og": page("words", '<meta property="og:video" content="/media/180p.mp4">'
                     '<meta property="og:video:type" content="video/mp4">'),
    "/page/jsonld": page("words", '<script type="application/ld+json">{"@context": "https://schema.org", "@type": '
                         '"VideoObject", "name": "A", "contentUrl": "BASE/media/180p.mp4"}</script>'),
    "/page/hls": page('<video><source src="/media/master.m3u8" type="application/x-mpegURL"></video>'),
    "/page/two": page('<video src="/media/90p.mp4"></video><video src="/media/180p.mp4"></video>'),
    "/page/none": page(FILLER + '<a href="/login">Log in</a> or subscribe'),
    "/page/short": page('Hello. <a href="/login">Log in</a>'),
    "/page/wall": page("<h1>Please verify you are a human</h1>"),
    "/page/challenge": page(FILLER).replace("A page", "Just a moment..."),
    "/page/geo": page("<p>This video is not available in your country.</p>"),
    "/page/private": page("<p>This video is private.</p>"),
    "/page/gone": page("<p>This video has been removed by the user.</p>"),
    "/page/file": page('<video src="file:///etc/passwd"></video>'),
    "/page/inside": page('<video src="INSIDE/media/90p.mp4"></video>'),
    "/page/inner-hls": page('<video><source src="/playlist/inside.m3u8" type="application/x-mpegURL"></video>'),
}  # fmt: skip
PLAYLISTS: dict[str, str] = {
    "/playlist/file.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "/playlist/path.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
    "/playlist/inside.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nINSIDE/a.ts\n#EXT-X-ENDLIST\n",
    "/playlist/key.m3u8": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="file:///etc/passwd"\n'
    "#EXTINF:1,\n/media/hls_0_0.ts\n#EXT-X-ENDLIST\n",
    "/playlist/live.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/media/hls_0_0.ts\n",
    "/playlist/drm.m3u8": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://x"\n'
    "#EXTINF:1,\n/media/hls_0_0.ts\n#EXT-X-ENDLIST\n",
    "/playlist/hole.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/media/hls_0_0.ts\n#EXTINF:1,\n/gone.ts\n#EXT-X-ENDLIST\n",
    "/playlist/xspf": '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/"><trackList><track>'
    "<location>file:///etc/passwd</location></track><track><location>INSIDE/a.mp4</location></track>"
    "</trackList></playlist>",
    "/playlist/rss": '<?xml version="1.0"?><rss version="2.0"><channel><title>x</title><item><title>a</title>'
    '<enclosure url="INSIDE/a.mp4"/></item></channel></rss>',
}  # fmt: skip
STATUS = {"/status/404": 404, "/status/403": 403, "/status/429": 429, "/status/500": 500, "/status/503": 503}


@final
class SiteServer:
    """The server as a context manager; see the module.

    Attributes:
        log: method, path and headers of each request.
        blocked: paths that answer 429 for so many more requests.
        redirects: path to where it leads.
        api: path to what gives its status and JSON.
        walls: path to what gives status, headers and HTML for the headers of a request, or None for what is there.
        robots: text of robots.txt; "": there is none.
        inside: what stands in some pages and playlists as an address that must not be asked.
    """

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._address = address
        self.media = media_folder()
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.blocked: collections.Counter[str] = collections.Counter()
        self.redirects: dict[str, str] = {}
        self.api: dict[str, Callable[[], tuple[int, str]]] = {}
        self.walls: dict[str, Callable[[dict[str, str]], tuple[int, dict[str, str], str] | None]] = {}
        self.robots = ""
        self.inside = "http://127.0.0.1:9"

    def __enter__(self) -> SiteServer:
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = ThreadingHTTPServer(self._address, Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def count(self, path: str) -> int:
        return sum(seen == path for _, seen, _ in self.log)

    def total(self) -> int:
        return len(self.log)

    def forget(self) -> None:
        self.log.clear()

    def filled(self, text: str) -> bytes:
        return text.replace("BASE", self.url("")).replace("INSIDE", self.inside).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: SiteServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.server_of
        owner.log.append((self.command, self.path, dict(self.headers.items())))
        with contextlib.suppress(OSError):
            self._serve(owner, urlsplit(self.path).path)  # as a proxy gets it, it has a host

    do_HEAD = do_GET  # noqa: N815 (the name that http.server looks for)

    def _serve(self, owner: SiteServer, path: str) -> None:
        wall = owner.walls[path](dict(self.headers.items())) if path in owner.walls else None
        if wall is not None:
            status, headers, text = wall
            self._send(status, "text/html", text.encode(), headers)
        elif owner.blocked[path] > 0:
            owner.blocked[path] -= 1
            self._send(429, "text/html", b"slow down", {"Retry-After": "0"})
        elif path in owner.api:
            status, text = owner.api[path]()
            self._send(status, "application/json", text.encode())
        elif path in owner.redirects:
            self._send(302, "text/html", b"", {"Location": owner.redirects[path]})
        elif path in PAGES:
            self._send(200, "text/html", owner.filled(PAGES[path]))
        elif path in PLAYLISTS:
            kind = "application/vnd.apple.mpegurl" if path.endswith(".m3u8") else "text/xml"
            self._send(200, kind, owner.filled(PLAYLISTS[path]))
        elif path in STATUS:
            extra = {"Retry-After": "1"} if path.endswith("429") else {}
            self._send(STATUS[path], "text/html", page(f"error {STATUS[path]}").encode(), extra)
        elif path == "/robots.txt":
            self._send(200 if owner.robots else 404, "text/plain", owner.robots.encode())
        elif path == "/status/cloudflare":
            self._send(403, "text/html", page("x").encode(), {"cf-mitigated": "challenge"})
        elif path == "/subtitles/en.vtt":
            self._send(200, "text/vtt", VTT.encode())
        elif path == "/subtitles/de.srt":
            self._send(200, "text/plain", SRT.encode())
        elif path in ("/drip", "/drip.mp4"):
            self._endless(b"<html>" if path == "/drip" else b"\0", pause=0.05, kind=TYPES.get(path[-4:], "text/html"))
        elif path in ("/endless", "/endless.mp4"):
            self._endless(b"a" * 65536, pause=0.0, kind=TYPES.get(path[-4:], "text/html"))
        elif path == "/bomb":
            self._send(200, "text/html", bomb(), {"Content-Encoding": "gzip"})
        elif path == "/hang":
            time.sleep(20)
        elif path == "/reset":
            self.close_connection = True
        elif path == "/zero.mp4":
            self._send(200, "video/mp4", b"")
        else:
            self._file(owner, path)

    def _file(self, owner: SiteServer, path: str) -> None:
        file = owner.media / path.removeprefix("/media/")
        if not path.startswith("/media/") or not file.is_file():
            self._send(404, "text/html", page("not here").encode())
            return
        self._send(200, TYPES.get(file.suffix, "application/octet-stream"), file.read_bytes())

    def _endless(self, piece: bytes, *, pause: float, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        until = time.monotonic() + 30
        while time.monotonic() < until:
            self.wfile.write(piece)
            time.sleep(pause)

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


PLUGIN = '''
"""A fake site: /fake/NAME does what the branch of that name says."""

import os
import socket
import subprocess
import time

from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError, GeoRestrictedError, UserNotLive

SAYS = {
    "bot": "Sign in to confirm you\\u2019re not a bot. Use --cookies-from-browser or --cookies",
    "private": "Private video. Sign in if you've been granted access to this video",
    "members": "Join this channel to get access to members-only content like this video",
    "removed": "This video has been removed by the uploader",
    "unavailable": "Video unavailable",
    "age": "Sign in to confirm your age. This video may be inappropriate for some users.",
    "drm": "This video is DRM protected",
    "odd": "Unable to extract the frobnicator; please report this issue on  https://example.org/issues",
}


class FakeSiteIE(InfoExtractor):
    _VALID_URL = r"https?://127\\.0\\.0\\.1:\\d+/fake/(?P<id>[\\w-]+)"

    def _real_extract(self, url):
        name = self._match_id(url)
        base = url.partition("/fake/")[0]
        if name in SAYS:
            raise ExtractorError(SAYS[name], expected=True)
        if name == "geo":
            raise GeoRestrictedError("This video is not available", countries=["NZ"])
        if name == "notlive":
            raise UserNotLive(video_id=name)
        if name == "crash":
            raise ZeroDivisionError("oops")
        if name == "die":
            os.abort()
        if name == "sleep":
            time.sleep(60)
        if name.startswith("try-"):
            return self.naughty(name, base)
        if name == "flaky":
            self._download_json(f"{base}/api/flaky", name)
        formats = []
        for height in (90, 180, 360):
            formats.append({"format_id": f"s{height}", "url": f"{base}/media/silent_{height}p.mp4", "height": height,
                            "width": height * 16 // 9, "vcodec": "avc1.42c01e", "acodec": "none", "ext": "mp4"})
        if name in ("apart", "audio"):
            for rate in (22050, 44100, 48000):
                formats.append({"format_id": f"a{rate}", "url": f"{base}/media/sound.m4a?{rate}", "vcodec": "none",
                                "acodec": "mp4a.40.2", "asr": rate, "ext": "m4a", "abr": rate / 1000})
        if name not in ("apart", "audio", "silent"):
            for height in (90, 180, 360):
                formats.append({"format_id": f"b{height}", "url": f"{base}/media/{height}p.mp4", "height": height,
                                "vcodec": "avc1.42c01e", "acodec": "mp4a.40.2", "asr": 44100, "ext": "mp4"})
        info = {"id": name, "title": "T\\ud800itle", "formats": formats, "description": "d" * 50000, "duration": 3,
                "view_count": 7, "average_rating": float("nan"), "tags": ["a", "b"]}
        if name == "live":
            info["is_live"] = True
        if name == "locked":
            info["formats"] = [{**one, "has_drm": True} for one in formats]
        if name == "rtmp":
            info["formats"] = [{"url": "rtmp://127.0.0.1/x", "ext": "flv", "format_id": "r"}]
        if name == "texts":
            info["subtitles"] = {"en": [{"url": f"{base}/subtitles/en.vtt", "ext": "vtt"}],
                                 "fr": [{"url": f"{base}/gone.vtt", "ext": "vtt"}],
                                 "xx": [{"url": f"{base}/x.ttml", "ext": "ttml"}]}
            info["automatic_captions"] = {"de": [{"url": f"{base}/subtitles/de.srt", "ext": "srt"}]}
        return info

    def naughty(self, name, base):
        what = {
            "try-connect": lambda: socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2]))),
            "try-connect-ex": lambda: socket.socket().connect_ex(("127.0.0.1", 9)),
            "try-udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
            "try-unix": lambda: socket.socket(socket.AF_UNIX).connect("/run/x"),
            "try-listen": lambda: socket.create_server(("127.0.0.1", 8765)),
            "try-read": lambda: open("/etc/passwd").read(),
            "try-read-home": lambda: open(os.path.expanduser("~root/.bashrc")).read(),
            "try-read-os": lambda: os.open("/etc/hostname", os.O_RDONLY),
            "try-write": lambda: open("/tmp/guard-was-here", "w"),
            "try-remove": lambda: os.remove(os.path.expanduser("/tmp/nothing-there")),
            "try-rename": lambda: os.rename("/tmp/nothing-there", "/tmp/nothing-here"),
            "try-run": lambda: subprocess.run(["/bin/true"]),
            "try-run-other": lambda: subprocess.run(["/bin/false"]),
            "try-system": lambda: os.system("true"),
            "try-fork": lambda: os.fork(),
            "try-spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
            "try-exec": lambda: os.execv("/bin/true", ["true"]),
            "try-dlopen": lambda: __import__("ctypes").CDLL("libm.so.6"),
            "try-solver": lambda: __import__("yt_dlp_ejs.yt.solver").yt.solver.core(),
            "try-sqlite": lambda: __import__("sqlite3").connect("/tmp/x.db"),
        }[name]
        try:
            what()
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            raise ExtractorError(f"stopped by {kinds[0]}", expected=True)
        raise ExtractorError("it was done", expected=True)
'''


def plugin_folder(folder: Path) -> str:
    """A folder for `plugin_dirs`, with the fake site in it."""
    package = folder / "fake" / "yt_dlp_plugins" / "extractor"
    package.mkdir(parents=True, exist_ok=True)
    (package / "fakesite.py").write_text(textwrap.dedent(PLUGIN))
    return str(folder)
