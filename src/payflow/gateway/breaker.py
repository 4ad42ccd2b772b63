"""How each provider does, and its breaker: shared by all nodes, in Redis, changed by scripts and so never by two at once.

    closed ── too many silences ──► open ── cool-down over ──► half-open ── probe answered ──► closed
                                      ▲                            └─────── probe silent ────────┐
                                      └────────────────── for twice as long ─────────────────────┘

What starts something counts: payments, payouts, purchases. Silence is what the transport or the provider's machines do: not
sent, timed out, an answer nobody can read. A decline or a refusal is an answer, so it counts as good. In half-open one probe
is out at a time, whichever node sends it; a probe whose node died is over when its lease is. One hash a provider also holds
its health: a sliding window of calls, answers and time.

A call that began before the breaker's last change says nothing of the present and is not counted. Redis's own clock decides.
Without Redis nothing is known and nothing is kept: the payment goes on in the configured order.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha1
from secrets import token_hex
from typing import Protocol

from redis.exceptions import NoScriptError

from payflow.core.logging import get_logger
from payflow.infra.redis import AWAY, Redis

log = get_logger(__name__)

# Fewer calls than these say nothing of a provider's health. Below that share of answers, or slower on average than half its
# timeout, a provider stands behind the others.
LEAST_CALLS = 10
LEAST_SUCCESS_RATE = 0.8
# Outcomes of so long travel together: under load that costs a fraction of a call each.
_GATHERING_SECONDS = 0.05
_MOST_AT_ONCE = 30
_MOST_WAITING = 5_000
_FIELDS = 7


class _Script:
    """A script's text and the name by which Redis knows it once it was sent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.name = sha1(text.encode(), usedforsecurity=False).hexdigest()


# `n` calls, `g` good ones and `l` milliseconds of the window number `w`, and the same of the window before it (`p…`), which
# counts for as much of it as the sliding window still covers. Numbers are written by format, since a script's own
# conversion differs between Redis and its embedded double.
_PRELUDE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window = tonumber(ARGV[1])
local slow, least_calls, least_rate = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local number = math.floor(now / window)
local share = 1 - (now - number * window) / window
local function text(value) return string.format('%.0f', value) end

local function load(key)
  local f = redis.call('HMGET', key, 'state', 'since', 'until', 'trips', 'bad', 'token', 'lease',
                       'w', 'n', 'g', 'l', 'pn', 'pg', 'pl')
  local h = {key = key, state = f[1] or 'closed', token = f[6] or ''}
  h.since, h.ends, h.trips = tonumber(f[2] or 0), tonumber(f[3] or 0), tonumber(f[4] or 0)
  h.bad, h.lease = tonumber(f[5] or 0), tonumber(f[7] or 0)
  local w = tonumber(f[8] or -1)
  h.n, h.g, h.l, h.pn, h.pg, h.pl = 0, 0, 0, 0, 0, 0
  if w == number then
    h.n, h.g, h.l = tonumber(f[9]), tonumber(f[10]), tonumber(f[11])
    h.pn, h.pg, h.pl = tonumber(f[12]), tonumber(f[13]), tonumber(f[14])
  elseif w == number - 1 then
    h.pn, h.pg, h.pl = tonumber(f[9]), tonumber(f[10]), tonumber(f[11])
  end
  return h
end

local function store(h)
  redis.call('HSET', h.key, 'state', h.state, 'since', text(h.since), 'until', text(h.ends), 'trips', text(h.trips),
             'bad', text(h.bad), 'token', h.token, 'lease', text(h.lease), 'w', text(number), 'n', text(h.n),
             'g', text(h.g), 'l', text(h.l), 'pn', text(h.pn), 'pg', text(h.pg), 'pl', text(h.pl))
  redis.call('PEXPIRE', h.key, 86400000)
end

local function sums(h) return h.n + h.pn * share, h.g + h.pg * share, h.l + h.pl * share end

