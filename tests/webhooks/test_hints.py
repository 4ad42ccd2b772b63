"""M-Pesa signs nothing: its callback is a hint that makes us ask, and the answer decides."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from payflow.core.clock import utc_now
from payflow.infra.queue.port import Message
from payflow.webhooks.processing import Disposition, Ending
from tests.house import House, Merchant, Urls, running_house
from tests.webhooks.desk import (
    attempt_of,
    callback_token,
    counted,
    encoded,
    kept_bodies,
    send_mpesa,
    stk_callback,
    story,
    until_counted,
    until_dead,
)

BY_HAND: dict[str, Any] = {
    "simulator": {"automatic_customer": False, "deliver_webhooks": False},
    "timer_interval_seconds": 3_600.0,
    "amqp_url": "",
}
COMPLETED = ["payment.initiated", "payment.requires_action", "payment.completed"]


@pytest.fixture(scope="module")
async def desk(urls: Urls) -> AsyncIterator[House]:
    """A house where the customer acts only when told, and the test itself brings the callbacks."""
    async with running_house(urls, **BY_HAND) as house:
        yield house


class Prompt:
    """One M-Pesa payment with what its callback needs."""

    def __init__(self, house: House, merchant: Merchant, payment: dict[str, Any]) -> None:
        self.house, self.merchant, self.id = house, merchant, payment["id"]
        self.attempt_id = attempt_of(payment)["id"]
        self.ids: tuple[str, str] = tuple(attempt_of(payment)["provider_references"]) or ("", "")
        self.token = callback_token(self.attempt_id)

    async def act(self, action: str) -> None:
        answer = await self.house.act("mpesa", self.ids[0], action)
        assert answer.is_success, answer.text

    def told(self, code: int = 0, **more: Any) -> Any:
        return stk_callback(*self.ids, code, **more)

    async def hint(self, body: Any) -> Disposition:
        """Bring a callback straight to the worker's desk."""
        headers = {
            "provider": "mpesa",
            "received_at": utc_now().isoformat(),
            "attempt_id": str(UUID(self.attempt_id)),
        }
        (end,) = await self.house.services.webhooks.process([Message(str(uuid4()), encoded(body), headers)])
        return end

    async def now(self) -> dict[str, Any]:
        return await self.merchant.payment(self.id)

    async def journals(self) -> list[str]:
        rows = await self.house.rows("SELECT kind FROM ledger_journals WHERE transaction_id = $1::text::uuid", self.id)
        return [row["kind"] for row in rows]


async def prompt(house: House, **changes: Any) -> Prompt:
    ada = await house.merchant()
    payment = await ada.pay("mpesa", **changes)
    return Prompt(house, ada, await ada.payment(payment["id"]))


async def queries(house: House) -> int:
    rows = (await house.simulator.get("/_control/requests", params={"provider": "mpesa"})).json()["requests"]
    return sum("stkpushquery" in row["path"] for row in rows)


async def test_a_hint_that_the_provider_confirms_completes_with_its_receipt(desk: House) -> None:
    paid = await prompt(desk)
    await paid.act("pay")
    assert (await send_mpesa(desk, paid.token, paid.told(receipt="SKL1111111"))).status_code == 200
    payment = await desk.until(paid.merchant, paid.id, "completed")
    assert story(payment) == COMPLETED
    assert attempt_of(payment)["receipt"] == "SKL1111111"
    assert payment["paid_minor"] == 25_000
    assert await paid.journals() == ["collected"]


async def test_a_hint_of_success_while_the_provider_says_pending_completes_nothing(desk: House) -> None:
    waiting = await prompt(desk)
    end = await waiting.hint(waiting.told())
    assert (end.ending, end.reason) == (Ending.RETRY, "the provider does not confirm it yet: processing")
    assert end.delay_seconds == desk.settings.overtaken_delays_seconds[0]
    payment = await waiting.now()
    assert (payment["paid_minor"], attempt_of(payment)["receipt"]) == (0, None)
    assert payment["status"] in ("requires_action", "processing")
    assert await waiting.journals() == []


