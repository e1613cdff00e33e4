"""Docker as the tests use it, where it can be had."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

import pytest

PYTHON_IMAGE = "python:3-slim"  # as in docker-compose.yml


def docker(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a docker command; it may fail."""
    return subprocess.run(["docker", *command], capture_output=True, text=True)


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test; where Docker is required, as in the workflow, fail it."""
    if os.environ.get("REQUIRE_DOCKER"):
        pytest.fail(reason)
    pytest.skip(reason)


def need_images(*images: str) -> None:
    """Skip the test where no engine runs, or an image is not at hand."""
    try:
        engine = docker("info")
    except OSError:
        skip_or_fail("there is no docker here")
    if engine.returncode:
        skip_or_fail("no Docker engine runs here")
    if docker("image", "inspect", *images).returncode:
        skip_or_fail("the images are not at hand: docker compose --profile play pull")
