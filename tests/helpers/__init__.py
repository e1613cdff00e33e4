"""What the tests and the commands share. Only amqp.py needs a package: pika."""
