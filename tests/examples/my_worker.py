#!/usr/bin/env python3
"""A worker for your own work: a task that fails is tried again, and in the end it is kept.

Something must start this worker again whenever it has ended, such as Docker or systemd.
"""

import faulthandler
import json
import os
import signal
import sys
import tempfile
import time
import traceback

import pika
from pika.exceptions import AMQPConnectionError

import tasks

LIMIT = 240  # seconds for a task, fewer than 30 minutes. After them the worker ends itself
PAUSE = 10  # seconds that the worker waits after a failed try, since the reason may go away

parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))
address = f"{parameters.host}:{parameters.port}"
parameters.heartbeat = LIMIT + 60  # pika is silent while work() works

working = False  # work() is running
stopping = False  # SIGTERM has come meanwhile


class Hopeless(Exception):
    """Raise this in work() when no other try can help."""


def work(body):
    """Your own work. An error leads to another try, unless it is Hopeless.

    It may be done twice, even at the same time: RabbitMQ gives a task to another worker when the
    connection of the first is lost.
    """
    try:
        task = json.loads(body)
        report, seconds = f"{int(task['id'])}.txt", float(task["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise Hopeless("this is not a task") from error

    # So write into a folder of your own, and then move the finished report out of it. (A worker
    # that is killed leaves its folder behind.)
    with tempfile.TemporaryDirectory(prefix="draft-", dir="reports") as draft:
        time.sleep(seconds)
        with open(f"{draft}/{report}", "w") as file:
            file.write(f"This took {seconds} seconds.\n")
        os.replace(f"{draft}/{report}", f"reports/{report}")


def attempt(body):
    """Do the task. Return "Done", "Failed" or "Hopeless"."""
    global working
    working = True
    # After LIMIT seconds, print where work() is, and end the worker.
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    try:
        work(body)
        return "Done"
    except Hopeless:
        traceback.print_exc()
        return "Hopeless"
    except Exception:
        traceback.print_exc()
        return "Failed"
    finally:
        faulthandler.cancel_dump_traceback_later()
        working = False


def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode(errors='replace')!r}", flush=True)
    result = attempt(body)
    print(f" [x] {result}", flush=True)

    if stopping:
        # Take no other task: RabbitMQ would count its delivery.
        ch.basic_cancel(consumer_tag=method.consumer_tag)
    elif result == "Failed":
        ch.connection.sleep(PAUSE)  # unlike time.sleep, this sends heartbeats

    if result == "Done":
        ch.basic_ack(delivery_tag=method.delivery_tag)
    elif result == "Hopeless":
        ch.basic_reject(delivery_tag=method.delivery_tag, requeue=False)  # to failed_tasks
    else:
        # Back into the queue; RabbitMQ counts this. (RabbitMQ 4.3 does not count basic_nack.)
        ch.basic_reject(delivery_tag=method.delivery_tag, requeue=True)
    if stopping:
        raise KeyboardInterrupt  # end as with CTRL+C


def consume(connection):
    channel = connection.channel()
    tasks.declare(channel)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue="tasks", on_message_callback=callback)
    print(" [*] Waiting for messages. To exit press CTRL+C", flush=True)
    channel.start_consuming()


def connect():
    while True:
        try:
            return pika.BlockingConnection(parameters)
        except Exception as error:  # not only pika's: an unknown host, for example
            print(f" [!] No connection to RabbitMQ at {address}: {error!r}", file=sys.stderr)
            time.sleep(2)


def main():
    while not stopping:
        connection = connect()
        try:
            consume(connection)
            # RabbitMQ has ended the consuming, for example because the queue was deleted.
            print(f" [!] Cancelled by RabbitMQ at {address}: connecting again", file=sys.stderr)
            connection.close()
        except AMQPConnectionError as error:  # not from your own work: see attempt()
            print(f" [!] Lost the connection to RabbitMQ at {address}: {error!r}", file=sys.stderr)
        time.sleep(2)


def stop(signum, frame):
    """Finish the work, then stop. Without work, or when told a second time, stop at once."""
    global stopping
    if stopping or not working:
        raise KeyboardInterrupt
    stopping = True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)  # kill, docker stop, systemctl stop
    if hasattr(os, "register_at_fork"):  # not on Windows
        # A child process of your work must not inherit stop(), or nobody could end it.
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    try:
        main()
    except KeyboardInterrupt:
        pass  # an unfinished task is delivered again
