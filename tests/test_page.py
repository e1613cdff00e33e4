"""What is promised of the README: what it says to type does and shows what it says."""

from __future__ import annotations

import base64
import configparser
import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pika
import pytest
from helpers import page
from helpers.amqp import messages_ready, open_channel
from helpers.broker import free_port
from helpers.page import blocks, section
from helpers.picture import lines_of
from helpers.reader import LIST_QUEUES, Reader
from helpers.script import WAITING, Script, assert_quiet, done, frozen, wait_until
from helpers.setup import ROOT

RESTART = "rabbitmqctl stop_app\nrabbitmqctl start_app"
HEAVY_AND_LIGHT = """\
python new_task.py heavy 1.....
python new_task.py light 2.
python new_task.py heavy 3.....
python new_task.py light 4."""


@pytest.fixture
def reader(broker, tmp_path):
    reader = Reader(broker, tmp_path)
    yield reader
    reader.close()


@pytest.fixture
def reader_of_own(start_broker, tmp_path_factory):
    """A reader who changes settings of RabbitMQ: on a broker of its own."""
    reader = Reader(start_broker(), tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


def work(worker):
    """What a worker has done, as in the page's pictures: a digit for each second of a task."""
    drawn = ""
    for line in worker.out:
        if found := re.fullmatch(r" \[x\] Received '.*(\d)(\.+)'", line):
            drawn += found[1] * len(found[2])
    return drawn


def assert_shows(worker, block):
    """The worker prints the lines of this block; `…` stands for any words."""
    lines = block.splitlines()
    for line in lines:
        shown = line.replace(" 127.0.0.1:5672: …", " 127.0.0.1:")
        worker.wait_for(shown, lines.count(line))
    lines = [line for line in lines if not line.startswith(" [!] ")]
    assert worker.out[1 : 1 + len(lines)] == lines


def test_get_ready_ends_with_a_check(reader):
    version, *users = reader.type_in(
        "python -c 'import pika; print(pika.__version__)'\nrabbitmqctl -q list_users"
    ).splitlines(keepends=True)
    assert version == f"{pika.__version__}\n"
    assert "".join(users) in blocks("console")


# The lessons


def test_lesson_1_round_robin(reader):
    workers = [reader.start("python worker.py"), reader.start("python worker.py")]
    with frozen(*workers):
        printed = reader.type_in(
            "python new_task.py First message.\n"
            "python new_task.py Second message..\n"
            "python new_task.py Third message...\n"
            "python new_task.py Fourth message....\n"
            "python new_task.py Fifth message....."
        )
    assert f"`{printed.splitlines()[0]}`" in section("1. Round-robin dispatching")
    shown = blocks("console", section("1. Round-robin dispatching"))
    for worker, block in zip(workers, shown):
        worker.wait_for(" [x] Done", block.count(" [x] Done"))
        assert worker.out == block.splitlines()
    assert_quiet(*workers)


def test_lesson_2_the_task_of_a_stopped_worker(reader):
    workers = [reader.start("python worker.py"), reader.start("python worker.py")]
    reader.type_in("python new_task.py Survive me..............................")
    workers[0].wait_for(" [x] Received 'Survive me..............................'")
    workers[0].ctrl_c()
    workers[1].wait_for(" [x] Received 'Survive me..............................'")
    shown = blocks("console", section("2. Message acknowledgement"))
    assert reader.type_in(LIST_QUEUES) == shown[0]


def test_lesson_2_a_forgotten_acknowledgement(reader):
    reader.type_in("sed 's/    ch.basic_ack/    # ch.basic_ack/' worker.py > forgetful_worker.py")
    forgetful = reader.start("python forgetful_worker.py")
    reader.type_in("python new_task.py one\npython new_task.py two")
    forgetful.wait_for(" [x] Done")
    shown = blocks("console", section("2. Message acknowledgement"))
    assert reader.type_in(LIST_QUEUES) == shown[1]
    forgetful.ctrl_c()
    forgetful.wait()
    wait_until(lambda: reader.queue() == "2 0", "both tasks are ready")
    assert forgetful.out == [WAITING, " [x] Received 'one'", " [x] Done"]
    reader.start("python worker.py").wait_for(" [x] Done", 2)
    wait_until(lambda: reader.queue() == "0 0", "the queue is empty")


def test_lesson_3_durability_and_confirms(reader_of_own):
    reader = reader_of_own
    reader.type_in("python new_task.py one\npython new_task.py two\npython new_task.py three")
    reader.type_in(RESTART)
    shown = blocks("console", section("3. Message durability"))
    assert reader.type_in(LIST_QUEUES) == shown[0]
    reader.type_in(
        "sed 's/DeliveryMode.Persistent/DeliveryMode.Transient/' new_task.py > careless_task.py\n"
        "python careless_task.py four\n"
        "python careless_task.py five\n"
        "python careless_task.py six"
    )
    assert reader.queue() == "6 0"
    reader.type_in(RESTART)
    assert reader.queue() == "3 0"
    reader.type_in(
        "rabbitmqctl set_policy full '^task_queue$'"
        ' \'{"max-length":3,"overflow":"reject-publish"}\' --apply-to queues'
    )
    with pytest.raises(subprocess.CalledProcessError):
        reader.type_in("python new_task.py one too many")
    refused = Script("new_task.py", "one too many", AMQP_URL=reader.broker.url)
    assert refused.wait() == 1
    assert blocks("console", section("When is a task safe?")) == [f"{refused.err[-1]}\n"]
    reader.type_in("rabbitmqctl clear_policy full")
    worker = reader.start("python worker.py")
    worker.wait_for(" [x] Done", 3)
    assert done(worker) == ["'one'", "'two'", "'three'"]


def test_lesson_3_a_busy_worker_when_rabbitmq_restarts(reader):
    worker = reader.start("python worker.py")
    reader.type_in("python new_task.py Come back....................")
    worker.wait_for(" [x] Received")
    reader.type_in(RESTART)
    (shown,) = blocks("console", section("What happens to a busy worker when RabbitMQ restarts?"))
    assert_shows(worker, shown)


def test_lesson_4_fair_dispatch(reader):
    workers = [reader.start("python worker.py"), reader.start("python worker.py")]
    with frozen(*workers):
        reader.type_in(HEAVY_AND_LIGHT)
    wait_until(lambda: len(done(*workers)) == 4, "all four tasks are done")
    drawn = f"worker 1 | {work(workers[0])}\nworker 2 | {work(workers[1])}\n"
    assert blocks("text", section("4. Fair dispatch"))[0] == drawn


def test_lesson_4_without_the_prefetch(reader):
    reader.type_in(
        "sed 's/    channel.basic_qos/    # channel.basic_qos/' worker.py > greedy_worker.py"
    )
    greedy = [reader.start("python greedy_worker.py"), reader.start("python greedy_worker.py")]
    with frozen(*greedy):
        reader.type_in(HEAVY_AND_LIGHT)
    wait_until(lambda: len(done(*greedy)) == 4, "all four tasks are done")
    drawn = f"worker 1 | {work(greedy[0])}\nworker 2 | {work(greedy[1])}\n"
    assert blocks("text", section("4. Fair dispatch"))[1] == drawn


def test_lesson_5_heartbeats(reader):
    reader.type_in("sed 's/heartbeat = 300/heartbeat = 2/' worker.py > impatient_worker.py")
    command = "python impatient_worker.py"
    impatient = [reader.start(command), reader.start(command)]
    reader.type_in("python new_task.py Ten seconds..........")
    (shown,) = blocks("console", section("5. Heartbeats"))
    wait_until(lambda: len(done(*impatient)) >= 2, "the task is done twice")
    again = max(impatient, key=lambda worker: len(done(worker)))
    assert_shows(again, shown)
    for worker in impatient:
        worker.kill()
    worker = reader.start("python worker.py")
    worker.wait_for(" [x] Done")
    wait_until(lambda: reader.queue() == "0 0", "the queue is empty")
    assert_quiet(worker)


# Your own work


@pytest.fixture
def my_worker(reader_of_own):
    """The reader has made my_worker.py, and started it."""
    reader = reader_of_own
    reader.type_in("cp worker.py my_worker.py")
    script = reader.folder / "my_worker.py"
    imported, callback, *_ = blocks("python", section("Your own work"))
    first, last = "def callback", "ch.basic_ack(delivery_tag=method.delivery_tag)\n"
    before, rest = script.read_text().replace("import os\n", f"{imported}import os\n").split(first)
    script.write_text(before + callback + rest.split(last)[1])
    return reader.start("python my_worker.py")


def test_your_own_work(reader_of_own, my_worker):
    reader = reader_of_own
    reader.type_in('python new_task.py \'{"id": 1, "seconds": 2}\'\npython new_task.py oops')
    my_worker.wait_for(" [x] Done")
    assert reader.type_in("cat report-1.txt") == "This took 2.0 seconds.\n"
    assert my_worker.wait_for(" [x] Rejected").startswith(" [x] Rejected: JSONDecodeError(")
    wait_until(lambda: reader.queue() == "0 0", "the task is thrown away")
    reader.save("failed_tasks.py")
    assert reader.type_in("python failed_tasks.py") == "Tasks: 0\n"
    reader.type_in(
        "rabbitmqctl set_policy failed '^task_queue$'"
        ' \'{"dead-letter-exchange":"","dead-letter-routing-key":"failed_tasks"}\''
        " --apply-to queues"
    )
    reader.type_in("python new_task.py oops")
    wait_until(lambda: reader.queue("failed_tasks") == "1 0", "the task is in failed_tasks")
    assert reader.type_in("python failed_tasks.py") == "Tasks: 1\noops\n"
    wait_until(lambda: reader.queue("failed_tasks") == "1 0", "it is still there")
    reader.type_in("python failed_tasks.py resend")
    my_worker.wait_for(" [x] Rejected", 3)
    wait_until(lambda: reader.queue("failed_tasks") == "1 0", "it is there again")
    reader.type_in("rabbitmqctl purge_queue failed_tasks\nrabbitmqctl clear_policy failed")
    assert reader.queue("failed_tasks") == "0 0"
    assert_quiet(my_worker)


def test_your_own_work_is_ended_by_no_task(reader_of_own, my_worker):
    """By none that cannot be understood, or cannot be done."""
    bad = ["", "[]", "1", "{}", '{"id": 1}', '{"id": 1e400, "seconds": 1}', "\udcff"]
    bad += [f'{{"id": 1, "seconds": {number}}}' for number in ("1e20", "-1", "NaN", "null")]
    with open_channel(reader_of_own.broker.url) as channel:
        for task in bad:
            channel.basic_publish("", "task_queue", task.encode(errors="surrogateescape"))
        channel.basic_publish("", "task_queue", b'{"id": 2, "seconds": 0}')
    my_worker.wait_for(" [x] Done")
    assert sum(line.startswith(" [x] Rejected") for line in my_worker.out) == len(bad)
    assert_quiet(my_worker)


# How do I ...?


def test_send_a_task_from_a_web_application(reader):
    reader.save("web.py")
    assert "pip install flask\nflask --app web run --port 8000\n" in blocks("sh")
    address = f"http://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    reader.run(
        "-m", "flask", "--app", "web", "run", "--port", port, wait_for=f"Running on {address}"
    )

    def post(task):
        try:
            with urllib.request.urlopen(f"{address}/reports", task.encode(), 60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    assert "curl --data 'Report..' http://127.0.0.1:8000/reports\n" in blocks("sh")
    with ThreadPoolExecutor(40) as at_once:
        answers = list(at_once.map(post, [f"Report {number}.." for number in range(40)]))
    assert answers == [(202, "Your report is being made.\n")] * 40
    assert messages_ready(reader.broker.url) == 40
    reader.broker.kill()
    assert post("Report..") == (503, "Please try again later.\n")
    reader.broker.start()
    assert post("Report..") == (202, "Your report is being made.\n")


def test_find_out_how_many_tasks_are_left(reader):
    reader.save("count.py")
    reader.type_in("python new_task.py one\npython new_task.py two")
    assert reader.type_in("python count.py") == "2\n"


def test_work_until_the_queue_is_empty(reader):
    reader.save("until_empty.py")
    printed = reader.type_in(
        "python new_task.py one.\npython new_task.py two.\npython until_empty.py"
    )
    assert printed.splitlines()[2:] == [
        " [x] Received 'one.'",
        " [x] Done",
        " [x] Received 'two.'",
        " [x] Done",
    ]
    assert reader.queue() == "0 0"


def test_try_a_failed_task_again_five_times(reader_of_own):
    reader = reader_of_own
    reader.save("retry_worker.py")
    script = reader.folder / "retry_worker.py"
    assert "10_000" in script.read_text()
    script.write_text(script.read_text().replace("10_000", "500"))  # milliseconds
    worker = reader.start("python retry_worker.py")
    reader.broker.rabbitmqctl("set_policy", "failed", "nothing", '{"max-length":1}')
    reader.type_in(
        "rabbitmqctl clear_policy failed\n"
        "rabbitmqctl set_policy retry '^task_queue$'"
        ' \'{"dead-letter-exchange":"","dead-letter-routing-key":"retry_later"}\''
        " --apply-to queues"
    )
    reader.type_in("python new_task.py oops")
    worker.wait_for(" [x] Given up")
    tries = [line.split(":")[0] for line in worker.out if "Try" in line]
    assert tries == [f" [x] Try {number} failed" for number in range(1, 6)]
    with open_channel(reader.broker.url) as channel:
        channel.basic_publish("", "task_queue", b"0.1")
    worker.wait_for(" [x] Done")
    wait_until(lambda: reader.queue() == "0 0", "the task is acknowledged")
    assert reader.queue("retry_later") == "0 0"
    worker.ctrl_c()
    assert worker.wait() == 0
    reader.type_in("rabbitmqctl clear_policy retry")
    assert_quiet(worker)


def test_stop_a_worker_after_its_current_task(reader):
    reader.save("polite_worker.py")
    polite = reader.start("python polite_worker.py")
    typed = """\
python new_task.py first....................
python new_task.py second
pkill -f polite_worker.py"""
    assert f"{typed}\n" in blocks("sh")  # not run: it would end a reader's workers, too
    with open_channel(reader.broker.url) as channel:
        channel.basic_publish("", "task_queue", b"first.....")
        channel.basic_publish("", "task_queue", b"second")
    polite.wait_for(" [x] Received")
    polite.terminate()
    assert polite.wait() == 0
    assert polite.out == [WAITING, " [x] Received 'first.....'", " [x] Done"]
    wait_until(lambda: reader.queue() == "1 0", "the second task waits")
    idle = reader.start("python polite_worker.py")
    idle.wait_for(" [x] Done")
    idle.terminate()
    assert idle.wait() == 0
    assert_quiet(polite, idle)


def test_run_ten_workers(reader):
    command, *_ = blocks("sh", section("Run ten workers, and keep them running"))
    assert "xargs -P 10" in command
    shell = subprocess.Popen(
        ["sh", "-c", f"{command.strip()} > lines"],
        cwd=reader.folder,
        env=reader.environment,
        start_new_session=True,
    )
    lines = reader.folder / "lines"
    try:
        wait_until(lambda: lines.exists() and lines.read_text().count(WAITING) == 10, "ten wait")
    finally:
        os.killpg(shell.pid, signal.SIGINT)  # as a terminal does: to each process of the command
        shell.wait()
    expected = [f"worker {number}:{WAITING}" for number in range(1, 11)]
    assert sorted(lines.read_text().splitlines()) == sorted(expected)
    with open_channel(reader.broker.url) as channel:
        wait_until(
            lambda: channel.queue_declare("task_queue", passive=True).method.consumer_count == 0,
            "CTRL+C has ended all workers",
        )


def test_the_command_of_the_systemd_unit_prints_each_line_at_once(reader):
    """systemd cannot run here. What it reads of a worker comes through a pipe or a file, too."""
    (text,) = blocks("ini", section("Run ten workers, and keep them running"))
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(text)
    environment = dict(pair.split("=", 1) for pair in unit["Service"]["Environment"].split())
    assert environment.pop("AMQP_URL") == "amqp://127.0.0.1"
    python, *arguments = unit["Service"]["ExecStart"].split()
    assert python == "/srv/work-queue/.venv/bin/python"
    with (reader.folder / "lines").open("w") as lines:
        worker = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=reader.folder,
            env={**environment, "AMQP_URL": reader.broker.url},
            stdout=lines,
        )
    try:
        wait_until(lambda: (reader.folder / "lines").read_text() == f"{WAITING}\n", "it waits")
    finally:
        worker.kill()
        worker.wait()


