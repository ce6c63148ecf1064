"""What img2dataset.pex runs: the command `img2dataset-dist`, or Python with the package in it.

    img2dataset.pex --url_list=... / plan ... / --help      the command
    img2dataset.pex script.py ... / -m x / -c x / -         Python

In the second case this process becomes the interpreter of the unpacked pex: what a script sees is what Python does.
Nothing here is imported before it is needed: each Spark worker starts this way.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import subprocess
import sys
from collections.abc import MutableMapping
from typing import NoReturn

from img2dataset_dist.about import VERSION

PYTHON_FLAG = re.compile(r"-[bBdEiIOPqsSuvx]*[cmWX]?|-[WX].+")
"""An option of an interpreter: -c, -m, -u, -uc, -Wignore, and - for a script from stdin. Not -h, -V and --anything."""

USAGE = """\
{name} [COMMAND] --flag=value ...                 the command, as below
{name} SCRIPT.py | -m MODULE | -c CODE | - ...    Python, with the package in it
"""


def main() -> NoReturn:
    """Run the command line of the pex, and exit."""
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else "--help"
    prepare(os.environ)
    if is_for_python(first):
        run_python(arguments)
    name = os.path.basename(os.environ.get("PEX", sys.argv[0]))
    if first.endswith(".py"):
        sys.exit(_complain(f"{name}: {no_script(first)}"))
    if first in ("--version", "-V", "version"):
        print(version())
        sys.exit(0)
    if first in ("--help", "-h", "help"):
        print(USAGE.format(name=name), flush=True)
        arguments = ["--help"]
    from img2dataset_dist import cli  # noqa: PLC0415 (it imports a lot)

    cli.main(arguments)


def is_for_python(first: str) -> bool:
    """Whether a command line that begins with this is one for an interpreter."""
    return PYTHON_FLAG.fullmatch(first) is not None or (first.endswith(".py") and os.path.isfile(first))


def run_python(arguments: list[str]) -> NoReturn:
    """Become the interpreter."""
    command = [sys.executable, *arguments]
    if "_PEX_ROOT_FALLBACK" in os.environ:  # unpacked into a folder for this start only; who execs leaves it behind
        del os.environ["_PEX_ROOT_FALLBACK"]
        code = subprocess.call(command)  # noqa: S603 (our own interpreter)
        sys.exit(code if code >= 0 else 128 - code)
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 (our own interpreter)


def prepare(environment: MutableMapping[str, str]) -> None:
    """Tell the processes that are started from here where they come from.

    PEX is the file itself. PEX_ROOT is where it is unpacked: pex takes it out of the environment, and a Spark worker on
    this host would unpack once more elsewhere. PYSPARK_PYTHON is what Spark starts workers with; its default, the
    python3 of the PATH, has none of our packages.
    """
    root, unpacked, _ = sys.prefix.rpartition("/venvs/")
    if unpacked:
        environment["PEX_ROOT"] = root
    if environment.get("PEX"):
        environment.setdefault("PYSPARK_PYTHON", environment["PEX"])
    if environment.get("SPARK_HOME") and "PYSPARK_GATEWAY_PORT" not in environment:
        use_own_spark(environment)


def use_own_spark(environment: MutableMapping[str, str]) -> None:
    """Forget a SPARK_HOME of another Spark than the pyspark that will be imported: the two cannot talk.

    Only when that pyspark is the one in the pex. One on PYTHONPATH belongs to who put it there.
    """
    from importlib.util import find_spec  # noqa: PLC0415 (rarely needed)

    spec = find_spec("pyspark")
    own = os.path.dirname(spec.origin) if spec and spec.origin else ""
    if not own.startswith(sys.prefix + os.sep):
        return
    ours, theirs = spark_version(own), spark_version(environment["SPARK_HOME"])
    if ours.split(".")[:2] == theirs.split(".")[:2]:
        return
    found = f"is Spark {theirs}" if theirs else "has no Spark in it"
    _complain(
        f"SPARK_HOME={environment['SPARK_HOME']} {found}, this pex has its own Spark {ours}: SPARK_HOME is ignored "
        "(its conf folder can be named in SPARK_CONF_DIR; for that Spark itself use the thin pex)"
    )
    del environment["SPARK_HOME"]


def spark_version(home: str) -> str:
    """Version of the Spark in a folder; empty when there is none."""
    jars = glob.glob(os.path.join(glob.escape(home), "jars", "spark-core_*.jar"))
    return os.path.basename(jars[0])[:-4].partition("-")[2].partition("-")[2] if jars else ""


def no_script(path: str) -> str:
    """The message for a script that does not exist."""
    folder, base = os.path.split(path)
    there = sorted(os.path.basename(other) for other in glob.glob(os.path.join(glob.escape(folder or "."), "*.py")))
    near = difflib.get_close_matches(base, there, n=1)
    hint = f"; did you mean {os.path.join(folder, near[0])}?" if near else ""
    return f"there is no script {path} (looked from {os.getcwd()}){hint}"


def version() -> str:
    """One line: ours, Python's, and Spark's where it is inside."""
    from importlib import metadata  # noqa: PLC0415 (rarely needed)

    python = ".".join(map(str, sys.version_info[:3]))
    try:
        spark = f"pyspark {metadata.version('pyspark')}"
    except metadata.PackageNotFoundError:
        spark = "no pyspark"
    return f"img2dataset-dist {VERSION} (CPython {python}, {spark})"


def _complain(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
