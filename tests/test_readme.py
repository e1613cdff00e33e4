"""The README: its listings stand in the scripts, and what it says to type does what it says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import WAITING, Asleep, Run
from shared import readme
from shared.broker import Broker
from shared.console import Console, until
from shared.machine import ROOT
from shared.task_queue import channel, waiting

SCRIPTS = {name: (ROOT / name).read_text() for name in ("new_task.py", "worker.py")}
LESSONS = readme.TEXT.split("\n## Your own work")[0]
REFERENCE = readme.TEXT.split("\n## Reference\n")[1]

# The lines that the RabbitMQ team's pair has too, but for the way in which they are broken.
THEIRS = """
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(queue="task_queue", durable=True)
    message = " ".join(sys.argv[1:]) or "Hello World!"
    channel.basic_publish(
    exchange="",
    routing_key="task_queue",
    properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
    connection.close()
    print(" [*] Waiting for messages. To exit press CTRL+C")
    def callback(ch, method, properties, body):
    print(" [x] Done")
    ch.basic_ack(delivery_tag=method.delivery_tag)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue="task_queue", on_message_callback=callback)
    channel.start_consuming()
"""


def code(text: str) -> set[str]:
    """Its statements' lines, without comments, docstrings, imports and lone brackets."""
    lines = {line.split("  # ")[0].strip() for line in text.splitlines()}
    return {line for line in lines if not re.match(r'#|"""|import |[),]+$|$', line)}


def changed(folder: Path, *changes: tuple[str, str], script: str = SCRIPTS["worker.py"]) -> str:
    """The path of a worker.py in which each first text is replaced by its second."""
    for old, new in changes:
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    (folder / "worker.py").write_text(script)
    return str(folder / "worker.py")


def own_work(folder: Path, *changes: tuple[str, str]) -> str:
    """The path of a worker.py with the README's recipe in the place of its callback."""
    return changed(folder, *changes, script=readme.with_own_work(SCRIPTS["worker.py"]))


def shell(broker: Broker, command: str) -> None:
    """Types a line of the README into a shell in which `python` is this one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "AMQP_URL": broker.url}
    subprocess.run(["sh", "-c", command], cwd=ROOT, env=environment, check=True)


def rabbitmqctl(broker: Broker, start: str) -> str:
    """Runs the README's one rabbitmqctl command that starts so. Returns what it prints."""
    (command,) = {
        line
        for line in re.findall(r"sudo rabbitmqctl ([^`\n]+)", readme.TEXT)
        if line[:40].startswith(start)
    }
    return broker.ctl(*shlex.split(command), quiet=False)


def sends(send: Run, broker: Broker, start: str) -> Console:
    """Sends the task that the README says to send."""
    (words,) = set(re.findall(rf"python new_task\.py ({re.escape(start)}[^`\n]*)", LESSONS))
    sent = send(broker.url, *words.split())
    assert sent.out == [f" [x] Sent {words!r}"]
    return sent


def shows(console: Console, block: str, broker: Broker) -> None:
    """Waits until the console has shown the lines of a block; `…` stands for any words."""
    lines = [line for line in block.splitlines() if not line.startswith("$ ")]
    for line in set(lines):
        console.wait_for(line.split(" localhost:5672")[0].split("…")[0], lines.count(line), 40)
    ours = [line for line in lines if not line.startswith(" [!] ")]
    until(lambda: console.out[: len(ours)] == ours)


@pytest.mark.parametrize("listing", readme.blocks("python", LESSONS + REFERENCE))
def test_a_listing_stands_in_a_script(listing: str) -> None:
    for part in listing.split("...\n"):
        assert any(part in script for script in SCRIPTS.values())


def test_the_scripts_have_no_line_that_neither_the_other_pair_nor_the_table_has() -> None:
    table = readme.rows("Where it goes beyond the RabbitMQ team's pair")
    listed = {line for _, cell in table for line in re.findall(r"`([^`]+)`", cell)}
    assert code("\n".join(SCRIPTS.values())) == code(THEIRS) | listed


Tasks = list[tuple[str, int]]


