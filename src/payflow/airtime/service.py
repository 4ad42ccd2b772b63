"""Buying airtime and data: hold and intent (A), provider, outcome (B).

A is one database transaction: idempotency key, wallet, hold, transaction, attempt, what is bought. Then the provider is
called with no database connection held, with an order made of nothing but what A has committed: its reference and its time
are what the provider can be asked by later. B says what became of it, and ends the hold where that is certain.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson

from payflow.airtime.catalogue import Catalogue, Seller
from payflow.airtime.repository import Purchase, PurchaseRepository, add_purchase
from payflow.airtime.schemas import PurchaseAirtime, bought_json, purchase_json, services_json, variations_json
from payflow.core.clock import Clock
from payflow.core.errors import Conflict, FieldError, Invalid, NotFound, PayFlowError, Unavailable
from payflow.core.ids import new_reference, uuid7
from payflow.core.logging import get_logger
from payflow.core.money import Money, MoneyError
from payflow.core.settings import Settings
from payflow.events.repository import EventRepository
from payflow.events.types import Actor, Event, Origin
from payflow.gateway.contract import (
    AirtimeService,
    AirtimeVariation,
    Operation,
    OrderNotAcceptable,
    PurchaseOrder,
    Result,
    SellsAirtime,
    ServiceCategory,
    Verdict,
)
from payflow.gateway.registry import NOT_CONFIGURED, Registry
from payflow.gateway.routing import Routing
from payflow.idempotency.repository import Finished, KeyScope, reserve
from payflow.idempotency.service import IdempotencyService
from payflow.infra.database import Database, RawConnection
from payflow.ledger.repository import Accounts
from payflow.transactions.aggregate import Attempt, Transaction, Unit
from payflow.transactions.checks import Checks
from payflow.transactions.lifecycle import Kind, Status
from payflow.transactions.outgoing import open_outgoing
from payflow.transactions.replies import PROVIDER_MARGIN_SECONDS, Reply, not_sent_reply
from payflow.transactions.resolutions import Resolutions
from payflow.transactions.service import Transactions
from payflow.transactions.views import detail_json

log = get_logger(__name__)

FOLDER = "airtime/purchases"


@dataclass(frozen=True, slots=True)
class Offer:
    """What is bought of whom, and at which price. `name` is for people."""

    seller: Seller
    purchase: Purchase
    price: Money
    name: str


@dataclass(frozen=True, slots=True)
class Opened:
    """What A wrote, and the events to tell with B's."""

    unit: Unit
    attempt: Attempt
    events: Sequence[Event]


