"""The command `img2dataset-dist`: flat flags to calls, and exit codes that tell the truth.

0 all shards are done; 1 shards stayed failed or the list broke off; 2 an option or an input is wrong, nothing was
written; 130 and 143 stopped by Ctrl-C or SIGTERM, run again to go on.

A command is one function and one line in `COMMANDS`. Fire splits the command line into names and values; what the
values mean is decided by the type of the option, so `--url_col=1` stays text.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Union, get_args, get_origin

import fire
import fsspec
import yaml
from rich.console import Console
from rich.table import Table

from img2dataset_dist import any2dataset_api, video2dataset_config
from img2dataset_dist.about import VERSION
from img2dataset_dist.config import JobConfig, Option, nearest, options
from img2dataset_dist.errors import ConfigError, Img2datasetError, MissingExtra
from img2dataset_dist.job import run_job
from img2dataset_dist.plan import PlanSummary, make_plan, summarise
from img2dataset_dist.storage import Folder

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM; handled like Ctrl-C but for the exit code.

    Attributes:
        raised: it was; libraries make a KeyboardInterrupt of their own of whatever a signal handler raises.
    """

    raised = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A sub-command: what it does, its own flags with their help, names of positional arguments, and the function."""

    help: str
    run: Callable[[dict[str, Any]], None]
    flags: Mapping[str, str]
    positional: tuple[str, ...]
    job_options: bool = True


def run_download(flags: dict[str, Any]) -> None:
    """Fetch a list into a dataset."""
    run_job(JobConfig.from_flat(flags))


def run_plan(flags: dict[str, Any]) -> None:
    """Print what a download would do."""
    top = _whole_number("top", flags.pop("top", "20"))
    as_json = str(flags.pop("as_json", "False")).lower() == "true"
    plan = make_plan(JobConfig.from_flat(flags).input)
    with tempfile.TemporaryDirectory() as spool:
        summary = summarise(plan, Folder.at(spool), top=top)
    if as_json:
        content = {name: getattr(summary, name) for name in summary.__slots__}
        print(json.dumps(content | {"fingerprint": plan.fingerprint}, indent=2))
        return
    Console(highlight=False).print(_plan_table(summary, plan.fingerprint))


def run_preview(flags: dict[str, Any]) -> None:
    """Draw a contact sheet of a dataset."""
    from img2dataset_dist.tools.preview import preview  # noqa: PLC0415 (only this command needs Pillow's fonts)

    for name in ("dataset", "image"):
        if name not in flags:
            raise ConfigError(f"{name} is missing: img2dataset-dist preview DATASET_FOLDER PICTURE.jpg")
    numbers = {name: _whole_number(name, flags[name]) for name in ("count", "columns", "seed") if name in flags}
    shown = preview(str(flags["dataset"]), str(flags["image"]), **numbers)
    print(f"{flags['image']}: {shown} pictures of {flags['dataset']}")


def run_video2dataset(flags: dict[str, Any]) -> None:
    """Make a dataset with the arguments of video2dataset."""
    from img2dataset_dist.video2dataset_api import from_text, video2dataset  # noqa: PLC0415 (only this command does)

    if "url_list" not in flags:
        raise ConfigError("url_list is missing: img2dataset-dist video2dataset --url_list=videos.csv --url_col=url")
    video2dataset(**from_text(flags))


def run_any2dataset(flags: dict[str, Any]) -> None:
    """Keep any files, with the arguments of any2dataset."""
    from img2dataset_dist.any2dataset_api import any2dataset, from_text  # noqa: PLC0415 (only this command does)

    if "url_list" not in flags:
        raise ConfigError("url_list is missing: img2dataset-dist any2dataset --url_list=urls.txt")
    any2dataset(**from_text(flags))


COMMANDS = {
    "download": Command(
        help="Fetch a list into a dataset (the default: the name may be left out).",
        run=run_download,
        flags={},
        positional=("url_list",),
    ),
    "plan": Command(
        help="Print shards, rows, hosts with most URLs and malformed URLs; fetches and writes nothing. Takes the "
        "flags of download.",
        run=run_plan,
        flags={"top": "How many hosts to list. [20]", "as_json": "Print JSON. [False]"},
        positional=("url_list",),
    ),
    "video2dataset": Command(
        help="Videos and sounds, with the arguments of video2dataset (docs/migrating.md).",
        run=run_video2dataset,
        flags=video2dataset_config.FLAGS,
        positional=("url_list",),
    ),
    "any2dataset": Command(
        help="Any files as they came, with the arguments of any2dataset (docs/migrating.md).",
        run=run_any2dataset,
        flags=any2dataset_api.FLAGS,
        positional=("url_list",),
    ),
    "preview": Command(
        help="Draw a contact sheet of a dataset: img2dataset-dist preview DATASET PICTURE.jpg",
        run=run_preview,
        flags={
            "dataset": "Folder of a dataset.",
            "image": "Picture to write.",
            "count": "How many pictures to show. [60]",
            "columns": "Pictures in a row. [10]",
            "seed": "Which pictures: a number for the random choice. [0]",
        },
        positional=("dataset", "image"),
        job_options=False,
    ),
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    try:
        name, rest = _split_command(argv)
        if name is None:
            return 0
        command = COMMANDS[name]
        command.run(_flags(command, rest))
    except (ConfigError, MissingExtra) as error:
        return _complain(str(error), EXIT_USAGE)
    except Img2datasetError as error:
        return _complain(str(error), EXIT_FAILED)
    except KeyboardInterrupt as error:
        if Terminated.raised or isinstance(error, Terminated):
            return _complain("stopped; run the same command again to go on", EXIT_TERMINATED)
        return _complain("interrupted; run the same command again to go on", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:  # a full disk on this machine, a folder that was taken away
        return _complain(f"{error}; run the same command again to go on", EXIT_FAILED)
    return 0


def _on_sigterm(_number: int, _frame: types.FrameType | None) -> None:
    Terminated.raised = True
    raise Terminated


def _complain(message: str, code: int) -> int:
    print(f"img2dataset-dist: {' '.join(message.split())}", file=sys.stderr)
    return code


def _split_command(argv: list[str]) -> tuple[str | None, list[str]]:
    """Command name and its arguments; None when help or the version was all that was wanted."""
    first = argv[0] if argv else "--help"
    if first in ("--version", "version"):
        print(f"img2dataset-dist {VERSION}")
        return None, []
    name = first if first in COMMANDS else "download"
    rest = argv[1:] if first in COMMANDS else argv
    if rest[:1] == ["help"] or any(arg in ("-h", "--help") for arg in rest) or first in ("help", "--help"):
        print(help_text(None if first in ("help", "--help", "-h") else name))
        return None, []
    if name != first and not first.startswith("-"):
        hint = nearest(first, list(COMMANDS))
        if hint or ("." not in first and "/" not in first):
            raise ConfigError(f"unknown command '{first}'{hint} (commands: {', '.join(COMMANDS)})")
    return name, rest


def _flags(command: Command, argv: list[str]) -> dict[str, Any]:
    """The values of a command line by flat name, typed; a config file's values stand below the flags."""
    positional, given = _split_flags(argv)
    if len(positional) > len(command.positional):
        raise ConfigError(f"unexpected argument '{positional[len(command.positional)]}'; flags look like --name=value")
    named = dict(zip(command.positional, positional, strict=False))
    for name, value in named.items():
        if name in given:
            raise ConfigError(f"unexpected argument '{value}': there is --{name}={given[name]} already")
    given = named | given
    known: dict[str, Any] = {**(options() if command.job_options else {}), **command.flags}
    values: dict[str, Any] = {}
    if command.job_options and "config" in given and "config" not in command.flags:
        values |= read_config_file(given.pop("config"))
    for name, text in given.items():
        if name not in known:
            raise ConfigError(f"unknown flag --{name}{nearest(name, [*known, 'config'])}")
        option = known[name]
        values[name] = parse_value(text, option) if isinstance(option, Option) else text
    return values


