"""`python -m bench`: the whole, in under eight minutes; `--quick`: a look, in under one."""

import argparse
import asyncio
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace

from bench import report
from bench.scenarios import QUICK, Bench, Plan
from bench.stack import Given, running_stack

SCENARIOS = ("memory", "initiate", "replay", "worker", "e2e", "fanout")
OPTIONAL = ("ledger",)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=(*SCENARIOS, *OPTIONAL),
        default=list(SCENARIOS),
        help="`worker` is webhook ingest and its drain; `ledger`, only when named, writes a million entries",
    )
    parser.add_argument("--rounds", type=int, help="3 unless told otherwise")
    parser.add_argument("--database-url", default="", help="use this PostgreSQL (a database is made in it and dropped)")
    parser.add_argument("--redis-url", default="", help="use this Redis (under a prefix of its own)")
    parser.add_argument("--amqp-url", default="", help="use this RabbitMQ (under a prefix of its own)")
    parser.add_argument("--no-file", action="store_true", help="write nothing to bench/results")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    given = Given(options.database_url, options.redis_url, options.amqp_url)
    kind = "quick" if options.quick else "full"
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(plan, given, options.only, kind, write=not options.no_file))


async def _run(plan: Plan, given: Given, only: list[str], kind: str, *, write: bool) -> None:
    began, loads = time.monotonic(), [os.getloadavg()[0]]
    end = began + plan.begin_nothing_after_seconds
    # Spawned, so that the load process shares neither memory nor sockets with this one.
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        async with running_stack(given, _say) as stack:
            _say(f"the stack is up after {time.monotonic() - began:.0f} s")
            bench = Bench(stack, plan, pool, _say)
            for number in range(plan.rounds):
                _say(f"round {number + 1} of {plan.rounds}")
                for name, scenario in bench.scenarios.items():
                    if name in only and time.monotonic() < end:
                        await scenario(number)
            if time.monotonic() >= end:
                _say("the time is over: what is missing was left out")
    finally:
        pool.shutdown(cancel_futures=True)
    loads.append(os.getloadavg()[0])
    rows = report.rows_of(bench.samples)
    about = report.conditions(rows, stack.versions, loads)
    print(f"\n{report.markdown(rows)}\n")
    print("\n".join(filter(None, [report.unchanged_throughput(rows), report.footnote(about)])))
    if write:
        print(f"\n{report.write(rows, bench.samples, about, kind)}")
    _say(f"took {time.monotonic() - began:.0f} s")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
