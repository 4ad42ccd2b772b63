"""Redis: one pool, explicit sizes and timeouts, and `RedisAway` for everything that means "not reachable".

Nothing is kept only here: whatever Redis loses, PostgreSQL still has.
"""

from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

# What a caller catches to go on without Redis. Any answer of Redis itself counts too: a replica that refuses writes
# or a server still loading is as little use as none.
AWAY = (RedisError, OSError, TimeoutError)

__all__ = ["AWAY", "Redis", "RedisConnectionError", "RedisTimeoutError", "connect_redis"]


def connect_redis(url: str, *, connections: int = 32, timeout_seconds: float = 2.0) -> "Redis":
    """A client over one bounded pool. RESP2 with hiredis is the cheapest to read (measured, docs/performance.md)."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_seconds,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        protocol=2,
        decode_responses=False,
    )
    return Redis(connection_pool=pool)
