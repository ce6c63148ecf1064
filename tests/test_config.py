"""Options: names, defaults and ranges are the interface, and a wrong one is explained."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from img2dataset_dist import config, download
from img2dataset_dist.config import EXTRA_COLUMNS, JobConfig, nearest, options
from img2dataset_dist.errors import ConfigError

INF = float("inf")
DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
PEER: dict[str, Any] = {
    "image_size": 256,
    "output_folder": "images",
    "processes_count": None,  # the peer's is 1; None is all cores
    "resize_mode": "border",
    "resize_only_if_bigger": False,
    "upscale_interpolation": "lanczos",
    "downscale_interpolation": "area",
    "encode_quality": 95,
    "encode_format": "jpg",
    "skip_reencode": False,
    "output_format": "files",
    "input_format": "txt",
    "url_col": "url",
    "caption_col": None,
    "bbox_col": None,
    "thread_count": 256,
    "number_sample_per_shard": 10000,
    "extract_exif": True,
    "save_additional_columns": None,
    "timeout": 10,
    "enable_wandb": False,
    "wandb_project": "img2dataset",
    "oom_shard_count": 5,
    "compute_hash": "sha256",
    "verify_hash": None,
    "distributor": "multiprocessing",
    "subjob_size": 1000,
    "retries": 0,
    "disable_all_reencoding": False,
    "min_image_size": 0,
    "max_image_area": INF,
    "max_aspect_ratio": INF,
    "incremental_mode": "incremental",
    "max_shard_retry": 1,
    "user_agent_token": None,
    "disallowed_header_directives": DIRECTIVES,
    "ignore_ssl_certificate": False,
}
"""The peer's options and defaults behind `url_list`, in the order of its positional arguments."""

CHOICES = {
    "resize_mode": ["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"],
    "upscale_interpolation": ["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"],
    "downscale_interpolation": ["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"],
    "encode_format": ["jpg", "png", "webp", "avif"],
    "input_format": ["txt", "csv", "tsv", "json", "jsonl", "txt.gz", "csv.gz", "tsv.gz", "json.gz", "jsonl.gz", "parquet", "webdataset"],
    "compute_hash": ["md5", "sha256", "sha512", None],
    "incremental_mode": ["incremental", "overwrite", "extend"],
}  # fmt: skip


def make(**values: Any) -> JobConfig:
    """A job on a list with columns; the best PNG compression has to be asked for."""
    quality = {"encode_quality": 9} if values.get("encode_format") == "png" else {}
    return JobConfig.from_flat({"url_list": "l.csv", "input_format": "csv", **quality, **values})


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        make(**values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_option_of_the_peer_is_there_with_its_default() -> None:
    flat = JobConfig.from_flat({"url_list": "urls.txt"}).flat()
    assert {name: flat[name] for name in PEER} == PEER
    assert flat["url_list"] == "urls.txt"
    assert list(flat) == list(options())


def test_arguments_of_download_are_the_options() -> None:
    arguments = inspect.signature(download).parameters
    assert set(arguments) == set(options())
    positional = [name for name, a in arguments.items() if a.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == ["url_list", *PEER], "the peer's positions"
    assert positional == list(arguments)[: len(positional)]
    for name, argument in arguments.items():
        field = options()[name].field
        if field.is_required():
            assert argument.default is inspect.Parameter.empty
        elif name == "disallowed_header_directives":
            assert argument.default is None, "stands for the default"
        else:
            assert argument.default == field.default, name
            assert isinstance(argument.default, (type(field.default), config.LeftFloat)), name


def test_every_option_is_described() -> None:
    for name, option in options().items():
        assert option.field.description, name
        assert option.field.description.endswith("."), name


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name: str) -> None:
    for value in CHOICES[name]:
        assert make(**{name: value}).flat()[name] == value
    shown = ", ".join(value for value in CHOICES[name] if value)
    assert refusal(**{name: "nonsense"}) == f"{name}='nonsense' is not one of {shown}"


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("encode_format", "jpeg", "jpg"),
        ("resize_mode", "keep-ratio", "keep_ratio"),
        ("input_format", "jsonlines", "jsonl"),
        ("downscale_interpolation", "lanczos3", "lanczos"),
        ("compute_hash", "sha-256", "sha256"),
        ("incremental_mode", "extended", "extend"),
    ],
)
def test_near_misses_are_named(name: str, value: str, meant: str) -> None:
    assert refusal(**{name: value}).endswith(f"; did you mean '{meant}'?")


