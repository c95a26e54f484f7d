"""Settings of the tests."""

from __future__ import annotations

import os

LONG = os.environ.get("GODB_ARROW_LONG") == "1"
