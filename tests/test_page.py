"""What is promised of the README: what it says to type does, and shows, what it says.

Each test is named after its section, and takes the blocks of that section in their order. A block
whose name here begins with `_` is not run, for the reason beside it.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pika
from helpers import page
from helpers.amqp import delete_queue, get_message, open_channel
from helpers.page import steps
from helpers.proxy import PUBLISH
from helpers.script import LOST, WAITING, assert_quiet, done, frozen, wait_until
from helpers.setup import ROOT


def draw(*workers):
    """What the workers have done, as in the page's pictures: a digit for each second of a task."""
    rows = []
    for number, worker in enumerate(workers, 1):
        tasks = re.findall(r" \[x\] Received '.*?(\d)(\.+)'", "\n".join(worker.out))
        row = "".join(digit * len(dots) for digit, dots in tasks)
        rows.append(f"worker {number} | {row}\n")
    return "".join(rows)


def assert_shows(worker, block):
    """The worker prints the lines of this block; `…` stands for any words."""
    lines = block.splitlines()
    for line in lines:
        worker.wait_for(line.removesuffix("…"), lines.count(line))
    printed = [line for line in lines if not line.startswith(LOST)]
    assert worker.out[1 : 1 + len(printed)] == printed


def queue(reader, name="task_queue"):
    """Ready and unacknowledged messages of a queue: (1, 0)."""
    columns = ("--no-table-headers", "name", "messages_ready", "messages_unacknowledged")
    listed = reader.broker.rabbitmqctl("list_queues", *columns)
    (row,) = [line.split("\t") for line in listed.splitlines() if line.startswith(f"{name}\t")]
    return int(row[1]), int(row[2])


def test_get_ready(reader):
    _install_pika, _activate, check = steps("Get ready")  # the tests have an environment
    assert reader.type_in(check).split("\n")[:2] == [pika.__version__, "user\ttags"]


# The lessons


def test_1_round_robin_dispatching(reader):
    worker, five_tasks, console_1 = steps("1. Round-robin dispatching")
    workers = [reader.start(worker), reader.start(worker)]
    with frozen(*workers):
        printed = reader.type_in(five_tasks)
    assert f"`{printed.splitlines()[0]}`" in page.sections()["1. Round-robin dispatching"]
    workers[0].wait_for(" [x] Done", 3)
    workers[1].wait_for(" [x] Done", 2)
    assert workers[0].out == console_1.splitlines()
    assert done(workers[1]) == ["'Second message..'", "'Fourth message....'"]
    assert_quiet(*workers)


def test_2_message_acknowledgement(reader):
    survive_me, list_queues, listed, forgetful, two_tasks, list_again, listed_again, worker = steps(
        "2. Message acknowledgement"
    )
    first, second = (reader.run("worker.py", wait_for=WAITING) for _ in range(2))
    reader.type_in(survive_me)
    first.wait_for(" [x] Received 'Survive me..............................'")
    first.ctrl_c()
    second.wait_for(" [x] Received 'Survive me..............................'")
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
    wait_until(lambda: queue(reader) == (0, 0), "the queue is empty")


def test_3_message_durability(reader):
    three_tasks, restart, listed, undurable, refused, careless, listed_again, worker = steps(
        "3. Message durability"
    )
    reader.type_in(three_tasks)
    assert reader.type_in(restart).endswith(listed)
    assert reader.error_of(undurable) == refused
    assert reader.type_in(careless).endswith(listed_again)
    left = reader.start(worker)
    left.wait_for(" [x] Done", 3)
    assert done(left) == ["'one'", "'two'", "'three'"]


def test_4_fair_dispatch(reader):
    greedy, four_tasks, ten_seconds, six_seconds = steps("4. Fair dispatch")
    for command, picture in ((greedy, ten_seconds), ("python worker.py", six_seconds)):
        workers = [reader.start(command), reader.start(command)]
        with frozen(*workers):
            reader.type_in(four_tasks)
        wait_until(lambda: len(done(*workers)) == 4, "all four tasks are done")  # noqa: B023
        assert draw(*workers) == picture
        for one in workers:
            one.ctrl_c()
            one.wait()


def test_5_publisher_confirms(reader_of_own):
    reader = reader_of_own
    policy, two_tasks, refused, hopeful, shown, clear = steps("5. Publisher confirms")
    reader.type_in(policy)
    assert reader.error_of(two_tasks) == refused
    assert queue(reader) == (1, 0)
    assert reader.type_in(hopeful) == shown
    reader.type_in(clear)
    assert reader.type_in("python new_task.py more") == " [x] Sent 'more'\n"
    assert queue(reader) == (2, 0)


def test_6_reconnecting(reader):
    come_back, restart, shown = steps("6. Reconnecting")
    worker = reader.run("worker.py", wait_for=WAITING)
    reader.type_in(come_back)
    worker.wait_for(" [x] Received")
    reader.type_in(restart)
    assert_shows(worker, shown)


def test_7_heartbeats(reader):
    impatient, ten_seconds, shown, worker = steps("7. Heartbeats")
    workers = [reader.start(impatient), reader.start(impatient)]
    reader.type_in(ten_seconds)
    wait_until(lambda: len(done(*workers)) >= 2, "the task is done twice")
    assert_shows(max(workers, key=lambda worker: len(done(worker))), shown)
    for one in workers:
        one.kill()
    patient = reader.start(worker)
    patient.wait_for(" [x] Done")
    wait_until(lambda: queue(reader) == (0, 0), "the queue is empty")
    assert_quiet(patient)


