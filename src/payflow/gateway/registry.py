"""The providers of this installation, and which of them can take an order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from payflow.core.errors import Conflict, FieldError, Invalid
from payflow.gateway.contract import (
    CollectOrder,
    Collects,
    Declaration,
    ListsBanks,
    OrderNotAcceptable,
    PayoutOrder,
    PaysOut,
    Provider,
)
from payflow.gateway.credentials import CredentialSet, CredentialsSource
from payflow.gateway.drains import Drains

NOT_CONFIGURED = "not configured"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A provider that can take the order, with what it needs. `place` is its number in the order of preference; those that
    the order does not list share the last `tier`."""

    name: str
    provider: Provider
    collects: Collects
    credentials: CredentialSet
    place: int = 1
    tier: int = 0


@dataclass(frozen=True, slots=True)
class Payer:
    """A provider that can send the order, and why it is this one."""

    name: str
    pays_out: PaysOut
    credentials: CredentialSet
    reason: str


@dataclass(frozen=True, slots=True)
class BankLister:
    """A provider that tells where a currency can be sent to."""

    name: str
    lists: ListsBanks
    credentials: CredentialSet


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
        self._rank = {name: place for place, name in enumerate(order)}
        self._order = sorted(self._providers, key=lambda name: (self._rank.get(name, len(self._rank)), name))

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

    def by_signature(self, headers: Mapping[str, str]) -> list[Provider]:
        """Whose signature these headers (names in lower case) carry. More than one is somebody's trick."""
        return [item for item in self._providers.values() if not item.declaration.signature_headers.isdisjoint(headers)]

    async def drained(self) -> frozenset[str]:
        return await self._drains.names()

    async def credentials(self, name: str) -> CredentialSet | None:
        return await self._credentials.get(name)

    async def fitting(self, order: CollectOrder) -> tuple[list[Candidate], dict[str, str]]:
        """Who can take the order, in the order of preference; and of the others why not. Invalid when nobody can."""
        drained = await self._drains.names()
        found: list[Candidate] = []
        others: dict[str, str] = {}
        for place, name in enumerate(self._collecting(), start=1):
            reason = "drained" if name in drained else self._misfit(name, order)
            credentials = await self._credentials.get(name) if reason is None else None
            if reason is None and credentials is not None:
                provider = self._providers[name]
                assert isinstance(provider, Collects)
                tier = self._rank.get(name, len(self._rank))
                found.append(Candidate(name, provider, provider, credentials, place, tier))
            else:
                others[name] = reason or NOT_CONFIGURED
        if not found:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in others.items())
            raise Invalid(f"No configured provider takes this payment. {reasons}.", code="no_provider")
        return found, others

    def _collecting(self) -> list[str]:
        return [name for name in self._order if isinstance(self._providers[name], Collects)]

    async def named(self, order: CollectOrder, named: str) -> Candidate:
        """The provider the caller named. Invalid when it cannot take the order, Conflict `provider_drained` when it takes
        nothing new."""
        provider = self._providers.get(named)
        if provider is None:
            raise Invalid(
                "There is no such provider.",
                code="unknown_provider",
                errors=[FieldError("/body/provider", f"Use one of: {', '.join(self._collecting())}.")],
            )
        if not isinstance(provider, Collects):
            pointer, detail = self._does_not_collect(provider)
            raise Invalid(detail, code="order_not_acceptable", errors=[FieldError(f"/body{pointer}", detail)])
        credentials = await self._credentials.get(named)
        if credentials is None:
            raise Invalid(
                f"{provider.declaration.title} is not configured.",
                code="provider_not_configured",
                errors=[FieldError("/body/provider", "Not configured.")],
            )
        if named in await self._drains.names():
            raise Conflict(
                f"{provider.declaration.title} takes no new payments at the moment. Name another provider, or none.",
                code="provider_drained",
            )
        pointer, detail = self._objection(provider, order) or ("", "")
        if detail:
            raise Invalid(detail, code="order_not_acceptable", errors=[FieldError(f"/body{pointer}", detail)])
        return Candidate(named, provider, provider, credentials)

    def _does_not_collect(self, provider: Provider) -> tuple[str, str]:
        return "/provider", f"{provider.declaration.title} does not collect."

    def _misfit(self, name: str, order: CollectOrder) -> str | None:
        provider = self._providers[name]
        objection = self._objection(provider, order)
        return objection[1] if objection else None

    def _objection(self, provider: Provider, order: CollectOrder) -> tuple[str, str] | None:
        declaration = provider.declaration
        if not isinstance(provider, Collects):
            return self._does_not_collect(provider)
        if order.amount.currency not in declaration.currencies:
            return "/currency", f"{declaration.title} does not take {order.amount.currency}."
        if order.method is not None and order.method not in declaration.methods:
            return "/method", f"{declaration.title} does not offer {order.method}."
        if order.details is not None and order.details.card is not None:
            if not declaration.card_details:
                return "/payment_details/card", f"{declaration.title} takes cards on its own page only."
            if order.method != "card":
                return "/method", "Card details are for the method card."
        try:
            provider.check(order)
        except OrderNotAcceptable as error:
            return error.pointer, error.detail
        return None

    # -- money out --------------------------------------------------------------------------------------------------------

    async def payers(self, order: PayoutOrder, named: str | None) -> list[Payer]:
        """Who can send the order: the one the caller named, or all that can in the order of preference. Invalid, with the
        field that a named provider objects to; Conflict `provider_drained`."""
        if named is not None:
            return [await self._named_payer(order, named)]
        drained = await self._drains.names()
        found: list[Payer] = []
        others: dict[str, str] = {}
        for name in self._order:
            provider = self._providers[name]
            if not isinstance(provider, PaysOut):
                continue
            objection = self._payout_objection(provider, order)
            reason = "drained" if name in drained else objection[1] if objection else None
            credentials = await self._credentials.get(name) if reason is None else None
            if credentials is not None:
                found.append(Payer(name, provider, credentials, "the first in order that can send it"))
            else:
                others[name] = reason or NOT_CONFIGURED
        if found:
            return found
        reasons = "; ".join(f"{name}: {reason}" for name, reason in others.items())
        raise Invalid(f"No configured provider sends this. {reasons}.", code="no_provider")

    async def _named_payer(self, order: PayoutOrder, named: str) -> Payer:
        provider = self._providers.get(named)
        if provider is None:
            paying = ", ".join(name for name in self._order if isinstance(self._providers[name], PaysOut))
            raise Invalid(
                "There is no such provider.",
                code="unknown_provider",
                errors=[FieldError("/body/provider", f"Use one of: {paying}.")],
            )
        if not isinstance(provider, PaysOut):
            detail = f"{provider.declaration.title} sends no money."
            raise Invalid(detail, code="order_not_acceptable", errors=[FieldError("/body/provider", detail)])
        credentials = await self._configured(named)
        if named in await self._drains.names():
            title = provider.declaration.title
            raise Conflict(f"{title} takes nothing new at the moment. Name another provider.", code="provider_drained")
        objection = self._payout_objection(provider, order)
        if objection is not None:
            pointer, detail = objection
            raise Invalid(detail, code="order_not_acceptable", errors=[FieldError(f"/body{pointer}", detail)])
        return Payer(named, provider, credentials, "named by the caller")

    async def _configured(self, named: str) -> CredentialSet:
        credentials = await self._credentials.get(named)
        if credentials is None:
            raise Invalid(
                f"{self.declaration(named).title} is not configured.",
                code="provider_not_configured",
                errors=[FieldError("/body/provider", "Not configured.")],
            )
        return credentials

    def _payout_objection(self, provider: Provider, order: PayoutOrder) -> tuple[str, str] | None:
        declaration = provider.declaration
        assert isinstance(provider, PaysOut)
        if order.amount.currency not in declaration.currencies:
            return "/currency", f"{declaration.title} does not send {order.amount.currency}."
        try:
            provider.check_payout(order)
        except OrderNotAcceptable as error:
            return error.pointer, error.detail
        return None

    async def bank_lister(self, currency: str, named: str | None) -> BankLister:
        """The named one, or the first in the order of preference that lists where this currency can go. Invalid."""
        for name in self._order if named is None else [named]:
            provider = self._providers.get(name)
            if not isinstance(provider, ListsBanks) or currency not in self.declaration(name).currencies:
                continue
            credentials = await self._credentials.get(name)
            if credentials is not None:
                return BankLister(name, provider, credentials)
        detail = f"No configured provider lists banks for {currency}."
        if named is not None:
            detail = f"{named} is not configured here, or lists no banks for {currency}."
        raise Invalid(detail, code="no_provider")
