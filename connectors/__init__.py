"""One module per outside system; each turns one record-batch reader into somebody's type, or back.

A module is imported only when it is used, and says which extra to install when its library is
missing.
"""