RANGES = [
    ("image_size", 1, 65535),
    ("thread_count", 1, 10000),
    ("number_sample_per_shard", 1, None),
    ("oom_shard_count", 1, 18),
    ("subjob_size", 1, None),
    ("processes_count", 1, None),
    ("transform_processes", 1, None),
    ("retries", 0, 100),
    ("max_shard_retry", 0, 100),
    ("max_redirects", 0, 50),
    ("max_connections_per_host", 1, None),
    ("lanes", 1, 100_000),
    ("network_patience", 0, 86400),
    ("min_image_size", 0, None),
    ("encode_quality", 0, 100),
    ("max_body_bytes", 1, None),
    ("max_buffered_bytes", 1, None),
    ("max_decode_pixels", 1, None),
    ("max_decode_side", 1, None),
    ("max_decode_frames", 1, None),
    ("max_transform_memory", 1, None),
    ("min_bytes_per_second", 0, None),
    ("max_aspect_ratio", 1, None),
]


@pytest.mark.parametrize(("name", "least", "most"), RANGES, ids=[name for name, *_ in RANGES])
def test_ranges(name: str, least: int, most: int | None) -> None:
    assert make(**{name: least}).flat()[name] == least
    assert refusal(**{name: least - 1}) == (
        f"{name}={least - 1} is not valid: input should be greater than or equal to {least}"
    )
    if most is not None:
        assert make(**{name: most}).flat()[name] == most
        assert refusal(**{name: most + 1}).startswith(f"{name}={most + 1} is not valid: input should be less than")


@pytest.mark.parametrize(
    "name",
    [
        "timeout", "connect_timeout", "first_byte_timeout", "min_speed_window", "transform_timeout", "max_image_area",
        "max_requests_per_second_per_host",
    ],
)  # fmt: skip
def test_what_must_be_positive(name: str) -> None:
    assert make(**{name: 0.001}).flat()[name] == 0.001
    for value in (0, -1):
        assert refusal(**{name: value}).startswith(f"{name}={value} is not valid: input should be greater than 0")
    assert refusal(**{name: float("nan")}).startswith(f"{name}=nan is not valid")


@pytest.mark.parametrize(
    "name", ["timeout", "connect_timeout", "first_byte_timeout", "retry_backoff", "retry_max_wait", "transform_timeout"]
)
def test_seconds_are_at_most_a_day(name: str) -> None:
    """libcurl takes milliseconds as a C long."""
    assert make(**{name: 86400}).flat()[name] == 86400
    for value in (86401, 1e30, INF):
        assert refusal(**{name: value}).startswith(f"{name}={value} is not valid")


@pytest.mark.parametrize("name", [n for n, option in options().items() if "int" in str(option.field.annotation)])
def test_no_number_is_too_large_for_c(name: str) -> None:
    assert refusal(**{name: 10**30}).startswith(f"{name}={10**30} is not valid: input should be less than")