_SWITCHES = {"compute_md5", "detect_cuts", "strict_resize"}
"""Flags of other tools that are on or off."""

_YES_NO = ("true", "false", "1", "0", "yes", "no", "on", "off", "t", "f", "y", "n")


def _split_flags(argv: list[str]) -> tuple[list[str], dict[str, str]]:
    """Positional arguments, and flags by name with their text, as Fire splits them."""
    found: tuple[list[str], dict[str, str]] = ([], {})

    @fire.decorators.SetParseFn(str)  # type: ignore[untyped-decorator]
    def collect(*args: str, **flags: str) -> None:
        found[0].extend(args)
        found[1].update(flags)

    for arg in argv:
        if arg == "--" or (arg.startswith("-") and not arg.lstrip("-")):
            raise ConfigError(f"unexpected argument '{arg}'; flags look like --name=value")
    fire.Fire(collect, command=_switched(argv), name="img2dataset-dist")
    return found


def _switched(argv: list[str]) -> list[str]:
    """Flags that are on or off, without a value: Fire would take the next argument for it, whatever that is."""
    switches = {name for name, option in options().items() if option.field.annotation is bool} | _SWITCHES
    following = [*argv[1:], ""]
    return [
        f"{arg}=True"
        if arg.startswith("--") and arg[2:].replace("-", "_") in switches and after.lower() not in _YES_NO
        else arg
        for arg, after in zip(argv, following, strict=False)
    ]


