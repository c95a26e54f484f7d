"""Conversion of rows and dicts to documents and back, and document ids."""
