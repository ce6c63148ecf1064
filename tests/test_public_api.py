"""What a user may import, and that the package holds what it promises to every supported Python."""

from __future__ import annotations

import ast
import importlib
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import img2dataset_dist
from img2dataset_dist import registry
from img2dataset_dist.errors import ROW_ERRORS, ConfigError

PACKAGE = Path(img2dataset_dist.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "img2dataset_dist."))


def test_public_names() -> None:
    assert img2dataset_dist.__all__ == [
        "ConfigError",
        "EngineError",
        "Img2datasetError",
        "InputError",
        "MissingExtra",
        "NetworkDownError",
        "ResumeRefused",
        "ShardsFailed",
        "Stats",
        "__version__",
        "any2dataset",
        "download",
        "video2dataset",
    ]
    assert all(hasattr(img2dataset_dist, name) for name in img2dataset_dist.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", img2dataset_dist.__version__)


@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("__main__")])
def test_every_module_imports(name: str) -> None:
    assert inspect.getdoc(importlib.import_module(name)), "and says what it is for"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_syntax_of_the_oldest_python(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 10))


def test_importing_is_light() -> None:
    """The command answers quickly: codecs and optional packages are imported where they are used."""
    code = "import sys, img2dataset_dist.cli; print([m for m in ('wandb', 'cv2', 'pandas', 'tensorflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", registry.PLUGINS)
def test_every_plugin_can_be_looked_up(kind: str) -> None:
    for name in registry.PLUGINS[kind]:
        assert inspect.isclass(registry.lookup(kind, name))


def test_a_plugin_of_ones_own() -> None:
    assert registry.lookup("writer", "support.plugins:Poison").__name__ == "Poison"


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("writer", "webdatset", r"output_format='webdatset' is not one of .*did you mean 'webdataset'"),
        ("writer", "no.such.module:Writer", r"cannot import no\.such\.module"),
        ("writer", "support.plugins:Nobody", "support.plugins has no Nobody"),
    ],
)
def test_a_plugin_that_is_not_there(kind: str, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        registry.lookup(kind, name)


@pytest.mark.parametrize(
    ("kind", "name", "package", "extra"),
    [("report", "wandb", "wandb", "wandb"), ("engine", "pyspark", "pyspark", "spark"), ("engine", "ray", "ray", "ray")],
)
def test_a_missing_optional_package_comes_with_its_pip_command(kind: str, name: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from img2dataset_dist import MissingExtra, registry\n"
        f"try: registry.lookup({kind!r}, {name!r})\n"
        "except MissingExtra as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'img2dataset_dist[{extra}]'" in done.stdout


def test_error_codes_are_distinct_and_explained() -> None:
    for code, kind in ROW_ERRORS.items():
        assert re.fullmatch(r"[a-z0-9_]+", code)
        assert kind.summary
    assert len({kind.summary for kind in ROW_ERRORS.values()}) == len(ROW_ERRORS)


def test_errors_survive_pickling() -> None:
    error = img2dataset_dist.ShardsFailed({3: "why"}, img2dataset_dist.Stats(count=1))
    again = pickle.loads(pickle.dumps(error))
    assert again.failures == {3: "why"}
