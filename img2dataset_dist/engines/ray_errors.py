"""What Ray's exceptions mean."""

from __future__ import annotations

import re

from ray import exceptions

from img2dataset_dist.errors import EngineError, NetworkDownError

_MISSING = re.compile(r"No module named '(\S+)'")
_ADVICE = (
    (
        exceptions.TaskUnschedulableError,
        "Ray has no node that could ever run a task with one CPU: ",
    ),
    (
        (exceptions.TaskCancelledError, exceptions.LocalRayletDiedError, exceptions.RaySystemError),
        "Ray ended the job; run the same command again to go on: ",
    ),
)


def fatal(error: BaseException) -> Exception | None:
    """What to raise, when no shard can be done after this error; None when others may."""
    cause = cause_of(error)
    if isinstance(cause, EngineError):
        return EngineError(str(cause))
    if isinstance(cause, NetworkDownError):
        return NetworkDownError(str(cause))
    text = str(error)
    if isinstance(error, exceptions.RuntimeEnvSetupError):
        return EngineError(
            f"Ray could not prepare the environment of the workers (runtime_env; ray[default] on every node has what "
            f"that takes): {_shorten(text)}"
        )
    if found := _MISSING.search(text):
        return EngineError(
            f"the Python of Ray's workers does not have {found[1].partition('.')[0]}: install img2dataset_dist[ray] "
            "on every node, or let runtime_env say where it is (docs/ray.md)"
        )
    for kinds, advice in _ADVICE:
        if isinstance(error, kinds):
            return EngineError(f"{advice}{_shorten(text)}")
    return None


def cause_of(error: BaseException) -> BaseException:
    """The exception that a task raised, without what Ray made of it."""
    cause = getattr(error, "cause", None) if isinstance(error, exceptions.RayTaskError) else None
    return cause if isinstance(cause, BaseException) else error


def reason_of(error: BaseException) -> str:
    """One line for people."""
    cause = cause_of(error)
    if isinstance(error, exceptions.RayTaskError):
        return _shorten(f"{type(cause).__name__}: {cause}" if cause is not error else _last_line(str(error)))
    if isinstance(error, exceptions.NodeDiedError):
        return _shorten(f"the node of the task died: {error}")
    if isinstance(error, exceptions.WorkerCrashedError):
        return "the worker process died (killed, a crash in native code, or its node was lost); Ray's logs tell more"
    return _shorten(f"{type(error).__name__}: {error}")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _shorten(text: str, most: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."
