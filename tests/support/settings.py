"""Settings of the tests."""

from __future__ import annotations

import os

LONG = os.environ.get("GODB_ARROW_LONG") == "1"
EXAMPLES = int(os.environ.get("GODB_ARROW_EXAMPLES", "60"))
"""Examples of each property test, outside of long runs."""
