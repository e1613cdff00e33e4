"""The commands of docker-compose.yml, where there is an engine and the images are at hand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from helpers import page
from helpers.page import orders, steps
from helpers.script import WAITING, wait_until
from helpers.setup import ROOT

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
    """Types a line that begins with `docker compose`: in a project of its own, without ports."""
    (project / "no-ports.yml").write_text("services: {rabbitmq: {ports: !reset []}}\n")

    def typed(line):
        names = ("docker-compose.yml", "docker-compose.override.yml", "no-ports.yml")
        files = [f"--file={project / name}" for name in names if (project / name).exists()]
        assert line.startswith("docker compose ")
        ended = docker("compose", f"--project-name={PROJECT}", *files, *shlex.split(line)[2:])
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    yield typed
    down = ("down", "--volumes", "--rmi=local", "--remove-orphans")
    docker("compose", f"--project-name={PROJECT}", "--profile=play", *down)


@pytest.fixture
def ten_workers(project):
    """Saves the page's files for ten workers. Returns the folder."""
    for name in ("Dockerfile", "docker-compose.override.yml"):
        (project / name).write_text(page.file(name))
    return project


def test_see_it_run_in_docker(compose):
    _play, command, picture = steps("See it run")  # in test_play.py
    assert orders(compose(command)) == orders(picture)


def test_with_docker(compose):
    """A task survives restart and down."""
    up, rabbitmqctl = steps("With Docker")
    compose(up)
    assert compose("docker compose ps --services").split() == ["rabbitmq"]
    send = "pip install -q -r requirements.txt && python new_task.py kept"
    here = "--rm --workdir /work-queue --env AMQP_URL=amqp://rabbitmq"
    compose(f'docker compose run {here} play sh -c "{send}"')
    in_the_container = rabbitmqctl.split("{ ")[1].split(' "$@"')[0]
    for again in ("restart", "down"):
        compose(f"docker compose {again}")
        compose(up)
        listed = compose(f"{in_the_container} -q list_queues --no-table-headers")
        assert listed.split() == ["task_queue", "1"]
    compose("docker compose stop")
    with pytest.raises(AssertionError, match='service "rabbitmq" is not running'):
        compose(f"{in_the_container} status")


def test_clean_up_with_docker(compose, ten_workers):
    down, _delete, _remove = steps("Clean up")  # in test_page.py
    compose("docker compose up -d --wait --scale worker=1")
    (ten_workers / "docker-compose.override.yml").unlink()  # and the workers run on
    compose(down)
    for kind in (("ps", "--all"), ("network", "ls"), ("volume", "ls"), ("image", "ls")):
        assert docker(*kind, *OF_THE_PROJECT, "--quiet").stdout == ""


def test_keep_ten_workers_running(compose, ten_workers):
    up, remove = steps("Keep ten workers running")
    compose(up)

    def waiting():
        logs = compose("docker compose logs worker")
        return set(re.findall(rf"(worker-\d+) +\| {re.escape(WAITING)}", logs))

    wait_until(lambda: len(waiting()) == 10, "all ten workers wait")
    (ten_workers / "docker-compose.override.yml").unlink()
    compose(remove)
    names = docker("ps", "--all", "--format", "{{.Names}}", *OF_THE_PROJECT).stdout
    assert names == f"{PROJECT}-rabbitmq-1\n"


def test_ten_workers_of_your_own(compose, ten_workers):
    """Reports are kept. SIGTERM ends it, also as a first process, which most signals do not."""
    (ten_workers / "my_worker.py").write_text(page.file("my_worker.py"))
    dockerfile = page.file("Dockerfile").replace("worker.py", "my_worker.py")
    (ten_workers / "Dockerfile").write_text(dockerfile.replace(" ./", " new_task.py ./"))
    override = page.file("docker-compose.override.yml").replace("    init: true\n", "")
    (ten_workers / "docker-compose.override.yml").write_text(override)
    compose("docker compose up -d --build --scale worker=1")
    wait_until(lambda: WAITING in compose("docker compose logs worker"), "it waits")
    compose("""docker compose exec -T worker python new_task.py '{"id": 1, "seconds": 0}'""")
    wait_until((ten_workers / "reports" / "1.txt").exists, "the report is there")
    compose("docker compose stop --timeout 100 worker")
    states = compose("docker compose ps --all --format json worker")
    assert json.loads(states.splitlines()[0])["ExitCode"] == 0


def test_rabbitmq_is_published_to_this_machine_only_and_play_cannot_write(images):
    file = str(ROOT / "docker-compose.yml")
    config = docker("compose", "-f", file, "--profile", "play", "config", "--format", "json")
    services = json.loads(config.stdout)["services"]
    ports = {(port["host_ip"], port["published"]) for port in services["rabbitmq"]["ports"]}
    assert ports == {("127.0.0.1", "5672"), ("127.0.0.1", "15672")}
    assert [volume["read_only"] for volume in services["play"]["volumes"]] == [True]