def bars(tasks: Tasks, fair: bool) -> str:
    """The chart of two workers: fair if the next task goes to whoever is free, else dealt out."""
    busy_until, rows = [0, 0], ["", ""]
    for turn, (name, seconds) in enumerate(tasks):
        worker = busy_until.index(min(busy_until)) if fair else turn % 2
        rows[worker] += f"    {name} :{busy_until[worker]:02}, {seconds}s\n"
        busy_until[worker] += seconds
    return "".join(f"    section worker {n}\n{row}" for n, row in enumerate(rows, 1))


def test_the_charts_are_computed_from_the_dots() -> None:
    sent = re.findall(r"^\$ python new_task\.py (\w+) message(\.+)$", LESSONS, re.MULTILINE)
    five = [(word + dots, len(dots)) for word, dots in sent]
    kinds = re.findall(r"python new_task\.py (heavy|light) \$n(\.+);", LESSONS)
    eight = [(f"{kind} {n}{dots}", len(dots)) for n in range(1, 5) for kind, dots in kinds]
    head = "---\ndisplayMode: compact\n---\ngantt\n    dateFormat ss\n    axisFormat %-S s\n"
    charts = [chart for chart in readme.blocks("mermaid") if "gantt" in chart]
    assert charts == [
        head + bars(tasks, fair) for tasks, fair in ((five, True), (eight, True), (eight, False))
    ]


def test_the_console_blocks_are_what_the_consoles_show(
    broker: Broker, worker: Run, send: Run
) -> None:
    first, producer, *workers = [block.splitlines() for block in readme.blocks("console")[:4]]
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


def test_three_workers_receive_two_of_six_tasks_each(
    broker: Broker, worker: Run, asleep: Asleep
) -> None:
    workers = [worker(broker.url) for _ in range(3)]
    with asleep(workers):
        shell(broker, next(block for block in readme.blocks("sh") if "Task $n" in block))
    until(lambda: [one.out.count(" [x] Done") for one in workers] == [2, 2, 2])


def test_the_books_show_a_task_that_survives_its_worker(
    broker: Broker, worker: Run, send: Run
) -> None:
    workers = [worker(broker.url), worker(broker.url)]
    sends(send, broker, "Survive me")
    workers[0].wait_for("Received")
    workers[0].stop()
    workers[1].wait_for("Received")
    block = next(block for block in readme.blocks("console") if "rabbitmqctl" in block)
    listed = rabbitmqctl(broker, "list_queues name messages_ready")
    assert listed == block.split("\n", 1)[1]


def test_a_forgotten_ack_stops_the_worker_and_shows_in_the_books(
    broker: Broker, worker: Run, send: Run, tmp_path: Path
) -> None:
    forgetful = worker(broker.url, changed(tmp_path, ("    ch.basic_ack(", "    # ch.basic_ack(")))
    for task in ("one", "two"):
        sends(send, broker, task)
    forgetful.wait_for(" [x] Done")
    section = readme.section("Acknowledgements")

    def books(numbers: str) -> bool:
        assert f"`{numbers}`" in section
        return (
            rabbitmqctl(broker, "list_queues name messages_ready").split()[-2:] == numbers.split()
        )

    until(lambda: books("1 1"))
    forgetful.stop()
    until(lambda: books("2 0"))
    assert forgetful.out == [WAITING, " [x] Received 'one'", " [x] Done"]
    one = worker(broker.url)
    one.wait_for(" [x] Done", 2)


def test_heartbeats_matter_where_the_sleep_is_not_pikas(
    broker: Broker, worker: Run, send: Run, tmp_path: Path
) -> None:
    (options,) = set(re.findall(r"AMQP_URL='amqp://localhost(\?heartbeat=2)'", LESSONS))
    deaf = changed(tmp_path, ("    ch.connection.sleep(", "    time.sleep("))
    workers = [worker(broker.url + options, deaf) for _ in range(2)]
    sends(send, broker, "Ten seconds")
    block = next(b for b in readme.blocks("console") if "Ten seconds" in b)
    shows(workers[0], block, broker)
    workers[1].wait_for(" [x] Done")
    for one in workers:
        one.kill()
    workers = [worker(broker.url + options) for _ in range(2)]
    until(lambda: sum(one.out.count(" [x] Done") for one in workers) == 1)
    assert waiting(broker.url) == 0
    assert sum("Received" in line for one in workers for line in one.out) == 1


