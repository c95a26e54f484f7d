# Sorted keys of fields, documents by id, and filters that indexes answer. Part of _native.pyx.

cdef extern from "Python.h":
    bint _is_ascii "PyUnicode_IS_COMPACT_ASCII"(object text)
    object PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


cdef extern from "lookup.hpp" namespace "godb" nogil:
    const size_t kKeyKinds
    const size_t kKeyBytes
    const size_t kFalse
    const size_t kTrue
    const size_t kNaNs
    const size_t kNulls
    const size_t kOthers
    uint64_t number_key(double number)

    cdef enum class RangeType "godb::KeyRange::Type":
        All
        Number
        Moment
        Text
        Binary
        Flag

    cdef cppclass KeyRange:
        KeyRange() except +
        RangeType type
        size_t flag
        cbool has_low
        cbool has_high
        uint64_t low
        uint64_t high
        string low_text
        string high_text

    cdef struct Span:
        size_t kind
        size_t first
        size_t last

    cdef cppclass FieldKeys:
        uint64_t documents
        cbool has_lists
        vector[uint64_t] keys[2]
        vector[uint32_t] ends[2]
        vector[uint8_t] texts[2]
        vector[uint32_t] rows[9]
        void finish() except +
        cbool has_order()
        size_t bytes()
        void spans(const KeyRange& range, vector[Span]& found) except +

    cdef cppclass KeyBuilder:
        KeyBuilder(const vector[string]& parts) except +
        cbool add(const uint8_t* data, const int64_t* bounds, size_t count) except +
        void finish(FieldKeys& out) except +raise_interrupted

    void merge_keys(
        const vector[const FieldKeys*]& files, const vector[const int64_t*]& places,
        uint64_t documents, FieldKeys& out) except +raise_interrupted

    cbool entry_edges(
        const uint8_t* data, size_t size, size_t count, vector[int64_t]& edges) except +

    cdef cppclass RowStream:
        RowStream(
            const FieldKeys& keys, const vector[Span]& spans, cbool needs_all
        ) except +raise_interrupted
        cbool next(int64_t& row) except +

    cdef cppclass Alternatives:
        Alternatives() except +
        vector[KeyRange] ranges
        int other

    size_t rows_in(const vector[Span]& spans)
    const FieldKeys* fewest(
        const vector[Alternatives]& conditions, const vector[const FieldKeys*]& keys,
        vector[Span]& best) except +

    cdef cppclass Documents:
        vector[const uint8_t*] data
        vector[size_t] sizes
        void add(const uint8_t* data, size_t size, const int64_t* bounds, size_t count) except +
        int64_t count()
        size_t locate(int64_t row, const int64_t*& edges)

    cdef cppclass IdRows:
        const uint64_t* hashes
        const void* rows
        size_t count
        cbool is_wide
        int64_t row(size_t index)
        size_t find(uint64_t hash)


cdef extern from "predicate.hpp" namespace "godb" nogil:
    cdef cppclass OneSelector "godb::Selector":
        OneSelector(const Condition& root, const vector[string]& fields, size_t patterns) except +
        cbool matches_one(
            const uint8_t* data, size_t size, const int64_t* bounds, cbool& sound) except +


# --- Documents ------------------------------------------------------------------------------


