"""Which provider gets an order, and why: the decision and its reasons go on the attempt.

A provider that the caller named is always asked: the caller decides. Else it is the first of those that fit

    whose breaker lets it through, those in good health before the others, and among these
    by the configured order; those it does not list share one last place, and there
    those that work in the customer's country go first, then by weight where weights are set, else by name.

A breaker steers and must not make an outage of its own: when nobody else is left, a provider that is still cooling down is
probed before its time. Only while such a probe is out is a payment turned away, before anything of it exists. Without
Redis nobody's health is known, and the configured order stands.

Money out is no probe before its time, and goes to no provider that rests, not even to one that was named: what is sent
into silence stays held until somebody knows. It is turned away before anything of it exists (`Routing.turn`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import phonenumbers

from payflow.core.errors import Unavailable
from payflow.gateway.breaker import Admission, Breakers, Phase, ProviderState
from payflow.gateway.contract import CollectOrder, Verdict
from payflow.gateway.registry import NOT_CONFIGURED, Candidate, Registry

# What says that a provider is silent. A refusal or a decline is an answer.
SILENT = (Verdict.UNKNOWN, Verdict.NOT_SENT)
RETRY_SECONDS = 5
FURTHER_DOWN = "further down the order"
PROBE = "probe of its breaker"


class ProvidersSilent(Unavailable):
    """Every provider that can do this is silent at the moment. Nothing was recorded: try again."""

    code = "provider_unavailable"


class Turn:
    """The right to call a provider now. What became of the call is reported, or the turn is given back."""

    def __init__(
        self, breakers: Breakers, name: str, token: str = "", passed_over: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self._breakers = breakers
        self._token = token
        self._passed_over = dict(passed_over or {})

    def explained(self, reason: str) -> dict[str, Any]:
        """What goes on the attempt: `reason`, and who was passed over."""
        found: dict[str, Any] = {"reason": f"{reason}; {PROBE}" if self._token else reason}
        if self._passed_over:
            found["considered"] = _skipped(self._passed_over)
        return found

    def report(self, verdict: Verdict, seconds: float) -> None:
        """What became of the call, for the provider's health. Never waits."""
        self._breakers.record(self.name, good=verdict not in SILENT, seconds=seconds, token=self._token)
        self._token = ""

    async def give_back(self) -> None:
        """The provider is not called after all: a probe that was granted is free for somebody else."""
        if self._token:
            await self._breakers.release(self.name, self._token)
            self._token = ""


class Route:
    """The provider whose turn it is, and those that may follow. `explained` goes on the attempt."""

    def __init__(
        self,
        breakers: Breakers,
        candidates: Sequence[Candidate],
        notes: Mapping[str, str] | None = None,
        country: str | None = None,
    ) -> None:
        self.candidate = candidates[0]
        self.explained: dict[str, Any] = {}
        self._breakers = breakers
        self._left = list(candidates)
        self._notes = dict(notes or {})
        self._country = country
        self._turn = Turn(breakers, self.candidate.name)

    @classmethod
    def to(cls, breakers: Breakers, named: Candidate) -> "Route":
        """To the one that the caller named; no breaker is asked."""
        route = cls(breakers, [named])
        route._take(named, "", "named by the caller")
        return route

    async def advance(self) -> bool:
        """Turn to the best of those left. False when none may be asked; then nothing has changed."""
        if not self._left:
            return False
        admission = await self._breakers.admit([candidate.name for candidate in self._left])
        if admission is None:
            self._take(self._left[0], "", self._fits(self._left[0]) + "; health unknown")
            return True
        chosen = next((each for each in self._left if each.name == admission.name), None)
        if chosen is None:
            return False
        for each in self._left:
            self._notes[each.name] = self._why_not(each, chosen, admission.states[each.name])
        self._take(chosen, admission.token, self._why(chosen, admission))
        return True

    def report(self, verdict: Verdict, seconds: float) -> None:
        """As `Turn.report`."""
        self._turn.report(verdict, seconds)
        self._notes[self.candidate.name] = f"tried: {verdict.value}"

    async def give_back(self) -> None:
        """As `Turn.give_back`."""
        await self._turn.give_back()

    def _take(self, candidate: Candidate, token: str, reason: str) -> None:
        self.candidate, self._turn = candidate, Turn(self._breakers, candidate.name, token)
        self._left.remove(candidate)
        for each in self._left:
            self._notes.setdefault(each.name, FURTHER_DOWN)
        others = {name: why for name, why in self._notes.items() if name != candidate.name}
        chosen = {"provider": candidate.name, "outcome": "chosen", "why": reason}
        self.explained = {"reason": reason, "considered": [chosen, *_skipped(others)]}

    def _fits(self, candidate: Candidate) -> str:
        reason = f"fits; number {candidate.place} in the order"
        if self._country is None:
            return reason
        return reason + ("; not known in " if _is_foreign(candidate, self._country) else "; works in ") + self._country

    def _why(self, chosen: Candidate, admission: Admission) -> str:
        if not admission.token:
            return self._fits(chosen)
        early = admission.states[chosen.name].phase is Phase.OPEN
        return self._fits(chosen) + ("; probe, since nobody else is left" if early else f"; {PROBE}")

    def _why_not(self, other: Candidate, chosen: Candidate, state: ProviderState) -> str:
        unwell = _unwell(state)
        if unwell is not None:
            return unwell
        if other.tier == chosen.tier and _is_foreign(other, self._country):
            return f"not known in {self._country}"
        return FURTHER_DOWN


