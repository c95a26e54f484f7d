"""One GODB file: its layout, reading and writing."""
