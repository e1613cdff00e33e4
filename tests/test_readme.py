"""The page: its listings stand in the scripts, and what it says to type does what it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import WAITING, Asleep, Run
from shared import readme
from shared.broker import SERVER, Broker, free_port
from shared.console import Console, until
from shared.machine import ROOT
from shared.readme import blocks, command, section
from shared.task_queue import waiting

SCRIPTS = [(ROOT / name).read_text() for name in ("new_task.py", "worker.py")]
Shell = Callable[..., str]


def shell_of(broker: Broker, folder: Path) -> Shell:
    """A console of the page in `folder`, with copies of the scripts. Returns what a command prints.

    `python` is this one there, `sudo` does nothing, and rabbitmqctl means this broker, and so does
    the address 127.0.0.1:5672. Raises CalledProcessError where a command fails.
    """
    for script in ("new_task.py", "worker.py"):
        shutil.copy(ROOT / script, folder)
    tools = folder / "bin"
    tools.mkdir()
    lines = {"sudo": 'exec "$@"'}
    for tool in ("rabbitmqctl", "rabbitmq-plugins"):
        lines[tool] = f'exec {Path(SERVER).with_name(tool)} --node {broker.node} "$@"'
    for name, line in lines.items():
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**broker.environment, "PATH": path, "AMQP_URL": broker.url}
    url = f'pika.BlockingConnection(pika.URLParameters("{broker.url}"))'

    def type_in(typed: str) -> str:
        typed = typed.replace("127.0.0.1:5672", f"127.0.0.1:{broker.port}")
        typed = typed.replace("pika.BlockingConnection()", url)
        return subprocess.run(
            ["sh", "-ec", typed], cwd=folder, env=environment, stdout=subprocess.PIPE, check=True
        ).stdout.decode()

    return type_in


@pytest.fixture
def shell(broker: Broker, tmp_path: Path) -> Shell:
    return shell_of(broker, tmp_path)


@pytest.fixture
def edited(shell: Shell, tmp_path: Path) -> str:
    """The path of the copy of worker.py that the page's `sed -i` commands change."""
    return str(tmp_path / "worker.py")


def numbers(shell: Shell, queue: str = "task_queue") -> str:
    """Ready and unacknowledged tasks, as the page's list_queues shows them: `1 0`."""
    found = re.search(
        rf"^{queue}\t(\d+)\t(\d+)$", shell(command("messages_unacknowledged")), re.MULTILINE
    )
    return " ".join(found.groups()) if found else "no such queue"


def shows(console: Console, block: str) -> None:
    """Waits until the console has shown the lines of a block in this order; `…` is any words."""
    lines = block.splitlines()
    for line in set(lines):
        console.wait_for(line.split(" 127.0.0.1:5672")[0].split("…")[0], lines.count(line), 40)
    ours = [line for line in lines if not line.startswith(" [!] ")]
    until(lambda: console.out[1 : 1 + len(ours)] == ours)


@pytest.mark.parametrize("listing", blocks("python"))
def test_a_listing_stands_in_a_script_in_this_order(listing: str) -> None:
    parts = [re.escape(part) for part in listing.split("...\n")]
    assert any(re.search("(?s)" + ".*".join(parts), script) for script in SCRIPTS)


def picture(dots: list[int], fair: bool = True) -> str:
    """Two workers: fair if the next task goes to whoever is free, else in turn."""
    drawn = ["", ""]
    for number, seconds in enumerate(dots):
        worker = number % 2
        if fair:
            worker = drawn.index(min(drawn, key=len))
        drawn[worker] += str(number + 1) * seconds
    return "".join(f"worker {n} | {line}\n" for n, line in enumerate(drawn, 1))


def test_the_pictures_are_computed_from_the_dots() -> None:
    five = [line.count(".") - 1 for line in command("new_task.py First").splitlines()]
    heavy, light = re.findall(r"\$\S+?(\.+);", command("heavy $n"))
    eight = [len(heavy), len(light)] * 4
    drawn = [block for block in blocks("text") if "|" in block]
    assert drawn == [picture(five), picture(eight), picture(eight, fair=False)]


def test_the_two_consoles_show_the_five_tasks(broker: Broker, worker: Run, shell: Shell) -> None:
    consoles = [worker(broker.url), worker(broker.url)]
    sent = shell(command("new_task.py First"))
    assert sent.splitlines()[0] in section("The tutorial")
    for console, block in zip(consoles, blocks("console", section("The tutorial"))):
        console.wait_for(" [x] Done", block.count(" [x] Done"))
        assert console.out == block.splitlines()