def test_work_for_longer_than_five_minutes(start_broker, tmp_path_factory):
    shown = section("Work for longer than five minutes")
    reader = Reader(start_broker(*blocks("ini", shown)), tmp_path_factory.mktemp("reader"))
    printed = reader.type_in("rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'")
    assert blocks("console", shown) == [printed]


def test_let_tasks_expire(reader_of_own):
    reader = reader_of_own
    reader.type_in(
        "rabbitmqctl set_policy expire '^task_queue$' '{\"message-ttl\":10000}' --apply-to queues"
    )
    assert reader.type_in("python new_task.py too late") == " [x] Sent 'too late'\n"
    wait_until(lambda: reader.queue() == "0 0", "the task is gone")
    reader.type_in("rabbitmqctl clear_policy expire")


def test_keep_the_queue_from_growing(reader_of_own):
    reader = reader_of_own
    reader.type_in(
        "rabbitmqctl set_policy full '^task_queue$'"
        ' \'{"max-length":1000,"overflow":"reject-publish"}\' --apply-to queues'
    )
    assert '{"max-length":1000,' in reader.broker.rabbitmqctl("list_policies")
    reader.type_in("rabbitmqctl clear_policy full")


def test_watch_the_queue_in_a_browser(reader_of_own):
    reader = reader_of_own
    reader.type_in("rabbitmq-plugins enable rabbitmq_management")
    address = f"http://127.0.0.1:{reader.broker.management_port}"
    login = base64.b64encode(b"guest:guest").decode()
    request = urllib.request.Request(
        f"{address}/api/whoami", headers={"Authorization": f"Basic {login}"}
    )

    def answer(wanted):
        with contextlib.suppress(OSError), urllib.request.urlopen(wanted, timeout=5) as answered:
            return answered.read().decode()
        return ""

    wait_until(lambda: "RabbitMQ Management" in answer(f"{address}/"), "the page is there")
    assert '"guest"' in answer(request)
    reader.type_in("rabbitmq-plugins disable rabbitmq_management")


