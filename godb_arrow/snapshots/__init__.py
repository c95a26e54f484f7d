"""Immutable snapshots of a collection, and the streams and searches over them."""
