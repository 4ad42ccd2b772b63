"""The books check: whether ledger, wallets, holds, transactions, refunds and events tell one story."""
