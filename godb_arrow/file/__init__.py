"""GODB files: layout, reading and writing."""
