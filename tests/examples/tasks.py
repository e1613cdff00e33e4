#!/usr/bin/env python3
"""The queue of your tasks. Send a task for each line of the input: python tasks.py < tasks.txt"""

import os
import sys

import pika

# RabbitMQ counts how often it delivers a task. When eleven deliveries have failed, or a worker
# rejects the task for good, RabbitMQ moves the task to failed_tasks.
SETTINGS = {
    "x-queue-type": "quorum",  # the type of queue that counts deliveries
    "x-delivery-limit": 10,  # ten more deliveries after the first
    "x-dead-letter-exchange": "",  # the default exchange: straight to the queue named below
    "x-dead-letter-routing-key": "failed_tasks",
    "x-dead-letter-strategy": "at-least-once",  # deleted here only when stored there
    "x-overflow": "reject-publish",  # at-least-once needs this
}


def declare(channel):
    """Create the two queues, unless they exist. If one has other settings, raise an error."""
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}  # a look is a delivery
    channel.queue_declare(queue="failed_tasks", durable=True, arguments=arguments)
    channel.queue_declare(queue="tasks", durable=True, arguments=SETTINGS)


def publish(channel, body):
    """Send a task through a channel with publisher confirms."""
    channel.basic_publish(
        exchange="",
        routing_key="tasks",
        body=body,
        properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
        mandatory=True,
    )


def send(bodies):
    """Return when RabbitMQ has stored all these tasks, a list of bytes.

    If this raises an error, some of them may be stored, and others not.
    """
    parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))
    parameters.blocked_connection_timeout = 10
    parameters.heartbeat = 10  # if RabbitMQ goes silent, raise an error within half a minute
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        declare(channel)
        channel.confirm_delivery()
        for body in bodies:
            line = f" [x] Sent {body.decode(errors='replace')!r}"  # an error, unless body is bytes
            publish(channel, body)
            print(line, flush=True)  # flush: what is stored is said at once, also in a file


if __name__ == "__main__":
    send([line.rstrip(b"\r\n") for line in sys.stdin.buffer])