def test_png_quality_is_a_compression_level() -> None:
    assert make(encode_format="png", encode_quality=0).image.encode_quality == 0
    assert refusal(encode_format="png", encode_quality=10) == (
        "encode_quality is the compression for png and must be between 0 and 9, got 10; try --encode_quality=6"
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("image_size", "512", 512),
        ("timeout", "2.5", 2.5),
        ("max_image_area", "inf", INF),
        ("skip_reencode", "True", True),
        ("skip_reencode", "no", False),
        ("save_additional_columns", ["a", "b"], ("a", "b")),
        ("disallowed_header_directives", ["NoAI ", "noindex"], ("noai", "noindex")),
        ("disallowed_header_directives", [], ()),
        ("disallowed_header_directives", None, DIRECTIVES),
        ("user_agent_token", " mybot ", "mybot"),
    ],
)
def test_values_that_are_understood(name: str, text: Any, value: Any) -> None:
    got = make(**{name: text}).flat()[name]
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_size", "big", "image_size='big' is not valid: input should be a valid integer"),
        ("image_size", 2.5, "image_size=2.5 is not valid: input should be a valid integer"),
        ("image_size", None, "image_size=None is not valid: input should be a valid integer"),
        ("timeout", "soon", "timeout='soon' is not valid: input should be a valid number"),
        ("extract_exif", "maybe", "extract_exif='maybe' is not valid: input should be a valid boolean"),
        ("url_col", 1, "url_col=1 is not valid: input should be a valid string"),
        ("output_folder", "", "output_folder='' is not valid: string should have at least 1 character"),
        ("save_additional_columns", "a", "save_additional_columns='a' is not valid: input should be a valid tuple"),
        ("save_additional_columns", ["a", "a"], "save_additional_columns=['a', 'a'] is not valid: names a column twice"),
        ("verify_hash", ["a"], "verify_hash=['a'] is not valid"),
        ("verify_hash", ["a", "crc32"], "verify_hash='crc32' is not one of md5, sha256, sha512"),
        ("user_agent_token", "two words", "user_agent_token='two words' is not valid: must be one word"),
        ("user_agent_token", "a\r\nX: y", "user_agent_token='a\\r\\nX: y' is not valid: must be one word"),
        ("user_agent_token", "", "user_agent_token='' is not valid: must be one word"),
    ],
)  # fmt: skip
def test_values_that_are_not(name: str, value: Any, message: str) -> None:
    assert refusal(**{name: value}).startswith(message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("image_sise", "unknown option 'image_sise'; did you mean 'image_size'?"),
        ("num_threads", "unknown option 'num_threads'"),
        ("image-size", "unknown option 'image-size'; did you mean 'image_size'?"),
        ("input", "unknown option 'input'"),
    ],
)
def test_unknown_option(name: str, message: str) -> None:
    assert refusal(**{name: 1}).startswith(message)


@pytest.mark.parametrize("values", [{}, {"url_list": None}])
def test_url_list_is_required(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^url_list is missing: name a file, a folder or a glob"):
        JobConfig.from_flat(values)


RESERVED = [
    "key", "caption", "url", "width", "height", "original_width", "original_height", "status", "error_message", "exif",
    "md5", "sha256", "sha512", *EXTRA_COLUMNS,
]  # fmt: skip


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_names(name: str) -> None:
    want = f"may not hold {name}: the dataset has columns of these names itself"
    assert refusal(save_additional_columns=["fine", name]) == (
        f"save_additional_columns=['fine', '{name}'] is not valid: {want}"
    )
    assert refusal(bbox_col=name) == f"bbox_col='{name}' is not valid: {want}"


@pytest.mark.parametrize("name", ["jpg", "txt"])
def test_names_of_the_parts_of_a_sample_are_reserved(name: str) -> None:
    assert f"may not hold {name}: samples have a part of that name" in refusal(save_additional_columns=[name])


def test_hash_to_verify_is_the_hash_that_is_computed() -> None:
    assert make(verify_hash=["sum", "md5"], compute_hash="md5").input.verify_hash == ("sum", "md5")
    for other in ("sha256", None):
        message = refusal(verify_hash=["sum", "md5"], compute_hash=other)
        assert message == f"verify_hash and compute_hash must be the same, got md5 and {other}; try --compute_hash=md5"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("caption_col", "text"),
        ("bbox_col", "faces"),
        ("save_additional_columns", ("x",)),
        ("verify_hash", ("sum", "sha256")),
    ],
)
@pytest.mark.parametrize("kind", ["txt", "txt.gz"])
def test_txt_has_no_columns(kind: str, name: str, value: Any) -> None:
    assert refusal(input_format=kind, **{name: value}) == (
        f"{name}={value!r} needs a list with columns, but input_format is {kind!r}; "
        "set input_format to csv, jsonl or parquet"
    )