class Airtime:
    def __init__(
        self,
        database: Database,
        transactions: Transactions,
        checks: Checks,
        registry: Registry,
        routing: Routing,
        catalogue: Catalogue,
        idempotency: IdempotencyService,
        events: EventRepository,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._database = database
        self._transactions = transactions
        self._checks = checks
        self._registry = registry
        self._routing = routing
        self._catalogue = catalogue
        self._idempotency = idempotency
        self._events = events
        self._clock = clock
        self._purchases = PurchaseRepository(database)
        self._resolutions = Resolutions(database, transactions, idempotency, clock, settings)
        self._accounts = Accounts()
        self._grace = timedelta(seconds=settings.expiry_grace_seconds)
        self._seconds = settings.provider_timeout_seconds + PROVIDER_MARGIN_SECONDS

    async def services(self, category: ServiceCategory, provider: str | None) -> dict[str, Any]:
        """What can be bought. Unavailable, Invalid without a seller."""
        seller = (await self._sellers(provider, "/query/provider"))[0]
        return services_json(seller, await self._catalogue.services(seller, category))

    async def variations(self, service_id: str, provider: str | None) -> dict[str, Any]:
        """The bundles of a service. NotFound, Unavailable, Invalid without a seller."""
        seller = (await self._sellers(provider, "/query/provider"))[0]
        return variations_json(seller, service_id, await self._catalogue.variations(seller, service_id))

    async def purchase(
        self, user_id: UUID, body: PurchaseAirtime, scope: KeyScope, origin: Origin, *, instance: str
    ) -> Reply:
        """Buy. Once the intent exists it is always answered: completed, processing, or failed with the reason.

        Invalid where it cannot be bought so; InsufficientFunds, Conflict `wallet_frozen`, `wallet_inactive` or
        `provider_drained`; Unavailable where nobody can say what is sold, ProvidersSilent while the seller's breaker is open.
        """
        fingerprint = self._idempotency.fingerprint(body.model_dump())
        try:
            offer = await self._offer(body)
            intent = self._intent(user_id, body, offer, origin)
            _check(offer, _order(intent[1], offer))
            turn = await self._routing.turn([offer.seller.name])
            intent[1].routing = turn.explained(intent[1].routing["reason"])
            opened = None
            try:
                opened = await self._open(intent, offer, scope, fingerprint, origin)
            finally:
                if opened is None:
                    await turn.give_back()
        except PayFlowError:
            # A key that was used stands for its first answer, even if the same request would be refused today.
            replay = await self._replayed(scope, fingerprint)
            if replay is None:
                raise
            return replay
        if opened is None:
            replay = await self._replayed(scope, fingerprint)
            if replay is None:
                return await self.purchase(user_id, body, scope, origin, instance=instance)
            return replay
        started = time.perf_counter()
        result = await self._call(offer.seller, _order(opened.attempt, offer))
        turn.report(result.verdict, time.perf_counter() - started)
        return await self._record(opened, offer, result, scope, fingerprint, origin, instance)

    async def get(self, purchase_id: UUID, user_id: UUID | None) -> dict[str, Any]:
        """The whole purchase with what was bought, attempts and history. NotFound."""
        transaction, attempts = await self._own(purchase_id, user_id)
        timeline = await self._events.of_transaction(purchase_id)
        return {**detail_json(transaction, attempts, [], timeline), **bought_json(await self._bought(purchase_id))}

    async def verify(self, purchase_id: UUID, user_id: UUID | None, origin: Origin) -> dict[str, Any]:
        """Ask the provider now (at most every few seconds) and answer with the purchase as it then stands."""
        await self._own(purchase_id, user_id)
        await self._checks.check(purchase_id, origin=origin)
        return await self.get(purchase_id, user_id)

    async def resolve(
        self,
        purchase_id: UUID,
        decider: UUID,
        outcome: Status,
        reason: str,
        scope: KeyScope,
        fingerprint_of: dict[str, Any],
        origin: Origin,
    ) -> Reply:
        """An admin's decision about a purchase under review, once per Idempotency-Key. It ends the hold."""
        await self._own(purchase_id, None)
        return await self._resolutions.resolve(purchase_id, decider, outcome, reason, scope, fingerprint_of, origin)

    # -- who sells, and what ------------------------------------------------------------------------------------------------

    async def _sellers(self, named: str | None, pointer: str, *, new: bool = False) -> list[Seller]:
        """The one that was named, or all that can be asked, in the order of preference. `new` leaves out those that take
        nothing new."""
        drained = await self._registry.drained() if new else frozenset()
        names = [name for name in self._registry.names if isinstance(self._registry.get(name), SellsAirtime)]
        if named is not None and named not in names:
            detail = f"Use one of: {', '.join(names)}."
            raise Invalid(
                "No such provider sells airtime.", code="unknown_provider", errors=[FieldError(pointer, detail)]
            )
        if named in drained:
            title = self._registry.declaration(named or "").title
            raise Conflict(f"{title} takes no new purchases at the moment.", code="provider_drained")
        wanted = [name for name in names if name not in drained and named in (None, name)]
        found = [seller for name in wanted if (seller := await self._seller(name)) is not None]
        if not found:
            errors = [] if named is None else [FieldError(pointer, f"{NOT_CONFIGURED.capitalize()}.")]
            raise Invalid("No configured provider sells airtime now.", code="no_provider", errors=errors)
        return found

    async def _seller(self, name: str) -> Seller | None:
        provider, credentials = self._registry.get(name), await self._registry.credentials(name)
        if credentials is None or provider is None or not isinstance(provider, SellsAirtime):
            return None
        return Seller(name, provider.declaration, provider, credentials.current)

    async def _offer(self, body: PurchaseAirtime) -> Offer:
        """The first seller's who has the service."""
        silent: Unavailable | None = None
        for seller in await self._sellers(body.provider, "/body/provider", new=True):
            try:
                service = await self._catalogue.service(seller, body.service_id)
            except Unavailable as error:
                silent = error
                continue
            if service is not None:
                return await self._offer_of(seller, service, body)
        if silent is not None:
            raise silent
        raise _invalid("/body/service_id", "There is no such service.", "unknown_service")

    async def _offer_of(self, seller: Seller, service: AirtimeService, body: PurchaseAirtime) -> Offer:
        if body.currency != service.currency:
            raise _invalid("/body/currency", f"{service.name} is sold in {service.currency}.")
        variation = None
        if body.variation_code is not None:
            variation = await self._variation(seller, service, body.variation_code)
        elif service.category is ServiceCategory.DATA:
            raise _invalid("/body/variation_code", "Data is sold by bundle: name one.")
        price = _price(service, variation, body)
        name = service.name if variation is None else f"{service.name}: {variation.name}"
        return Offer(seller, Purchase(service.id, body.variation_code, body.phone), price, name[:200])

    async def _variation(self, seller: Seller, service: AirtimeService, code: str) -> AirtimeVariation:
        try:
            variations = await self._catalogue.variations(seller, service.id)
        except NotFound:
            variations = []
        for variation in variations:
            if variation.code == code:
                return variation
        raise _invalid("/body/variation_code", f"{service.name} has no such bundle.", "unknown_variation")

    # -- the steps of purchase ----------------------------------------------------------------------------------------------

    async def _open(
        self,
        intent: tuple[Transaction, Attempt],
        offer: Offer,
        scope: KeyScope,
        fingerprint: bytes,
        origin: Origin,
    ) -> Opened | None:
        """A. None when the key is taken and nothing was written."""
        now = intent[0].created_at

        async def work(connection: RawConnection) -> Opened | None:
            # It may run more than once, and what is opened is changed by it.
            transaction, attempt = replace(intent[0]), replace(intent[1])
            until, keep = now + self._idempotency.lease, now + self._idempotency.keep
            if not await reserve(connection, scope, fingerprint, transaction.id, until, keep):
                return None
            told = {"service_id": offer.purchase.service_id, "variation_code": offer.purchase.variation_code}
            unit, events = await open_outgoing(connection, self._accounts, transaction, attempt, origin, now, told)
            await add_purchase(connection, transaction.id, offer.purchase)
            return Opened(unit, attempt, events)

        return await self._database.in_transaction(work)

    def _intent(
        self, user_id: UUID, body: PurchaseAirtime, offer: Offer, origin: Origin
    ) -> tuple[Transaction, Attempt]:
        seller, now = offer.seller, self._clock()
        transaction = Transaction(
            id=uuid7(),
            user_id=user_id,
            kind=Kind.AIRTIME,
            reference=new_reference("air"),
            amount=offer.price,
            created_at=now,
            provider=seller.name,
            description=offer.name,
            customer_id=body.customer_id,
            metadata=body.metadata,
            correlation_id=origin.correlation_id,
            next_check_at=now + self._idempotency.lease,
            # How long the provider is asked; then a person looks. Money out never expires.
            expires_at=now + seller.declaration.session_life + self._grace,
            updated_at=now,
        )
        attempt = Attempt(
            id=uuid7(),
            transaction_id=transaction.id,
            user_id=user_id,
            number=1,
            operation=Operation.PURCHASE,
            provider=seller.name,
            reference=new_reference("att"),
            amount=offer.price,
            created_at=now,
            routing={"reason": "sells this service" if body.provider is None else "named by the caller"},
            updated_at=now,
        )
        return transaction, attempt

    async def _call(self, seller: Seller, order: PurchaseOrder) -> Result:
        """The provider's verdict. Whatever goes wrong after something may have been sent is `unknown`."""
        try:
            async with asyncio.timeout(self._seconds):
                return await seller.sells.purchase(order, seller.credentials)
        except TimeoutError:
            return Result(Verdict.UNKNOWN, raw_status="timeout")
        except Exception:
            log.exception("airtime.adapter_failed", provider=seller.name, reference=order.reference)
            return Result(Verdict.UNKNOWN, raw_status="adapter_error")

    async def _record(
        self,
        opened: Opened,
        offer: Offer,
        result: Result,
        scope: KeyScope,
        fingerprint: bytes,
        origin: Origin,
        instance: str,
    ) -> Reply:
        """B."""
        replies: list[Reply] = []

        def keep(unit: Unit) -> tuple[Finished, tuple[str, bytes, int]]:
            stands = unit.transaction
            replies[:] = [_reply(stands, offer.purchase, result, origin, instance)]
            finished = Finished(scope, replies[0].status_code, replies[0].body)
            return finished, self._idempotency.cache_entry(finished, fingerprint, stands.id)

        await self._transactions.record_outcome(
            opened.unit,
            opened.attempt,
            result,
            Origin(Actor.PROVIDER, correlation_id=origin.correlation_id),
            last=True,
            finish_with=keep,
            check_after=offer.seller.declaration.first_check_after,
            told_before=opened.events,
        )
        return replies[0]

    async def _replayed(self, scope: KeyScope, fingerprint: bytes) -> Reply | None:
        replay = await self._idempotency.replay(scope, fingerprint)
        if replay is None:
            return None
        identity = replay.transaction_id
        if replay.body is not None:
            return Reply(replay.status_code or 201, replay.body, True, identity, folder=FOLDER)
        # The first request died and its lease is over: the purchase as it now stands, and nothing is sent again.
        transaction, _ = await self._own(identity, None)
        stands = purchase_json(transaction, await self._bought(identity))
        return Reply(201, orjson.dumps(stands), True, identity, folder=FOLDER)

    # -- others -------------------------------------------------------------------------------------------------------------

    async def _own(self, purchase_id: UUID, user_id: UUID | None) -> tuple[Transaction, list[Attempt]]:
        found = await self._transactions.repository.get(purchase_id, user_id)
        if found is None or found[0].kind is not Kind.AIRTIME:
            raise NotFound("There is no such purchase, or it is not yours.")
        return found

    async def _bought(self, purchase_id: UUID) -> Purchase:
        bought = await self._purchases.get(purchase_id)
        if bought is None:
            raise NotFound("There is no such purchase, or it is not yours.")
        return bought


def _order(attempt: Attempt, offer: Offer) -> PurchaseOrder:
    return PurchaseOrder(
        reference=attempt.reference,
        transaction_id=attempt.transaction_id,
        created_at=attempt.created_at,
        service_id=offer.purchase.service_id,
        amount=offer.price,
        phone=offer.purchase.phone or "",
        variation_code=offer.purchase.variation_code,
    )


def _check(offer: Offer, order: PurchaseOrder) -> None:
    """The seller's own objections, before anything is written."""
    try:
        offer.seller.sells.check_purchase(order)
    except OrderNotAcceptable as error:
        raise _invalid(f"/body{error.pointer}", error.detail) from None


def _price(service: AirtimeService, variation: AirtimeVariation | None, body: PurchaseAirtime) -> Money:
    """What is asked for, within the service's bounds; of a bundle its price, from which a told amount must not differ."""
    given = None if body.amount is None else _money(body)
    if variation is not None:
        if given is not None and given != variation.price:
            raise _invalid("/body/amount", f"This bundle costs {variation.price.decimal_text()} {service.currency}.")
        return variation.price
    if given is None:
        raise _invalid("/body/amount", "Airtime is sold by amount: name one.")
    if service.smallest is not None and given.minor < service.smallest.minor:
        raise _invalid("/body/amount", f"At least {service.smallest.decimal_text()} {service.currency}.")
    if service.largest is not None and given.minor > service.largest.minor:
        raise _invalid("/body/amount", f"At most {service.largest.decimal_text()} {service.currency}.")
    return given


def _money(body: PurchaseAirtime) -> Money:
    assert body.amount is not None
    try:
        return Money.parse(body.amount, body.currency)
    except MoneyError as error:
        raise _invalid("/body/amount", str(error), "invalid_request") from None


def _invalid(pointer: str, detail: str, code: str = "order_not_acceptable") -> Invalid:
    return Invalid(detail, code=code, errors=[FieldError(pointer, detail)])


def _reply(transaction: Transaction, bought: Purchase, result: Result, origin: Origin, instance: str) -> Reply:
    if result.verdict is Verdict.NOT_SENT and transaction.status is Status.FAILED:
        return not_sent_reply(transaction.id, origin, instance)
    body = orjson.dumps(purchase_json(transaction, bought))
    return Reply(201, body, transaction_id=transaction.id, folder=FOLDER)
