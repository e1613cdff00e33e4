"""What is promised of README.md: what it says to type does, and shows, what it says.

Each test takes the blocks of its section in their order. A block whose name here begins with `_`
is not run, for the reason beside it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pika
from helpers import page
from helpers.amqp import delete_queue, open_channel
from helpers.machine import RABBITMQ, ROOT
from helpers.page import EXAMPLES, TEXTS, TUTORIAL, sections, steps
from helpers.script import LOST, WAITING, assert_quiet, done, frozen, picture, wait_until


def test_get_ready(reader):
    install_pika, activate, check = steps("Get ready")
    make_venv, install = install_pika.splitlines()
    reader.type_in(f"{make_venv}\n{activate}")
    shutil.rmtree(reader.folder / ".venv")  # and take that of the tests, which has pika already
    (reader.folder / ".venv").symlink_to(sys.prefix)
    shutil.copy(ROOT / "requirements.txt", reader.folder)
    reader.type_in(install)
    assert reader.type_in(check).split("\n")[:2] == [pika.__version__, "user\ttags"]


# The lessons


def test_1_round_robin_dispatching(reader):
    worker, five_tasks, console_1 = steps("1. Round-robin dispatching")
    workers = [reader.start(worker), reader.start(worker)]
    with frozen(*workers):
        printed = reader.type_in(five_tasks)
    assert f"`{printed.splitlines()[0]}`" in sections()["1. Round-robin dispatching"]
    workers[0].wait_for(" [x] Done", 3)
    workers[1].wait_for(" [x] Done", 2)
    assert workers[0].out == console_1.splitlines()
    assert done(workers[1]) == ["'Second message..'", "'Fourth message....'"]
    assert_quiet(*workers)


def test_2_message_acknowledgement(reader):
    survive_me, list_queues, listed, forgetful, two_tasks, list_again, listed_again, worker = steps(
        "2. Message acknowledgement"
    )
    first, second = reader.start(worker), reader.start(worker)
    reader.type_in(survive_me)
    first.wait_for(" [x] Received 'Survive me..............................'")
    first.ctrl_c()
    second.wait_for(" [x] Received 'Survive me..............................'")
    with frozen(second):
        assert reader.type_in(list_queues) == listed
    second.ctrl_c()
    second.wait()
    delete_queue(reader.broker.url)  # in place of half a minute

    forgets = reader.start(forgetful)
    reader.type_in(two_tasks)
    forgets.wait_for(" [x] Done")
    assert reader.type_in(list_again) == listed_again
    forgets.ctrl_c()
    forgets.wait()
    assert forgets.out == [WAITING, " [x] Received 'one'", " [x] Done"]
    again = reader.start(worker)
    again.wait_for(" [x] Done", 2)
    assert sorted(done(again)) == ["'one'", "'two'"]
    wait_until(lambda: reader.broker.queue() == (0, 0), "the queue is empty")


def test_3_message_durability(reader):
    three_tasks, undurable, refused, careless, listed, worker = steps("3. Message durability")
    assert reader.type_in(three_tasks).endswith(listed)
    assert reader.error_of(undurable) == refused
    assert reader.type_in(careless).endswith(listed)
    left = reader.start(worker)
    left.wait_for(" [x] Done", 3)
    assert done(left) == ["'one'", "'two'", "'three'"]


def test_4_fair_dispatch(reader):
    greedy, four_tasks, ten_seconds, real, six_seconds = steps("4. Fair dispatch")
    tasks = re.findall("new_task.py (.*)", four_tasks)
    for command, shown in ((greedy, ten_seconds), (real, six_seconds)):
        workers = [reader.start(command), reader.start(command)]
        with frozen(*workers):
            reader.type_in(four_tasks)
        wait_until(lambda: len(done(*workers)) == 4, "all four tasks are done")  # noqa: B023
        assert picture(tasks, *workers) == shown
        for one in workers:
            one.ctrl_c()
            one.wait()


def test_5_publisher_confirms_and_nackerror(reader_with_own_broker):
    reader = reader_with_own_broker
    policy, two_tasks, refused, hopeful, shown, clear = steps("5. Publisher confirms")
    reader.type_in(policy)
    assert reader.error_of(two_tasks) == refused
    assert reader.broker.queue() == (1, 0)
    assert reader.type_in(hopeful) == shown
    reader.type_in(clear)
    assert reader.type_in("python new_task.py more") == " [x] Sent 'more'\n"
    assert reader.broker.queue() == (2, 0)


def test_6_reconnecting(reader):
    come_back, restart, shown = steps("6. Reconnecting")
    worker = reader.start("python worker.py")
    reader.type_in(come_back)
    worker.wait_for(" [x] Received")
    with frozen(worker):
        reader.type_in(restart)
    lines = shown.splitlines()
    for line in lines:  # `…` stands for any words
        worker.wait_for(line.removesuffix("…"), lines.count(line))
    printed = [line for line in lines if not line.startswith(LOST)]
    assert worker.out[1 : 1 + len(printed)] == printed


def test_7_heartbeats(reader):
    impatient, ten_seconds, worker = steps("7. Heartbeats")
    workers = [reader.start(impatient), reader.start(impatient)]
    reader.type_in(ten_seconds)
    wait_until(lambda: len(done(*workers)) >= 2, "the task is done twice")
    for one in workers:
        one.wait_for(LOST)
    for one in workers:
        one.kill()
    patient = reader.start(worker)
    patient.wait_for(" [x] Done")
    wait_until(lambda: reader.broker.queue() == (0, 0), "the queue is empty")
    assert_quiet(patient)


def test_8_when_the_work_fails(reader):
    failing, oops, value_error, worker, *with_my_worker = steps("8. When the work fails")
    my_worker, task, mkdir, hopeless, look, shown, drop = with_my_worker
    workers = [reader.start(failing), reader.start(failing)]
    reader.type_in(oops)
    for one in workers:
        assert one.wait() == 1
        assert f"{one.err[-1]}\n" == value_error
    real = reader.start(worker)
    real.wait_for(" [x] Done")
    real.ctrl_c()

    mine = reader.start(my_worker)
    reader.type_in(task)
    mine.wait_for(" [x] Failed")
    reader.type_in(mkdir)
    mine.wait_for(" [x] Done")
    assert (reader.folder / "reports" / "1.txt").read_text() == "This took 2.0 seconds.\n"
    reader.type_in(hopeless)
    mine.wait_for(" [x] Hopeless")
    wait_until(lambda: reader.type_in(look) == shown, "the task is in failed_tasks")
    assert reader.type_in(drop) == " [x] Dropped rejected: 'oops'\n"
    assert reader.type_in(look) == ""


# The rest of the page


def test_clean_up(reader_with_own_broker):
    reader, broker = reader_with_own_broker, reader_with_own_broker.broker
    _docker, delete, _remove = steps("Clean up")  # in test_compose.py; a reader may need RabbitMQ
    with open_channel(broker.url) as channel:
        for name in ("task_queue", "tasks", "failed_tasks", "mine"):
            channel.queue_declare(name, durable=True)
    broker.rabbitmqctl("set_policy", "full", "nothing", '{"max-length":1}')
    reader.type_in(delete)
    assert broker.rabbitmqctl("list_queues", "--no-table-headers", "name").split() == ["mine"]
    assert broker.rabbitmqctl("list_policies", "--no-table-headers").split() == []


def test_debian_or_ubuntu():
    install, rabbitmqctl = steps("Debian or Ubuntu")  # it would change the machine
    packages = install.splitlines()[0].split(" install -y --no-install-recommends ")[1]
    assert set(packages.split()) == {RABBITMQ, "python3-venv"}
    shell = f"{rabbitmqctl}sudo() {{ echo sudo \"$@\"; }}\nrabbitmqctl -q list_users 'a  b'"
    printed = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert printed.stdout == "sudo rabbitmqctl -q list_users a  b\n"


# Both pages


def test_git_does_not_show_what_the_pages_make():
    ignored = (ROOT / ".gitignore").read_text().split()
    for text in TEXTS.values():
        typed = "".join(page.blocks("sh", text))
        made = re.findall(r"> ([\w.]+)$|^mkdir (?:-p )?(\w+)$", typed, re.MULTILINE)
        copied = re.findall(
            r" tests/examples/([\w.-]+)", "".join(re.findall("^cp -n.*", typed, re.M))
        )
        for name in {*copied, *(file or f"{folder}/" for file, folder in made)}:
            assert f"/{name}" in ignored


def test_each_listing_stands_in_a_program():
    files = [ROOT / "new_task.py", ROOT / "worker.py", *EXAMPLES.glob("*.py")]
    programs = [file.read_text() for file in files]
    lines = re.findall(r"`((?:channel|parameters)\.[^`]+)`", TEXTS[TUTORIAL])
    for listing in page.blocks("python", TEXTS[TUTORIAL]) + lines:
        parts = re.split(r"^ *…\n", listing, flags=re.MULTILINE)
        assert any(all(part in program for part in parts) for program in programs), listing


def test_each_section_and_each_row_of_errors_has_a_test():
    """A test with its name. (One that is only skipped here is collected, too.)"""
    command = "-m pytest -p no:cacheprovider --collect-only -q -n 0 tests"
    collected = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ).stdout

    def slug(words):
        return re.sub(r"\W+", "_", words).strip("_").lower()

    tests = slug(collected)
    for title in sections():
        if steps(title) and "not tried" not in title:
            assert f"test_{slug(title)}_" in tests, f"no test of {title!r}"
    for text in TEXTS.values():
        for table in re.findall(r"^\| You see .*\n((?:\|.*\n)+)", text, re.MULTILINE):
            for first_cell in re.findall(r"^\| (.*?`.*?) \|", table, re.MULTILINE):
                for words in re.findall(r"`([^`]+)`", first_cell):
                    assert f"_{slug(words)}_" in tests, f"no test of {words!r}"


def test_the_links_of_the_pages_lead_somewhere():
    def anchors(file):
        titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    for at, text in TEXTS.items():
        for link in re.findall(r"\]\((?!https?:)([^)]*)\)", text):
            name, _, anchor = link.partition("#")
            file = (at.parent / name).resolve() if name else at
            assert file.exists(), link
            assert not anchor or anchor in anchors(file), link
