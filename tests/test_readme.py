"""The README is what the scripts are, and says what they print."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import readme
from broker import Broker
from conftest import Run, waiting
from console import until
from machine import ROOT

SCRIPTS = {name: (ROOT / name).read_text() for name in ("new_task.py", "worker.py")}
RECIPE = next(block for block in readme.blocks("python") if "ThreadPoolExecutor" in block)


@pytest.mark.parametrize("listing", [b for b in readme.blocks("python") if b != RECIPE])
def test_a_listing_stands_in_a_script(listing: str) -> None:
    assert any(listing in script for script in SCRIPTS.values())


def test_each_line_named_in_a_table_stands_in_a_script() -> None:
    section = readme.TEXT.split("## Where it goes beyond")[1].split("\n## ")[0]
    lines = re.findall(r"\| `([^|]+)` \|$", section, re.MULTILINE)
    assert lines
    for line in lines:
        assert any(line in script for script in SCRIPTS.values()), line


def test_the_console_blocks_are_what_the_consoles_show(
    broker: Broker, worker: Run, send: Run
) -> None:
    first, producer, *workers = [block.splitlines() for block in readme.blocks("console")]
    assert first == workers[0][:2]
    consoles = [worker(broker.url), worker(broker.url)]
    assert consoles[0].out == first[1:]
    for command, printed in zip(producer[0::2], producer[1::2]):
        dollar, python, script, *words = command.split()
        assert (dollar, python, script) == ("$", "python", "new_task.py")
        assert send(broker.url, *words).out == [printed]
    for console, block in zip(consoles, workers):
        console.wait_for(" [x] Done", block.count(" [x] Done"))
        assert [*block[:1], *console.out] == ["$ python worker.py", *block[1:]]


def test_the_recipe_keeps_the_heartbeats_going(
    node: Callable[..., Broker], console: Run, send: Run, tmp_path: Path
) -> None:
    script = re.sub(
        r"def on_message.*?\n\n\n",
        lambda _: RECIPE + "\n\n",
        SCRIPTS["worker.py"],
        count=1,
        flags=re.DOTALL,
    )
    (tmp_path / "worker.py").write_text(script)
    broker = node("heartbeat = 1\n")
    workers = [console(str(tmp_path / "worker.py"), AMQP_URL=broker.url) for _ in range(2)]
    for one in workers:
        one.wait_for("Waiting")
    send(broker.url, "blocking........")
    unacked = ("list_queues", "--no-table-headers", "messages")
    until(lambda: broker.ctl(*unacked).strip() == "0", limit=25)
    assert [(len(one.out), one.err) for one in workers] == [(1, []), (1, [])]
    assert waiting(broker.url) == 0


def test_a_forgotten_ack_stops_the_worker_and_shows_in_the_books(
    broker: Broker, console: Run, send: Run, tmp_path: Path
) -> None:
    ack = "    channel.basic_ack(method.delivery_tag)\n"
    assert SCRIPTS["worker.py"].count(ack) == 1
    (tmp_path / "worker.py").write_text(SCRIPTS["worker.py"].replace(ack, ""))
    for task in ("first", "second"):
        send(broker.url, task)
    forgetful = console(str(tmp_path / "worker.py"), AMQP_URL=broker.url)
    forgetful.wait_for(" [x] Done")
    books = re.search(r"rabbitmqctl (list_queues name .*)", readme.TEXT)
    assert books
    listed = broker.ctl(*books[1].split(), "--no-table-headers")
    assert listed.split() == ["task_queue", "1", "1"]
    assert forgetful.out[1:] == [" [x] Received 'first'", " [x] Done"]
    forgetful.stop()
    until(lambda: waiting(broker.url) == 2)


def test_the_policies_do_what_the_readme_says(broker: Broker, send: Run) -> None:
    commands = [
        line for block in readme.blocks("sh") for line in block.splitlines() if "set_policy" in line
    ]
    policies = [
        re.fullmatch(r"sudo rabbitmqctl set_policy (\w+) task_queue '(.*)' (.*)", line)
        for line in commands
    ]
    send(broker.url, "counted")
    for policy, key in zip(policies, ("message-ttl", "max-length")):
        assert policy
        definition = json.loads(policy[2])
        broker.ctl("set_policy", policy[1], "task_queue", policy[2], *policy[3].split())
        assert policy[1] in broker.ctl("list_queues", "--no-table-headers", "policy")
        assert key in definition
        broker.ctl("clear_policy", policy[1])
    assert waiting(broker.url) == 1


def test_the_two_commands_exist() -> None:
    scripts = re.findall(r"^python3 (tests/\w+\.py)$", readme.TEXT, re.MULTILINE)
    assert scripts == ["tests/play.py", "tests/run.py"]
    assert all((ROOT / script).exists() for script in scripts)
    assert "tests/run.py" in (ROOT / ".ci" / "run").read_text()


def has_compose() -> bool:
    command = ["docker", "compose", "version"]
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not has_compose(), reason="there is no docker compose here")
def test_the_compose_file_is_in_order() -> None:
    command = ["docker", "compose", "--profile", "tutorial", "config", "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"rabbitmq", "worker", "new_task"}
    ports = services["rabbitmq"]["ports"]
    assert {(port["host_ip"], port["published"]) for port in ports} == {
        ("127.0.0.1", "5672"),
        ("127.0.0.1", "15672"),
    }
    assert services["rabbitmq"]["hostname"]
    for name in ("worker", "new_task"):
        assert services[name]["volumes"][0]["read_only"]
    for task in [line for block in readme.blocks("console") for line in block.splitlines()]:
        if "new_task.py" in task:
            assert task.lstrip("$ ") in " ".join(services["new_task"]["command"])
