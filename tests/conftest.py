"""Fixtures that many tests share; what they are made of is in tests/support."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.photos import photos
from support.server import NastyServer

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what runs in its background, and we hand it on
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 real photographs: photo_00000.jpg, ..."""
    folder = tmp_path_factory.mktemp("photos")
    photos(folder, 60)
    return folder


@pytest.fixture(scope="session")
def server(photo_folder: Path) -> Iterator[NastyServer]:
    """A server of `photo_folder` that also misbehaves in every known way."""
    with NastyServer(photo_folder) as running:
        yield running


@pytest.fixture(scope="session")
def https_server(photo_folder: Path) -> Iterator[NastyServer]:
    """The same over TLS, with a certificate that nobody trusts but who reads `https_server.ca`."""
    with NastyServer(photo_folder, https=True) as running:
        yield running
