#!/usr/bin/env python3
"""Take tasks from task_queue, one at a time, and work one second for each dot in them."""

import os
import sys
import time

import pika

parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))
# Heartbeat: pika is silent while callback() works. If that lasts too long, RabbitMQ gives the task
# to another worker. So set this, in seconds, to more than any task takes.
parameters.heartbeat = 300
address = f"{parameters.host}:{parameters.port}"


def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode(errors='replace')!r}")

    # Put your own work here, in place of the sleep. An error there ends this worker, and then the
    # next one that gets the task. So catch what a bad task raises, report it, and go on to the ack.
    time.sleep(body.count(b"."))

    print(" [x] Done")
    # Ack: only now may RabbitMQ forget the task. If the worker or the connection is lost first, the
    # task is delivered again. So a task may be done twice, and that must do no harm.
    ch.basic_ack(delivery_tag=method.delivery_tag)


def connect():
    """Try every 2 seconds, until there is a connection."""
    while True:
        try:
            return pika.BlockingConnection(parameters)
        except Exception as error:  # nothing listens there, no such host, wrong password...
            print(f" [!] No connection to RabbitMQ at {address}: {error!r}", file=sys.stderr)
            time.sleep(2)


def consume():
    connection = connect()
    channel = connection.channel()

    # Create the queue, if it is not there. Durable: the queue survives a restart of RabbitMQ.
    channel.queue_declare(queue="task_queue", durable=True)

    # Prefetch: no second task before the first is acknowledged. So tasks go to whoever is free.
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue="task_queue", on_message_callback=callback)

    print(" [*] Waiting for messages. To exit press CTRL+C")
    channel.start_consuming()

    # If somebody deletes the queue, start_consuming returns. main() then calls consume() again.
    connection.close()


def main():
    while True:
        try:
            consume()
        except pika.exceptions.AMQPConnectionError as error:
            print(f" [!] Lost the connection to RabbitMQ at {address}: {error!r}", file=sys.stderr)
            time.sleep(2)
        # Any other error, also one from your own work, ends the worker with a traceback.


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass  # an unfinished task is delivered again
