"""Real PostgreSQL, Redis and RabbitMQ for the tests.

`finder` answers "where is a server for this run?", `private` runs instances that a test may kill, `isolation` gives
each run a database and prefixes of its own, and `python -m tests.services.ensure -- pytest` wraps a whole run.
"""

from tests.services.finder import (
    AMQP,
    POSTGRES,
    REDIS,
    Found,
    ServiceFinder,
    ServiceMissing,
    services_are_required,
)
from tests.services.isolation import create_database, delete_keys, drop_database, unique_prefix
from tests.services.private import PrivatePostgres, PrivateRabbitMQ, PrivateRedis, PrivateServer

__all__ = [
    "AMQP",
    "POSTGRES",
    "REDIS",
    "Found",
    "PrivatePostgres",
    "PrivateRabbitMQ",
    "PrivateRedis",
    "PrivateServer",
    "ServiceFinder",
    "ServiceMissing",
    "create_database",
    "delete_keys",
    "drop_database",
    "services_are_required",
    "unique_prefix",
]
