#!/usr/bin/env python3
"""Show the tasks in failed_tasks, send them to tasks again, or throw them away."""

import argparse
import os

import pika

import tasks

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("command", nargs="?", default="show", choices=["show", "resend", "drop"])
parser.add_argument(
    "part", nargs="?", default="", help="only the tasks whose line here contains this text"
)
arguments = parser.parse_args()
if arguments.command == "drop" and not arguments.part:
    parser.error("which tasks? Say a part of them: drop PART")

parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))
parameters.blocked_connection_timeout = 10
connection = pika.BlockingConnection(parameters)
channel = connection.channel()
tasks.declare(channel)
channel.confirm_delivery()

# Take as many tasks as there are now: what is sent again may fail again, and be back at once.
count = channel.queue_declare(queue="failed_tasks", passive=True).method.message_count
for _ in range(count):
    method, properties, body = channel.basic_get(queue="failed_tasks")
    if method is None or properties is None or body is None:  # somebody else has taken the rest
        break
    # "rejected": the task was hopeless. "delivery_limit": its deliveries have failed.
    reason = (properties.headers or {}).get("x-first-death-reason")
    line = f"{reason}: {body.decode(errors='replace')!r}"
    if arguments.part not in line:
        continue
    if arguments.command == "resend":
        tasks.publish(channel, body)
        line = f" [x] Sent again {line}"
    elif arguments.command == "drop":
        line = f" [x] Dropped {line}"
    print(line, flush=True)
    if arguments.command != "show":
        channel.basic_ack(delivery_tag=method.delivery_tag)

connection.close()  # what has no ack goes back into failed_tasks
