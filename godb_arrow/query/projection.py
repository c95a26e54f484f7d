"""Choice of the fields to decode for the requested columns and filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.predicate import Predicate
from godb_arrow.display import kind_of
from godb_arrow.errors import FieldNotFound, InvalidFilter, InvalidOption
from godb_arrow.query.column_mask import ColumnMask, column_mask
from godb_arrow.query.expression_pruning import may_match
from godb_arrow.query.fields import FieldPath, check_columns, column_at, path_of, shown_names
from godb_arrow.query.filters import (
    Filter,
    RowFilter,
    check_expression,
    compiled,
    fields_of,
    names_in,
    rows_where,
)
from godb_arrow.query.literals import fit_literals, fitted
from godb_arrow.query.pruning import may_match_predicate
from godb_arrow.query.rows import RowSelector
from godb_arrow.query.statistics import Statistics
from godb_arrow.schema import (
    ID_FIELD,
    DocumentSummary,
    infer_schema,
    is_partial,
    rounded_fields,
    shown_schema,
    with_rounded,
    without_mark,
)

__all__ = ["Projection", "narrow", "project", "with_wanted"]


@dataclass(frozen=True, slots=True)
class Projection:
    """Fields to decode, and the columns and rows to return.

    Attributes
    ----------
    decoded : pyarrow.Schema
        Fields to decode, which are the requested ones and the columns of the filter.
    schema : pyarrow.Schema
        Schema of the result.
    condition : pyarrow.compute.Expression, RowFilter, Predicate or None
        Filter of the columns, or of the documents themselves.
    needed : frozenset of str
        Columns that the filter needs; a predicate needs none.
    """

    decoded: pa.Schema
    schema: pa.Schema
    condition: pc.Expression | RowFilter | Predicate | None
    needed: frozenset[str]
    _outputs: tuple[FieldPath, ...]
    _mask: ColumnMask | None = None

    @property
    def predicate(self) -> Predicate | None:
        """Filter of documents, if it is one."""
        return self.condition if isinstance(self.condition, Predicate) else None

    @property
    def filtered_fields(self) -> frozenset[str]:
        """Top-level fields that the filter needs."""
        predicate = self.predicate
        return self.needed if predicate is None else frozenset((ID_FIELD, *predicate.fields))

    def may_match(self, statistics: Statistics) -> list[bool]:
        """Return for each piece whether documents in it may match the filter.

        Parameters
        ----------
        statistics : Statistics
            Statistics, with a row for each piece.
        """
        condition = self.condition
        if isinstance(condition, Predicate):
            return may_match_predicate(statistics, condition)
        if isinstance(condition, RowFilter) and condition.implied is not None:
            try:
                condition = fit_literals(self.decoded, condition.implied)
            except InvalidFilter:  # another library evaluates the filter, and rounds nothing
                condition = None
        if not isinstance(condition, pc.Expression) or not self.needed:
            return [True] * len(statistics)
        return may_match(statistics, condition, self.needed, self.decoded)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Filter a decoded record batch and select the requested columns.

        Raises
        ------
        InvalidFilter
            The filter cannot be evaluated on the collection's types.
        """
        return self.pick(batch, self.matching(batch))

    def pick(self, batch: pa.RecordBatch, rows: pa.Array | None) -> pa.RecordBatch:
        """Select some rows (all with None) and the requested columns."""
        if rows is not None and len(rows) < batch.num_rows:
            batch = batch.take(rows)
        if batch.schema.equals(self.schema, check_metadata=True):
            return batch
        if not self._outputs:
            return batch.select([])
        columns = [_take(batch, path) for path in self._outputs]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def matching(self, batch: pa.RecordBatch) -> pa.Array | None:
        """Return the rows of a decoded record batch that match; None without a filter.

        Raises
        ------
        InvalidFilter
            The filter cannot be evaluated on the collection's types.
        """
        if self.condition is None:
            return None
        assert not isinstance(self.condition, Predicate), "a predicate selects documents"
        if isinstance(self.condition, RowFilter):
            return pc.indices_nonzero(self.condition.keep(batch.select(self.condition.fields)))
        if self._mask is not None:
            return pc.indices_nonzero(self._mask.mask(batch))
        return rows_where(batch, self.condition)


