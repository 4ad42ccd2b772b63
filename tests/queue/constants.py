"""How long and how often, for the tests of the queues."""

SHORT, LONG = 0.2, 0.5  # the delays RabbitMQ is given
CONFIRM_SECONDS = 2.0
DELIVERY_LIMIT = 1
LEASE_SECONDS = 0.8
POLL_SECONDS = 0.1