def test_a_longer_heartbeat_is_enough_for_work_that_cannot_answer(
    broker: Broker, worker: Run, send: Run, tmp_path: Path
) -> None:
    """`?heartbeat=` in AMQP_URL: the client's value is the one that holds."""
    deaf = changed(tmp_path, ("    ch.connection.sleep(", "    time.sleep("))
    broker.ctl("eval", "application:set_env(rabbit, heartbeat, 1).")
    try:
        patient = worker(f"{broker.url}?heartbeat=60", deaf)
        send(broker.url, "long........")
        patient.wait_for(" [x] Done")
        until(lambda: waiting(broker.url) == 0)
    finally:
        broker.ctl("eval", "application:set_env(rabbit, heartbeat, 60).")
    assert (len(patient.out), patient.err) == (3, [])


def test_a_restart_in_the_middle_of_a_task(broker: Broker, worker: Run, send: Run) -> None:
    one = worker(broker.url)
    sends(send, broker, "Come back")
    one.wait_for("Received")
    send(broker.url, "waiting")
    broker.stop()
    broker.start()
    shows(one, next(b for b in readme.blocks("console") if "Come back" in b), broker)
    assert waiting(broker.url) == 1


@pytest.mark.parametrize("fair", [True, False])
def test_fair_dispatch_is_the_prefetch(
    broker: Broker, worker: Run, asleep: Asleep, tmp_path: Path, fair: bool
) -> None:
    unfair = changed(tmp_path, ("        channel.basic_qos(", "        # channel.basic_qos("))
    workers = [worker(broker.url, "worker.py" if fair else unfair) for _ in range(2)]
    with asleep(workers):
        shell(broker, next(block for block in readme.blocks("sh") if "heavy $n" in block))
    until(lambda: sum(one.out.count(" [x] Done") for one in workers) == 8, limit=40)
    heavy = [sum("heavy" in line for line in one.out) for one in workers]
    assert heavy == ([2, 2] if fair else [4, 0])


def test_the_policies_do_what_the_readme_says(broker: Broker, send: Run) -> None:
    rabbitmqctl(broker, "set_policy expire")
    send(broker.url, "too late")
    assert waiting(broker.url) == 1
    until(lambda: waiting(broker.url) == 0, limit=30)
    rabbitmqctl(broker, "clear_policy expire")
    rabbitmqctl(broker, "set_policy full")
    try:
        for task in ("one", "two", "three"):
            assert send(broker.url, task).out == [f" [x] Sent {task!r}"]
        block = next(b for b in readme.blocks("console") if "new_task.py four" in b)
        refused = send(broker.url, "four")
        assert refused.end() == 1
        assert refused.err == [
            block.splitlines()[1].replace("localhost:5672", f"127.0.0.1:{broker.port}")
        ]
    finally:
        rabbitmqctl(broker, "clear_policy full")
    assert send(broker.url, "five").out == [" [x] Sent 'five'"]


def test_the_queue_is_deleted_in_the_end(broker: Broker, send: Run) -> None:
    send(broker.url, "forgotten")
    rabbitmqctl(broker, "delete_queue task_queue")
    assert "task_queue" not in broker.ctl("list_queues", "name")


WORK = '    time.sleep(body.count(b"."))  # your own code: it may block as long as it likes\n'
BUSY = """    end = time.monotonic() + body.count(b".")
    while time.monotonic() < end:
        pass
"""
OWN = {
    "thread": [],
    "process": [
        ("import concurrent.futures\n", "import concurrent.futures\nimport multiprocessing\n"),
        ("pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)\n", readme.VARIANTS[2]),
        (WORK, BUSY),
    ],
    "program": [
        ("import concurrent.futures\n", "import concurrent.futures\nimport subprocess\n"),
        (f"def work(body):\n{WORK}", readme.VARIANTS[3]),
    ],
}