def _take(batch: pa.RecordBatch, path: FieldPath) -> pa.Array:
    column = batch.column(path[0])
    for name in path[1:]:
        if pa.types.is_map(column.type):
            column = pc.map_lookup(column, pa.scalar(name, column.type.key_type), "first")
        else:
            column = pc.struct_field(column, [name])
    return column


def project(
    schema: pa.Schema, columns: Sequence[str] | None, condition: Filter | None
) -> Projection:
    """Plan a projection and a filter.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the collection.
    columns : sequence of str, optional
        Fields, or dotted paths into structs; a path becomes a column named by the path.
    condition : pyarrow.compute.Expression or mapping, optional
        Filter of the documents. :mod:`godb_arrow.query.predicate` defines mappings; an expression
        has Arrow's meaning on the columns.

    Returns
    -------
    Projection

    Raises
    ------
    FieldNotFound
        The schema has no such field.
    InvalidFilter
        An operator or literal is wrong, or an expression does not fit the columns.

    Examples
    --------
    >>> schema = pa.schema({"_id": pa.string(), "user": pa.struct({"id": pa.int64()})})
    >>> project(schema, ["user.id"], None).schema.names
    ['user.id']
    """
    check_columns(columns)
    _check_schema(schema)
    full = schema
    if ID_FIELD not in schema.names:
        full = pa.schema([pa.field(ID_FIELD, pa.string()), *schema], metadata=full.metadata)
    chosen = compiled(condition)
    mask: ColumnMask | None = None
    needed: Set[str] = frozenset()
    if isinstance(chosen, pc.Expression):
        chosen, parts = fitted(full, chosen)
        mask = column_mask(full, parts)
    if isinstance(chosen, RowFilter):
        needed = {path_of(full, name)[0] for name in chosen.fields}
    elif mask is not None:  # it fits the schema
        needed = mask.fields
    elif isinstance(chosen, pc.Expression):
        check_expression(full, chosen)
        needed = fields_of(full, chosen)
    if columns is None:
        outputs: tuple[FieldPath, ...] = tuple((name,) for name in schema.names)
    else:
        outputs = tuple(path_of(full, name) for name in columns)
        if len(set(columns)) != len(columns):
            raise InvalidOption("columns names a field twice", advice="name each field once")
    decoded = _prune(full, outputs, needed)
    if columns is not None:  # The columns are complete, even where the schema is partial.
        decoded, full = without_mark(decoded), without_mark(full)
    result = _output_schema(full, outputs, columns)
    return Projection(decoded, result, chosen, frozenset(needed), outputs, mask)


def _check_schema(schema: pa.Schema) -> None:
    """Raise InvalidOption unless a schema that the caller may have given has distinct fields."""
    if not isinstance(schema, pa.Schema):
        raise InvalidOption(f"schema is {kind_of(schema)}", advice="give a pyarrow.Schema")
    if len({*schema.names}) != len(schema):
        repeated = next(name for name in schema.names if schema.names.count(name) > 1)
        raise InvalidOption(
            f"schema has the field {repeated!r} more than once", advice="name each field once"
        )