async def test_a_hint_waits_on_the_rungs_until_the_provider_knows(desk: House) -> None:
    early = await prompt(desk)
    before = counted(desk, "mpesa", "retried")
    assert (await send_mpesa(desk, early.token, early.told(receipt="SKL2222222"))).status_code == 200
    await until_counted(desk, "mpesa", "retried", before + 1)
    await early.act("pay")
    payment = await desk.until(early.merchant, early.id, "completed")
    assert attempt_of(payment)["receipt"] == "SKL2222222"
    assert await early.journals() == ["collected"]


@pytest.mark.parametrize("code", [1032, 1037, 2001, 1, 9_999_999])
async def test_a_forged_failure_first_cannot_swallow_the_genuine_success(desk: House, code: int) -> None:
    real = await prompt(desk)
    forged = await real.hint(real.told(code))
    assert forged.ending is Ending.RETRY
    assert (await real.now())["status"] in ("requires_action", "processing")
    await real.act("pay")
    genuine = await real.hint(real.told(receipt=f"SKL{code:07d}"))
    assert genuine.ending is Ending.DONE
    payment = await real.now()
    assert (payment["status"], attempt_of(payment)["receipt"]) == ("completed", f"SKL{code:07d}")
    assert await real.journals() == ["collected"]


async def test_a_hint_of_failure_that_the_provider_contradicts_completes(desk: House) -> None:
    """Whatever brings us to ask, the answer counts; the genuine callback then only adds the receipt."""
    real = await prompt(desk)
    await real.act("pay")
    assert (await real.hint(real.told(1032))).ending is Ending.DONE
    payment = await real.now()
    assert (payment["status"], attempt_of(payment)["receipt"]) == ("completed", None)
    assert (await real.hint(real.told(receipt="SKL3333333"))).ending is Ending.DONE
    payment = await real.now()
    assert attempt_of(payment)["receipt"] == "SKL3333333"
    assert story(payment) == COMPLETED
    assert await real.journals() == ["collected"]


async def test_a_hint_of_success_that_the_provider_contradicts_ends_the_payment_as_it_says(desk: House) -> None:
    real = await prompt(desk)
    await real.act("cancel")
    end = await real.hint(real.told())
    # Nobody else would ask about it any more, so it climbs the ladder, and a person finds it among the dead letters.
    assert (end.ending, end.reason) == (Ending.RETRY, "the provider does not confirm it yet: cancelled")
    payment = await real.now()
    assert (payment["status"], payment["paid_minor"], attempt_of(payment)["receipt"]) == ("cancelled", 0, None)
    assert await real.journals() == []


async def test_repeats_after_the_end_ask_nobody_and_change_nothing(desk: House) -> None:
    real = await prompt(desk)
    await real.act("pay")
    await real.hint(real.told(receipt="SKL4444444"))
    paid, asked, before = await real.now(), await queries(desk), counted(desk, "mpesa", "duplicate")
    for body in (real.told(receipt="SKL4444444"), real.told(receipt="SKLFORGED1"), real.told(1032)):
        assert (await real.hint(body)).ending is Ending.DONE
    assert await queries(desk) == asked
    assert counted(desk, "mpesa", "duplicate") == before + 3
    assert await real.now() == paid
    assert await real.journals() == ["collected"]


async def test_a_hint_about_another_prompt_lends_this_one_nothing(desk: House) -> None:
    mine, other = await prompt(desk), await prompt(desk)
    await other.act("pay")
    end = await mine.hint(other.told(receipt="SKL5555555"))
    assert end.ending is Ending.RETRY
    payment = await mine.now()
    assert (payment["paid_minor"], attempt_of(payment)["receipt"]) == (0, None)
    assert attempt_of(payment)["provider_references"] == list(mine.ids)
    await mine.act("pay")
    assert (await mine.hint(other.told(receipt="SKL5555555"))).ending is Ending.DONE
    payment = await mine.now()
    assert (payment["status"], attempt_of(payment)["receipt"]) == ("completed", None)


