#!/usr/bin/env python3
"""Take tasks from task_queue, one at a time, and work a second for each dot in it."""

import os
import re
import signal
import sys
import time

import pika
from pika.exceptions import AMQPError


def on_message(channel, method, properties, body):
    print(f" [x] Received {body.decode(errors='surrogateescape')!r}")
    for _ in range(body.count(b".")):
        channel.connection.sleep(1)  # unlike time.sleep, it answers RabbitMQ's heartbeats
        if channel.is_closed:
            return  # RabbitMQ has taken the task back; start_consuming raises why
    print(" [x] Done")
    channel.basic_ack(method.delivery_tag)


def serve():
    """Work until something ends it; return what that was, in its own words."""
    try:
        connection = pika.BlockingConnection(parameters)
    except Exception as error:  # pika's own, the system's, or TLS's, one inside the other
        cause = error.args[-1] if error.args else repr(error)
        return str(getattr(cause, "exception", cause)).split("/(<")[0].rstrip(".")
    try:
        with connection:
            channel = connection.channel()
            channel.queue_declare("task_queue", durable=True)
            channel.basic_qos(prefetch_count=1)
            channel.basic_consume("task_queue", on_message)
            print(" [*] Waiting for messages. To exit press CTRL+C")
            channel.start_consuming()
        return "it cancelled the consumer, as when task_queue is deleted"
    except BrokenPipeError:  # whoever read the output has gone
        os._exit(1)
    except AMQPError as error:
        return str(error.args[-1] if error.args else repr(error)).rstrip(".")


for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: os._exit(0))  # RabbitMQ takes the task in hand back
sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
url = os.environ.get("AMQP_URL") or "amqp://localhost"
try:
    assert url.startswith(("amqp://", "amqps://"))
    parameters = [pika.URLParameters(one) for one in re.split(", *(?=amqps?://)", url)]
except Exception:  # not shown: it may quote the password
    sys.exit(" [!] AMQP_URL is malformed: write amqp://user:password@host:5672/vhost")
vhost, where = parameters[0].virtual_host, ", ".join(f"{one.host}:{one.port}" for one in parameters)
ADVICE = {  # what to do about a problem with these words, which no waiting mends
    "ACCESS_REFUSED|NOT_ALLOWED": "Check user, password, virtual host, and list_permissions.",
    "inequivalent": f"If its tasks may go: rabbitmqctl delete_queue task_queue -p {vhost}",
    "CERTIFICATE|WRONG_VERSION": "Check host and port, and the authorities in SSL_CERT_FILE.",
}

while True:
    problem = f" [!] RabbitMQ at {where}: {serve()}."
    for words, advice in ADVICE.items():
        if re.search(words, problem):
            sys.exit(f"{problem} {advice}")
    print(problem, "Trying again in 2 seconds.", file=sys.stderr)
    time.sleep(2)