def with_wanted(
    schema: pa.Schema,
    columns: Sequence[str] | None,
    condition: Filter | None,
    entries: Callable[[], Iterable[codec.Entries]],
) -> pa.Schema:
    """Add fields that a projection names and a partial schema lacks, with their types.

    Parameters
    ----------
    schema : pyarrow.Schema
        What the collection has, or as much of it as becomes columns.
    columns, condition
        As for :func:`project`.
    entries : callable
        Gives all documents, in runs; called only where a field is missing.

    Returns
    -------
    pyarrow.Schema
    """
    check_columns(columns)
    if not is_partial(schema):
        return schema
    named = list(columns or ())
    if isinstance(condition, RowFilter):
        named += condition.fields
    elif isinstance(condition, pc.Expression):
        named += names_in(condition)
    parts = [name.split(".") for name in named]
    heads = dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1))
    missing = heads.keys() - {*schema.names, ID_FIELD}
    if not missing:
        return schema
    found = DocumentSummary(sorted(missing), limit=len(missing) + 1)
    for run in entries():
        codec.infer(run, found)
    inferred = infer_schema(found)
    known = [field for field in inferred if field.name in missing]
    added = [field for field in known if found.fields[field.name].kinds]
    joined = pa.schema([*schema, *added], metadata=schema.metadata)
    return with_rounded(joined, [*rounded_fields(schema), *rounded_fields(inferred)])


def narrow(
    reader: pa.RecordBatchReader, columns: Sequence[str] | None, condition: Filter | None
) -> pa.RecordBatchReader:
    """Apply a projection and a filter to any record batches.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Record batches to read.
    columns, condition
        See :func:`project`.

    Returns
    -------
    pyarrow.RecordBatchReader

    Raises
    ------
    FieldNotFound, InvalidFilter

    Examples
    --------
    >>> reader = pa.table({"a": [1, 2], "b": ["x", "y"]}).to_reader()
    >>> narrow(reader, ["b"], {"a": 2}).read_all().to_pydict()
    {'b': ['y']}
    """
    if columns is None and condition is None:
        return reader
    projection = project(reader.schema, columns, condition)
    if projection.predicate is not None:
        return _narrow_rows(reader, projection, projection.predicate)
    names = projection.decoded.names
    _check_names(names, reader.schema)
    batches = (projection.apply(batch.select(names)) for batch in reader)
    return pa.RecordBatchReader.from_batches(projection.schema, batches)


def _narrow_rows(
    reader: pa.RecordBatchReader, projection: Projection, predicate: Predicate
) -> pa.RecordBatchReader:
    selector = RowSelector(predicate)
    names = projection.decoded.names
    _check_names(names, reader.schema)

    def narrowed(batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = selector.select(batch)
        if not names:
            return codec.rows_without_columns(len(rows), projection.schema)
        return projection.pick(batch.select(names), pa.array(rows))

    return pa.RecordBatchReader.from_batches(projection.schema, map(narrowed, reader))


def _check_names(names: Sequence[str], schema: pa.Schema) -> None:
    if not set(names) <= set(schema.names):
        raise FieldNotFound(
            f"field {ID_FIELD!r} does not exist",
            advice=f"the fields are {shown_names(schema.names)}",
        )


def _output_schema(
    schema: pa.Schema, outputs: tuple[FieldPath, ...], columns: Sequence[str] | None
) -> pa.Schema:
    names = [path[0] for path in outputs] if columns is None else columns
    fields = []
    for name, path in zip(names, outputs, strict=True):
        field = column_at(schema, path).with_name(name)
        if len(path) > 1:
            field = field.with_nullable(True)
        fields.append(field)
    return shown_schema(pa.schema(fields, metadata=schema.metadata))


def _prune(schema: pa.Schema, outputs: tuple[FieldPath, ...], needed: Set[str]) -> pa.Schema:
    """Return the part of a schema that some paths and whole fields need."""
    wanted: dict[str, set[FieldPath] | None] = dict.fromkeys(needed)
    for head, *tail in outputs:
        if not tail or pa.types.is_map(schema.field(head).type):
            wanted[head] = None
        elif wanted.get(head, ()) is not None:
            wanted.setdefault(head, set()).add(tuple(tail))  # type: ignore[union-attr]
    fields = []
    for field in schema:
        if field.name in wanted:
            paths = wanted[field.name]
            fields.append(field if paths is None else _prune_field(field, paths))
    return pa.schema(fields, metadata=schema.metadata)


def _prune_field(field: pa.Field, paths: set[FieldPath]) -> pa.Field:
    inner = pa.schema(list(field.type))
    return field.with_type(pa.struct(list(_prune(inner, tuple(sorted(paths)), set()))))
