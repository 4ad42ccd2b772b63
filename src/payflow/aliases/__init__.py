"""The older names of things, each mapped to its use case. Nothing is decided here, and nothing new belongs here."""
