"""Measures the hot paths on a stack of its own: `make bench`, or `python -m bench --quick`.

What is compared is processor time per operation of the service's own processes, with that of PostgreSQL, Redis and RabbitMQ
apart; requests a second depend too much on the machine. `README.md` beside this file says how to read the table.
"""
