"""The commands of docker-compose.yml, where there is an engine and the images are at hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess

import pytest
from helpers.machine import ROOT
from helpers.page import steps
from helpers.script import WAITING, wait_until

PROJECT = f"work-queue-tests-{os.getpid()}"  # apart from a reader's, and from another run's
OF_THE_PROJECT = ("--filter", f"label=com.docker.compose.project={PROJECT}")
IMAGES = ("rabbitmq:4-management", "python:3-slim")  # as in docker-compose.yml


def docker(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a docker command; it may fail."""
    return subprocess.run(["docker", *command], capture_output=True, text=True)


@pytest.fixture(scope="session")
def images():
    """Skip the test where Docker is not at hand; where it is required, as in the workflow, fail."""
    for command in (("info",), ("compose", "version"), ("image", "inspect", *IMAGES)):
        if not shutil.which("docker") or docker(*command).returncode:
            skip = pytest.fail if os.environ.get("REQUIRE_DOCKER") else pytest.skip
            skip(f"`docker {' '.join(command)}` fails here")


@pytest.fixture
def compose(images, project):
    """Types a block in a copy of the project: as a project of its own for Docker, without ports.

    Returns what is printed on stdout.
    """
    file = project / "docker-compose.yml"
    file.write_text(re.sub("    ports:\n(      - .*\n)+", "", file.read_text()))
    environment = {**os.environ, "COMPOSE_PROJECT_NAME": PROJECT}

    def typed(block):
        ended = subprocess.run(
            ["sh", "-ec", block], cwd=project, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    yield typed
    down = ("down", "--volumes", "--rmi=local", "--remove-orphans")
    docker("compose", f"--project-name={PROJECT}", f"--project-directory={project}", *down)


def test_see_it_run_in_docker(compose):
    command, _python, _play, picture = steps("See it run")  # in test_play.py
    assert compose(command).endswith(f"\n\n{picture}")


def test_with_docker_and_service_rabbitmq_is_not_running(compose):
    """A task survives restart and down."""
    up, rabbitmqctl = steps("With Docker")
    compose(up)
    assert compose("docker compose ps --services").split() == ["rabbitmq"]
    send = "pip install -q -r requirements.txt && python new_task.py kept"
    here = "--rm --workdir /work-queue --env AMQP_URL=amqp://rabbitmq"
    compose(f'docker compose run {here} play sh -c "{send}"')
    for again in ("restart rabbitmq", "down"):
        compose(f"docker compose {again}")
        compose(up)
        listed = compose(f"{rabbitmqctl}rabbitmqctl -q list_queues --no-table-headers")
        assert listed.split() == ["task_queue", "1"]
    compose("docker compose stop")
    with pytest.raises(AssertionError, match='service "rabbitmq" is not running'):
        compose(f"{rabbitmqctl}rabbitmqctl status")


def test_clean_up_with_docker(compose):
    """Also ten workers, which docker-compose.yml does not name."""
    down, _delete, _remove = steps("Clean up")  # in test_page.py
    ten_workers, *_others = steps("Keep ten workers running")
    compose(*steps("Answers and errors"))
    compose(ten_workers)
    compose(down)
    for kind in (("ps", "--all"), ("network", "ls"), ("volume", "ls"), ("image", "ls")):
        assert docker(*kind, *OF_THE_PROJECT, "--quiet").stdout == ""


def test_keep_ten_workers_running(compose, project):
    """They start again, and finish their tasks: SIGTERM reaches a container's first process."""
    up, send, follow, stop, remove, _loop = steps("Keep ten workers running")
    logs = follow.replace("--follow ", "")  # else it would not end
    compose(*steps("Answers and errors"))
    compose(up)
    wait_until(lambda: compose(logs).count(WAITING) == 10, "all ten workers wait")
    workers = docker("ps", "--quiet", *OF_THE_PROJECT, "--filter", "name=worker").stdout
    for name in workers.split():  # as an error would; `docker kill` would stop it for good
        docker("exec", name, "python", "-c", "import os; os.kill(1, 15)")
    wait_until(lambda: compose(logs).count(WAITING) == 20, "all ten workers wait again")

    compose(send)
    wait_until(lambda: " [x] Received" in compose(logs), "a worker has the task")
    compose(stop)
    assert " [x] Done" in compose(logs)
    assert (project / "reports" / "1.txt").read_text() == "This took 15.0 seconds.\n"
    compose(remove)
    names = docker("ps", "--all", "--format", "{{.Names}}", *OF_THE_PROJECT).stdout
    assert names == f"{PROJECT}-rabbitmq-1\n"


def test_port_is_already_allocated_and_address_already_in_use(images):
    """By another container, and by another program."""
    with socket.create_server(("127.0.0.1", 0)) as program:
        port = f"127.0.0.1:{program.getsockname()[1]}:5672"
        run = ("run", "--rm", f"--publish={port}", f"--name={PROJECT}-port", IMAGES[1])
        assert "address already in use" in docker(*run, "true").stderr
    try:
        assert docker(*run[:2], "--detach", *run[2:], "sleep", "600").returncode == 0
        again = docker("run", "--rm", f"--publish={port}", IMAGES[1], "true")
        assert "port is already allocated" in again.stderr
    finally:
        docker("kill", f"{PROJECT}-port")


def test_rabbitmq_is_published_to_this_machine_only_and_play_cannot_write(images):
    file = str(ROOT / "docker-compose.yml")
    config = docker("compose", "-f", file, "--profile", "play", "config", "--format", "json")
    services = json.loads(config.stdout)["services"]
    ports = {(port["host_ip"], port["published"]) for port in services["rabbitmq"]["ports"]}
    assert ports == {("127.0.0.1", "5672"), ("127.0.0.1", "15672")}
    assert [volume["read_only"] for volume in services["play"]["volumes"]] == [True]