class Routing:
    """`draw` gives numbers from 0 to 1 for the choice by weight."""

    def __init__(
        self, registry: Registry, breakers: Breakers, weights: Mapping[str, int], draw: Callable[[], float]
    ) -> None:
        self._registry = registry
        self._weights = dict(weights)
        self._draw = draw
        self.breakers = breakers

    async def choose(self, order: CollectOrder, named: str | None) -> Route:
        """Invalid when no provider can take the order; ProvidersSilent while the probes of all that can are out."""
        if named is not None:
            return Route.to(self.breakers, await self._registry.named(order, named))
        candidates, others = await self._registry.fitting(order)
        notes = {name: reason for name, reason in others.items() if reason != NOT_CONFIGURED}
        country = country_of(order.customer.phone)
        route = Route(self.breakers, self._ranked(candidates, country), notes, country)
        if not await route.advance():
            raise ProvidersSilent(retry_after=RETRY_SECONDS)
        return route

    async def turn(self, names: Sequence[str]) -> Turn:
        """For money out: the first of these, in their order, whose breaker lets it through. ProvidersSilent while all rest."""
        admission = await self.breakers.admit(names, early=False)
        if admission is None:
            return Turn(self.breakers, names[0])
        if admission.name is None:
            raise ProvidersSilent(retry_after=RETRY_SECONDS)
        before = names[: names.index(admission.name)]
        passed_over = {name: _unwell(admission.states[name]) or FURTHER_DOWN for name in before}
        return Turn(self.breakers, admission.name, admission.token, passed_over)

    def _ranked(self, candidates: Sequence[Candidate], country: str | None) -> list[Candidate]:
        """`sorted` is stable: what the draw, or the name, put first stays first among equals."""
        return sorted(self._drawn(candidates), key=lambda each: (each.tier, _is_foreign(each, country)))

    def _drawn(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """In an order drawn by weight (Efraimidis and Spirakis, 2006), weight 0 last; as they come when none is set."""
        if not any(each.name in self._weights for each in candidates):
            return list(candidates)
        weights = {each.name: self._weights.get(each.name, 1) for each in candidates}
        lots = {name: self._draw() ** (1 / weight) if weight else -1.0 for name, weight in weights.items()}
        return sorted(candidates, key=lambda each: -lots[each.name])


def _skipped(others: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"provider": name, "outcome": "skipped", "why": why} for name, why in others.items()]


def _unwell(state: ProviderState) -> str | None:
    if state.phase is Phase.OPEN:
        return "breaker open"
    if state.probing:
        return "breaker half-open, its probe is out"
    if state.ailing:
        return f"in bad health: {state.answered} of {state.calls} answered, {state.latency_ms} ms on average"
    return None


def country_of(phone: str | None) -> str | None:
    """The country (ISO 3166) of an E.164 number, if it has one."""
    if phone is None:
        return None
    try:
        return phonenumbers.region_code_for_number(phonenumbers.parse(phone, None))
    except phonenumbers.NumberParseException:
        return None


def _is_foreign(candidate: Candidate, country: str | None) -> bool:
    return country is not None and country not in candidate.provider.declaration.countries
