"""Immutable views of a collection, and what reads them."""
