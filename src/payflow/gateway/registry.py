"""The providers of this installation, and which of them can take an order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from payflow.core.errors import Conflict, FieldError, Invalid
from payflow.gateway.contract import CollectOrder, Collects, Declaration, OrderNotAcceptable, Provider
from payflow.gateway.credentials import CredentialSet, CredentialsSource
from payflow.gateway.drains import Drains


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider that can take the order, with what it needs, and why it stands at its place."""

    name: str
    provider: Provider
    collects: Collects
    credentials: CredentialSet
    reason: str


class Registry:
    def __init__(
        self,
        providers: Mapping[str, Provider],
        credentials: CredentialsSource,
        drains: Drains,
        order: Sequence[str] = (),
    ) -> None:
        self._providers = dict(providers)
        self._drains = drains
        self._credentials = credentials
        self._paths = {provider.declaration.path_name: provider for provider in providers.values()}
        rank = {name: place for place, name in enumerate(order)}
        self._order = sorted(self._providers, key=lambda name: (rank.get(name, len(rank)), name))

    @property
    def names(self) -> list[str]:
        """In the order of preference."""
        return list(self._order)

    def get(self, name: str) -> Provider | None:
        return self._providers.get(name)

    def declaration(self, name: str) -> Declaration:
        """What an installed provider says of itself. KeyError when it is not installed."""
        return self._providers[name].declaration

    def by_path(self, path_name: str) -> Provider | None:
        """By the name used in webhook URLs."""
        return self._paths.get(path_name)

    async def drained(self) -> frozenset[str]:
        return await self._drains.names()

    async def credentials(self, name: str) -> CredentialSet | None:
        return await self._credentials.get(name)

    async def candidates(self, order: CollectOrder, named: str | None) -> list[Candidate]:
        """Who can take the order, best first: the named provider, or all that fit. Invalid when nobody can.

        A drained provider takes nothing new: Conflict `provider_drained` where it was named.
        """
        drained = await self._drains.names()
        if named is not None:
            return [await self._named(order, named, drained)]
        found: list[Candidate] = []
        reasons: list[str] = []
        for place, name in enumerate(self._order, start=1):
            reason = "drained" if name in drained else self._misfit(name, order)
            credentials = await self._credentials.get(name) if reason is None else None
            if reason is None and credentials is not None:
                provider = self._providers[name]
                assert isinstance(provider, Collects)
                found.append(Candidate(name, provider, provider, credentials, f"fits; number {place} in the order"))
            else:
                reasons.append(f"{name}: {reason or 'not configured'}")
        if not found:
            raise Invalid("No configured provider takes this payment. " + "; ".join(reasons) + ".", code="no_provider")
        return found

    async def _named(self, order: CollectOrder, named: str, drained: frozenset[str]) -> Candidate:
        provider = self._providers.get(named)
        if provider is None or not isinstance(provider, Collects):
            raise Invalid(
                "There is no such provider.",
                code="unknown_provider",
                errors=[FieldError("/body/provider", f"Use one of: {', '.join(self._order)}.")],
            )
        credentials = await self._credentials.get(named)
        if credentials is None:
            raise Invalid(
                f"{provider.declaration.title} is not configured.",
                code="provider_not_configured",
                errors=[FieldError("/body/provider", "Not configured.")],
            )
        if named in drained:
            raise Conflict(
                f"{provider.declaration.title} takes no new payments at the moment. Name another provider, or none.",
                code="provider_drained",
            )
        pointer, detail = self._objection(provider, order) or ("", "")
        if detail:
            raise Invalid(detail, code="order_not_acceptable", errors=[FieldError(f"/body{pointer}", detail)])
        return Candidate(named, provider, provider, credentials, "named by the caller")

    def _misfit(self, name: str, order: CollectOrder) -> str | None:
        provider = self._providers[name]
        objection = self._objection(provider, order)
        return objection[1] if objection else None

    def _objection(self, provider: Provider, order: CollectOrder) -> tuple[str, str] | None:
        declaration = provider.declaration
        if not isinstance(provider, Collects):
            return "/provider", f"{declaration.title} does not collect."
        if order.amount.currency not in declaration.currencies:
            return "/currency", f"{declaration.title} does not take {order.amount.currency}."
        if order.method is not None and order.method not in declaration.methods:
            return "/method", f"{declaration.title} does not offer {order.method}."
        try:
            provider.check(order)
        except OrderNotAcceptable as error:
            return error.pointer, error.detail
        return None