def test_use_another_host_port_or_login(reader_of_own):
    reader = reader_of_own
    reader.type_in(
        "rabbitmqctl add_vhost jobs\n"
        "rabbitmqctl add_user alice secret\n"
        "rabbitmqctl set_permissions -p jobs alice '.*' '.*' '.*'"
    )
    printed = reader.type_in(
        "export AMQP_URL='amqp://alice:secret@127.0.0.1:5672/jobs'", "python new_task.py Hello..."
    )
    assert printed == " [x] Sent 'Hello...'\n"
    assert reader.type_in("rabbitmqctl -q list_queues -p jobs").endswith("task_queue\t1\n")
    assert "unset AMQP_URL\n" in blocks("sh")


def test_use_several_machines(reader_of_own):
    reader = reader_of_own
    reader.type_in(
        "rabbitmqctl add_vhost safe --default-queue-type quorum\n"
        "rabbitmqctl set_permissions -p safe guest '.*' '.*' '.*'"
    )
    reader.type_in("AMQP_URL=amqp://127.0.0.1/safe python new_task.py Hello...")
    listed = reader.type_in("rabbitmqctl -q list_queues -p safe name type")
    assert listed.endswith("task_queue\tquorum\n")
    reader.type_in("rabbitmqctl delete_user guest")
    assert "guest" not in reader.broker.rabbitmqctl("list_users", "--no-table-headers")


