"""Which fields to decode for the columns and the filter that were asked for."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow import codec
from godb_arrow.codec.columns import DICTIONARY_KEY
from godb_arrow.codec.runs import Run
from godb_arrow.errors import FieldNotFound, InvalidFilter, InvalidOption
from godb_arrow.options import OnMismatch
from godb_arrow.schema import ID_FIELD, is_json, storage_schema

__all__ = [
    "Comparison",
    "Filter",
    "Projection",
    "ProjectionDecoder",
    "RowFilter",
    "comparison_of",
    "field_at",
    "narrow",
    "path_of",
    "paths_of",
    "project",
    "rows_where",
]


@dataclass(frozen=True, slots=True)
class RowFilter:
    """A filter that somebody else evaluates, such as another library's expression.

    Parameters
    ----------
    fields : sequence of str
        The fields that it looks at.
    keep : callable
        Gets a record batch of those fields, and returns which rows to keep, as a boolean array;
        from several threads at the same time.
    implied : pyarrow.compute.Expression, optional
        True for every row that is kept, and perhaps for others: where statistics say that it is
        true for none, nothing is read.

    Examples
    --------
    >>> import godb_arrow, io
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"n": 1}, {"n": 2}], file, "c")
    2
    >>> odd = RowFilter(["n"], lambda batch: pc.equal(pc.bit_wise_and(batch["n"], 1), 1))
    >>> godb_arrow.read_table(file.getvalue(), filter=odd).column("n").to_pylist()
    [1]
    """

    fields: Sequence[str]
    keep: Callable[[pa.RecordBatch], pa.Array]
    implied: pc.Expression | None = None


Filter: TypeAlias = pc.Expression | Mapping[str, Any] | RowFilter
"""A ``pyarrow.compute`` expression, field names and the values they must have, or a row filter."""

_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Projection:
    """What to decode, and what to make of it.

    Attributes
    ----------
    decoded : pyarrow.Schema
        The fields to decode: those asked for and those that the filter looks at.
    schema : pyarrow.Schema
        The schema of the result.
    condition : pyarrow.compute.Expression, RowFilter or None
        The filter.
    needed : frozenset of str
        The fields that the filter looks at.
    """

    decoded: pa.Schema
    schema: pa.Schema
    condition: pc.Expression | RowFilter | None
    needed: frozenset[str]
    _outputs: tuple[_Path, ...]
    _comparison: Comparison | None = None

    @property
    def implied(self) -> pc.Expression | None:
        """An expression that is true for every document that the filter keeps."""
        if isinstance(self.condition, RowFilter):
            return self.condition.implied
        return self.condition

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Filter a decoded record batch, and take the columns asked for.

        Raises
        ------
        InvalidFilter
            The filter cannot be evaluated on the collection's types.
        """
        return self.pick(batch, self.matching(batch))

    def pick(self, batch: pa.RecordBatch, rows: pa.Array | None) -> pa.RecordBatch:
        """Take some rows (all with None) and the columns asked for."""
        if rows is not None and len(rows) < batch.num_rows:
            batch = batch.take(rows)
        if batch.schema.equals(self.schema, check_metadata=True):
            return batch
        if not self._outputs:
            return batch.select([])
        columns = [_take(batch, path) for path in self._outputs]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def matching(self, batch: pa.RecordBatch) -> pa.Array | None:
        """The rows of a decoded record batch that the filter keeps; None without a filter.

        Raises
        ------
        InvalidFilter
            The filter cannot be evaluated on the collection's types.
        """
        if self.condition is None:
            return None
        if isinstance(self.condition, RowFilter):
            return pc.indices_nonzero(self.condition.keep(batch.select(self.condition.fields)))
        if self._comparison is not None:
            return pc.indices_nonzero(self._comparison.mask(batch))
        return rows_where(batch, self.condition)