async def test_where_the_answer_was_lost_the_hint_names_the_prompt_and_its_amount_must_be_ours(desk: House) -> None:
    await desk.outcome("mpesa", "server_error_after_charging", times=2)
    good, short = await prompt(desk), await prompt(desk)
    charges = (await desk.charges("mpesa"))["charges"]
    for lost in (good, short):
        assert lost.ids == ("", "")
        payment = await lost.now()
        assert payment["status"] == "processing"
        reference = attempt_of(payment)["reference"]
        (row,) = [row for row in charges if reference.endswith(row["reference"])]
        lost.ids = (row["items"][0]["id"], "1-1")
        await lost.act("pay")
    assert (await good.hint(good.told(receipt="SKL6666666"))).ending is Ending.DONE
    payment = await good.now()
    assert (payment["status"], attempt_of(payment)["receipt"]) == ("completed", "SKL6666666")
    assert attempt_of(payment)["provider_references"][0] == good.ids[0]
    assert (await short.hint(short.told(shillings=249, receipt="SKL7777777"))).ending is Ending.DONE
    payment = await short.now()
    assert (payment["status"], payment["paid_minor"]) == ("under_review", 0)
    assert payment["timeline"][-1]["data"]["reason"] == "amount_mismatch"
    assert await short.journals() == ["suspended"]


async def test_where_the_answer_was_lost_another_payments_prompt_proves_nothing(desk: House) -> None:
    await desk.outcome("mpesa", "server_error", times=1)
    lost = await prompt(desk)
    rich = await prompt(desk)
    await rich.act("pay")
    end = await lost.hint(rich.told(receipt="SKL8888888"))
    assert end.ending is Ending.RETRY
    payment = await lost.now()
    assert (payment["status"], payment["paid_minor"], attempt_of(payment)["provider_references"]) == (
        "processing",
        0,
        [],
    )
    assert await lost.journals() == []


async def test_where_the_answer_was_lost_an_id_alone_binds_no_amount(desk: House) -> None:
    """The hint tells of a failure, the query of its id says paid: money is there, but how much nobody has told."""
    await desk.outcome("mpesa", "server_error_after_charging", times=1)
    lost = await prompt(desk)
    reference = attempt_of(await lost.now())["reference"]
    charges = (await desk.charges("mpesa"))["charges"]
    (row,) = [row for row in charges if reference.endswith(row["reference"])]
    lost.ids = (row["items"][0]["id"], "1-1")
    await lost.act("pay")
    assert (await lost.hint(lost.told(1037))).ending is Ending.DONE
    payment = await lost.now()
    assert (payment["status"], payment["paid_minor"]) == ("under_review", 0)
    assert payment["timeline"][-1]["data"]["reason"] == "amount_unproven"
    assert await lost.journals() == ["suspended"]


async def test_the_bodies_of_hints_are_kept_once(desk: House) -> None:
    real = await prompt(desk)
    before = await kept_bodies(desk)
    headers = {"provider": "mpesa", "received_at": utc_now().isoformat(), "attempt_id": real.attempt_id}
    same = Message(str(uuid4()), encoded(real.told()), headers)
    await desk.services.webhooks.process([same, same])
    await desk.services.webhooks.process([same])
    assert await kept_bodies(desk) == before + 1


async def test_hints_in_one_batch_post_once(desk: House) -> None:
    real = await prompt(desk)
    await real.act("pay")
    headers = {"provider": "mpesa", "received_at": utc_now().isoformat(), "attempt_id": real.attempt_id}
    batch = [Message(str(uuid4()), encoded(real.told(receipt="SKL1212121")), headers) for _ in range(5)]
    ends = await desk.services.webhooks.process(batch)
    # One asks at a time; who met another asking comes again.
    assert Ending.DONE in {end.ending for end in ends}
    assert {end.reason for end in ends} <= {"", "not asked: too_soon"}
    assert story(await real.now()) == COMPLETED
    assert await real.journals() == ["collected"]


