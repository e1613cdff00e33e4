#!/usr/bin/env python3
"""Send one task to task_queue: python new_task.py First message."""

import contextlib
import os
import sys

import pika

message = " ".join(sys.argv[1:]) or "Hello World!"

# Where RabbitMQ is.
url = os.environ.get("AMQP_URL", "amqp://localhost:5672")
try:
    if not url.startswith(("amqp://", "amqps://")):
        raise ValueError  # pika would take a host without amqp:// for localhost
    parameters = pika.URLParameters(url)
except Exception:  # not printed: the error may quote the password
    sys.exit(" [!] AMQP_URL is malformed: write amqp://user:password@host:5672/vhost")

# RabbitMQ takes no messages while it is short of memory or disk. Wait for 10 seconds at most.
parameters.blocked_connection_timeout = 10

try:
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()

    # Create the queue, if it is not there. Durable: it survives a restart of RabbitMQ.
    channel.queue_declare(queue="task_queue", durable=True)

    # Confirm: from now on, basic_publish waits until RabbitMQ has stored the message.
    channel.confirm_delivery()

    channel.basic_publish(
        exchange="",  # the default exchange: straight to the queue named by routing_key
        routing_key="task_queue",
        body=message.encode(),
        # Persistent: the message survives a restart, too. Else the queue comes back empty.
        properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
        # Mandatory: if no queue takes the message, raise an error, and do not drop it silently.
        mandatory=True,
    )
except (Exception, KeyboardInterrupt) as error:
    # The task may have arrived all the same. If you send it again, it may be done twice.
    sys.exit(f" [!] Not confirmed by RabbitMQ at {parameters.host}:{parameters.port}: {error!r}")

print(f" [x] Sent {message!r}", flush=True)

with contextlib.suppress(Exception, KeyboardInterrupt):  # it is sent, whatever happens now
    connection.close()
