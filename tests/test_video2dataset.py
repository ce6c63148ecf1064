"""`video2dataset()` and `any2dataset()`: argument by argument, and what those tools did wrong.

The tables here were read from the sources of video2dataset 1.0 to 1.3 and of any2dataset.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import dataset
from support.media_server import MediaServer
from support.sites import VTT, SiteServer, plugin_folder
from support.videos import Gallery, ffmpeg, seen

import img2dataset_dist
from img2dataset_dist import braces, cli, download, subtitles
from img2dataset_dist.any2dataset_api import any2dataset
from img2dataset_dist.config import JobConfig, LeftFloat, options
from img2dataset_dist.errors import ConfigError
from img2dataset_dist.fetchers.ytdlp_options import check_yt_args, check_yt_metadata_args
from img2dataset_dist.ffmpeg.recipe import Recipe
from img2dataset_dist.video2dataset_api import from_text, translated, video2dataset
from img2dataset_dist.video2dataset_config import CONFIGS

SIGNATURE = {
    "url_list": inspect.Parameter.empty,
    "output_folder": "dataset",
    "output_format": "files",
    "input_format": "csv",
    "encode_formats": None,
    "stage": "download",
    "url_col": "url",
    "caption_col": None,
    "clip_col": None,
    "save_additional_columns": None,
    "enable_wandb": False,
    "wandb_project": "video2dataset",
    "incremental_mode": "incremental",
    "max_shard_retry": 1,
    "tmp_dir": "/tmp",
    "config": "default",
}
"""Of video2dataset 1.2 and 1.3, in this order."""

OLDER = {
    "processes_count", "thread_count", "number_sample_per_shard", "oom_shard_count", "distributor", "subjob_size",
    "retries", "timeout", "video_size", "video_fps", "resize_mode", "audio_rate", "yt_metadata_args",
    "captions_are_subtitles", "detect_cuts", "cut_detection_mode", "cut_framerates", "cuts_are_clips", "strict_resize",
    "video_height", "video_width",
}  # fmt: skip
"""What 1.0 and 1.1 also took, with `strict_resize`, `video_height` and `video_width` of its examples."""

ANY_SIGNATURE = {
    "url_list": inspect.Parameter.empty,
    "output_folder": "files",
    "processes_count": None,  # 1 there
    "output_format": "files",
    "input_format": "txt",
    "url_col": "url",
    "caption_col": None,
    "thread_count": 256,
    "number_sample_per_shard": 10000,
    "save_additional_columns": None,
    "timeout": 10,
    "enable_wandb": False,
    "wandb_project": "any2dataset",
    "oom_shard_count": 5,
    "compute_md5": True,
    "distributor": "multiprocessing",
    "subjob_size": 1000,
    "retries": 0,
    "disable_all_reencoding": False,
    "max_size": None,
}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return Gallery(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def media(gallery: Gallery) -> Iterator[MediaServer]:
    with MediaServer(gallery.folder) as server:
        yield server


@pytest.fixture(scope="module")
def site() -> Iterator[SiteServer]:
    with SiteServer() as server:
        yield server


def written(path: Path, header: str, *lines: str) -> str:
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def options_of(**arguments: Any) -> dict[str, Any]:
    """What a call of video2dataset() comes to; it must be a job that can run."""
    flat = translated({"url_list": "videos.csv", **arguments})
    config = JobConfig.from_flat(flat)
    Recipe.of(config.media)
    return {**config.flat(), "subsampling": flat.get("subsampling")}


# arguments


def test_the_names_order_and_defaults_are_the_peers() -> None:
    parameters = inspect.signature(video2dataset).parameters
    positional = {n: p.default for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == list(SIGNATURE.items())
    assert {n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY} == OLDER


def test_the_entry_is_public() -> None:
    assert img2dataset_dist.video2dataset is video2dataset
    assert img2dataset_dist.any2dataset is any2dataset


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, {"media": "video", "encode_formats": {"video": "mp4"}, "input_format": "csv", "output_folder": "dataset",
              "url_col": "url", "output_format": "files", "wandb_project": "video2dataset"}),
        ({"url_list": "a.csv"}, {"url_list": "a.csv"}),
        ({"output_folder": "out"}, {"output_folder": "out"}),
        ({"output_format": "webdataset"}, {"output_format": "webdataset"}),
        ({"output_format": "tfrecord"}, {"output_format": "tfrecord"}),
        ({"output_format": "dummy"}, {"output_format": "dummy"}),
        ({"input_format": "tsv.gz"}, {"input_format": "tsv.gz"}),
        ({"input_format": "parquet"}, {"input_format": "parquet"}),
        ({"encode_formats": {"video": "mp4", "audio": "m4a"}}, {"media": "video", "encode_formats": {"video": "mp4", "audio": "m4a"}}),
        ({"encode_formats": {"audio": "mp3"}}, {"media": "audio", "encode_formats": {"audio": "mp3"}}),
        ({"stage": "download"}, {"input_format": "csv", "stages": ()}),
        ({"stage": "subset", "input_format": "webdataset"}, {"input_format": "webdataset", "stages": ()}),
        ({"stage": "optical_flow", "input_format": "webdataset"}, {"stages": ("optical_flow",)}),
        ({"stage": "caption", "input_format": "webdataset", "stages": ["a:B"]}, {"stages": ("a:B",)}),
        ({"stage": "whisper", "stages": ["a:B"], "encode_formats": {"audio": "mp3"}}, {"stages": ("a:B",), "media": "audio"}),
        ({"url_col": "contentUrl"}, {"url_col": "contentUrl"}),
        ({"caption_col": "name"}, {"caption_col": "name"}),
        ({"clip_col": "clips"}, {"clip_col": "clips"}),
        ({"save_additional_columns": ["videoid", "page_idx"]}, {"save_additional_columns": ("videoid", "page_idx")}),
        ({"enable_wandb": True}, {"enable_wandb": True}),
        ({"wandb_project": "p"}, {"wandb_project": "p"}),
        ({"incremental_mode": "overwrite"}, {"incremental_mode": "overwrite"}),
        ({"max_shard_retry": 3}, {"max_shard_retry": 3}),
        ({"tmp_dir": "/scratch"}, {"tmp_dir": "/scratch"}),
        ({"tmp_dir": "/tmp"}, {"tmp_dir": "/tmp"}),
        ({"config": "default"}, {"timeout": 60, "download_size": 360, "download_audio_rate": 44100, "thread_count": 32,
                                 "number_sample_per_shard": 1000, "oom_shard_count": 5, "subjob_size": 1000,
                                 "distributor": "multiprocessing", "processes_count": None}),
        ({"config": "caption"}, {"processes_count": 1, "thread_count": 8}),
        # the calls of 1.0 and 1.1
        ({"processes_count": 96}, {"processes_count": 96}),
        ({"thread_count": 48}, {"thread_count": 48}),
        ({"number_sample_per_shard": 100}, {"number_sample_per_shard": 100}),
        ({"oom_shard_count": 6}, {"oom_shard_count": 6}),
        ({"distributor": "pyspark"}, {"distributor": "pyspark"}),
        ({"subjob_size": 10000}, {"subjob_size": 10000}),
        ({"retries": 2}, {"retries": 2}),
        ({"timeout": 30}, {"timeout": 30}),
        ({"video_size": 480}, {"download_size": 480, "video_size": None, "subsampling": None}),
        ({"video_size": 480, "strict_resize": False}, {"download_size": 480, "subsampling": None}),
        ({"video_fps": 5}, {"video_fps": 5}),
        ({"video_fps": -1, "audio_rate": -1}, {"video_fps": None, "audio_rate": None}),
        ({"audio_rate": 16000}, {"audio_rate": 16000}),
        ({"video_height": 360, "video_width": 640}, {"video_height": 360, "video_width": 640}),
        ({"yt_metadata_args": {"get_info": True}}, {"yt_metadata_args": {"get_info": True}}),
        # ours
        ({"allow_private_addresses": True, "retry_backoff": 2}, {"allow_private_addresses": True, "retry_backoff": 2}),
        ({"cut_detection": "all", "cuts_are_clips": True}, {"cut_detection": "all", "cuts_are_clips": True, "subsampling": None}),
    ],
)  # fmt: skip
def test_an_argument_means_what_it_means_there(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    found = options_of(**arguments)
    assert {name: found[name] for name in expected} == expected


def recipe_of(**arguments: Any) -> Recipe:
    return Recipe.of(JobConfig.from_flat(translated({"url_list": "videos.csv", **arguments})).media)


def steps(**sections: Any) -> dict[str, Any]:
    return {"config": {"subsampling": {name: {"args": args} for name, args in sections.items()}}}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (steps(ResolutionSubsampler={"resize_mode": "scale,crop,pad", "video_size": 224}),
         {"modes": frozenset({"scale", "crop", "pad"}), "size": 224}),
        (steps(ResolutionSubsampler={"resize_mode": ["scale"], "height": 360, "width": -1}), {"height": 360, "width": None}),
        # scaling alone is to the height there
        (steps(ResolutionSubsampler={"resize_mode": ["scale"], "video_size": 224}), {"height": 224, "size": None}),
        (steps(ResolutionSubsampler={"resize_mode": "scale", "video_size": 224, "encode_format": "mp4"}), {"height": 224}),
        (steps(FrameSubsampler={"frame_rate": 5}), {"fps": 5, "frames": "fps"}),
        (steps(FrameSubsampler={"frame_rate": 1, "downsample_method": "first_frame"}), {"frames": "first_frame"}),
        (steps(AudioRateSubsampler={"sample_rate": 16000, "encode_format": "mp3", "n_audio_channels": 1})
         | {"encode_formats": {"audio": "m4a"}}, {"rate": 16000, "audio": "mp3", "channels": 1}),
        (steps(FFProbeSubsampler={"extract_keyframes": True}), {"probe": True, "probe_keyframes": True}),
        (steps(CutDetectionSubsampler={"cut_detection_mode": "longest", "threshold": 11.5, "min_scene_len": 30}),
         {"cuts": "longest", "threshold": 11.5, "min_scene": 30, "cuts_are_clips": False}),
        (steps(ClippingSubsampler={"min_length": 4.0, "max_length": 20.0, "max_length_strategy": "first", "precision": "exact"}),
         {"min_seconds": 4, "max_seconds": 20, "pieces": "first", "precision": "exact"}),
        (steps(ClippingSubsampler={"max_length": 999999.0}), {"max_seconds": 999999, "precision": "low", "pieces": "all"}),
        ({"config": "downsample_ml"},
         {"size": 224, "fps": 5, "cuts": "all", "cuts_are_clips": True, "threshold": 11.5, "min_seconds": 4,
          "max_seconds": 10, "precision": "keyframe_adjusted", "probe": True}),
        ({"resize_mode": ["scale", "crop"], "video_size": 128}, {"size": 128, "modes": frozenset({"scale", "crop"})}),
        ({"video_size": 128, "strict_resize": True}, {"height": 128, "modes": frozenset({"scale"})}),
        ({"resize_mode": "scale", "video_height": 360, "video_width": -1}, {"height": 360, "width": None}),
        # its video_size is 360 when none is given
        ({"strict_resize": True}, {"height": 360, "modes": frozenset({"scale"})}),
        ({"resize_mode": ["scale", "crop"]}, {"size": 360, "modes": frozenset({"scale", "crop"})}),
        ({"strict_resize": True, "video_height": 100}, {"height": 100, "width": None, "size": None}),
        ({"detect_cuts": True}, {"cuts": "longest", "cuts_are_clips": False}),
        ({"detect_cuts": True, "cut_detection_mode": "all", "cuts_are_clips": True}, {"cuts": "all", "cuts_are_clips": True}),
    ],
)  # fmt: skip
def test_a_step_means_what_it_means_there(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    found = recipe_of(**arguments)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url_lst": "x"}, "unknown argument 'url_lst'; did you mean 'url_list'"),
        ({"encode_format": {"video": "mp4"}, "strict_resise": True}, "strict_resise.*strict_resize"),
        ({"stage": "subsets"}, "subsets.*subset"),
        ({"stage": "subset"}, "set input_format='webdataset'"),
        ({"stage": "optical_flow", "input_format": "csv"}, "set input_format='webdataset'"),
        ({"stage": "download", "input_format": "webdataset"}, "set stage='subset'"),
        ({"stage": "caption", "input_format": "webdataset"}, r"stages=\['package.module:Class'\]"),
        ({"stage": "whisper"}, r"stages=\['package.module:Class'\]"),
        ({"encode_formats": {"vidoe": "mp4"}}, "vidoe.*video"),
        ({"encode_formats": {"video": "mp5"}}, "mp5.*mp4"),
        ({"encode_formats": "mp4"}, "must be like"),
        ({"encode_formats": {"optical_flow": "npy"}}, "optical_flow"),
        ({"encode_formats": {"optical_flow": "png"}, "stage": "optical_flow", "input_format": "webdataset"}, "npy"),
        ({"incremental_mode": "again"}, "incremental_mode"),
        ({"distributor": "slurm"}, "slurm.*not there yet.*pyspark"),
        ({"config": {"distribution": {"distributor": "slurm", "distributor_args": {"n_nodes": 2}}}}, "slurm.*pyspark"),
        ({"config": {"distribution": {"distributor_args": {"n_nodes": 2}}}}, "distributor_args"),
        ({"config": "defalt"}, "did you mean 'default'"),
        ({"config": "whisper"}, "none of default, downsample_ml, optical_flow, caption"),
        ({"config": {"subsamplings": {}}}, "subsamplings.*subsampling"),
        ({"config": {"reading": {"timeot": 1}}}, "timeot.*timeout"),
        ({"config": {"reading": {"sampler": "x"}}}, "sampler.*pyspark"),
        ({"config": {"reading": {"dataloader_args": {"resize": 1}}}}, "dataloader_args.*resize"),
        ({"config": {"reading": {"yt_args": {"yt_metadata_args": {"get_inf": True}}}}}, "get_inf.*get_info"),
        ({"config": {"storage": {"number_samples_per_shard": 1}}}, "number_sample_per_shard"),
        ({"config": {"distribution": []}}, "distribution must hold names and values"),
        ({"config": 5}, "must hold the sections"),
        (steps(ResolutionSubsampler={"resize_mode": ["scale"], "video_size": 2, "height": 2}), "not both"),
        (steps(ResolutionSubsampler={"resize_mod": ["scale"]}), "resize_mod.*resize_mode"),
        (steps(ResolutionSubsample={}), "ResolutionSubsample.*ResolutionSubsampler"),
        (steps(FrameSubsampler={"downsample_method": "yt_subtitle", "frame_rate": 1}), "captions_are_subtitles"),
        (steps(CutDetectionSubsampler={"framerates": [5]}), "framerates"),
        ({"detect_cuts": True, "cut_framerates": [5]}, "framerates"),
        (steps(OpticalFlowSubsampler={}), "set stage='optical_flow'"),
        (steps(CaptionSubsampler={}), "set stage='caption'"),
        (steps(WhisperSubsampler={"model_name": "large-v2"}) | {"stage": "whisper", "stages": ["a:B"]}, "stage_args"),
        (steps(OpticalFlowSubsampler={"detector": "raft"}) | {"stage": "optical_flow", "input_format": "webdataset"}, "raft.*cv2"),
        ({"captions_are_subtitles": True, "clip_col": "clips"}, "drop clip_col"),
    ],
)  # fmt: skip
def test_what_is_not_there_says_what_to_do(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(arguments)


def checked(arguments: dict[str, Any]) -> None:
    """What `video2dataset` and `download` check before anything is written."""
    config = JobConfig.from_flat(translated({"url_list": "videos.csv", **arguments})).media
    Recipe.of(config)
    check_yt_args(config.yt_args)
    check_yt_metadata_args(config.yt_metadata_args)


def extracted(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def test_each_line_of_subtitles_becomes_a_clip(site: SiteServer, tmp_path: Path) -> None:
    """`captions_are_subtitles`: no caption_col, no clip_col; the line is the caption."""
    flat = translated({"url_list": "x", "captions_are_subtitles": True, "config": {}})
    assert flat["subtitles_are_clips"] is True
    assert "captions_are_subtitles" not in flat, "which is another option of ours"
    assert flat["yt_metadata_args"] == {"writesubtitles": "all"}
    config = {
        "storage": {"captions_are_subtitles": True},
        "reading": {"yt_args": {"yt_metadata_args": {"subtitleslangs": ["en"]}}},
    }
    url_list = written(tmp_path / "l.csv", "url", site.url("/fake/texts"), site.url("/fake/apart"))
    plugins = {"plugin_dirs": [plugin_folder(tmp_path / "plugins")]}
    rows = run(tmp_path, url_list, config=config, yt_args=plugins, timeout=60)
    first, second, none = (rows[key] for key in sorted(rows))
    assert (first["key"], first["clips"]) == ("00000000_00000", [[0.0, 1.0]])
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        captions = {name: extracted(tar, name) for name in tar.getnames() if name.endswith(".txt")}
    spoken = [" ".join(line.text.split()).encode() for line in subtitles.parse(VTT)]
    assert captions == {f"{row['key']}.txt": text for row, text in zip((first, second), spoken, strict=True)}
    assert none["error_code"] == "no_clip", "a video without subtitles has no lines"


def test_the_optical_flow_of_its_config() -> None:
    arguments = {"stage": "optical_flow", "input_format": "webdataset", "encode_formats": {"optical_flow": "npy"}}
    flat = translated({"url_list": "dataset/{00000..00004}.tar", "config": "optical_flow", **arguments})
    assert flat["stages"] == ("optical_flow",)
    assert flat["stage_args"] == {"optical_flow": {"fps": 2, "downsample_size": 16, "dtype": "fp16"}}
    assert "subsampling" not in flat
    section = {"OpticalFlowSubsampler": {"args": {"detector_args": [0.5, 2, 9], "dtype": "fp32"}}}
    flat = translated({"url_list": "x", "config": {"subsampling": section}, **arguments})
    assert flat["stage_args"] == {
        "optical_flow": {"dtype": "fp32", "args": {"pyr_scale": 0.5, "levels": 2, "winsize": 9}}
    }


def test_cuts_of_an_earlier_job_become_clips_without_a_second_look() -> None:
    """Its way to say so is the section without `args`."""
    section = {"CutDetectionSubsampler": {"cuts_are_clips": True}}
    flat = translated(
        {"url_list": "x", "stage": "subset", "input_format": "webdataset", "config": {"subsampling": section}}
    )
    assert flat["clip_col"] == "cuts"
    assert "subsampling" not in flat


def test_its_config_as_a_file_and_as_a_dict(tmp_path: Path) -> None:
    config = CONFIGS["downsample_ml"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    by_name = translated({"url_list": "x", "config": "downsample_ml"})
    assert (
        by_name == translated({"url_list": "x", "config": str(path)}) == translated({"url_list": "x", "config": config})
    )
    assert translated({"url_list": "x", "config": {}})["media"] == "video"
    path.write_text("reading: [")
    with pytest.raises(ConfigError, match="cannot be read"):
        translated({"url_list": "x", "config": str(path)})


def test_arguments_count_before_the_config() -> None:
    config = {"storage": {"number_sample_per_shard": 7}, "distribution": {"thread_count": 3}, "reading": {"timeout": 9}}
    found = options_of(config=config, number_sample_per_shard=8, thread_count=4)
    assert (found["number_sample_per_shard"], found["thread_count"], found["timeout"]) == (8, 4, 9)


def test_more_options_of_yt_dlp_are_passed_on() -> None:
    yt_args = {"download_size": 720, "cookiefile": None, "sleep_interval": 5, "download_audio_rate": 0}
    found = options_of(config={"reading": {"yt_args": yt_args}})
    assert found["download_size"] == 720
    assert found["download_audio_rate"] == 1, "any"
    assert found["yt_args"] == {"cookiefile": None, "sleep_interval": 5}


def test_its_built_in_configs() -> None:
    """As in the package 1.3.0, but for the 16 processes, and the model of `caption` that is not ours."""
    assert set(CONFIGS) == {"default", "downsample_ml", "optical_flow", "caption"}
    for name, config in CONFIGS.items():
        assert set(config) == {"subsampling", "reading", "storage", "distribution"}
        assert config["reading"]["timeout"] == 60
        assert config["storage"] == {
            "number_sample_per_shard": 1000,
            "oom_shard_count": 5,
            "captions_are_subtitles": False,
        }
        threads = {"caption": 8}.get(name, 32)
        assert config["distribution"]["thread_count"] == threads
        assert config["distribution"]["subjob_size"] == 1000
    metadata = {"writesubtitles": "all", "subtitleslangs": ["en"], "writeautomaticsub": True, "get_info": True}
    for name in ("default", "downsample_ml"):
        yt_args = CONFIGS[name]["reading"]["yt_args"]
        assert yt_args == {"download_size": 360, "download_audio_rate": 44100, "yt_metadata_args": metadata}


# braces, as its examples write a dataset's tars


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a.tar", ["a.tar"]),
        ("d/{00000..00002}.tar", ["d/00000.tar", "d/00001.tar", "d/00002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{0..4..2}", ["0", "2", "4"]),
        ("{a,b}/{1..2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("{a,b{1..2}}", ["a", "b1", "b2"]),
        ("{x}.tar", ["{x}.tar"]),
        ("{,a}", ["", "a"]),
    ],
)
def test_braces(pattern: str, paths: list[str]) -> None:
    assert braces.expand(pattern) == paths
    assert braces.has_braces(pattern) == (paths != [pattern])


def test_braces_that_stand_for_too_much() -> None:
    for pattern in ("{0..99999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(ConfigError, match="more than 1,000,000 paths"):
            braces.expand(pattern)


# the command line


def test_flags_are_text_that_stands_for_something() -> None:
    given = {"encode_formats": '{"audio": "m4a"}', "resize_mode": "[scale,crop]", "video_size": "360", "config": "default",
             "audio_rate": "-1", "detect_cuts": "True", "yt_metadata_args": "None", "url_col": "1"}  # fmt: skip
    assert from_text(given) == {
        "encode_formats": {"audio": "m4a"}, "resize_mode": ["scale", "crop"], "video_size": 360, "config": "default",
        "audio_rate": -1, "detect_cuts": True, "yt_metadata_args": None, "url_col": "1",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="encode_formats: cannot read"):
        from_text({"encode_formats": "{"})


def test_the_command(gallery: Gallery, media: MediaServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its WebVid example, but for the server; `duration` is a column of the list there."""
    gallery("moov_first")
    url_list = written(
        tmp_path / "webvid.csv",
        "videoid,contentUrl,duration,page_dir,name",
        f"7,{media.url('/moov_first.mp4?a=1')},PT00H00M04S,000001_000050,A card",
        f"8,{media.url('/status/404/moov_first.mp4')},PT00H00M04S,000001_000050,Nothing",
    )
    argv = [
        f"--url_list={url_list}", "--input_format=csv", "--output-format=webdataset", f"--output_folder={tmp_path / 'out'}",
        "--url_col=contentUrl", "--caption_col=name", "--save_additional_columns=[videoid,page_dir,duration]",
        "--enable_wandb=False", "--config=default", "--number_sample_per_shard=10", "--processes_count=1",
        "--allow_private_addresses", "--progress=none",
    ]  # fmt: skip
    assert cli.run(["video2dataset", *argv]) == 0, capfd.readouterr().err
    good, bad = (dataset.rows(tmp_path / "out")[key] for key in ("000000", "000001"))
    assert (good["status"], good["caption"], good["videoid"], good["duration"]) == (
        "success",
        "A card",
        7,
        "PT00H00M04S",
    )
    assert (bad["status"], bad["error_code"], bad["page_dir"]) == ("failed_to_download", "http_404", "000001_000050")
    assert set(dataset.media(tmp_path / "out")) == {"000000.mp4", "000000.txt", "000000.json"}
    assert cli.run(["video2dataset", "--url_list=x.csv", "--configg=a"]) == 2
    assert "config" in capfd.readouterr().err
    assert cli.run(["video2dataset"]) == 2
    assert "url_list is missing" in capfd.readouterr().err
    assert cli.run(["video2dataset", "--help"]) == 0
    assert "--strict_resize" in capfd.readouterr().out


