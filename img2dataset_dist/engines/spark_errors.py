"""What Spark's long texts mean."""

from __future__ import annotations

import re

from py4j.protocol import Py4JNetworkError  # type: ignore[import-untyped]

from img2dataset_dist.errors import EngineError, NetworkDownError

_STOPPED = re.compile(
    r"(Job \d+ cancelled[^\n]*?|SparkContext was shut down|SparkContext has been shutdown|stopped SparkContext)"
    r"(?: *SQLSTATE[^\n]*)?$",
    re.MULTILINE,
)
_OURS = re.compile(r"errors\.EngineError: ([^\n]*)")
_NETWORK = re.compile(r"errors\.NetworkDownError: ([^\n]*)")
_RAISED = re.compile(
    r"^(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt|Exit|Down)): ([^\n]*)$", re.MULTILINE
)
_LOST = re.compile(r"(ExecutorLostFailure[^\n]*)")
_WORKER = re.compile(r"(Python worker exited unexpectedly[^\n]*)")
_IN_A_TASK = re.compile(r"Job aborted due to stage failure|^Traceback", re.MULTILINE)
_ABORTED = re.compile(r"(Job aborted due to stage failure: [^\n]*)")

_ADVICE = (
    (
        re.compile(r"No module named '([^'.]+)[^']*'"),
        (
            "the Python of the executors does not have the module {0}: set PYSPARK_PYTHON (or spark.pyspark.python) "
            "to the pex, or to a Python that has it, on every machine, before the session is made"
        ),
    ),
    (
        re.compile(r"(PYTHON_VERSION_MISMATCH|Python in worker has different version)[^\n]*"),
        (
            "driver and executors run different Python versions: set PYSPARK_PYTHON to the Python that runs the "
            "driver, or use the same pex for both"
        ),
    ),
    (
        re.compile(r'Cannot run program "([^"]+)"'),
        (
            "an executor cannot run {0} as its Python: PYSPARK_PYTHON must name a file that is there and executable on "
            "every machine"
        ),
    ),
    (
        re.compile(r"InvalidClassException|(incompatible with )"),
        ("driver and cluster run different versions of Spark: use the pyspark of the cluster's version"),
    ),
)


def fatal(error: BaseException) -> EngineError | NetworkDownError | None:
    """What to end the job with, when no shard can be done after this error of Spark's; None when others may."""
    text = str(error)
    if found := _OURS.search(text):
        return EngineError(found[1])
    if found := _NETWORK.search(text):
        return NetworkDownError(found[1])
    for pattern, advice in _ADVICE:
        if found := pattern.search(text):
            return EngineError(advice.format(*found.groups()))
    if isinstance(error, (Py4JNetworkError, ConnectionError)):
        return EngineError(f"the JVM of the driver is gone ({text.strip()}); run the same command again to go on")
    if not _IN_A_TASK.search(text) and (found := _STOPPED.search(text)):
        return EngineError(f"Spark ended the job ({found[1].strip()}); run the same command again to go on")
    return None


def reason_of(text: str) -> str:
    """One line for people out of an error of Spark's."""
    raised = _RAISED.findall(text)
    python = [f"{name}: {message}" for name, message in raised if name not in ("SparkException", "Py4JJavaError")]
    for found in (_WORKER.search(text), _LOST.search(text)):
        if found and not any("Error" in line and "PythonException" not in line for line in python):
            return _shorten(found[1])
    if python:
        return _shorten(python[-1])
    found = _ABORTED.search(text)
    return _shorten(found[1] if found else text.strip().partition("\n")[0])


def _shorten(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
