"""URL lists through the plan and the readers, as a job takes them: `read_all` gives back every row of a list."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from img2dataset_dist import registry, storage
from img2dataset_dist.config import InputConfig
from img2dataset_dist.model import Item, Shard
from img2dataset_dist.plan import Plan, make_plan
from img2dataset_dist.walk import sliced

_LISTS = [name for name in registry.PLUGINS["reader"] if name != "webdataset"]
FORMATS = sorted([*_LISTS, *(f"{name}.gz" for name in _LISTS if name != "parquet")])
"""Every format of a list: the readers of the registry but that of datasets, and what can be compressed as a whole."""


def config_of(url_list: Path | str, rows_per_shard: int = 10, **more: Any) -> InputConfig:
    """Input options; the format is the suffix of the path unless it is given."""
    name = str(url_list).rpartition("/")[2]
    options = {"input_format": name.partition(".")[2], "number_sample_per_shard": rows_per_shard, **more}
    return InputConfig(url_list=str(url_list), **options)


class Reading(NamedTuple):
    """A list that was planned and read."""

    plan: Plan
    shards: list[Shard]
    items: list[Item]

    @property
    def urls(self) -> list[str | None]:
        return [item.url for item in self.items]

    def column(self, name: str) -> list[Any]:
        return [item.columns[name] for item in self.items]

    @property
    def problems(self) -> list[str | None]:
        """Per row, what is wrong with it."""
        return [item.failure and item.failure.message for item in self.items]


def spool_of(config: InputConfig) -> storage.Folder:
    """A folder for slices beside the list."""
    return storage.Folder.at(f"{storage.absolute(config.url_list).rpartition('/')[0]}/spool")


def read_shard(plan: Plan, shard: Shard) -> Iterator[Item]:
    """As a worker does, with a reader of its own."""
    reader = registry.lookup("reader", shard.source.format)(plan.config)
    return reader.read(shard, plan.schema)


def read_all(url_list: Path | str, rows_per_shard: int = 10, **more: Any) -> Reading:
    """Plan a list and read all its shards."""
    config = config_of(url_list, rows_per_shard, **more)
    plan = make_plan(config)
    shards = list(plan.shards(spool_of(config) if sliced(config) else None))
    return Reading(plan, shards, [item for shard in shards for item in read_shard(plan, shard)])