# How do I ...?


def test_send_tasks_from_your_own_program(reader_of_own):
    """After an error, the lines say how many are stored for sure."""
    reader = reader_of_own
    thousand, count = steps("Send tasks from your own program")
    reader.save("send_tasks.py")
    assert reader.type_in(thousand) == count
    assert queue(reader) == (1000, 0)
    full = '{"max-length":1007,"overflow":"reject-publish"}'
    reader.broker.rabbitmqctl("set_policy", "full", "task_queue", full)
    printed = reader.type_in("head -20 tasks.txt | python send_tasks.py || true")
    assert len(printed.splitlines()) == 7
    assert queue(reader) == (1007, 0)


def test_a_web_application_sends_from_many_threads(reader):
    reader.save("send_tasks.py")
    (reader.folder / "web.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import send_tasks\n"
        "list(ThreadPoolExecutor(40).map(send_tasks.send, [[b'\\xff is no text']] * 40))\n"
    )
    reader.type_in("python web.py")
    assert queue(reader) == (40, 0)
    assert get_message(reader.broker.url) == b"\xff is no text"


def test_a_web_application_does_not_wait_long_for_a_rabbitmq_that_hangs(reader, start_proxy):
    """Half a minute, after it has sent a task; RabbitMQ's own heartbeat takes two minutes."""
    reader.save("send_tasks.py")
    url = start_proxy(reader.broker, moment=PUBLISH, then="hold").url
    hangs = f"echo unheard | AMQP_URL={url} timeout 100 python send_tasks.py"
    assert "AMQPHeartbeatTimeout" in reader.error_of(hangs)


def test_work_for_longer_than_five_minutes(start_broker):
    (_to_etc,) = steps("Work for longer than five minutes")  # this broker has its own settings
    broker = start_broker(page.file("long.conf"))
    limit = broker.rabbitmqctl("eval", "application:get_env(rabbit, consumer_timeout).")
    assert limit == "{ok,36000000}\n"


def test_use_another_host_port_or_login(reader_of_own):
    alice, send = steps("Use another host, port or login")
    reader_of_own.type_in(alice)
    sent, *_, listed = reader_of_own.type_in(send).splitlines()
    assert sent == " [x] Sent 'Hello...'"
    assert listed == "task_queue\t1"


def test_clean_up(reader_of_own):
    reader, broker = reader_of_own, reader_of_own.broker
    _docker, delete, _remove = steps("Clean up")  # in test_compose.py; a reader may need RabbitMQ
    with open_channel(broker.url) as channel:
        for name in ("task_queue", "failed_tasks", "mine"):
            channel.queue_declare(name, durable=True)
    broker.rabbitmqctl("set_policy", "full", "nothing", '{"max-length":1}')
    broker.rabbitmqctl("add_vhost", "jobs")
    broker.rabbitmqctl("add_user", "alice", "secret")
    reader.type_in(delete)
    assert broker.rabbitmqctl("list_queues", "--no-table-headers", "name").split() == ["mine"]
    assert broker.rabbitmqctl("list_policies", "--no-table-headers").split() == []
    assert broker.rabbitmqctl("list_vhosts", "--no-table-headers").split() == ["/"]
    assert "alice" not in broker.rabbitmqctl("list_users", "--no-table-headers")


def test_debian_or_ubuntu():
    _install, rabbitmqctl = steps("Debian or Ubuntu")  # it would change the machine
    shell = f"{rabbitmqctl}sudo() {{ echo sudo \"$@\"; }}\nrabbitmqctl -q list_users 'a  b'"
    printed = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    assert printed.stdout == "sudo rabbitmqctl -q list_users a  b\n"


# The page itself


def test_each_listing_stands_in_a_script():
    scripts = [(ROOT / name).read_text() for name in ("new_task.py", "worker.py")]
    lessons = page.TEXT.split("\n## The tutorial\n")[1].split("\n## Your own work\n")[0]
    for listing in page.blocks("python", lessons):
        parts = re.split(r"^ *…\n", listing, flags=re.MULTILINE)
        assert any(all(part in script for part in parts) for script in scripts), listing


def test_each_section_and_each_row_of_errors_has_a_test():
    """A test with its name. (One that is only skipped here is collected, too.)"""
    command = "-m pytest -c pytest.ini -o addopts= -p no:cacheprovider --collect-only -q ."
    collected = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True
    ).stdout

    def slug(words):
        return re.sub(r"\W+", "_", words).strip("_").lower()

    tests = slug(collected)
    for title in page.sections():
        if steps(title) and "not tried" not in title:
            assert f"test_{slug(title)}_" in tests, f"no test of {title!r}"
    chapter = page.TEXT.split("\n## When something goes wrong\n")[1].split("\n## ")[0]
    for first_cell in re.findall(r"^\| (`.*?) \|", chapter, re.MULTILINE):
        for words in re.findall(r"`([^`]+)`", first_cell):
            assert f"_{slug(words)}_" in tests, f"no test of {words!r}"


def test_the_links_of_the_page_lead_somewhere():
    titles = re.findall(r"^#+ (.*)$", page.TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    anchors |= set(re.findall(r'<a id="([^"]*)"></a>', page.TEXT))
    links = set(re.findall(r"\]\(#([^)]*)\)", page.TEXT))
    assert links <= anchors
    files = re.findall(r"\]\((?!#|https?:)([^)]*)\)", page.TEXT)
    assert all((ROOT / name).exists() for name in files)
