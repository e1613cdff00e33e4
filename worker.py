#!/usr/bin/env python3
"""Take tasks from task_queue, one at a time, and work one second for each dot in them."""

import os
import sys
import time

import pika
from pika.exceptions import AMQPConnectionError

parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))
# Heartbeat: RabbitMQ drops a worker that is silent for too long, and gives its task to another one.
# pika is silent while callback() works. So set this to more seconds than the longest task takes.
parameters.heartbeat = 300
address = f"{parameters.host}:{parameters.port}"


def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode(errors='replace')!r}")

    # Put your own work here, in place of the sleep. An error of your own ends this worker, and the
    # task goes to another worker. A task that fails each time would end all workers: catch its
    # error, and call basic_reject with requeue=False, not basic_ack. RabbitMQ then drops the task.
    time.sleep(body.count(b"."))

    print(" [x] Done")
    # Ack: RabbitMQ now deletes the task. If the worker or the connection is lost before the ack,
    # RabbitMQ delivers the task again. So your work must do no harm when it is done twice.
    ch.basic_ack(delivery_tag=method.delivery_tag)


def connect():
    while True:
        try:
            return pika.BlockingConnection(parameters)
        except Exception as error:  # no RabbitMQ there, wrong password...
            print(f" [!] No connection to RabbitMQ at {address}: {error!r}", file=sys.stderr)
            time.sleep(2)  # then try again, until the problem is solved


def consume(connection):
    channel = connection.channel()

    # Create the queue, if it is not there. Durable: the queue survives a restart of RabbitMQ.
    channel.queue_declare(queue="task_queue", durable=True)

    # Prefetch: no second task before the first is acknowledged. So tasks go to a free worker.
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue="task_queue", on_message_callback=callback)

    print(" [*] Waiting for messages. To exit press CTRL+C")
    channel.start_consuming()


def main():
    while True:
        connection = connect()
        try:
            consume(connection)
            connection.close()  # start_consuming has returned: somebody deleted the queue
        except AMQPConnectionError as error:  # any other error ends the worker
            print(f" [!] Lost the connection to RabbitMQ at {address}: {error!r}", file=sys.stderr)
            time.sleep(2)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass  # an unfinished task is delivered again
