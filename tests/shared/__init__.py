"""What the commands and the tests share: brokers, consoles, a network, the set-up, the README."""
