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

    # Your own work goes here, in place of this sleep: one second for each dot.
    # - A task may come twice, as when a worker dies before its ack. That must do no harm.
    # - If your work raises, the worker ends, and the next one gets the task, and so on. So catch
    #   what you expect, and acknowledge the task all the same, or ch.basic_reject it.
    # - If it takes a minute or more, call ch.connection.process_data_events() every few seconds.
    #   Else RabbitMQ hears no heartbeat, takes the worker for dead, and gives the task away.
    ch.connection.sleep(body.count(b"."))  # like time.sleep, but answers heartbeats

    if ch.is_closed:
        return  # RabbitMQ waited 30 minutes for the ack, in vain, and gives the task away

    print(" [x] Done")
    # Ack: only now may RabbitMQ forget the task.
    ch.basic_ack(delivery_tag=method.delivery_tag)


# At the first reading, skip to "while True". Up to there it is not about queues.

# Where RabbitMQ is.
url = os.environ.get("AMQP_URL", "amqp://localhost:5672")
try:
    if not url.startswith(("amqp://", "amqps://")):
        raise ValueError  # pika would take a host without amqp:// for localhost
    parameters = pika.URLParameters(url)
except Exception:  # not printed: the error may quote the password
    sys.exit(" [!] AMQP_URL is malformed: write amqp://user:password@host:5672/vhost")

# Show each line at once, also in a log, and escape letters that the console does not have.
if hasattr(sys.stdout, "reconfigure"):
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")

# CTRL+C and docker stop end the worker at once, without a traceback. A task that this leaves half
# done is given to another worker.
signal.signal(signal.SIGINT, lambda signum, frame: sys.exit())
signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit())

while True:
    connection = None
    try:
        connection = pika.BlockingConnection(parameters)
        channel = connection.channel()

        # Create the queue, if it is not there. Durable: it survives a restart of RabbitMQ.
        channel.queue_declare(queue="task_queue", durable=True)

        # Prefetch: no second task before the ack of the first. So tasks go to whoever is free.
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue="task_queue", on_message_callback=callback)

        print(" [*] Waiting for messages. To exit press CTRL+C")
        channel.start_consuming()

        # If somebody deletes the queue, start_consuming returns. Treat it as an error, too.
        raise pika.exceptions.ConsumerCancelled
    except Exception as error:
        if connection and not isinstance(error, pika.exceptions.AMQPError):
            raise  # connected, and none of pika's errors: it comes from your own work

        # Say why there is no connection, and try again, until somebody puts it right.
        where = f"{parameters.host}:{parameters.port}"
        print(f" [!] RabbitMQ at {where}, next try in 2 seconds: {error!r}", file=sys.stderr)
        if connection:
            with contextlib.suppress(pika.exceptions.AMQPError):  # it may be closed already
                connection.close()
        time.sleep(2)