@pytest.mark.parametrize("kind", OWN)
def test_own_work_may_block_longer_than_the_heartbeats(
    broker: Broker, worker: Run, send: Run, tmp_path: Path, kind: str
) -> None:
    script = own_work(tmp_path, *OWN[kind])
    workers = [worker(f"{broker.url}?heartbeat=2", script) for _ in range(2)]
    for task in ("blocking..........", "short"):
        send(broker.url, task)
    until(lambda: sum(one.out.count(" [x] Done") for one in workers) == 2)
    until(lambda: waiting(broker.url) == 0)
    assert workers[0].out == [WAITING, " [x] Received 'blocking..........'", " [x] Done"]
    assert workers[1].out == [WAITING, " [x] Received 'short'", " [x] Done"]
    assert workers[0].err == workers[1].err == []


def test_own_work_in_a_process_does_not_hold_the_task_of_a_killed_worker(
    broker: Broker, worker: Run, send: Run, tmp_path: Path
) -> None:
    """The process that is left over must not have inherited the connection."""
    first = worker(broker.url, own_work(tmp_path, *OWN["process"]))
    send(broker.url, "in hand" + "." * 30)
    first.wait_for("Received")
    first.signal(signal.SIGKILL)
    worker(broker.url).wait_for("Received")


@pytest.mark.parametrize("task", ["long" + "." * 60, ""])
def test_ctrl_c_ends_own_work_in_a_process_at_once(
    broker: Broker, worker: Run, send: Run, tmp_path: Path, task: str
) -> None:
    one = worker(broker.url, own_work(tmp_path, *OWN["process"]))
    if task:
        send(broker.url, task)
        one.wait_for("Received")
    os.killpg(one.process.pid, signal.SIGINT)  # as a console does
    assert (one.end(limit=5), one.err) == (0, [])
    until(lambda: waiting(broker.url) == (1 if task else 0))


def test_own_work_that_fails_ends_the_worker(
    broker: Broker, worker: Run, send: Run, tmp_path: Path
) -> None:
    one = worker(broker.url, own_work(tmp_path, (WORK, "    raise OSError('my own')\n")))
    send(broker.url, "poison")
    assert one.end() == 1
    assert one.err[-1] == "OSError: my own"
    one.err.clear()
    until(lambda: waiting(broker.url) == 1)


def test_a_task_that_fails_is_set_aside(
    broker: Broker, console: Run, worker: Run, send: Run, tmp_path: Path
) -> None:
    declare = '        channel.queue_declare(queue="task_queue", durable=True)\n'
    script = own_work(
        tmp_path,
        (WORK, "    1 / body.count(b'.')\n"),
        ("    job.result()  # raises what your code raised\n", readme.VARIANTS[1]),
        (declare, declare + readme.VARIANTS[0]),
    )
    one = worker(broker.url, script)
    rabbitmqctl(broker, "set_policy failed")
    try:
        for task in ("bad", "good."):
            send(broker.url, task)
        one.wait_for(" [x] Done")
        with channel(broker.url) as ch:
            until(lambda: ch.queue_declare("failed_tasks", passive=True).method.message_count == 1)
            assert ch.basic_get("failed_tasks")[2] == b"bad"
    finally:
        rabbitmqctl(broker, "clear_policy failed")
        rabbitmqctl(broker, "delete_queue failed_tasks")
    assert one.err == [" [!] Failed: ZeroDivisionError('division by zero')"]
    one.err.clear()
    assert waiting(broker.url) == 0


def test_the_commands_exist() -> None:
    scripts = re.findall(r"^python3 (tests/\w+\.py)$", readme.TEXT, re.MULTILINE)
    assert scripts == ["tests/play.py", "tests/benchmark.py", "tests/run.py"]
    assert all((ROOT / script).exists() for script in scripts)
    assert "tests/run.py" in (ROOT / ".ci" / "run").read_text()


def test_the_links_within_the_page_lead_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)$", readme.TEXT, re.MULTILINE)
    names = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([\w-]+)\)", readme.TEXT)) <= names