def test_clean_up_deletes_what_the_page_has_made(reader_of_own):
    reader, broker = reader_of_own, reader_of_own.broker
    with open_channel(broker.url) as channel:
        for queue in ("task_queue", "failed_tasks", "retry_later", "mine"):
            channel.queue_declare(queue, durable=True)
    for policy in ("failed", "retry", "expire", "full"):
        broker.rabbitmqctl("set_policy", policy, "nothing", '{"max-length":1}')
    for vhost in ("jobs", "safe"):
        broker.rabbitmqctl("add_vhost", vhost)
    broker.rabbitmqctl("add_user", "alice", "secret")
    reader.type_in(
        "rabbitmqctl delete_queue task_queue\n"
        "rabbitmqctl delete_queue failed_tasks\n"
        "rabbitmqctl delete_queue retry_later\n"
        "rabbitmqctl clear_policy failed\n"
        "rabbitmqctl clear_policy retry\n"
        "rabbitmqctl clear_policy expire\n"
        "rabbitmqctl clear_policy full\n"
        "rabbitmqctl delete_vhost jobs\n"
        "rabbitmqctl delete_vhost safe\n"
        "rabbitmqctl delete_user alice"
    )
    assert broker.rabbitmqctl("list_queues", "--no-table-headers", "name").split() == ["mine"]
    assert broker.rabbitmqctl("list_policies", "--no-table-headers").split() == []
    assert broker.rabbitmqctl("list_vhosts", "--no-table-headers").split() == ["/"]
    assert "alice" not in broker.rabbitmqctl("list_users", "--no-table-headers")


