"""The `payflow` command.

payflow dev          everything in one process, embedded where no URL is set
payflow demo         the same, plays payments and shows them, then ends
payflow api | worker | simulator      one process of each kind, for real installations
payflow migrate | create-admin | dead-letters | doctor | rotate-keys | import-credentials | reconcile
"""

from payflow.cli.commands import main

__all__ = ["main"]