async def test_a_hint_that_cannot_be_read_goes_to_the_dead_letters(desk: House) -> None:
    real = await prompt(desk)
    end = await real.hint({"Body": {}})
    assert (end.ending, end.reason) == (Ending.DEAD, "malformed: no readable callback: KeyError")
    assert (await real.now())["version"] == 2


async def test_a_token_of_an_attempt_that_is_not_there_climbs_to_the_dead_letters(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, ladder_seconds=(0.1,), overtaken_delays_seconds=(0.1,)) as house:
        token = callback_token(str(uuid4()))
        assert (await send_mpesa(house, token, stk_callback("ws_CO_1", "1-1"))).status_code == 200
        (letter,) = await until_dead(house)
        assert letter.reason == "given up after the last rung: no such attempt"


async def test_a_paystack_attempts_token_does_not_make_it_an_mpesa_payment(desk: House) -> None:
    ada = await desk.merchant()
    payment = await ada.payment((await ada.pay("paystack"))["id"])
    other = Prompt(desk, ada, payment)
    end = await other.hint(stk_callback("ws_CO_1", "1-1"))
    assert (end.ending, end.reason) == (Ending.RETRY, "no such attempt")
    assert await other.now() == payment


# Not asking too often, and providers that do not answer


async def test_hints_ask_no_more_often_than_the_interval_and_come_again(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, check_min_interval_seconds=30.0) as house:
        real = await prompt(house)
        assert (await real.hint(real.told())).reason == "the provider does not confirm it yet: processing"
        ends = [await real.hint(real.told()) for _ in range(5)]
        assert {(end.ending, end.reason, end.delay_seconds) for end in ends} == {
            (Ending.RETRY, "not asked: too_soon", house.settings.overtaken_delays_seconds[0])
        }
        assert await queries(house) == 1


async def test_a_flood_of_hints_ends_at_the_providers_budget(urls: Urls) -> None:
    async with running_house(urls, **BY_HAND, provider_checks_per_minute=2) as house:
        prompts = [await prompt(house) for _ in range(4)]
        ends = [await each.hint(each.told()) for each in prompts]
        assert await queries(house) <= 4  # a minute may turn between two of them
        assert ends[-1].reason in ("not asked: budget", "the provider does not confirm it yet: processing")
        refused = [end for end in ends if end.reason == "not asked: budget"]
        assert {end.delay_seconds for end in refused} <= {house.settings.ladder_seconds[0]}


async def test_a_hint_that_is_never_answered_ends_as_a_dead_letter(urls: Urls) -> None:
    """It does not circle for ever, and the payment is still looked after by the timer."""
    async with running_house(
        urls, **BY_HAND, check_min_interval_seconds=600.0, ladder_seconds=(0.1,), overtaken_delays_seconds=(0.1,)
    ) as house:
        real = await prompt(house)
        await real.hint(real.told())
        assert (await send_mpesa(house, real.token, real.told())).status_code == 200
        (letter,) = await until_dead(house)
        assert letter.reason == "given up after the last rung: not asked: too_soon"


class Failing(httpx.AsyncBaseTransport):
    """Breaks the first queries on their way."""

    def __init__(self, inner: httpx.AsyncBaseTransport, times: int) -> None:
        self._inner, self._times = inner, times

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "stkpushquery" in request.url.path and self._times > 0:
            self._times -= 1
            raise httpx.ReadError("the line went dead", request=request)
        return await self._inner.handle_async_request(request)


async def test_a_query_that_fails_is_asked_again_until_it_answers(urls: Urls) -> None:
    async with running_house(
        urls, **BY_HAND, transport=lambda inner: Failing(inner, 3), overtaken_delays_seconds=(0.1, 0.1)
    ) as house:
        real = await prompt(house)
        await real.act("pay")
        assert (await send_mpesa(house, real.token, real.told(receipt="SKL1010101"))).status_code == 200
        payment = await house.until(real.merchant, real.id, "completed")
        assert attempt_of(payment)["receipt"] == "SKL1010101"
        assert counted(house, "mpesa", "retried") == 3
        assert story(payment) == COMPLETED