-- 0 closed, 1 open, 2 half-open, 3 half-open with its probe out
local function phase(h)
  if h.state == 'closed' then return 0 end
  if now < h.ends then return 1 end
  if h.lease > now then return 3 end
  return 2
end

local function ailing(h)
  local calls, good, spent = sums(h)
  return calls >= least_calls and (good < least_rate * calls or spent > slow * calls)
end

local function tell(reply, h)
  local calls, good, spent = sums(h)
  for _, value in ipairs({phase(h), calls, good, spent, h.since, h.ends, ailing(h) and 1 or 0}) do
    reply[#reply + 1] = tonumber(text(value))
  end
end
"""

# The first in the order whose breaker lets it through; those in bad health after the others, unless they are to be probed:
# their health is what opened the breaker, and only a probe can better it. When nobody is left, the first that is still
# cooling down is probed before its time, if that is wanted.
_ADMIT = _Script(
    _PRELUDE
    + """
local token, lease, early = ARGV[5], tonumber(ARGV[6]), ARGV[7] == '1'
local all, chosen, probe, reply = {}, 0, 0, {0, 0}
for place, key in ipairs(KEYS) do
  all[place] = load(key)
  tell(reply, all[place])
end
for _, ill in ipairs({false, true}) do
  for place, h in ipairs(all) do
    local found = phase(h)
    if chosen == 0 and ((found == 0 and ailing(h) == ill) or found == 2) then chosen = place end
  end
end
for place, h in ipairs(all) do
  if early and chosen == 0 and phase(h) == 1 then chosen = place end
end
if chosen > 0 and phase(all[chosen]) ~= 0 then
  local h = all[chosen]
  h.ends, h.token, h.lease = math.min(h.ends, now), token, now + lease
  store(h)
  probe = 1
end
reply[1], reply[2] = chosen, probe
return reply
"""
)

# Each provider is read and written once, however many of its calls ended. The reply: of each call what it changed (1 opened,
# 2 closed), how often in a row it has opened, and if it changed something how the provider then was.
_RECORD = _Script(
    _PRELUDE
    + """
local failures, enough, ratio = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local cool_down, longest = tonumber(ARGV[8]), tonumber(ARGV[9])
local all, reply = {}, {}
for place, key in ipairs(KEYS) do all[place] = load(key) end
for at = 10, #ARGV, 5 do
  local h, change = all[tonumber(ARGV[at])], 0
  local good, took = ARGV[at + 1] == '1', tonumber(ARGV[at + 2])
  local token, waited = ARGV[at + 3], tonumber(ARGV[at + 4])
  local began, probe = now - took - waited, token ~= '' and token == h.token
  local function count()
    h.n, h.l = h.n + 1, h.l + took
    if good then h.g = h.g + 1 end
  end
  local function open()
    h.trips = h.trips + 1
    h.state, h.since, h.bad, h.token, h.lease, change = 'open', now, 0, '', 0, 1
    h.ends = now + math.min(longest, cool_down * 2 ^ math.min(h.trips - 1, 20))
  end
  if h.state == 'closed' then
    if began >= h.since then
      count()
      h.bad = good and 0 or h.bad + 1
      local calls, answered = sums(h)
      local too_many = calls >= enough and calls - answered >= ratio * calls
      if not good and (h.bad >= failures or too_many) then open() end
    end
  elseif good and (probe or (now >= h.ends and began >= h.ends)) then
    h.state, h.since, h.ends, h.trips, h.bad, h.token, h.lease, change = 'closed', now, 0, 0, 0, '', 0, 2
    h.n, h.g, h.l, h.pn, h.pg, h.pl = 0, 0, 0, 0, 0, 0
    count()
  else
    if began >= h.since then count() end
    if probe then open() end
  end
  reply[#reply + 1] = change
  if change ~= 0 then
    reply[#reply + 1] = h.trips
    tell(reply, h)
  end
end
for _, h in ipairs(all) do
  store(h)
  tell(reply, h)
end
return reply
"""
)

_RELEASE = _Script(
    _PRELUDE
    + """
local h = load(KEYS[1])
if h.token == ARGV[5] then
  h.token, h.lease = '', 0
  store(h)
end
return {}
"""
)

_READ = _Script(
    _PRELUDE
    + """
local reply = {}
for _, key in ipairs(KEYS) do tell(reply, load(key)) end
return reply
"""
)


class Phase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class ProviderState:
    """How a provider does: sums of the window, and its breaker. `until` is the end of the cool-down, only while open."""

    calls: int
    answered: int
    total_ms: int
    phase: Phase
    probing: bool
    since: datetime | None
    until: datetime | None
    ailing: bool

    @property
    def success_rate(self) -> float | None:
        return round(min(self.answered / self.calls, 1.0), 4) if self.calls else None

    @property
    def latency_ms(self) -> int | None:
        """The mean time of a call within the window."""
        return round(self.total_ms / self.calls) if self.calls else None


@dataclass(frozen=True, slots=True)
class Admission:
    """Who is asked: `name` None when every breaker is shut and none may be probed. `token` only for a probe."""

    name: str | None
    token: str
    states: dict[str, ProviderState]


@dataclass(frozen=True, slots=True)
class Change:
    """A breaker that this node's call opened or closed. `trips` counts the openings since it was last closed."""

    provider: str
    opened: bool
    trips: int
    state: ProviderState


class Rules(Protocol):
    """The settings that say when a breaker opens, and for how long."""

    @property
    def breaker_failures(self) -> int: ...
    @property
    def breaker_failure_ratio(self) -> float: ...
    @property
    def breaker_min_calls(self) -> int: ...
    @property
    def breaker_window_seconds(self) -> int: ...
    @property
    def breaker_cool_down_seconds(self) -> float: ...
    @property
    def breaker_max_cool_down_seconds(self) -> float: ...
    @property
    def provider_timeout_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class _Outcome:
    provider: str
    good: bool
    milliseconds: int
    token: str
    recorded_at: float

    def arguments(self) -> tuple[int, int, str, int]:
        """Last, how long ago it was over."""
        waited = int((time.monotonic() - self.recorded_at) * 1_000)
        return int(self.good), self.milliseconds, self.token, waited


class Breakers:
    """`changed` is called for each change that this node's calls caused, `seen` with each state that passes by."""

    def __init__(
        self,
        redis: Redis,
        rules: Rules,
        *,
        prefix: str = "payflow:",
        changed: Callable[[Change], Awaitable[None]] | None = None,
        seen: Callable[[str, ProviderState], None] | None = None,
        back_off_seconds: float = 3.0,
        timeout_seconds: float = 0.5,
    ) -> None:
        self._redis = redis
        # The braces keep all of them in one slot of a Redis Cluster, as a script over several keys needs.
        self._prefix = prefix + "{route}:"
        self._rules = rules
        self._changed = changed
        self._seen = seen or (lambda name, state: None)
        self._back_off_seconds = back_off_seconds
        self._timeout_seconds = timeout_seconds
        self._away_until = float("-inf")
        self._waiting: list[_Outcome] = []
        self._sending: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._lease_ms = int((rules.provider_timeout_seconds + 30) * 1_000)
        self._slow_ms = int(rules.provider_timeout_seconds * 500)

    async def admit(self, names: Sequence[str], *, early: bool = True) -> Admission | None:
        """The first of these, in their order, that may be asked now; with `early` also one that still rests, if nobody else
        is left. None: Redis is away, so nobody knows."""
        token = token_hex(8)
        reply = await self._run(_ADMIT, names, token, self._lease_ms, int(early))
        if reply is None:
            return None
        states = self._states(names, reply[2:])
        return Admission(names[reply[0] - 1] if reply[0] else None, token if reply[1] else "", states)

    def record(self, name: str, *, good: bool, seconds: float, token: str = "") -> None:
        """Count how a call ended, in the background: a payment never waits for this. Without Redis it is forgotten."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(_Outcome(name, good, int(seconds * 1_000), token, time.monotonic()))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_waiting())

    async def release(self, name: str, token: str) -> None:
        """Give back the right to probe, unused."""
        await self._run(_RELEASE, [name], token)

    async def states(self, names: Sequence[str]) -> dict[str, ProviderState] | None:
        """How these do now. None: Redis is away."""
        reply = await self._run(_READ, names)
        return None if reply is None else self._states(names, reply)

    async def settled(self) -> None:
        """Wait until every outcome that was recorded so far is counted and told."""
        if self._sending is not None:
            await self._sending
        await asyncio.gather(*self._telling)

    async def _send_waiting(self) -> None:
        """One call is under way at a time and carries everything that came meanwhile."""
        try:
            await asyncio.sleep(_GATHERING_SECONDS)
            while self._waiting:
                outcomes, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
                rules = self._rules
                names = list(dict.fromkeys(outcome.provider for outcome in outcomes))
                reply = await self._run(
                    _RECORD,
                    names,
                    rules.breaker_failures,
                    rules.breaker_min_calls,
                    rules.breaker_failure_ratio,
                    int(rules.breaker_cool_down_seconds * 1_000),
                    int(rules.breaker_max_cool_down_seconds * 1_000),
                    *(value for each in outcomes for value in (names.index(each.provider) + 1, *each.arguments())),
                )
                if reply is not None:
                    self._told(outcomes, names, iter(reply))
        finally:
            self._sending = None

    def _told(self, outcomes: Sequence[_Outcome], names: Sequence[str], reply: Iterator[int]) -> None:
        for outcome in outcomes:
            change = next(reply)
            if not change:
                continue
            trips, state = next(reply), _state([next(reply) for _ in range(_FIELDS)])
            if self._changed is not None:
                log.warning("provider.breaker", provider=outcome.provider, phase=state.phase.value, trips=trips)
                told = asyncio.ensure_future(self._changed(Change(outcome.provider, change == 1, trips, state)))
                self._telling.add(told)
                told.add_done_callback(self._telling.discard)
        for name in names:
            self._seen(name, _state([next(reply) for _ in range(_FIELDS)]))

    async def _run(self, script: _Script, names: Sequence[str], *arguments: object) -> list[int] | None:
        if time.monotonic() < self._away_until:
            return None
        run: Callable[..., Awaitable[list[int]]] = self._redis.execute_command
        keys = [self._prefix + name for name in names]
        window = self._rules.breaker_window_seconds * 1_000
        values = [*keys, window, self._slow_ms, LEAST_CALLS, LEAST_SUCCESS_RATE, *arguments]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                try:
                    return await run("EVALSHA", script.name, len(keys), *values)
                except NoScriptError:
                    return await run("EVAL", script.text, len(keys), *values)
        except AWAY as error:
            self._away_until = time.monotonic() + self._back_off_seconds
            log.warning("breaker.redis_away", error=type(error).__name__)
            return None

    def _states(self, names: Sequence[str], reply: list[int]) -> dict[str, ProviderState]:
        found = {name: _state(reply[place * _FIELDS :][:_FIELDS]) for place, name in enumerate(names)}
        for name, state in found.items():
            self._seen(name, state)
        return found


def _state(fields: Sequence[int]) -> ProviderState:
    number, calls, answered, total_ms, since, until, ailing = fields
    phase = (Phase.CLOSED, Phase.OPEN, Phase.HALF_OPEN, Phase.HALF_OPEN)[number]
    ends = _moment(until) if phase is Phase.OPEN else None
    return ProviderState(
        calls, answered, total_ms, phase, number == 3, _moment(since) if since else None, ends, bool(ailing)
    )


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)
