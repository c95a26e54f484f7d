"""Queries: fields, filters, projections, statistics and the interface of all collections."""
