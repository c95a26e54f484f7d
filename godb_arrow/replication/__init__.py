"""Backups and followers of a data directory."""
