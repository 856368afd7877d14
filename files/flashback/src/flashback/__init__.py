"""Snapshot backups by rsync, pulled by a small server."""

__version__ = "0.1.0"