# what it did wrong: see also tests/fetchers/test_ytdlp*.py (its errors, its time) and tests/ffmpeg/ (a ffmpeg that hangs)


def run(tmp_path: Path, url_list: str, **arguments: Any) -> dict[str, dict[str, Any]]:
    """Rows of a job."""
    out = tmp_path / arguments.pop("out", "out")
    defaults: dict[str, Any] = {
        "output_format": "webdataset", "allow_private_addresses": True, "progress": "none", "distributor": "inline",
        "tmp_dir": str(tmp_path / "tmp"),
    }  # fmt: skip
    video2dataset(url_list, str(out), **{**defaults, **arguments})
    dataset.check_whole(out)
    return dataset.rows(out)


def test_a_page_is_never_stored_as_a_video(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """It does not look at the status, nor at what came: whatever is called .mp4 is stored as one."""
    gallery("moov_first")
    paths = {
        "/status/404/moov_first.mp4": "http_404",
        "/status/403/moov_first.mp4": "http_403",
        "/html200/moov_first.mp4": "site_unsupported",
        "/lietype/moov_first.mp4": "not_media",
        "/zero/moov_first.mp4": "empty_body",
        "/truncated/moov_first.mp4": "truncated",
    }
    rows = run(tmp_path, written(tmp_path / "l.csv", "url", *map(media.url, paths)), timeout=40)
    assert [row["error_code"] for row in rows.values()] == list(paths.values())
    assert "success" not in {row["status"] for row in rows.values()}
    assert dataset.media(tmp_path / "out") == {}


def test_urls_are_not_judged_by_their_ends(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """It takes `.mp4?token=1` for a page, and gives it to yt-dlp."""
    body = gallery("moov_first").read_bytes()
    (gallery.folder / "no-extension").write_bytes(body)
    urls = [media.url(path) for path in ("/moov_first.mp4?token=1", "/no-extension", "/octets/moov_first.mp4#t=1")]
    rows = run(tmp_path, written(tmp_path / "l.csv", "url", *urls))
    assert [row["status"] for row in rows.values()] == ["success"] * 3
    stored = dataset.media(tmp_path / "out")
    assert {stored[f"{key}.mp4"] for key in rows} == {hashlib.sha256(body).hexdigest()}


def test_more_failures_than_its_semaphore_has(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """Each failure gives its slot back twice there, so that memory is no longer bounded. Here every row has its line."""
    gallery("moov_first")
    lines = [media.url(f"/status/404/moov_first.mp4?n={n}") for n in range(60)]
    lines[30] = media.url("/moov_first.mp4?n=30")
    rows = run(tmp_path, written(tmp_path / "l.csv", "url", *lines), thread_count=4)
    assert len(rows) == 60
    assert [key for key, row in rows.items() if row["status"] == "success"] == ["00000030"]


def test_resume_over_several_files_keeps_the_numbers(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """There the shards of a file that is done are not counted, and those of the next file get their numbers."""
    gallery("moov_first")
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in "abc":
        written(lists / f"{name}.csv", "url", *[media.url(f"/moov_first.mp4?{name}={n}") for n in range(3)])
    job = {"number_sample_per_shard": 2, "url_list": str(lists)}
    whole = run(tmp_path, out="whole", **job)
    assert dataset.done(tmp_path / "whole") == [f"0000{n}" for n in range(6)]
    run(tmp_path, **job)
    for name in ("00001", "00004"):
        for path in (tmp_path / "out").glob(f"{name}*"):
            path.unlink()
    media.clear()
    again = run(tmp_path, **job)
    assert {key: row["url"] for key, row in again.items()} == {key: row["url"] for key, row in whole.items()}
    assert sum(media.counts().values()) == 3, "one row of a.csv, two of c.csv"


def test_a_clip_of_a_long_video_does_not_fetch_it_whole(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """It fetches all of the video for five seconds; more in tests/fetchers/test_clip_ranges.py."""
    whole = gallery.folder / "long.mp4"
    if not whole.exists():
        listing = gallery.folder / "long.txt"
        listing.write_text(f"file '{gallery('moov_first')}'\n" * 60)
        ffmpeg("-f", "concat", "-safe", "0", "-i", str(listing), "-c", "copy", "-movflags", "+faststart", str(whole))
    url_list = written(tmp_path / "l.csv", "url,clips", f'{media.url("/long.mp4")},"[[100, 104]]"')
    media.clear()
    row = run(tmp_path, url_list, clip_col="clips")["00000000_00000"]
    assert row["status"] == "success"
    assert media.sent("/long.mp4") < whole.stat().st_size / 5
    assert 3.5 < row["duration"] < 5.5


def test_torch_and_transformers_are_not_needed() -> None:
    code = "import sys, img2dataset_dist; img2dataset_dist.video2dataset; print(sorted({'torch', 'transformers', 'decord', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# whole jobs by its arguments


def test_a_dataset_of_sounds(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    paths = [gallery("moov_first"), gallery("mp3"), gallery("silent")]
    url_list = written(tmp_path / "l.csv", "url", *[media.url(f"/{path.name}") for path in paths])
    args = {"sample_rate": 16000, "encode_format": "mp3", "n_audio_channels": 1}
    config = {"subsampling": {"AudioRateSubsampler": {"args": args}}}
    rows = run(tmp_path, url_list, encode_formats={"audio": "mp3"}, config=config, output_format="files")
    assert [row["error_code"] for row in rows.values()] == [None, None, "no_stream"]
    for key in list(rows)[:2]:
        sound = seen(tmp_path / "out" / "00000" / f"{key}.mp3")
        assert (sound.rate, sound.samples.shape[0], sound.video_codec) == (16000, 1, None)
        assert sound.sound_seconds == pytest.approx(4, abs=0.2)


def test_a_dataset_is_made_again(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """Stage subset over the tars of the first job: shards and keys stay, failed rows too, and nothing is fetched."""
    gallery("moov_first")
    lines = [media.url(f"/moov_first.mp4?n={n}") for n in range(3)] + [media.url("/status/404/moov_first.mp4")]
    first = run(tmp_path, written(tmp_path / "l.csv", "url", *lines), out="first", number_sample_per_shard=2)
    media.clear()
    config = {
        "subsampling": {
            "ResolutionSubsampler": {"args": {"video_size": 64, "resize_mode": ["scale", "crop"]}},
            "FrameSubsampler": {"args": {"frame_rate": 5}},
        }
    }
    tars = str(tmp_path / "first" / "{00000..00001}.tar")
    rows = run(
        tmp_path, tars, input_format="webdataset", stage="subset", config=config, out="second", output_format="files"
    )
    assert media.counts() == {}
    assert list(rows) == list(first)
    assert [row["error_code"] for row in rows.values()] == [None, None, None, "http_404"]
    assert dataset.done(tmp_path / "second") == ["00000", "00001"]
    for key in list(first)[:3]:
        video = seen(tmp_path / "second" / f"0000{int(key) // 10}" / f"{key}.mp4")
        assert (video.width, video.height, len(video.times)) == (64, 64, 20)


# any2dataset


def test_any2datasets_names_order_and_defaults() -> None:
    parameters = inspect.signature(any2dataset).parameters
    found = {n: p.default for n, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert list(found.items()) == list(ANY_SIGNATURE.items())
    assert isinstance(found["timeout"], LeftFloat), "left alone it is that of other files"
    with pytest.raises(ConfigError, match=r"compute_md6.*compute_md5"):
        any2dataset("x.txt", compute_md6=True)
    assert {"compute_md5", "max_size"}.isdisjoint(options())


def test_any_file_has_its_own_extension(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """There each is called .flac."""
    (gallery.folder / "paper").write_bytes(b"%PDF-1.4\n" + bytes(200))
    (gallery.folder / "table").write_text(json.dumps({"a": 1}))
    gallery("moov_first"), gallery("mp3"), gallery("flac")
    names = ["moov_first.mp4", "sound_mp3.mp3", "sound_flac.flac", "paper", "table"]
    urls = [media.url(f"/{name}") for name in names] + [media.url("/status/404/x")]
    out = tmp_path / "out"
    any2dataset(
        written(tmp_path / "l.txt", *urls),
        str(out),
        allow_private_addresses=True,
        progress="none",
        distributor="inline",
    )
    rows = dataset.rows(out)
    kept = {name[:9]: name[9:] for name in dataset.media(out) if name[9:] != ".json"}
    assert [kept[key] for key in sorted(kept)] == [".mp4", ".mp3", ".flac", ".pdf", ".data.json"]
    bodies = [(gallery.folder / name).read_bytes() for name in names]
    assert [row["md5"] for row in rows.values()] == [*(hashlib.md5(body).hexdigest() for body in bodies), None]
    assert [row["kind"] for row in rows.values()] == ["video", "audio", "audio", "text", "text", None]
    assert rows["000000005"]["error_code"] == "http_404"


def test_any2datasets_largest_file(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    (gallery.folder / "big").write_bytes(bytes(300_000))
    out = tmp_path / "out"
    any2dataset(
        written(tmp_path / "l.txt", media.url("/big")), str(out), max_size=0.2, allow_private_addresses=True,
        progress="none", distributor="inline", compute_md5=False,
    )  # fmt: skip
    (row,) = dataset.rows(out).values()
    assert row["error_code"] == "too_large"
    assert not {"md5", "sha256"} & set(row)


def test_a_script_of_theirs(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    """Without a guard, with positions, as a script."""
    gallery("moov_first")
    url_list = written(tmp_path / "l.csv", "url,caption", f"{media.url('/moov_first.mp4')},A card")
    script = textwrap.dedent(f"""
        from img2dataset_dist import video2dataset
        video2dataset({url_list!r}, "dataset", "files", "csv", {{"video": "mp4", "audio": "mp3"}}, "download", "url",
                      "caption", allow_private_addresses=True, progress="none", processes_count=1)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "dataset" / "00000").iterdir()}
    assert names == {f"00000000.{kind}" for kind in ("mp4", "mp3", "txt", "json")}


def test_download_does_the_same(gallery: Gallery, media: MediaServer, tmp_path: Path) -> None:
    gallery("moov_first")
    url_list = written(tmp_path / "l.csv", "url", media.url("/moov_first.mp4"))
    more: dict[str, Any] = {"allow_private_addresses": True, "progress": "none", "distributor": "inline"}
    run(tmp_path, url_list, config=steps(FrameSubsampler={"frame_rate": 5})["config"], out="theirs")
    download(url_list, output_folder=str(tmp_path / "ours"), media="video", video_fps=5, input_format="csv",
             output_format="webdataset", **more)  # fmt: skip
    assert dataset.media(tmp_path / "ours").keys() == dataset.media(tmp_path / "theirs").keys()
    ours, theirs = (dataset.media(tmp_path / name)["00000000.mp4"] for name in ("ours", "theirs"))
    assert ours == theirs