class ProjectionDecoder:
    """Decodes runs of documents for a projection.

    Where a filter keeps few documents of a run, only what it looks at is decoded of the others.

    Parameters
    ----------
    projection : Projection
        What to decode.
    strict : bool
        Whether a field that the schema does not have is an error.
    on_mismatch : {"error", "null"}
        What becomes of a value that does not fit.
    """

    def __init__(self, projection: Projection, *, strict: bool, on_mismatch: OnMismatch) -> None:
        self._projection = projection
        self._plan = codec.plan_columns(projection.decoded, strict=strict, on_mismatch=on_mismatch)
        self._first: codec.DecodePlan | None = None
        looked_at = [field for field in projection.decoded if field.name in projection.needed]
        if 0 < len(looked_at) < len(projection.decoded):
            self._first = codec.plan_columns(pa.schema(looked_at), on_mismatch=on_mismatch)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields whose places should be noted when documents are found; none for most."""
        first = self._plan if self._first is None else self._first
        names = tuple(name for name in first.schema.names if name != ID_FIELD)
        return () if first.strict or len(names) > _FEW_FIELDS else names

    @property
    def ahead(self) -> int:
        """How many results may wait to be taken: what a filter leaves is mostly small."""
        return 1 if self._projection.condition is None else _FILTERED_AHEAD

    def whole(self, run: codec.Entries) -> pa.RecordBatch:
        """All documents of a run, and all that the filter looks at."""
        return codec.decode_batch(run, self._plan)

    def decode_run(self, run: Run) -> pa.RecordBatch:
        """The documents of a run that the filter keeps, and the columns asked for.

        Where their sizes are known, no more of the others is looked at than the filter needs.
        """
        measured = run.measured() if self.fields else None
        if measured is not None:
            try:
                return self._decode_measured(measured)
            finally:
                measured.release()
        loan = run.lent()
        try:
            return self.decode(loan.entries)
        finally:
            loan.release()

    def whole_run(self, run: Run) -> pa.RecordBatch:
        """All documents of a run, and all that the filter looks at."""
        loan = run.lent()
        try:
            return self.whole(loan.entries)
        finally:
            loan.release()

    def _decode_measured(self, measured: codec.MeasuredEntries) -> pa.RecordBatch:
        front = codec.decode_front_batch(
            measured, self._plan if self._first is None else self._first
        )
        if front is None:
            return self.decode(measured.entries(self.fields))
        if self._first is None:
            return self._projection.apply(front)
        return self._kept(front, partial(codec.take_measured, measured), measured.entries)

    def decode(self, run: codec.Entries) -> pa.RecordBatch:
        """The documents that the filter keeps, and the columns asked for."""
        if self._first is None:
            return self._projection.apply(self.whole(run))
        return self._kept(codec.decode_batch(run, self._first), run.take, lambda: run)

    def _kept(
        self,
        front: pa.RecordBatch,
        take: Callable[[npt.NDArray[np.int64]], codec.Entries],
        take_all: Callable[[], codec.Entries],
    ) -> pa.RecordBatch:
        """What the filter keeps, of documents of which it sees what it looks at."""
        rows = self._projection.matching(front)
        assert rows is not None
        if len(rows) * _SPARSE > len(front):
            return self._projection.pick(self.whole(take_all()), rows)
        return self._projection.pick(self.whole(take(rows.to_numpy().astype(np.int64))), None)


_FEW_FIELDS = 8
_FILTERED_AHEAD = 4
_SPARSE = 4  # below one document in so many, those that are kept are decoded on their own
_KEEP = "keep"


def rows_where(batch: pa.RecordBatch, condition: pc.Expression) -> pa.Array:
    """The rows of a record batch for which an expression is true.

    Raises
    ------
    InvalidFilter
        The expression cannot be evaluated on the columns.
    """
    from pyarrow import acero  # not before it is needed: it takes a while

    plain = pa.Table.from_batches([_without_json(batch)])
    try:
        # What Table.filter does, without its threads: others work on other batches.
        plan = acero.Declaration.from_sequence([
            acero.Declaration("table_source", acero.TableSourceNodeOptions(plain)),
            acero.Declaration("project", acero.ProjectNodeOptions([condition], [_KEEP])),
        ])  # fmt: skip
        return pc.indices_nonzero(plan.to_table(use_threads=False).column(_KEEP))
    except (pa.ArrowException, KeyError, IndexError) as error:
        raise _invalid(condition, error) from error


def _invalid(condition: pc.Expression, error: Exception) -> InvalidFilter:
    return InvalidFilter(
        f"the filter {condition} does not fit the schema: {error}",
        advice="compare fields with values of their own type; read_schema shows the types",
    )


def _without_json(batch: pa.RecordBatch) -> pa.RecordBatch:
    """JSON columns as plain text, which filters can compare."""
    for index, field in enumerate(batch.schema):
        if is_json(field.type):
            column = batch.column(index).storage
            batch = batch.set_column(index, field.name, column)
    return batch


def _take(batch: pa.RecordBatch, path: _Path) -> pa.Array:
    column = batch.column(path[0])
    return pc.struct_field(column, list(path[1:])) if len(path) > 1 else column


def project(
    schema: pa.Schema, columns: Sequence[str] | None, condition: Filter | None
) -> Projection:
    """Plan a projection and a filter.

    Parameters
    ----------
    schema : pyarrow.Schema
        What the collection has.
    columns : sequence of str, optional
        Fields, or dotted paths into structs; a path becomes a column named by the path.
    condition : pyarrow.compute.Expression or mapping, optional
        Which documents to keep. A mapping has fields or dotted paths, and the value that each
        must have; a list of values means any of them, None means null.

    Returns
    -------
    Projection

    Raises
    ------
    FieldNotFound
        The schema has no such field.
    InvalidFilter
        The filter names a field that is not there, or compares it with something else.

    Examples
    --------
    >>> schema = pa.schema({"_id": pa.string(), "user": pa.struct({"id": pa.int64()})})
    >>> project(schema, ["user.id"], None).schema.names
    ['user.id']
    """
    if isinstance(columns, str):
        raise InvalidOption(f"columns is the string {columns!r}", advice="give a list of names")
    full = schema
    if ID_FIELD not in schema.names:
        full = pa.schema([pa.field(ID_FIELD, pa.string()), *schema], metadata=schema.metadata)
    expression: pc.Expression | RowFilter | None
    plain = comparison_of(full, condition)
    if isinstance(condition, RowFilter):
        expression = condition
        needed = {path_of(full, name)[0] for name in condition.fields}
    elif plain is not None:  # it fits, and looks at nothing else
        expression, needed = condition, {plain.field}
    else:
        expression = _expression(full, condition)
        needed = set() if expression is None else _fields_of(full, expression)
    if columns is None:
        outputs: tuple[_Path, ...] = tuple((name,) for name in schema.names)
    else:
        outputs = tuple(path_of(full, name) for name in columns)
        if len(set(columns)) != len(columns):
            raise InvalidOption("columns names a field twice", advice="name each field once")
    decoded = _prune(full, outputs, needed)
    result = _output_schema(full, outputs, columns)
    return Projection(decoded, result, expression, frozenset(needed), outputs, plain)


def narrow(
    reader: pa.RecordBatchReader, columns: Sequence[str] | None, condition: Filter | None
) -> pa.RecordBatchReader:
    """Record batches of somewhere else, with the same words: projection and filter.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Any record batches.
    columns, condition
        As for :func:`project`.

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
    names = projection.decoded.names
    if not set(names) <= set(reader.schema.names):
        raise FieldNotFound(
            f"there is no field {ID_FIELD!r}",
            advice=f"the fields are {', '.join(reader.schema.names[:20])}",
        )
    batches = (projection.apply(batch.select(names)) for batch in reader)
    return pa.RecordBatchReader.from_batches(projection.schema, batches)


