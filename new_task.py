#!/usr/bin/env python3
"""Send one task to task_queue: python new_task.py First message."""

import contextlib
import os
import re
import signal
import sys
import threading

import pika
from pika.exceptions import AMQPChannelError, AMQPError, NackError


def fail(fate, problem):
    advice = next(ADVICE[words] for words in ADVICE if re.search(words, fate + problem))
    print(f" [!] {fate}. RabbitMQ at {where}: {problem}. {advice}", file=sys.stderr, flush=True)
    os._exit(1)


sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
pika.URLParameters.DEFAULT_STACK_TIMEOUT = 5  # seconds to connect, for each address
pika.URLParameters.DEFAULT_BLOCKED_CONNECTION_TIMEOUT = 10  # type: ignore[assignment]  # also seconds
url = os.environ.get("AMQP_URL") or "amqp://localhost"
try:
    assert url.startswith(("amqp://", "amqps://"))
    parameters = [pika.URLParameters(one) for one in re.split(", *(?=amqps?://)", url)]
except Exception:  # not shown: it may quote the password
    sys.exit(" [!] Not sent. AMQP_URL is malformed: write amqp://user:password@host:5672/vhost")
vhost, where = parameters[0].virtual_host, ", ".join(f"{one.host}:{one.port}" for one in parameters)
ADVICE = {  # what to do about a fate or problem with these words; the first that fits
    "ACCESS_REFUSED|NOT_ALLOWED": "Check user, password, virtual host, and list_permissions.",
    "inequivalent": f"If its tasks may go: rabbitmqctl delete_queue task_queue -p {vhost}",
    "CERTIFICATE|WRONG_VERSION": "Check host and port, and the authorities in SSL_CERT_FILE.",
    "nack|unroutable|size": "Is task_queue full, gone, or made for smaller messages?",
    "Blocked": "It is short of memory or disk: see rabbitmqctl status, then look for the task.",
    "may or may not": "Send it again if twice does no harm.",
    "": "Start it, or set AMQP_URL to where it runs.",
}

message = " ".join(sys.argv[1:]) if any(sys.argv[1:]) else "Hello World!"
fate = "Not sent"
signal.signal(signal.SIGINT, lambda *_: fail(fate, "interrupted"))
limit = threading.Timer(30, lambda: fail(fate, "no answer in 30 seconds"))
limit.start()  # pika itself waits for a confirm without limit
try:
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.confirm_delivery()
    channel.queue_declare("task_queue", durable=True)
    properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    fate = "RabbitMQ may or may not have it"
    channel.basic_publish("", "task_queue", os.fsencode(message), properties, mandatory=True)
    limit.cancel()
    print(f" [x] Sent {message!r}")
except NackError:
    fail("Not sent", "it refused the message (basic.nack)")
except Exception as error:  # pika's own, the system's, or TLS's, one inside the other
    cause = error.args[-1] if error.args else repr(error)
    cause = str(getattr(cause, "exception", cause)).split("/(<")[0].rstrip(".")
    fail("Not sent" if isinstance(error, AMQPChannelError) else fate, cause)
with contextlib.suppress(AMQPError):  # nothing that happens now makes it unsent
    connection.close()