def test_three_workers_receive_two_of_six_tasks_each(
    broker: Broker, worker: Run, asleep: Asleep, shell: Shell
) -> None:
    workers = [worker(broker.url) for _ in range(3)]
    with asleep(workers):
        shell(command("Task $n"))
    until(lambda: [one.out.count(" [x] Done") for one in workers] == [2, 2, 2])


def test_the_numbers_show_a_task_that_survives_its_worker(
    broker: Broker, worker: Run, shell: Shell
) -> None:
    workers = [worker(broker.url), worker(broker.url)]
    shell(command("new_task.py Survive"))
    workers[0].wait_for("Received")
    workers[0].stop()
    workers[1].wait_for("Received")
    (block,) = blocks("console", section("Acknowledgements"))
    assert shell(command("messages_unacknowledged")) == block


def test_a_forgotten_ack_stops_the_worker_and_shows_in_the_numbers(
    broker: Broker, worker: Run, shell: Shell, edited: str
) -> None:
    shell(command("s/ch.basic_ack"))
    forgetful = worker(broker.url, edited)
    for task in ("one", "two"):
        shell(f"python new_task.py {task}")
        assert f"`python new_task.py {task}`" in section("Acknowledgements")
    forgetful.wait_for(" [x] Done")
    assert numbers(shell) == "1 1"
    forgetful.stop()
    until(lambda: numbers(shell) == "2 0")
    assert "`1 1`; when you stop the worker, `2 0`" in section("Acknowledgements")
    assert forgetful.out == [WAITING, " [x] Received 'one'", " [x] Done"]
    worker(broker.url).wait_for(" [x] Done", 2)


def test_a_heartbeat_shorter_than_the_task_has_it_done_again_and_again(
    broker: Broker, worker: Run, shell: Shell, edited: str
) -> None:
    shell(command("s/heartbeat"))
    workers = [worker(broker.url, edited) for _ in range(2)]
    shell(command("new_task.py Ten"))
    (block,) = blocks("console", section("Heartbeats"))
    shows(workers[0], block)
    workers[1].wait_for(" [x] Done")
    for one in workers:
        one.kill()
    workers = [worker(broker.url) for _ in range(2)]
    until(lambda: sum(one.out.count(" [x] Done") for one in workers) == 1)
    assert waiting(broker.url) == 0
    assert sum("Received" in line for one in workers for line in one.out) == 1


def test_a_restart_in_the_middle_of_a_task(broker: Broker, worker: Run, shell: Shell) -> None:
    """The worker finishes, loses the connection, and receives the task again."""
    one = worker(broker.url)
    shell(command("new_task.py Come"))
    one.wait_for("Received")
    shell("python new_task.py waiting")
    broker.stop()
    broker.start()
    (block,) = blocks("console", section("Heartbeats"))
    shows(one, block.replace("Ten seconds..........", f"Come back{'.' * 20}"))
    assert waiting(broker.url) == 1


@pytest.mark.parametrize("fair", [True, False])
def test_fair_dispatch_is_the_prefetch(
    broker: Broker, worker: Run, asleep: Asleep, shell: Shell, edited: str, fair: bool
) -> None:
    if not fair:
        shell(command("s/channel.basic_qos"))
    workers = [worker(broker.url, edited) for _ in range(2)]
    with asleep(workers):
        shell(command("heavy $n"))
    until(lambda: sum(one.out.count(" [x] Done") for one in workers) == 8, limit=40)
    heavy = [sum("heavy" in line for line in one.out) for one in workers]
    assert heavy == ([2, 2] if fair else [4, 0])


def test_a_policy_drops_tasks_or_refuses_them(broker: Broker, worker: Run, shell: Shell) -> None:
    shell(command("set_policy expire"))
    shell(command("too late"))
    assert waiting(broker.url) == 1
    until(lambda: waiting(broker.url) == 0, limit=30)
    shell(command("clear_policy expire"))
    try:
        shell(command("set_policy full"))
        said = shell(f"({command('two three four')}) 2>&1 || true")
    finally:
        shell(command("clear_policy full"))
    sent = [f" [x] Sent {task!r}" for task in ("one", "two", "three")]
    assert [line for line in said.splitlines() if "Sent" in line] == sent
    assert f"`{said.splitlines()[-1]}`" in section("A queue that fills up, and the management page")
    worker(broker.url).wait_for(" [x] Done", 3)