def path_of(schema: pa.Schema, name: str) -> _Path:
    """The path for a name: a field of that very name, or a dotted path into structs.

    Raises
    ------
    FieldNotFound
        The schema has no such field.
    """
    if name in schema.names:
        return (name,)
    path: list[str] = []
    fields: Iterable[pa.Field] = schema
    rest = name
    while rest:
        names = {field.name: field for field in fields}
        head = next((n for n in names if rest == n or rest.startswith(f"{n}.")), None)
        if head is None:
            break
        path.append(head)
        rest = rest[len(head) + 1 :]
        fields = names[head].type if pa.types.is_struct(names[head].type) else ()
    if path and not rest:
        return tuple(path)
    known = paths_of(schema)
    close = difflib.get_close_matches(name, known, n=3)
    shown = ", ".join(repr(n) for n in (close or known[:20]))
    raise FieldNotFound(
        f"there is no field {name!r}",
        advice=f"did you mean {shown}?" if close else f"the fields are {shown}",
    )


def paths_of(schema: pa.Schema) -> list[str]:
    """All fields, and those inside structs by their dotted paths."""

    def walk(fields: Iterable[pa.Field], prefix: str) -> Iterable[str]:
        for field in fields:
            yield prefix + field.name
            if pa.types.is_struct(field.type):
                yield from walk(field.type, f"{prefix}{field.name}.")

    return list(walk(schema, ""))