# The page itself


@pytest.mark.parametrize("listing", blocks("python", page.chapter("The tutorial")))
def test_a_listing_stands_in_a_script(listing):
    assert any(listing in (ROOT / name).read_text() for name in ("new_task.py", "worker.py"))


def test_the_picture_shows_what_the_scripts_print(broker, start_worker, start_script):
    shown = lines_of(ROOT / ".github" / "tutorial.svg")
    commands = [line for line in shown if re.fullmatch(r"\$ python new_task\.py .*\.", line)]
    tasks = sorted({line.removeprefix("$ python new_task.py ") for line in commands}, key=len)
    tasks = [task for task in tasks if f" [x] Sent {task!r}" in shown]
    workers = [start_worker(broker.url), start_worker(broker.url)]
    printed = set()
    with frozen(*workers):
        for task in ("First message.", "Second message..", "Third message...", "Survive me....."):
            assert task in tasks
            new_task = start_script("new_task.py", *task.split(), AMQP_URL=broker.url)
            assert new_task.wait() == 0
            printed.update(new_task.out)
    workers[1].wait_for("Survive me.....")
    workers[1].ctrl_c()
    workers[0].wait_for("Survive me.....")
    workers[0].wait_for(" [x] Done", 3)
    printed.update(*(worker.out for worker in workers))
    assert printed == {line for line in shown if line.startswith(" [")}


