#!/usr/bin/env python3
"""Send one task to task_queue: python new_task.py First message."""

import contextlib
import os
import sys

import pika

message = " ".join(sys.argv[1:]) or "Hello World!"

# Where RabbitMQ is. The exception is not printed: it may contain the password.
url = os.environ.get("AMQP_URL", "amqp://localhost:5672")
try:
    if not url.startswith(("amqp://", "amqps://")):
        raise ValueError  # pika would ignore the host, and take localhost
    parameters = pika.URLParameters(url)
    # If RabbitMQ takes no messages, being short of memory or disk, give up after 10 seconds.
    parameters.blocked_connection_timeout = 10
except Exception:
    sys.exit(" [!] AMQP_URL is malformed: write amqp://user:password@host:5672/vhost")

try:
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()

    # Durable: the queue survives a restart of RabbitMQ. It is created if it is not there.
    channel.queue_declare(queue="task_queue", durable=True)

    # Confirm: from now on, basic_publish waits until RabbitMQ says that the message is safe.
    channel.confirm_delivery()

    channel.basic_publish(
        exchange="",  # the default exchange: straight to the queue named by routing_key
        routing_key="task_queue",
        body=message.encode(),
        # Persistent: the message survives a restart, too. Without it the queue comes back empty.
        properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
        # Mandatory: raise an error if the queue has just been deleted, and do not lose the message.
        mandatory=True,
    )
except (Exception, KeyboardInterrupt) as error:
    # If it broke while we waited for the confirm, RabbitMQ may have the message all the same.
    sys.exit(f" [!] Not confirmed by RabbitMQ at {parameters.host}:{parameters.port}: {error!r}")

print(f" [x] Sent {message!r}", flush=True)

with contextlib.suppress(Exception, KeyboardInterrupt):  # the message is safe, whatever happens
    connection.close()
