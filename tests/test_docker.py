"""The tutorial with Docker Compose, where there is an engine and the images are at hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest
from conftest import WAITING
from shared import readme
from shared.console import until
from shared.machine import ROOT

PROJECT = f"work-queue-tests-{os.getpid()}"  # apart from a reader's, and from each other's
IMAGES = re.findall(r"^    image: (\S+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)

Compose = Callable[..., str]


def docker(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *command], capture_output=True, text=True, check=False)


def lacks() -> str:
    """What is missing here for playing the tutorial in containers; empty if nothing is."""
    if not shutil.which("docker") or docker("compose", "version").returncode:
        return "there is no docker compose here"
    if docker("info").returncode:
        return "no Docker engine runs here"
    if docker("image", "inspect", *IMAGES).returncode:
        return "the images are not at hand: docker compose --profile tutorial pull"
    return ""


@pytest.fixture
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """`docker compose` in a project of the test's own, without published ports."""
    if missing := lacks():
        pytest.skip(missing)
    ports = tmp_path_factory.mktemp("compose") / "no-ports.yml"
    ports.write_text("services: {rabbitmq: {ports: !reset []}}\n")
    files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(ports))

    def run(*command: str) -> str:
        done = docker("compose", "-p", PROJECT, "--profile", "tutorial", *files, *command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    run("down", "--volumes", "--timeout", "1")


def said(compose: Compose, service: str) -> dict[str, list[str]]:
    """What each container of a service has printed, by the container's name."""
    lines: dict[str, list[str]] = {}
    for line in compose("logs", "--no-color", service).splitlines():
        name, text = line.split("|", 1)
        lines.setdefault(name.strip(), []).append(text[1:])
    return lines


def count(compose: Compose, line: str) -> int:
    return sum(lines.count(line) for lines in said(compose, "worker").values())


def test_compose_plays_the_tutorial(compose: Compose) -> None:
    compose("up", "--detach")
    until(lambda: count(compose, " [x] Done") == 5, limit=120)
    sent = [line for lines in said(compose, "new_task").values() for line in lines]
    commands = readme.blocks("sh", readme.section("The tutorial"))[0].splitlines()
    shown = [f" [x] Sent {line.removeprefix('python new_task.py ')!r}" for line in commands]
    assert sent == shown
    workers = said(compose, "worker").values()
    assert len(workers) == 2
    received = sorted([line for line in lines if "Received" in line] for lines in workers)
    assert received == [
        [line.replace("Sent", "Received") for line in shown[start::2]] for start in (0, 1)
    ]


def test_compose_has_as_many_workers_as_one_likes_and_stops_them(compose: Compose) -> None:
    compose("up", "--detach", "--scale", "worker=3", "rabbitmq", "worker")
    until(lambda: count(compose, WAITING) == 3, limit=120)
    send = ("run", "--rm", "--no-deps", "new_task", "sh", "-c")
    install = "pip install -q -r requirements.txt && python new_task.py"
    assert " [x] Sent 'in hand" in compose(*send, f"{install} in hand" + "." * 60)
    until(lambda: any("in hand" in str(lines) for lines in said(compose, "worker").values()))
    compose("stop", "worker")
    listed = compose("ps", "--all", "--format", "json", "worker")
    ends = [json.loads(line)["ExitCode"] for line in listed.splitlines()]
    assert ends == [143, 143, 143]  # SIGTERM's, and not SIGKILL's
    ctl = ("exec", "rabbitmq", "rabbitmqctl", "--quiet", "list_queues", "--no-table-headers")
    assert compose(*ctl, "name", "messages_ready").split() == ["task_queue", "1"]
    compose("down")
    compose("up", "--detach", "--wait", "rabbitmq")
    assert compose(*ctl, "name", "messages_ready").split() == ["task_queue", "1"]


def test_compose_publishes_rabbitmq_to_this_machine_only() -> None:
    if not shutil.which("docker") or docker("compose", "version").returncode:
        pytest.skip("there is no docker compose here")
    command = ("compose", "--profile", "tutorial", "config", "--format", "json")
    done = subprocess.run(["docker", *command], cwd=ROOT, capture_output=True, check=True)
    services = json.loads(done.stdout)["services"]
    assert {(port["host_ip"], port["published"]) for port in services["rabbitmq"]["ports"]} == {
        ("127.0.0.1", "5672"),
        ("127.0.0.1", "15672"),
    }
    assert all(services[name]["volumes"][0]["read_only"] for name in ("worker", "new_task"))
