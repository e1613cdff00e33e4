"""What is promised of tests/examples/README.md: its answers, and the programs that they show.

What its tables of errors say is tested in test_errors.py, and the ten workers in test_compose.py.
"""

from __future__ import annotations

import re

import httpx
from helpers.amqp import messages_ready
from helpers.broker import LIMIT, free_port
from helpers.machine import ROOT
from helpers.page import EXAMPLES, steps
from helpers.script import wait_until


def test_answers_and_errors(reader):
    """The copies, which the other answers need."""
    (copy,) = steps("Answers and errors")
    reader.type_in(copy)
    assert {"tasks.py", "my_worker.py", "failed_tasks.py"} <= {
        file.name for file in reader.folder.iterdir()
    }


def test_send_tasks_from_your_own_program(reader):
    thousand, count = steps("Send tasks from your own program")
    reader.type_in(*steps("Answers and errors"))
    assert reader.type_in(thousand) == count
    assert messages_ready(reader.broker.url, "tasks") == 1000


def test_order_a_report_on_a_web_page(reader):
    worker, web = steps("Order a report on a web page")
    reader.type_in(*steps("Answers and errors"))
    port = free_port()
    web = web.replace("pip install flask\n", "")  # the tests have installed it
    reader.start(f"{web.rstrip()} --port {port}", wait_for="Running on")
    browser = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", trust_env=False, follow_redirects=True
    )
    form = browser.get("/").text
    (report,) = re.findall(r'action="([^"]*)"', form)
    assert form != browser.get("/").text, "each page orders a report of its own"
    ordered = browser.post(report)
    assert (ordered.status_code, ordered.text) == (202, "Your report is not ready yet.")
    browser.post(report)  # a repeated click
    assert browser.get("/waiting").text == "2"
    worker = reader.start(worker)
    worker.wait_for(" [x] Done", 2)
    assert browser.get(report).text == "This took 5.0 seconds.\n"
    assert len(list((reader.folder / "reports").glob("*.txt"))) == 1
    reader.broker.kill()
    refused = browser.post(report, timeout=LIMIT)
    assert (refused.status_code, refused.text) == (503, "Please try again later.")
    browser.close()


def test_a_task_that_takes_too_long(reader):
    loop, two_tasks, console_1, look, shown, again, resend = steps("A task that takes too long")
    reader.type_in(*steps("Answers and errors"))
    worker = reader.start(loop)
    reader.type_in(two_tasks)
    worker.wait_for(" [x] Done")
    assert worker.out[-2:] == console_1.splitlines()
    assert sum("in work" in line for line in worker.err) >= 11
    wait_until(lambda: reader.type_in(look) == shown, "the first is in failed_tasks")
    worker.ctrl_c()
    worker.wait()
    real = reader.start(again)
    reader.type_in(resend)
    real.wait_for(" [x] Done")
    assert reader.type_in(look) == ""


def test_work_for_longer_than_five_minutes(start_broker):
    (to_etc,) = steps("Work for longer than five minutes")
    install, _restart = to_etc.splitlines()  # it would change the machine
    _sudo, _install, _d, source, target = install.split()
    assert target.startswith("/etc/rabbitmq/conf.d/")
    broker = start_broker((ROOT / source).read_text())
    limit = broker.rabbitmqctl("eval", "application:get_env(rabbit, consumer_timeout).")
    assert limit == "{ok,36000000}\n"


def test_use_another_host_port_or_login(reader_with_own_broker):
    reader = reader_with_own_broker
    alice, send, undo = steps("Use another host, port or login")
    reader.type_in(alice)
    sent, *_, listed = reader.type_in(send).splitlines()
    assert sent == " [x] Sent 'Hello...'"
    assert listed == "task_queue\t1"
    reader.type_in(undo)
    for what in ("list_vhosts", "list_users"):
        listed = reader.broker.rabbitmqctl(what, "--no-table-headers")
        assert "jobs" not in listed and "alice" not in listed


def test_a_password_is_written_as_the_page_says(start_broker, send, start_worker):
    """The letters, and how they are written, are read from the page."""
    text = (EXAMPLES / "README.md").read_text()
    letters = re.findall(r"`(%..)` for `(.)`", text)
    assert len(letters) == 8
    broker = start_broker()
    broker.rabbitmqctl("add_user", "kim", "".join(letter for _, letter in letters))
    broker.rabbitmqctl("add_vhost", "a/b")
    broker.rabbitmqctl("set_permissions", "-p", "a/b", "kim", ".*", ".*", ".*")
    password = "".join(written for written, _ in letters)
    url = f"amqp://kim:{password}@127.0.0.1:{broker.port}/a%2Fb"
    send(url, "elsewhere")
    start_worker(url).wait_for(" [x] Received 'elsewhere'")
    assert "task_queue" not in broker.rabbitmqctl("list_queues", "name")
