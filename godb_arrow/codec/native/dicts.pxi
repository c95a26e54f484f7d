# Dicts: documents to Python objects and back. Included in _native.pyx.

cdef extern from "dictdecode.hpp" namespace "godb":
    cbool set_dict_types(object timestamp, object extension) except False
    PyObject* c_load_value "godb::load_value"(const uint8_t* data, size_t size) except? NULL

    cdef cppclass DictSource:
        const uint8_t* data
        size_t size
        const int64_t* bounds
        size_t entries
        const int64_t* rows
        size_t count

    object c_load_documents "godb::load_documents"(const DictSource& source, size_t first)
    void c_use_slots "godb::choose_slots"(cbool wanted)


cdef extern from "dictencode.hpp" namespace "godb":
    PyObject* c_pack_value "godb::pack_value"(object value, object convert) except? NULL

    cdef enum class IdsOf:
        Sequence
        Documents
        Other

    IdsOf c_id_source "godb::id_source"(list documents)

    cdef cppclass EntryEncoder:
        EntryEncoder(object convert) except +
        Buffer entries
        Buffer bounds
        Buffer offsets
        Buffer id_bytes
        PyObject* ids "texts.get"()

    cbool c_pack_documents "godb::pack_documents"(
        list documents, uint64_t number, EntryEncoder& to) except? False
    cbool c_pack_single "godb::pack_single"(
        object document, uint64_t number, EntryEncoder& to) except? False


set_dict_types(Timestamp_, ExtType_)


cdef object other_load, other_pack, other_record, stored_value


def register(load, pack, record, stored):
    """Remember the functions of the reference codec for rare values, and for values that
    MessagePack lacks."""
    global other_load, other_pack, other_record, stored_value
    other_load, other_pack, other_record, stored_value = load, pack, record, stored


def load(data):
    """Decode one document, as `godb_arrow.codec.reference.dicts` does."""
    if type(data) is not bytes:
        return other_load(data)
    cdef PyObject* made = c_load_value(
        <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
    if made == NULL:
        return other_load(data)
    value = <object>made
    Py_DECREF_(made)
    return value


def load_documents(
    const uint8_t[::1] data not None,
    const int64_t[::1] bounds not None,
    const int64_t[::1] rows,
    size_t first,
):
    """Decode some documents to a list, beginning with the row at `first`.

    The list ends before a document that the reference codec must decode. `rows` are indices of
    entries, or None for all."""
    cdef DictSource source
    source.size = data.shape[0]
    source.data = &data[0] if source.size else NULL
    source.bounds = &bounds[0]
    source.entries = bounds.shape[0] // 2
    source.rows = NULL
    source.count = source.entries
    if rows is not None:
        source.count = rows.shape[0]
        source.rows = &rows[0] if source.count else NULL
    return c_load_documents(source, first)


def use_slots(cbool wanted):
    """Choose whether dicts are filled without a search, where their layout is known."""
    c_use_slots(wanted)


cdef int forks = 0


def note_fork():
    """Note that this process was forked from another one."""
    global forks
    forks += 1


cdef class ChunkIterator:
    """See `godb_arrow.codec.reference.dicts`."""

    cdef list _chunk
    cdef Py_ssize_t _at
    cdef int _forks

    def __cinit__(self, *_, **__):
        self._chunk = []
        self._at = 0
        self._forks = forks
        # Cython adds a method `__next__`, which Python would call for each item of a subclass.
        cdef PyTypeObject* kind = Py_TYPE(self)
        cdef PyTypeObject* own = <PyTypeObject*>ChunkIterator
        if kind.tp_iternext != own.tp_iternext and type(self).__next__ is ChunkIterator.__next__:
            kind.tp_iternext = own.tp_iternext

    def __init__(self):
        pass

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            with cython.critical_section(self):
                if self._forks == forks and self._at < len(self._chunk):
                    item = self._chunk[self._at]
                    self._chunk[self._at] = None
                    self._at += 1
                    return item
            self._fill()

    def _fill(self):
        raise StopIteration

    @property
    def has_items(self):
        with cython.critical_section(self):
            return self._at < len(self._chunk)

    def give(self, list items not None):
        """Set the items to return next."""
        with cython.critical_section(self):
            self._chunk = items
            self._at = 0


def pack(value):
    """Encode a value, as `godb_arrow.codec.values` does."""
    cdef PyObject* made = c_pack_value(value, stored_value)
    if made == NULL:
        return other_pack(value)
    packed = <object>made
    Py_DECREF_(made)
    return packed


def id_source(list documents not None):
    """Return 0 if no document has an id, 1 if all have a text or an integer, else 2."""
    return <int>c_id_source(documents)


def pack_documents(list documents not None, uint64_t number):
    """Encode documents as entries, with consecutive numbers as ids or, for 0, with their own ids.

    Return the entries, the bounds, offsets of the ids, the ids and a list of them as texts, or None
    for the reference codec."""
    cdef unique_ptr[EntryEncoder] encoder
    encoder.reset(new EntryEncoder(stored_value))
    if not c_pack_documents(documents, number, encoder.get()[0]):
        return None
    return (
        _copied(encoder.get().entries), _copied(encoder.get().bounds),
        _copied(encoder.get().offsets), _copied(encoder.get().id_bytes),
        <object>encoder.get().ids(),
    )


def pack_single(document, uint64_t number):
    """Encode one document, with a number as its id or, for 0, with its own id.

    Return the id, the entry, the document, and the number that the id is or 0. Return None for the
    reference codec."""
    cdef unique_ptr[EntryEncoder] encoder
    encoder.reset(new EntryEncoder(stored_value))
    if not c_pack_single(document, number, encoder.get()[0]):
        return None
    cdef const uint8_t* data = encoder.get().entries.data()
    cdef size_t size = encoder.get().entries.size()
    cdef size_t start = (<const int64_t*>encoder.get().bounds.data())[1]
    return (
        (<list>encoder.get().ids())[0],
        PyBytes_FromStringAndSize(<const char*>data, size),
        PyBytes_FromStringAndSize(<const char*>data + start, size - start),
        number or c_number_of(
            encoder.get().id_bytes.data(), encoder.get().id_bytes.size(),
            encoder.get().id_bytes.capacity()),
    )
