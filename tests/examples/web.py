#!/usr/bin/env python3
"""A web page that orders reports from my_worker.py: pip install flask, then flask --app web run"""

import json
import os
import secrets

import pika
from flask import Flask, redirect, send_from_directory

import tasks

app = Flask(__name__)


@app.get("/")
def page():
    # The page makes the id. So whoever clicks twice orders the same report, and not a second one.
    number = secrets.randbelow(10**15)
    return f'<form method="post" action="/reports/{number}"><button>Make a report</button></form>'


@app.post("/reports/<int:number>")
def order(number):
    task = {"id": number, "seconds": 5}
    try:
        tasks.send([json.dumps(task).encode()])
    except Exception:  # not only pika's: an unknown host, for example
        app.logger.exception("Perhaps not sent: %s", task)
        return "Please try again later.", 503
    return redirect(f"/reports/{number}")


@app.get("/reports/<int:number>")
def report(number):
    if os.path.exists(f"reports/{number}.txt"):
        return send_from_directory(os.path.abspath("reports"), f"{number}.txt")
    return "Your report is not ready yet.", 202, {"Refresh": "1"}  # the browser asks again


@app.get("/waiting")
def waiting():
    """How many tasks wait for a worker."""
    parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://127.0.0.1"))
    with pika.BlockingConnection(parameters) as connection:
        queue = connection.channel().queue_declare(queue="tasks", passive=True)
        return str(queue.method.message_count)
