"""The ``godb-arrow`` command."""