def test_a_task_that_fails_is_set_aside_and_put_back(
    broker: Broker, worker: Run, shell: Shell, tmp_path: Path
) -> None:
    worker(broker.url).kill()  # it has made the queue, as on the page
    create, policy = command("dead-letter-exchange").splitlines()
    shell(create)
    shell(policy)
    try:
        shell(command("r /dev/stdin"))
        one = worker(broker.url, str(tmp_path / "own_worker.py"))
        for task in ("oops", "2"):
            shell(command(f"new_task.py {task}"))
        one.wait_for(" [x] Done")
        assert one.out[2] == " [x] Failed: could not convert string to float: b'oops'"
        until(lambda: numbers(shell, "failed_tasks") == "1 0")
        shell(command("enable rabbitmq_shovel"))
        shell(command("set_parameter shovel"))
        one.wait_for(" [x] Failed", 2)
        until(lambda: numbers(shell, "failed_tasks") == "1 0")
        assert numbers(shell) == "0 0"
        assert one.err == []
        one.stop()
    finally:
        shell(f"set +e\n{command('delete_vhost')}\ntrue")
    assert "task" not in shell("rabbitmqctl --quiet list_queues name")


def test_the_management_page_shows_the_queues(
    node: Callable[..., Broker], tmp_path: Path, console: Run
) -> None:
    port = free_port()
    broker = node(f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n")
    shell = shell_of(broker, tmp_path)
    shell(command("plugins enable rabbitmq_management"))
    shell("python new_task.py Hello...")
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/queues")
    request.add_header("Authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=")  # guest:guest
    request_page = urllib.request.Request(f"http://127.0.0.1:{port}/")

    def answer(wanted: urllib.request.Request) -> str:
        with contextlib.suppress(OSError), urllib.request.urlopen(wanted, timeout=5) as page:
            return str(page.read(), "utf-8")
        return ""

    until(lambda: [queue["name"] for queue in json.loads(answer(request) or "[]")])
    assert "<title>RabbitMQ Management</title>" in answer(request_page)


def test_another_login_and_virtual_host(broker: Broker, worker: Run, shell: Shell) -> None:
    said = shell(command("add_vhost jobs"))
    assert " [x] Sent 'Hello...'" in said
    assert said.endswith("task_queue\t1\n")
    (url,) = re.findall(r"`AMQP_URL='(\S+)' python worker.py`", readme.TEXT)
    worker(url.replace("5672", str(broker.port))).wait_for(" [x] Received 'Hello...'")
    assert "task_queue" not in shell("rabbitmqctl --quiet list_queues name")


def test_a_virtual_host_where_every_queue_is_a_quorum_queue(shell: Shell, broker: Broker) -> None:
    shell(command("add_vhost safe"))
    shell("rabbitmqctl set_permissions -p safe guest '.*' '.*' '.*'")
    shell(f"AMQP_URL={broker.url}/safe python new_task.py")
    assert shell("rabbitmqctl --quiet list_queues -p safe type").split() == ["type", "quorum"]


def test_the_commands_of_the_page_exist() -> None:
    scripts = set(re.findall(r"`python3 (tests/\w+\.py)", readme.TEXT))
    assert scripts == {"tests/play.py", "tests/benchmark.py", "tests/run.py"}
    assert all((ROOT / script).exists() for script in scripts)
    first = re.findall(r"`(python3? [^`]+)`", readme.FIRST_SCREEN)
    assert first[1] == "python3 tests/run.py"
    assert "tests/run.py" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """The project in a folder of a reader's, whose virtual environment has nothing in it."""
    folder = tmp_path / "work-queue"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=folder, check=True)
    yield folder


def test_the_tests_run_in_the_readers_console_beside_the_readers_files(copy: Path) -> None:
    (copy / "own_worker.py").write_text("import os, sys\n")
    done = subprocess.run(
        [".venv/bin/python", "tests/run.py", "--version"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("pytest ")


def test_the_links_within_the_page_lead_somewhere() -> None:
    titles = set(re.findall(r"^#+ (.*)$", readme.TEXT, re.MULTILINE))
    named = set(re.findall(r"[Ss]ee \*([^*]+)\*", readme.TEXT.replace("\n", " ")))
    assert named
    assert named <= titles
