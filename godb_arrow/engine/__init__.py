"""The storage engine and its collections."""