@pytest.fixture
def unusual() -> JobConfig:
    """A job with other values than the defaults in every group."""
    return make(
        save_additional_columns=["a", "b"],
        verify_hash=["sum", "md5"],
        compute_hash="md5",
        disallowed_header_directives=[],
        timeout=2.5,
        max_image_area=1e6,
        output_folder="s3://bucket/x",
        processes_count=3,
        progress="none",
    )


def test_flat_options_make_the_same_job(unusual: JobConfig) -> None:
    assert JobConfig.from_flat(unusual.flat()) == unusual
    default = JobConfig.from_flat({"url_list": "x"})
    assert JobConfig.from_flat(default.flat()) == default != unusual


def test_job_is_picklable_and_frozen(unusual: JobConfig) -> None:
    assert pickle.loads(pickle.dumps(unusual)) == unusual
    with pytest.raises(ValueError, match="frozen"):
        unusual.image.image_size = 3


def test_processes_are_those_asked_for_or_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5})
    assert make().processes() == 3
    assert make(processes_count=7).processes() == 7
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert make().processes() == 1


@pytest.mark.parametrize(
    ("media", "name", "value", "wanted"),
    [
        ("any", "probe", True, "'video' or 'audio'"),
        ("any", "subtitles_are_clips", True, "'video' or 'audio'"),
        ("any", "encode_formats", {"video": "mp4"}, "'video' or 'audio'"),
        ("any", "yt_metadata_args", {"get_info": True}, "'video' or 'audio'"),
        ("image", "video_fps", 5, "'video'"),
        ("image", "audio_rate", 16000, "'video' or 'audio'"),
        ("audio", "video_size", 64, "'video'"),
        ("audio", "video_fps", 5, "'video'"),
    ],
)
def test_options_that_would_do_nothing(media: str, name: str, value: Any, wanted: str) -> None:
    assert refusal(media=media, **{name: value}) == (
        f"{name}={make(media='video', **{name: value}).flat()[name]!r} does nothing with media={media!r}; drop it, or "
        f"set media={wanted}"
    )


def test_options_of_pictures_where_a_dataset_of_sounds_has_some() -> None:
    assert make(media="audio", encode_formats={"audio": "m4a", "video": "mp4"}, video_size=64).media.video_size == 64


def test_the_clip_column_and_a_column_named_clips_that_is_carried() -> None:
    given = {"input_format": "csv", "save_additional_columns": ["clips"], "media": "video"}
    assert "clip_col" in refusal(**given, clip_col="parts")
    assert make(**given).input.clip_col is None


def test_presets_are_those_of_the_encoder() -> None:
    assert make(media="video", video_preset="slow").media.video_preset == "slow"
    assert "is not one of ultrafast, superfast" in refusal(media="video", video_preset="superquick")


def test_nearest() -> None:
    assert nearest("uri", ["url", "key"]) == "; did you mean 'url'?"
    assert nearest("zzz", ["url", "key"]) == ""
    assert nearest("x", []) == ""


@pytest.mark.parametrize("server", ["10.0.0.2", "10.0.0.2:5353", "::1", "[::1]:53"])
def test_resolvers(server: str) -> None:
    assert make(dns_servers=[server]).fetch.dns_servers == (server,)


@pytest.mark.parametrize("server", ["dns.example", "10.0.0", "10.0.0.2:", "10.0.0.2:0x", ""])
def test_what_is_no_resolver(server: str) -> None:
    assert "must be IP addresses" in refusal(dns_servers=[server])


def test_schemes() -> None:
    assert make(allowed_schemes=["HTTP", "s3://"]).fetch.allowed_schemes == ("http", "s3")
    for bad in ([], ["a b"], ["3"]):
        assert "must be names of schemes" in refusal(allowed_schemes=bad)