def parse_value(text: str, option: Option) -> Any:
    """The text of a flag as what its option takes; checked later, with all others."""
    kinds = _kinds(option.field.annotation)
    if text == "None" and type(None) in kinds:
        return None
    if tuple in kinds or list in kinds:
        if text == "None":
            return None
        return _names(text)
    if dict in kinds and text.lstrip().startswith("{"):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"a value that begins with {{ is no mapping: {text!r}") from error
    return text


def _names(text: str) -> list[str]:
    """A list of names as a Python or JSON list or a,b: `[1,2]` are the names "1" and "2", as the user typed them."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        value = None
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return list(value)
    text = text.strip()
    if text[:1] + text[-1:] in ("[]", "()"):
        text = text[1:-1]
    parts = (part.strip().strip("'\"") for part in text.split(","))
    return [part for part in parts if part]


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return {kind for part in get_args(annotation) for kind in _kinds(part)}
    return {get_origin(annotation) or annotation}


def read_config_file(path: str) -> dict[str, Any]:
    """Options from a YAML or JSON file, on any fsspec path.

    Raises:
        ConfigError: it cannot be read, is no mapping, or holds a name that is no option.
    """
    try:
        with fsspec.open(path, "r", encoding="utf-8") as file:
            content = json.load(file) if path.endswith(".json") else yaml.safe_load(file)
    except (OSError, ValueError, ImportError, yaml.YAMLError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"config: {path} must hold names and values, for example 'image_size: 256'")
    for name in content:
        if name not in options():
            raise ConfigError(f"config: {path}: unknown option '{name}'{nearest(str(name), options())}")
    return content


def _whole_number(name: str, text: Any) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a whole number") from None


def _plan_table(summary: PlanSummary, fingerprint: str) -> Table:
    table = Table(title="plan", title_justify="left", show_header=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(justify="right")
    for name in ("files", "shards", "rows"):
        table.add_row(name, f"{getattr(summary, name):,}")
    table.add_row("hosts", f"{summary.host_count:,}")
    table.add_row("malformed", f"{sum(summary.malformed.values()):,}")
    table.add_row("fingerprint", fingerprint)
    for title, counts in (("hosts with most URLs", summary.hosts), ("malformed", summary.malformed)):
        if counts:
            table.add_section()
            table.add_row(f"[i]{title}[/i]", "")
            for name, count in counts.items():
                table.add_row(f"  {name}", f"{count:,}")
    return table


def help_text(command: str | None) -> str:
    """Help for one command, or the overview with all options of download."""
    lines = ["usage: img2dataset-dist [COMMAND] --flag=value ...", "", "commands:"]
    lines += [f"  {name:<10} {entry.help}" for name, entry in COMMANDS.items()]
    entry = COMMANDS[command or "download"]
    if entry.flags:
        lines += ["", f"flags of {command}:", *(f"  --{name:<28} {text}" for name, text in entry.flags.items())]
    if entry.job_options:
        if "config" not in entry.flags:
            lines += ["", f"  --{'config=FILE':<28} YAML or JSON file that holds flags by name; flags override it."]
        group = ""
        for name, option in options().items():
            if option.group != group:
                group = option.group
                lines += ["", f"{group}:"]
            lines.append(f"  --{name:<28} {option.field.description} [{default_text(option)}]")
    return "\n".join(lines)


def default_text(option: Option) -> str:
    """The default of an option as one would type it; `required` for none."""
    if option.field.is_required():
        return "required"
    value = option.field.default
    return json.dumps(list(value)) if isinstance(value, tuple) else str(value)
