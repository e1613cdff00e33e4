#!/usr/bin/env python3
"""Send a task to task_queue: python new_task.py Hello... (three dots: three seconds of work)."""

import os
import sys

import pika

parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))
# RabbitMQ takes no messages while it is short of memory or disk. After 10 seconds, raise an error.
parameters.blocked_connection_timeout = 10

try:
    connection = pika.BlockingConnection(parameters)
except Exception as error:  # no RabbitMQ there, unknown host, wrong password...
    sys.exit(f" [!] No connection to RabbitMQ at {parameters.host}:{parameters.port}: {error!r}")
channel = connection.channel()

# Create the queue, if it is not there. Durable: the queue survives a restart of RabbitMQ.
channel.queue_declare(queue="task_queue", durable=True)

# Publisher confirm: from here on, basic_publish returns only when RabbitMQ has stored the message.
# If the connection is lost before that, the message may be stored or not: if you send it again, the
# task may be done twice.
channel.confirm_delivery()

message = " ".join(sys.argv[1:]) or "Hello World!"
channel.basic_publish(
    exchange="",  # the default exchange: straight to the queue named by routing_key
    routing_key="task_queue",
    body=message.encode(),
    properties=pika.BasicProperties(
        delivery_mode=pika.DeliveryMode.Persistent,  # the message survives a restart, too
    ),
    mandatory=True,  # raise an error if no queue takes the message
)
print(f" [x] Sent {message!r}")

connection.close()