cdef class Located:
    """Documents in memory, by row. See `godb_arrow.codec.reference.lookup`."""

    cdef Documents _documents
    cdef list _runs

    def __init__(self, runs):
        cdef const uint8_t[::1] data
        cdef const int64_t[::1] bounds
        self._runs = list(runs)  # keeps their memory
        for run in self._runs:
            if not len(run):
                continue
            data = run.data
            bounds = run.bounds
            self._documents.add(&data[0], data.shape[0], &bounds[0], bounds.shape[0] // 2)

    def __len__(self):
        return self._documents.count()


cdef inline object _identity(const uint8_t* p, const uint8_t* end):
    """Return the id at the start of an entry."""
    cdef Head head = read_head(p, end)
    return PyUnicode_DecodeUTF8(<const char*>head.body, <Py_ssize_t>head.size, "surrogateescape")


cdef inline bytes _part(const uint8_t* data, int64_t first, int64_t last):
    return PyBytes_FromStringAndSize(<const char*>data + first, <Py_ssize_t>(last - first))


cdef class IdSearch:
    """Rows by the hash of a document's id. See `godb_arrow.codec.reference.lookup`."""

    cdef IdRows _ids
    cdef object _hashes
    cdef object _rows

    def __init__(self, hashes, rows):
        cdef const uint64_t[::1] found = hashes
        cdef const int64_t[::1] wide
        cdef const uint32_t[::1] narrow
        self._hashes, self._rows = hashes, rows  # keeps their memory
        self._ids.count = found.shape[0]
        self._ids.hashes = &found[0]
        self._ids.is_wide = rows.itemsize == 8
        if rows.itemsize == 8:
            wide = rows
            self._ids.rows = &wide[0]
        else:
            narrow = rows
            self._ids.rows = &narrow[0]
        if len(rows) != len(hashes):
            raise ValueError("the rows are not as many as the hashes")

    def may_have(self, str identity not None):
        """Return whether a document may have an id."""
        cdef bytes raw
        try:
            raw = identity.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # no document has such an id
            return False
        cdef uint64_t hash = c_hash_id(
            <const uint8_t*>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
        cdef size_t at = self._ids.find(hash)
        return at < self._ids.count and self._ids.hashes[at] == hash

    def find(self, Located documents not None, str identity not None, deleted=None):
        """Return the last document with an id, which is not among deleted rows; None if absent."""
        cdef bytes raw
        cdef Py_ssize_t size
        cdef const uint8_t* text
        if _is_ascii(identity):
            text = <const uint8_t*>PyUnicode_AsUTF8AndSize(identity, &size)
        else:
            try:
                raw = identity.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:  # no document has such an id
                return None
            text = <const uint8_t*>PyBytes_AS_STRING(raw)
            size = PyBytes_GET_SIZE(raw)
        cdef uint64_t hash = c_hash_id(text, <size_t>size)
        cdef size_t at = self._ids.find(hash)
        cdef int64_t row, best = -1
        cdef const int64_t* edges = NULL
        cdef const int64_t* found = NULL
        cdef size_t run, best_run = 0
        cdef const uint8_t* data
        cdef const uint8_t* end
        while at < self._ids.count and self._ids.hashes[at] == hash:
            row = self._ids.row(at)
            at += 1
            if row <= best or row < 0 or row >= documents._documents.count():
                continue
            run = documents._documents.locate(row, edges)
            data = documents._documents.data[run]
            end = data + edges[1]
            # The bytes of an id end where the document begins.
            if edges[1] - edges[0] <= size or memcmp(end - size, text, <size_t>size):
                continue
            if read_head(data + edges[0], end).size != <uint64_t>size:
                continue
            if deleted is not None and deleted(row):
                continue
            best, found, best_run = row, edges, run
        if best < 0:
            return None
        return _part(documents._documents.data[best_run], found[1], found[2])


def load_found(bytes entries not None, size_t count):
    """Decode whole entries to a list of dicts; None where the reference codec must decode one."""
    cdef vector[int64_t] edges
    cdef DictSource source
    source.data = <const uint8_t*>PyBytes_AS_STRING(entries)
    source.size = <size_t>PyBytes_GET_SIZE(entries)
    if not count:
        return []
    if not entry_edges(source.data, source.size, count, edges):
        return None
    source.bounds = edges.data()
    source.entries = source.count = count
    source.rows = NULL
    documents = c_load_documents(source, 0)
    while documents and <size_t>len(documents) < count:
        part = c_load_documents(source, len(documents))
        if not part:
            return None
        documents += part
    return documents or None


# --- Keys -----------------------------------------------------------------------------------


cdef class SortedKeys:
    """Sorted keys of a field, and their rows. See `godb_arrow.codec.reference.lookup`."""

    cdef FieldKeys _keys

    @staticmethod
    def merge(files, places, uint64_t documents):
        """Merge the keys of files, given the new row of each document, or -1 if it is dropped."""
        cdef SortedKeys made = SortedKeys.__new__(SortedKeys)
        cdef vector[const FieldKeys*] sources
        cdef vector[const int64_t*] rows
        cdef const int64_t[::1] place
        cdef SortedKeys file
        for file, place in zip(files, places, strict=True):
            if <uint64_t>place.shape[0] != file._keys.documents:
                raise ValueError("the places are not as many as the documents")
            sources.push_back(&file._keys)
            rows.push_back(&place[0])
        with nogil:
            merge_keys(sources, rows, documents, made._keys)
        return made

    @staticmethod
    def of(uint64_t documents, cbool has_lists, keys, texts, rows):
        """Make the keys of sorted arrays, as :meth:`arrays` returns them."""
        cdef SortedKeys made = SortedKeys.__new__(SortedKeys)
        cdef const uint64_t[::1] words
        cdef const uint32_t[::1] edges
        cdef const uint8_t[::1] blob
        cdef const uint32_t[::1] places
        cdef size_t which
        made._keys.documents = documents
        made._keys.has_lists = has_lists
        for which in range(2):
            words = keys[which]
            made._keys.keys[which].assign(&words[0], &words[0] + words.shape[0])
            edges, blob = texts[which]
            made._keys.ends[which].assign(&edges[0], &edges[0] + edges.shape[0])
            made._keys.texts[which].assign(&blob[0], &blob[0] + blob.shape[0])
        for which in range(kKeyKinds):
            places = rows[which]
            made._keys.rows[which].assign(&places[0], &places[0] + places.shape[0])
        made._keys.finish()
        return made

    def arrays(self):
        """Return the keys of numbers and moments, the ends and bytes of texts, and all rows."""
        cdef FieldKeys* found = &self._keys
        cdef size_t which
        keys, texts, rows = [], [], []
        for which in range(2):
            keys.append(_raw(found.keys[which].data(), 8 * found.keys[which].size()))
            texts.append((_raw(found.ends[which].data(), 4 * found.ends[which].size()),
                          _raw(found.texts[which].data(), found.texts[which].size())))
        for which in range(kKeyKinds):
            rows.append(_raw(found.rows[which].data(), 4 * found.rows[which].size()))
        return keys, texts, rows

    def has_order(self):
        """Return whether the texts are sorted."""
        return self._keys.has_order()

    @property
    def documents(self):
        return self._keys.documents

    @property
    def has_lists(self):
        return self._keys.has_lists

    @property
    def others(self):
        return self._keys.rows[kOthers].size()

    @property
    def nbytes(self):
        return self._keys.bytes()

    def count(self, ranges):
        """Return the number of entries in some ranges."""
        cdef vector[Span] spans
        _spans(self, ranges, spans)
        return rows_in(spans)

    def rows(self, ranges):
        """Return the rows with a value in one of some ranges, of 8 bytes each, in order."""
        cdef vector[Span] spans
        cdef vector[int64_t] found
        cdef int64_t row = 0
        cdef unique_ptr[RowStream] stream
        _spans(self, ranges, spans)
        with nogil:
            stream.reset(new RowStream(self._keys, spans, True))
            while stream.get().next(row):
                found.push_back(row)
        return _raw(found.data(), 8 * found.size())


cdef class KeysBuilder:
    """Builds the sorted keys of a field from documents, given in order."""

    cdef unique_ptr[KeyBuilder] _builder

    def __init__(self, parts):
        cdef vector[string] names
        for part in parts:
            names.push_back(<string>(<bytes>part))
        self._builder.reset(new KeyBuilder(names))

    def add(self, const uint8_t[::1] data not None, const int64_t[::1] bounds not None):
        """Add the next documents; return whether they are sound."""
        cdef KeyBuilder* builder = self._builder.get()
        cdef cbool sound
        with nogil:
            sound = builder.add(&data[0], &bounds[0], bounds.shape[0] // 2)
        return sound

    def keys(self):
        """Return the keys of all documents that were added; nothing can be added any more."""
        cdef SortedKeys made = SortedKeys.__new__(SortedKeys)
        cdef KeyBuilder* builder = self._builder.get()
        with nogil:
            builder.finish(made._keys)
        return made


cdef bytes _raw(const void* data, size_t size):
    return PyBytes_FromStringAndSize(<const char*>data, <Py_ssize_t>size)


cdef int _spans(SortedKeys keys, ranges, vector[Span]& spans) except -1:
    cdef KeyRange made
    for low, high in ranges:
        made = KeyRange()
        if not _set_range(made, low, high):
            made = KeyRange()
        keys._keys.spans(made, spans)
    return 0


cdef cbool _set_range(KeyRange& made, object low, object high) except *:
    """Set the range between two literals; return whether their kind has an index."""
    literal = high if low is None else low
    if low is not None and not _set_bound(made, low, True):
        return False
    if high is not None and not _set_bound(made, high, False):
        return False
    if literal is None:
        made.type, made.flag = RangeType.Flag, kNulls
    return True


cdef cbool _set_bound(KeyRange& made, object literal, cbool is_low) except *:
    cdef double number
    cdef uint64_t key
    cdef bytes text
    cdef const char* data
    cdef Py_ssize_t size
    kind = type(literal)
    if kind is bool:
        made.type, made.flag = RangeType.Flag, kTrue if literal else kFalse
        return True
    if kind is int or kind is float:
        try:
            number = literal
        except OverflowError:
            number = float("inf") if literal > 0 else -float("inf")
        if number != number:
            made.type, made.flag = RangeType.Flag, kNaNs
            return True
        made.type = RangeType.Number
        key = number_key(number)
    elif kind is str or kind is bytes:
        made.type = RangeType.Text if kind is str else RangeType.Binary
        if kind is str and _is_ascii(literal):
            data = PyUnicode_AsUTF8AndSize(literal, &size)
        else:
            text = literal if kind is bytes else (<str>literal).encode("utf-8", "surrogateescape")
            data, size = PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
        if <size_t>size > kKeyBytes:
            size = <Py_ssize_t>kKeyBytes
        if is_low:
            made.has_low = True
            made.low_text.assign(data, <size_t>size)
        else:
            made.has_high = True
            made.high_text.assign(data, <size_t>size)
        return True
    elif isinstance(literal, Timestamp_):
        made.type = RangeType.Moment
        key = <uint64_t><int64_t>min(max(literal.seconds, -(1 << 63)), (1 << 63) - 1) ^ (<uint64_t>1 << 63)
    else:
        return False
    if is_low:
        made.has_low, made.low = True, key
    else:
        made.has_high, made.high = True, key
    return True


# --- Filters --------------------------------------------------------------------------------


cdef class PlainFilter:
    """A mapping of fields to scalars, lists of scalars and bounds, compiled in one step.

    Attributes
    ----------
    paths : tuple of str
        Path of each condition.
    """

    cdef Condition _root
    cdef vector[string] _fields
    cdef dict _places
    cdef vector[Alternatives] _conditions
    cdef list _paths
    cdef readonly tuple paths

    def search(
        self, Located documents not None, keys, superseded, newer,
        int64_t start, Py_ssize_t most, Py_ssize_t limit, cbool counts=False,
    ):
        """Find the documents that match.

        `keys` has the sorted keys of each condition's field, or None; without any, all documents
        are tested. `superseded` has functions of a row and `start`, `newer` sets of ids, that
        exclude documents. Returns the number of matching documents, and the bytes of their entries
        unless it only `counts`. Returns None where more than `most` documents would be tested, or
        one is damaged; a `limit` below 0 is none.
        """
        cdef vector[const FieldKeys*] known
        cdef vector[Span] spans
        cdef const FieldKeys* chosen = NULL
        cdef unique_ptr[RowStream] stream
        cdef unique_ptr[OneSelector] selector
        cdef int64_t row = -1
        cdef int64_t count = documents._documents.count()
        cdef const int64_t* edges = NULL
        cdef size_t run
        cdef const uint8_t* data
        cdef Py_ssize_t tested = 0, number = 0
        cdef cbool sound = True
        cdef cbool skip, has_newer = bool(newer)
        cdef RowSet rows
        cdef Buffer found
        for one in keys:
            chosen = NULL
            if one is not None:
                chosen = &(<SortedKeys?>one)._keys
            known.push_back(chosen)
        if known.size() != self._conditions.size():
            raise ValueError("the keys are not as many as the conditions")
        chosen = fewest(self._conditions, known, spans)
        if chosen != NULL:
            if chosen.documents != <uint64_t>count:
                raise ValueError("the keys are of other documents")
            if limit < 0 and rows_in(spans) > <size_t>most:
                return None
            stream.reset(new RowStream(chosen[0], spans, limit < 0))
        elif limit < 0 and count > most:
            return None
        selector.reset(new OneSelector(self._root, self._fields, 0))
        while limit < 0 or number < limit:
            if chosen == NULL:
                row += 1
                if row == count:
                    break
            elif not stream.get().next(row):
                break
            if tested == most:
                return None
            tested += 1
            skip = False
            for rows in superseded:
                if rows.c_has(row + start):
                    skip = True
                    break
            if skip:
                continue
            run = documents._documents.locate(row, edges)
            data = documents._documents.data[run]
            if not selector.get().matches_one(data, documents._documents.sizes[run], edges, sound):
                if not sound:
                    return None
                continue
            if has_newer:
                identity = _identity(data + edges[0], data + edges[1])
                for ids in newer:
                    if identity in ids:
                        skip = True
                        break
                if skip:
                    continue
            number += 1
            if not counts:
                found.append(data + edges[0], <size_t>(edges[2] - edges[0]))
        return number, _raw(found.data(), found.size())

    cdef int _locate(self, Condition* leaf, str path) except -1:
        """Set the path of a leaf; return 0 for a path that is not plain."""
        cdef Py_ssize_t size, at
        cdef const char* text
        cdef bytes name
        if not _is_ascii(path):
            return 0
        text = PyUnicode_AsUTF8AndSize(path, &size)
        if size and text[0] == c"$":
            return 0
        if size >= 3 and memcmp(text, b"_id", 3) == 0:
            return 0
        leaf.path.assign(text, <size_t>size)
        for at in range(size + 1):
            if at == size or text[at] == c".":
                name = PyBytes_FromStringAndSize(text, at)
                place = self._places.get(name)
                if place is None:
                    place = self._places[name] = len(self._places)
                    self._fields.push_back(<string>name)
                leaf.ends.push_back(<size_t>at)
                leaf.located.push_back(<size_t>place)
        return 1

    cdef int _add_equal(self, str path, values) except -1:
        """Add a condition on equality with one of some scalars; return 0 if it is not plain."""
        cdef unique_ptr[Condition] leaf
        cdef Alternatives condition
        cdef KeyRange one
        cdef cbool few = len(values) <= kMaxCompared
        cdef bytes raw
        cdef const uint8_t* data
        leaf.reset(new Condition())
        leaf.get().op = <Op>3
        leaf.get().few = few
        if not values or not self._locate(leaf.get(), path):
            return 0
        for value in values:
            raw = _packed_scalar(value)
            if raw is None:
                return 0
            data = <const uint8_t*>PyBytes_AS_STRING(raw)
            if few:
                leaf.get().literals.push_back(
                    Literal.of_value(data, data + PyBytes_GET_SIZE(raw)))
            else:
                leaf.get().scalars.add(data, data + PyBytes_GET_SIZE(raw))
            one = KeyRange()
            if value is None:
                leaf.get().accepts_absent = True
                one.type, one.flag = RangeType.Flag, kNulls
            elif not (_set_bound(one, value, True) and _set_bound(one, value, False)):
                return 0
            condition.ranges.push_back(one)
        self._add(leaf, condition, path)
        return 1

    cdef int _add_bound(self, str path, object value, cbool is_low, cbool equal) except -1:
        cdef unique_ptr[Condition] leaf
        cdef Alternatives condition
        cdef KeyRange one
        cdef bytes raw = _packed_scalar(value)
        cdef const uint8_t* data
        if raw is None or value is None or type(value) is bool:
            return 0
        leaf.reset(new Condition())
        leaf.get().op = <Op>4
        leaf.get().few = True
        leaf.get().order = (4 if is_low else 1) | (2 if equal else 0)
        if not self._locate(leaf.get(), path) or not _set_bound(one, value, is_low):
            return 0
        data = <const uint8_t*>PyBytes_AS_STRING(raw)
        leaf.get().literals.push_back(Literal.of_value(data, data + PyBytes_GET_SIZE(raw)))
        condition.ranges.push_back(one)
        self._add(leaf, condition, path)
        return 1

    cdef int _add(self, unique_ptr[Condition]& leaf, Alternatives& condition, str path) except -1:
        leaf.get().prepare()
        condition.other = -1
        self._root.children.push_back(move(leaf))
        self._conditions.push_back(condition)
        self._paths.append(path)
        return 0

    cdef int _add_operators(self, str path, dict operators) except -1:
        cdef int low = -1, high = -1
        cdef cbool is_low
        if not operators:
            return 0
        for name, value in operators.items():
            if type(name) is not str:
                return 0
            if name == "$eq":
                if not self._add_equal(path, (value,)):
                    return 0
            elif name == "$in":
                if type(value) not in (list, tuple) or not self._add_equal(path, value):
                    return 0
            elif name in ("$gt", "$gte", "$lt", "$lte"):
                is_low = (<str>name).startswith("$g")
                if not self._add_bound(path, value, is_low, (<str>name).endswith("e")):
                    return 0
                if is_low:
                    low = <int>self._conditions.size() - 1
                else:
                    high = <int>self._conditions.size() - 1
            else:
                return 0
        if low >= 0 and high >= 0:
            self._conditions[<size_t>low].other = high
            self._conditions[<size_t>high].other = low
        return 1


cdef size_t kMaxCompared = 8  # as in programs.py


def plain_filter(filter):
    """Compile a mapping filter in one step; None for a filter that is not plain, or wrong."""
    cdef PlainFilter made
    if type(filter) is not dict or not filter:
        return None
    made = PlainFilter.__new__(PlainFilter)
    made._places, made._paths = {}, []
    made._root.op = <Op>0
    for path, value in (<dict>filter).items():
        if type(path) is not str:
            return None
        kind = type(value)
        if kind is dict:
            if not made._add_operators(path, value):
                return None
        elif not made._add_equal(path, value if kind is list or kind is tuple else (value,)):
            return None
    made.paths = tuple(made._paths)
    return made


cdef bytes _packed_scalar(object value):
    """Return the MessagePack of a scalar; None if it is not plain."""
    cdef char head[9]
    cdef uint64_t bits
    cdef double real
    cdef Py_ssize_t size
    cdef const char* text
    cdef int index
    kind = type(value)
    if kind is str:
        if not _is_ascii(value):
            return None
        text = PyUnicode_AsUTF8AndSize(value, &size)
        if size >= 1 << 31:
            return None
        if size < 32:
            head[0] = <char>(0xa0 | size)
            return PyBytes_FromStringAndSize(head, 1) + PyBytes_FromStringAndSize(text, size)
        head[0] = <char>0xdb
        bits = <uint64_t>size
        for index in range(4):
            head[1 + index] = <char>(bits >> (24 - 8 * index) & 0xff)
        return PyBytes_FromStringAndSize(head, 5) + PyBytes_FromStringAndSize(text, size)
    if kind is bool:
        return b"\xc3" if value else b"\xc2"
    if kind is int:
        if value < 0:
            if value < -(1 << 63):
                return None
            head[0] = <char>0xd3
            bits = <uint64_t><int64_t>value
        else:
            if value >> 64:
                return None
            head[0] = <char>0xcf
            bits = value
    elif kind is float:
        real = value
        if real != real:
            return None
        head[0] = <char>0xcb
        memcpy(&bits, &real, 8)
    elif value is None:
        return b"\xc0"
    else:
        return None
    for index in range(8):
        head[1 + index] = <char>(bits >> (56 - 8 * index) & 0xff)
    return PyBytes_FromStringAndSize(head, 9)


cdef class RowSet:
    """Sorted rows, of which it tells whether they have one."""

    cdef object _kept
    cdef const int64_t* _rows
    cdef size_t _count

    def __init__(self, rows):
        cdef const int64_t[::1] found = rows
        self._kept = rows
        self._rows = &found[0]
        self._count = found.shape[0]

    cdef inline cbool c_has(self, int64_t row) noexcept:
        cdef size_t first = 0, last = self._count, middle
        while first < last:
            middle = (first + last) // 2
            if self._rows[middle] < row:
                first = middle + 1
            else:
                last = middle
        return first < self._count and self._rows[first] == row

    def __contains__(self, int64_t row):
        return self.c_has(row)

    def __len__(self):
        return self._count