def test_each_row_of_the_tables_of_errors_has_its_test():
    tests = "".join(test.read_text() for test in (ROOT / "tests").glob("test_*.py"))
    for words, *_ in page.rows():
        for word in re.findall(r"`([^`]+)`", words):
            assert f'documented("{word}")' in tests, f"no test makes {word}"


# What a test cannot run here, since it would change the machine; or runs in another way.
UNTRIED = re.compile(
    r"sudo |brew |export PATH=|epmd -kill|docker |rm Dockerfile|tests/record\.sh|python3 |"
    r"\.venv/bin/|\. \.venv/bin/|rabbitmqctl\(\)|rabbitmq-plugins\(\)|seq 10"
)


def test_each_command_of_the_page_stands_in_a_test():
    tests = "".join(test.read_text() for test in (ROOT / "tests").rglob("*.py"))
    for command in "".join(blocks("sh")).splitlines():
        if not UNTRIED.match(command):
            begin = command.split(" '{")[0]  # JSON is quoted in another way there
            assert begin in tests, f"no test runs {command}"


def test_the_links_of_the_page_lead_somewhere():
    titles = re.findall(r"^#+ (.*)$", page.TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    anchors |= set(re.findall(r'<a id="([^"]*)"></a>', page.TEXT))
    links = set(re.findall(r"\]\(#([^)]*)\)", page.TEXT))
    assert links <= anchors
    files = re.findall(r"\]\((?!#|https?:)([^)]*)\)", page.TEXT)
    assert all((ROOT / name).exists() for name in files)
