"""The commands of docker-compose.yml, where there is an engine and the images are at hand."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest
from helpers import page
from helpers.docker import docker, need_images, skip_or_fail
from helpers.page import orders
from helpers.script import WAITING, wait_until
from helpers.setup import ROOT

PROJECT = f"work-queue-tests-{os.getpid()}"  # apart from a reader's, and from another run's


@pytest.fixture(scope="session")
def services():
    """The services as Compose understands them."""
    if not shutil.which("docker") or docker("compose", "version").returncode:
        skip_or_fail("there is no docker compose here")
    file = str(ROOT / "docker-compose.yml")
    config = docker("compose", "-f", file, "--profile", "play", "config", "--format", "json")
    assert config.returncode == 0, config.stderr
    return json.loads(config.stdout)["services"]


@pytest.fixture
def compose(services, project):
    """Runs `docker compose` in a project of the test's own, without published ports."""
    need_images(*(service["image"] for service in services.values()))
    (project / "no-ports.yml").write_text("services: {rabbitmq: {ports: !reset []}}\n")
    files = ("-f", str(project / "docker-compose.yml"), "-f", str(project / "no-ports.yml"))

    def run(*command):
        ended = docker("compose", "-p", PROJECT, *files, *command)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    yield run
    down = ("--profile", "play", "down", "--volumes", "--remove-orphans", "--rmi", "local")
    docker("compose", "-p", PROJECT, *files, *down)


def test_play_plays_the_tutorial_and_down_leaves_nothing(compose):
    printed = compose("run", "--rm", "play")
    (picture,) = page.blocks("text", page.section("See it run"))
    assert orders(printed) == orders(picture)
    compose("down", "--volumes")
    of_the_project = ("--filter", f"label=com.docker.compose.project={PROJECT}", "--quiet")
    for kind in (("ps", "--all"), ("network", "ls"), ("volume", "ls")):
        assert docker(*kind, *of_the_project).stdout == ""


def test_a_task_survives_restart_and_down(compose):
    compose("up", "--detach", "--wait")
    send = "pip install -q -r requirements.txt && python new_task.py kept"
    compose("run", "--rm", "--workdir", "/work-queue", "play", "sh", "-c", send)
    for again in ("restart", "down"):
        compose(again)
        compose("up", "--detach", "--wait")
        columns = ("list_queues", "--no-table-headers", "name", "messages_ready")
        listed = compose("exec", "rabbitmq", "rabbitmqctl", "--quiet", *columns)
        assert listed.split() == ["task_queue", "1"]


def test_up_starts_rabbitmq_alone(compose):
    compose("up", "--detach", "--wait")
    assert compose("ps", "--services").split() == ["rabbitmq"]


def test_run_ten_workers_in_containers(compose, project):
    for name in ("Dockerfile", "docker-compose.override.yml"):
        (project / name).write_text(page.file(name))
    override = ("-f", str(project / "docker-compose.override.yml"))
    compose(*override, "up", "--detach", "--build")

    def waiting():
        logs = compose(*override, "logs", "worker")
        return set(re.findall(rf"(worker-\d+) +\| {re.escape(WAITING)}", logs))

    wait_until(lambda: len(waiting()) == 10, "all ten workers wait")
    compose(*override, "down", "--rmi", "local", "worker")
    assert compose("ps", "--services").split() == ["rabbitmq"]
    assert docker("image", "ls", "--quiet", f"{PROJECT}-worker").stdout == ""


def test_rabbitmq_is_published_to_this_machine_only(services):
    ports = {(port["host_ip"], port["published"]) for port in services["rabbitmq"]["ports"]}
    assert ports == {("127.0.0.1", "5672"), ("127.0.0.1", "15672")}


def test_play_cannot_write_to_the_project(services):
    (volume,) = services["play"]["volumes"]
    assert volume["read_only"]
