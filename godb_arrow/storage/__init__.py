"""Bytes on disks and object stores, and their atomic replacement."""