def field_at(schema: pa.Schema, name: str) -> pa.Field:
    """The field of a name or dotted path.

    Raises
    ------
    FieldNotFound
        The schema has no such field.
    """
    return _field_at(schema, path_of(schema, name))


def _field_at(schema: pa.Schema, path: _Path) -> pa.Field:
    field = schema.field(path[0])
    for name in path[1:]:
        field = field.type.field(name)
    return field


def _output_schema(
    schema: pa.Schema, outputs: tuple[_Path, ...], columns: Sequence[str] | None
) -> pa.Schema:
    names = [path[0] for path in outputs] if columns is None else columns
    fields = []
    for name, path in zip(names, outputs, strict=True):
        field = _field_at(schema, path).with_name(name)
        if len(path) > 1:
            field = field.with_nullable(True)
        metadata = {k: v for k, v in (field.metadata or {}).items() if k != DICTIONARY_KEY}
        fields.append(field.with_metadata(metadata or None))
    return pa.schema(fields, metadata=schema.metadata)


def _prune(schema: pa.Schema, outputs: tuple[_Path, ...], needed: set[str]) -> pa.Schema:
    """The part of a schema that some paths and whole fields take."""
    wanted: dict[str, set[_Path] | None] = dict.fromkeys(needed)
    for head, *tail in outputs:
        if not tail:
            wanted[head] = None
        elif wanted.get(head, ()) is not None:
            wanted.setdefault(head, set()).add(tuple(tail))  # type: ignore[union-attr]
    fields = []
    for field in schema:
        if field.name in wanted:
            paths = wanted[field.name]
            fields.append(field if paths is None else _prune_field(field, paths))
    return pa.schema(fields, metadata=schema.metadata)


def _prune_field(field: pa.Field, paths: set[_Path]) -> pa.Field:
    inner = pa.schema(list(field.type))
    return field.with_type(pa.struct(list(_prune(inner, tuple(sorted(paths)), set()))))


def _expression(
    schema: pa.Schema, condition: pc.Expression | Mapping[str, Any] | None
) -> pc.Expression | None:
    if condition is None or isinstance(condition, pc.Expression):
        expression = condition
    elif isinstance(condition, Mapping):
        expression = None
        for name, value in condition.items():
            path = path_of(schema, name)
            term = _equals(pc.field(*path), value, _field_at(schema, path).type)
            expression = term if expression is None else expression & term
    else:
        raise InvalidOption(
            f"filter is a {type(condition).__name__}",
            advice="give a pyarrow.compute expression, or a mapping of fields to values",
        )
    if expression is not None:
        _evaluate(schema, expression)
    return expression


