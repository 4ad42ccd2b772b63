"""Consumers and timers: what happens after a webhook was stored, and by the clock."""
