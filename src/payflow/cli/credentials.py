"""`payflow rotate-keys` and `payflow import-credentials`: what they say while they work."""

from payflow.bootstrap import Services
from payflow.gateway.keeping import Resealed


async def rotate_keys(services: Services, *, dry_run: bool) -> bool:
    """Whether every stored row can be opened, so that the former keys may be taken away (after a real run)."""
    keeping = services.credential_keeping
    print(f"The current key is {keeping.key_id}.", flush=True)
    count = dict.fromkeys(Resealed, 0)
    async for step in keeping.reseal(dry_run=dry_run):
        count[step.outcome] += 1
        where = f"{step.number}/{step.total}  {step.provider:<16} {step.config_id}  key {step.key_id:<12}"
        print(f"{where}  {step.outcome}", flush=True)
    told = ", ".join(f"{number} {outcome}" for outcome, number in count.items() if number)
    print(f"Rows: {told}." if told else "No credentials are stored.")
    if count[Resealed.BROKEN]:
        print("The broken rows are left as they are. Name the key that sealed them in PAYFLOW_FORMER_CREDENTIALS_KEYS.")
    elif count[Resealed.CHANGED]:
        print("Run it again: some rows changed while it ran.")
    elif not dry_run:
        print("PAYFLOW_FORMER_CREDENTIALS_KEYS can be emptied.")
    return not count[Resealed.BROKEN] and not count[Resealed.CHANGED]


async def import_credentials(services: Services, email: str) -> None:
    admin = await services.identity.admin(email)
    imported = await services.credential_keeping.import_environment(admin.id)
    for name, config_id in imported.items():
        print(f"{name}: {f'stored as {config_id}' if config_id else 'kept what is stored'}")
    if not imported:
        print("The environment holds no credentials (PAYFLOW_PROVIDER_CREDENTIALS__<PROVIDER>__<FIELD>).")