class Comparison(NamedTuple):
    """A comparison of a field with a number.

    Attributes
    ----------
    field : str
        The field, of a collection's own.
    operator : callable
        Of two objects, such as expressions of any library: ``operator.lt`` and its like.
    value : pyarrow.Scalar
        The number, of the field's type.
    """

    field: str
    operator: Callable[[Any, Any], Any]
    value: pa.Scalar

    def mask(self, batch: pa.RecordBatch) -> pa.Array:
        """For which rows it is true; null, where the field is."""
        return _KERNELS[self.operator](batch.column(self.field), self.value)


_OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_KERNELS: dict[Callable[[Any, Any], Any], Callable[[Any, Any], pa.Array]] = {
    operator.lt: pc.less,
    operator.le: pc.less_equal,
    operator.gt: pc.greater,
    operator.ge: pc.greater_equal,
    operator.eq: pc.equal,
    operator.ne: pc.not_equal,
}
_COMPARED = re.compile(r"\((.+) (<|<=|>|>=|==|!=) (-?[0-9][0-9.e+-]*)\)")


def comparison_of(schema: pa.Schema, condition: Filter | None) -> Comparison | None:
    """The comparison with a number that a filter is, if it is one and nothing else.

    It is the most frequent filter, and a plan of Acero takes several times as long as to compare.
    An expression does not tell its parts: they are guessed from its text, and what is made of them
    must be equal to it.

    Parameters
    ----------
    schema : pyarrow.Schema
        What the collection has.
    condition : pyarrow.compute.Expression, mapping or RowFilter
        The filter.

    Returns
    -------
    Comparison or None

    Examples
    --------
    >>> schema = pa.schema({"n": pa.int64()})
    >>> found = comparison_of(schema, pc.field("n") < 10)
    >>> found.field, found.operator(1, 2), found.value.as_py()
    ('n', True, 10)
    """
    text = _COMPARED.fullmatch(str(condition)) if isinstance(condition, pc.Expression) else None
    if text is None or text[1] not in schema.names:
        return None
    kind = schema.field(text[1]).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    try:
        value = pa.scalar(int(text[3]) if pa.types.is_integer(kind) else float(text[3]), kind)
    except (ValueError, OverflowError, pa.ArrowException):
        return None
    found = Comparison(text[1], _OPERATORS[text[2]], value)
    return found if found.operator(pc.field(text[1]), value).equals(condition) else None


def _equals(field: pc.Expression, value: Any, data_type: pa.DataType) -> pc.Expression:
    if value is None:
        return field.is_null()
    storage = data_type.storage_type if isinstance(data_type, pa.BaseExtensionType) else data_type
    if pa.types.is_dictionary(storage):
        storage = storage.value_type
    try:
        if isinstance(value, (list, tuple, set, frozenset)):
            return field.isin(pa.array(list(value), type=storage))
        return field == pa.scalar(value, type=storage)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InvalidFilter(
            f"the filter compares {field}, of type {data_type}, with {value!r}",
            advice="compare a field with a value of its own type",
        ) from error


def _evaluate(schema: pa.Schema, expression: pc.Expression) -> None:
    empty = pa.RecordBatch.from_pylist([], schema=storage_schema(schema))
    try:
        pa.Table.from_batches([empty]).filter(expression)
    except (pa.ArrowException, KeyError) as error:
        raise _invalid(expression, error) from error


def _fields_of(schema: pa.Schema, expression: pc.Expression) -> set[str]:
    """The fields that an expression cannot do without."""
    text = str(expression)
    needed = set()
    for index, field in enumerate(schema):
        if field.name in text:
            try:
                _evaluate(schema.remove(index), expression)
            except InvalidFilter:
                needed.add(field.name)
    return needed
