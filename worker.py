#!/usr/bin/env python3
"""Take tasks from task_queue, one at a time, and work one second for each dot in them."""

import contextlib
import os
import signal
import sys
import time

import pika


def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode(errors='replace')!r}")

    # Your own work goes here, in place of this sleep. One dot is one second.
    # - It may be done twice: if a worker dies before the ack, another one gets the task.
    # - If it raises, the worker ends, and the next one gets the task: catch what you expect.
    # - If it blocks for a minute or more, RabbitMQ misses the worker's heartbeats, and gives the
    #   task away. Answer them every few seconds: ch.connection.process_data_events().
    ch.connection.sleep(body.count(b"."))  # like time.sleep, but answers heartbeats

    if ch.is_closed:
        return  # after 30 minutes without an ack, RabbitMQ gives the task away in any case

    print(" [x] Done")
    # Ack: only now may RabbitMQ forget the task.
    ch.basic_ack(delivery_tag=method.delivery_tag)


# The next four paragraphs are not about queues. Skip them at the first reading.

# Where RabbitMQ is. The exception is not printed: it may contain the password.
url = os.environ.get("AMQP_URL", "amqp://localhost:5672")
try:
    if not url.startswith(("amqp://", "amqps://")):
        raise ValueError  # pika would ignore the host, and take localhost
    parameters = pika.URLParameters(url)
except Exception:
    sys.exit(" [!] AMQP_URL is malformed: write amqp://user:password@host:5672/vhost")

# Show each line at once, also in a log, and escape letters that the console does not have.
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")

# CTRL+C and docker stop end the worker at once, even in mid-task. RabbitMQ delivers it again.
signal.signal(signal.SIGINT, lambda signum, frame: sys.exit())
signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit())

while True:
    connection = None
    try:
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()

        # Durable: the queue survives a restart of RabbitMQ. It is created if it is not there.
        channel.queue_declare(queue="task_queue", durable=True)

        # Prefetch: this worker gets no second task before its ack of the first. Others may.
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue="task_queue", on_message_callback=callback)

        print(" [*] Waiting for messages. To exit press CTRL+C")
        channel.start_consuming()

        # It only returns if RabbitMQ has cancelled the consumer, as when the queue is deleted.
        raise pika.exceptions.ConsumerCancelled

    # Whatever ends the connection, or prevents it: say so, and connect again.
    except Exception as error:
        if connection and not isinstance(error, pika.exceptions.AMQPError):
            raise  # not the connection's error, but one in your own work

        where = f"{parameters.host}:{parameters.port}"
        print(f" [!] RabbitMQ at {where}, next try in 2 seconds: {error!r}", file=sys.stderr)
        if connection:
            with contextlib.suppress(pika.exceptions.AMQPError):  # it may be closed already
                connection.close()
        time.sleep(2)
