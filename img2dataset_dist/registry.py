"""Names of plug-ins to their classes, imported only when used.

`lookup("writer", "webdataset")` gives a built-in; `lookup("writer", "my_package.my_module:MyWriter")` gives yours. A
new reader, writer, transform, engine or report is one file in its package and one line here.
"""

from __future__ import annotations

import importlib
from typing import Any

from img2dataset_dist.config import nearest
from img2dataset_dist.errors import ConfigError, MissingExtra

_HERE = "img2dataset_dist"

PLUGINS: dict[str, dict[str, str]] = {
    "reader": {
        "txt": f"{_HERE}.readers.text:TextReader",
        "csv": f"{_HERE}.readers.delimited:CsvReader",
        "tsv": f"{_HERE}.readers.delimited:TsvReader",
        "json": f"{_HERE}.readers.json_array:JsonArrayReader",
        "jsonl": f"{_HERE}.readers.json_lines:JsonLinesReader",
        "parquet": f"{_HERE}.readers.parquet:ParquetReader",
        "webdataset": f"{_HERE}.readers.webdataset:WebdatasetReader",
    },
    "fetcher": {
        "curl": f"{_HERE}.fetchers.curl:CurlFetcher",
        "media": f"{_HERE}.fetchers.media:MediaFetcher",
        "stored": f"{_HERE}.fetchers.stored:StoredFetcher",
    },
    "transform": {
        "verify_hash": f"{_HERE}.transforms.hashes:VerifyHash",
        "image": f"{_HERE}.transforms.image:ImageTransform",
        "keep": f"{_HERE}.transforms.keep:KeepBytes",
        "any": f"{_HERE}.transforms.any_file:AnyFile",
        "video": f"{_HERE}.transforms.video:VideoTransform",
        "exif": f"{_HERE}.transforms.exif:ExtractExif",
        "hash": f"{_HERE}.transforms.hashes:ComputeHash",
    },
    "stage": {"optical_flow": f"{_HERE}.stages.optical_flow:OpticalFlow"},
    "writer": {
        "files": f"{_HERE}.writers.files:FilesWriter",
        "webdataset": f"{_HERE}.writers.webdataset:WebDatasetWriter",
        "parquet": f"{_HERE}.writers.parquet:ParquetWriter",
        "tfrecord": f"{_HERE}.writers.tfrecord:TFRecordWriter",
        "dummy": f"{_HERE}.writers.dummy:DummyWriter",
    },
    "engine": {
        "multiprocessing": f"{_HERE}.engines.local:LocalEngine",
        "inline": f"{_HERE}.engines.inline:InlineEngine",
        "pyspark": f"{_HERE}.engines.spark:SparkEngine",
        "ray": f"{_HERE}.engines.ray:RayEngine",
    },
    "report": {
        "console": f"{_HERE}.reports.console:ConsoleReport",
        "wandb": f"{_HERE}.reports.weights_biases:WandbReport",
    },
}

INTERNAL: dict[str, dict[str, str]] = {"reader": {"lane": f"{_HERE}.readers.lane:LaneReader"}}
"""What we look up ourselves and no option names."""

OPTION = {"writer": "output_format", "engine": "distributor", "reader": "input_format", "stage": "stages"}
"""The option by which a user names a plug-in of a kind."""

EXTRAS = {"pyspark": "spark", "ray": "ray", "wandb": "wandb", "webdataset": "loader"}
"""Third-party module to the extra that installs it."""


def lookup(kind: str, name: str) -> Any:
    """The class that `name` stands for.

    Raises:
        ConfigError: no built-in of that name, or "package.module:Class" that cannot be imported.
        MissingExtra: a package that the plug-in needs is not installed.
    """
    target = PLUGINS[kind].get(name) or INTERNAL.get(kind, {}).get(name, name)
    option = OPTION.get(kind, kind)
    if ":" not in target:
        raise ConfigError(
            f"{option}={name!r} is not one of {', '.join(PLUGINS[kind])}, nor a 'package.module:Class'"
            f"{nearest(name, PLUGINS[kind])}"
        )
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, class_name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in EXTRAS:
            raise MissingExtra(
                f"{option}={name!r} needs the package {package}: pip install 'img2dataset_dist[{EXTRAS[package]}]'"
            ) from error
        raise ConfigError(f"{option}={name!r}: cannot import {module_name} ({error}); is it on PYTHONPATH?") from error
    except AttributeError as error:
        raise ConfigError(f"{option}={name!r}: {module_name} has no {class_name}") from error
