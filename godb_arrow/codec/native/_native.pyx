# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
# distutils: language = c++
"""Compiled kernel for the work on bytes that takes long, without the GIL.

It wraps the C++ of the folder ``native`` in functions on plain Python objects, from which
`godb_arrow.codec.native` builds the functions that both codecs have.
"""

from array import array
from os import write as os_write

cimport cython

from msgpack import ExtType as ExtType_
from msgpack import Timestamp as Timestamp_

from cpython cimport array as c_array
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from cpython.ref cimport PyObject
from libcpp cimport bool as cbool
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.unordered_set cimport unordered_set
from libcpp.utility cimport move, pair
from libcpp.vector cimport vector


cdef extern from "Python.h":
    PyObject* PyBytes_FromStringAndSize_ "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject** bytes, Py_ssize_t size) except -1
    void Py_DECREF_ "Py_DECREF"(PyObject*)

    ctypedef void* iternextfunc

    ctypedef struct PyTypeObject:
        iternextfunc tp_iternext

    PyTypeObject* Py_TYPE(object)


cdef extern from "memory.hpp" namespace "godb" nogil:
    void prefer_large_pages(void* data, size_t size)

    cdef struct Block "godb::BlockPool::Block":
        uint8_t* data
        size_t capacity

    cdef cppclass BlockPool:
        @staticmethod
        BlockPool& shared()
        void give(uint8_t* data, size_t capacity)
        size_t bytes()
        void shrink(size_t most, cbool lasting)

    cdef cppclass Buffer:
        Buffer()
        uint8_t* data()
        size_t size()
        size_t capacity()
        void append(const void* data, size_t size) except +
        void truncate(size_t size)
        void reserve(size_t more) except +
        Block release()

    cdef cppclass Bitmap:
        size_t size()
        Buffer& bytes()


cdef extern from "bytes.hpp" namespace "godb" nogil:
    cdef struct Head:
        const uint8_t* body
        uint64_t size

    Head read_head(const uint8_t* p, const uint8_t* end)


cdef extern from "lz4.hpp" namespace "godb" nogil:
    cdef enum class Status "godb::Lz4Decoder::Status":
        NeedInput
        HaveOutput
        BadDistance

    cdef cppclass Lz4Decoder:
        Lz4Decoder() except +
        uint64_t position()
        uint32_t bad_distance()
        cbool complete()
        Status run(const uint8_t*& data, const uint8_t* end, const uint8_t* base, uint8_t*& out,
                   uint8_t* limit)

    cdef cppclass Lz4Compressor:
        Lz4Compressor(uint64_t max_ratio) except +
        size_t run(const uint8_t* data, size_t size, Buffer& out) except +

    cdef struct Piece:
        size_t at
        size_t length
        size_t skip
        size_t tail
        size_t size

    cdef cppclass PieceDecoder:
        PieceDecoder(const uint8_t* data, size_t size)
        cbool run(const Piece& piece, uint8_t* out)


cdef extern from "scan.hpp" namespace "godb" nogil:
    cdef enum class Scanned:
        Done
        BadId
        BadDocument
        Invalid
        TooDeep

    cdef struct Skipped:
        size_t position
        uint64_t items
        uint64_t payload
        cbool invalid

    Skipped c_skip_items "godb::skip_items"(
        const uint8_t* data, size_t size, size_t position, uint64_t items)
    cdef cppclass EntryScanner:
        EntryScanner(const vector[string]& wanted) except +
        Scanned run(
            const uint8_t* data, size_t size, size_t start, size_t count, size_t max_bytes,
            vector[int64_t]& bounds, vector[uint32_t]& places, size_t& at) except +

    Scanned c_scan_extent "godb::scan_extent"(
        const uint8_t* data, size_t size, size_t start, size_t count, size_t max_bytes,
        size_t& found, size_t& end, size_t& at) except +
    cbool c_scan_fronts "godb::scan_fronts"(
        const uint8_t* data, size_t size, const int64_t* edges, size_t count,
        const vector[string]& wanted, int64_t* bounds, uint32_t* places) except +
    void c_add_sizes "godb::add_sizes"(
        const uint8_t* packed, int bits, int64_t least, int64_t* edges, size_t count)
    cbool c_measure_entries "godb::measure_entries"(
        const uint8_t* data, size_t size, size_t count, vector[uint32_t]& sizes) except +
    int64_t c_find_entry "godb::find_entry"(
        const uint8_t* data, const int64_t* bounds, size_t count, const uint8_t* id, size_t size)


cdef extern from "keys.hpp" namespace "godb" nogil:
    cdef cppclass Keys:
        size_t size()
        const string& name(size_t index)
        int add(const uint8_t* data, size_t size) except +


cdef extern from "presence.hpp" namespace "godb" nogil:
    void c_count_present "godb::count_present"(
        const uint8_t* data, const int64_t* bounds, size_t count, Keys& names,
        vector[int64_t]& counts) except +


cdef extern from "values.hpp" namespace "godb" nogil:
    cdef cppclass ValueColumns:
        Buffer rows
        Buffer kinds
        Buffer words
        Buffer sizes

    cdef cppclass ValueFinder:
        ValueFinder(const vector[string]& parts) except +
        cbool run(const uint8_t* data, const int64_t* bounds, size_t count,
                  ValueColumns& out) except +


cdef extern from "bounds.hpp" namespace "godb" nogil:
    cdef cppclass OrderedText:
        const uint8_t* data
        size_t size

    cdef cppclass Stamp "godb::Timestamp":
        int64_t seconds
        uint32_t nanoseconds

    cdef cppclass Extent[Value]:
        uint32_t count
        Value low
        Value high

    cdef cppclass TextExtent "godb::Extent<godb::OrderedText, godb::TextBefore>":
        uint32_t count
        OrderedText low
        OrderedText high

    cdef cppclass StampExtent "godb::Extent<godb::Timestamp, godb::StampBefore>":
        uint32_t count
        Stamp low
        Stamp high

    cdef cppclass Texts:
        TextExtent extent
        size_t longest

    cdef cppclass ValueBounds:
        uint32_t values
        uint32_t documents
        uint32_t nulls
        uint32_t trues
        uint32_t falses
        uint32_t nans
        uint32_t others
        Extent[int64_t] integers
        Extent[uint64_t] above_int64
        Extent[double] floats
        StampExtent moments
        Texts strings
        Texts binaries


cdef extern from "summary.hpp" namespace "godb" nogil:
    int kKinds

    cdef cppclass Summary:
        uint32_t kinds
        uint32_t* first
        unique_ptr[Summary] item
        Keys keys
        vector[unique_ptr[Summary]] fields
        unique_ptr[Summary] values
        unique_ptr[ValueBounds] bounds

    cdef enum class Inferred:
        Done
        Corrupt
        Partial

    cdef cppclass Inference:
        Inference(size_t max_keys, size_t max_columns, cbool has_bounds) except +
        Summary& root()
        Summary& id()
        uint32_t document()
        void expect(const uint8_t* data, size_t size) except +
        Inferred add(const uint8_t* data, const int64_t* bounds, size_t count) except +


cdef extern from "blocks.hpp" namespace "godb" nogil:
    cdef enum class Core:
        pass

    cdef cppclass Column:
        Column() except +
        Core core
        cbool exact
        int64_t unit
        string name
        string type_name
        vector[unique_ptr[Column]] children
        Keys keys
        size_t length
        size_t nulls
        Bitmap valid
        Bitmap bits
        Buffer values
        Buffer offsets
        void push_offset(size_t at) except +

    cdef enum class Problem:
        Nothing "godb::Problem::None"
        Corrupt
        Mismatch
        UnknownField
        TooLarge

    cdef cppclass Failure:
        Problem problem
        size_t document
        vector[string] parts
        string expected
        const uint8_t* value
        const uint8_t* end
        string field

    cdef cppclass Decoder:
        Decoder(Column& root, Column* id, cbool strict, cbool null_mismatch, cbool is_guess) except +
        Failure& failure()
        cbool run(
            const uint8_t* data, const int64_t* bounds, size_t count, cbool whole,
            const uint32_t* places, size_t width, const int* order) except +
        cbool run_entries(const uint8_t* data, size_t size, size_t count) except +


cdef extern from "encode.hpp" nogil:
    cdef struct ArrowArray:
        int64_t length

cdef extern from "encode.hpp" namespace "godb" nogil:
    cbool offsets_ascend(const ArrowArray* texts)

    cdef enum class Wire:
        pass

    cdef cppclass WireColumn:
        WireColumn() except +
        Wire wire
        int64_t unit
        Buffer key
        vector[unique_ptr[WireColumn]] children
        cbool bind(const ArrowArray* array)

    cdef cppclass Encoder:
        Encoder(Buffer& out, cbool omit_nulls) except +
        cbool run(const ArrowArray* ids, WireColumn& root, uint32_t* sizes) except +
        cbool leads_outside()


cdef extern from "steps.hpp" namespace "godb":
    void raise_interrupted()


cdef extern from "ids.hpp" namespace "godb" nogil:
    void c_sort_hashes "godb::sort_hashes"(
        uint64_t* hashes, uint64_t* rows, size_t count) except +raise_interrupted
    uint64_t c_survey_ids "godb::survey_ids"(const ArrowArray* ids, Buffer& hashes) except +
    cbool c_ids_ascend "godb::ids_ascend"(const ArrowArray* ids, uint64_t& greatest)
    uint64_t c_number_of "godb::number_of"(const uint8_t* id, size_t size, size_t readable)
    uint64_t c_hash_id "godb::hash_id"(const uint8_t* data, size_t size)
    cbool c_has_equal "godb::has_equal"(const uint64_t* hashes, size_t count) except +


cdef extern from "extremes.hpp" namespace "godb" nogil:
    void c_text_extremes "godb::text_extremes"(
        const ArrowArray* texts, int64_t& least, int64_t& greatest)


cdef extern from "predicate.hpp" namespace "godb" nogil:
    size_t kId

    cdef cppclass Number:
        cbool is_nan
        cbool is_whole
        double low
        double high
        void set_below(int64_t high, uint64_t low)

    cdef cppclass Digits:
        @staticmethod
        cbool read(const uint8_t* p, size_t size, Digits& digits) except +

    cdef cppclass Literal:
        Number number
        cbool is_decimal
        Digits digits
        @staticmethod
        Literal of_value "of"(const uint8_t* p, const uint8_t* end) except +
        @staticmethod
        Literal of_number()

    cdef enum class Op:
        pass

    cdef cppclass LiteralSet:
        void add(const uint8_t* p, const uint8_t* end) except +

    cdef cppclass LiteralNumbers:
        void add(const uint8_t* p, const uint8_t* end) except +

    cdef cppclass Condition:
        Op op
        vector[unique_ptr[Condition]] children
        cbool has_pattern
        cbool is_self
        cbool is_id
        string path
        vector[size_t] ends
        vector[size_t] located
        vector[Literal] literals
        LiteralSet scalars
        LiteralSet containers
        LiteralNumbers every
        unordered_set[string] decimals
        cbool few
        cbool contained
        cbool accepts_absent
        uint8_t order
        uint32_t types
        uint64_t count
        cbool is_map
        size_t pattern
        void prepare() except +

    cdef cppclass Asked:
        vector[pair[size_t, size_t]] texts
        const uint8_t* answers

    cdef cppclass Selector:
        Selector(const Condition& root, const vector[string]& fields, size_t patterns) except +
        Asked& asked(size_t pattern)
        cbool run(
            const uint8_t* data, size_t size, const int64_t* bounds, size_t count,
            const uint32_t* places, size_t width, const int* order, cbool collect,
            vector[int64_t]& rows) except +


cdef extern from "jsonread.hpp" namespace "godb" nogil:
    cdef enum class JsonStop:
        pass

    cdef cppclass JsonReader:
        JsonReader(const uint8_t* begin, const uint8_t* end, cbool is_dialect, uint8_t* to,
                   size_t room)
        @staticmethod
        size_t room_for(size_t text)
        Buffer& documents()
        vector[int64_t]& bounds()
        JsonStop run(size_t& at, cbool in_array, cbool& is_first) except +

    cdef cppclass CJsonScanner "godb::JsonScanner":
        int64_t run(const uint8_t* data, size_t size, int64_t level)


cdef extern from "jsonchars.hpp" namespace "godb" nogil:
    size_t c_count_line_feeds "godb::count_line_feeds"(const uint8_t* text, size_t size)
    cbool c_may_have_controls "godb::may_have_controls"(const uint8_t* text, size_t size)


cdef extern from "jsontext.hpp" namespace "godb" nogil:
    cdef cppclass JsonWriter:
        JsonWriter(Buffer& out, cbool simple)
        cbool line(const uint8_t* id, const uint8_t* document, const uint8_t* end) except +


cdef extern from "check.hpp" namespace "godb" nogil:
    cdef cppclass Checked:
        vector[uint32_t] damaged
        vector[uint32_t] differing
        Buffer hashes
        uint64_t greatest
        cbool has_odd_keys

    cdef cppclass EntryChecker:
        EntryChecker(const uint8_t* data, const int64_t* bounds, size_t count) except +
        void run(Checked& found) except +


cdef extern from "identify.hpp" namespace "godb" nogil:
    cdef cppclass Identifier:
        Identifier(const uint8_t* data, const int64_t* bounds, size_t count, string field) except +
        void locate(vector[uint32_t]& rows) except +
        int64_t invalid()
        size_t room()
        void run(const int64_t* numbers, uint8_t* to, size_t room) except +
        Buffer& entries()
        Buffer& edges()
        Buffer& ids()
        Buffer& offsets()


cdef class OwnedBuffer:
    """Memory that the kernel allocated and an Arrow buffer keeps."""

    cdef Block _block
    cdef size_t _size

    def __dealloc__(self):
        BlockPool.shared().give(self._block.data, self._block.capacity)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._block.data, <Py_ssize_t>self._size, 1, flags)


cdef bytes _bytes(const string& text):
    return PyBytes_FromStringAndSize(text.data(), <Py_ssize_t>text.size())


cdef OwnedBuffer _own(Buffer& buffer):
    cdef OwnedBuffer owned = OwnedBuffer.__new__(OwnedBuffer)
    owned._size = buffer.size()
    owned._block = buffer.release()
    return owned


def pooled_bytes():
    """Return the bytes of freed columns that are kept for the next ones."""
    return BlockPool.shared().bytes()


def shrink_blocks(size_t most, cbool lasting):
    """Free the memory that is kept for columns above a size; if lasting, also from then on."""
    BlockPool.shared().shrink(most, lasting)


# --- LZ4 ------------------------------------------------------------------------------------


cdef class BlockDecoder:
    """See `godb_arrow.codec.native`."""

    cdef Lz4Decoder* _decoder
    cdef bytes _input            # bytes that were fetched last
    cdef const uint8_t* _at      # end of the bytes that are decoded
    cdef const uint8_t* _end
    cdef cbool _more             # whether there may be output that needs no more input

    def __cinit__(self):
        self._decoder = new Lz4Decoder()
        self._input = b""
        self._at = self._end = NULL
        self._more = False

    def __dealloc__(self):
        del self._decoder

    def fill(self, uint8_t[::1] buffer not None, size_t start, size_t end, size_t limit, fetch):
        """Return the end of the output, a bad distance or -1, and whether the input ended."""
        if not start <= end <= limit <= <size_t>buffer.shape[0]:
            raise ValueError("the output is not within the buffer")
        if end == limit:
            return end, -1, False
        cdef uint8_t* begin = &buffer[0]
        cdef uint8_t* out = begin + end
        cdef const uint8_t* p
        cdef Status status = Status.NeedInput
        while out < begin + limit:
            if self._at == self._end and not self._more:
                self._input = fetch()
                self._at = <const uint8_t*>PyBytes_AS_STRING(self._input)
                self._end = self._at + PyBytes_GET_SIZE(self._input)
                if self._at == self._end:
                    return out - begin, -1, True
            p = self._at
            with nogil:
                status = self._decoder.run(p, self._end, begin + start, out, begin + limit)
            self._at = p
            self._more = status == Status.HaveOutput
            if status == Status.BadDistance:
                return out - begin, self._decoder.bad_distance(), False
        return out - begin, -1, False

    @property
    def position(self):
        return self._decoder.position()

    @property
    def complete(self):
        return self._decoder.complete()


def compress_piece(bytes content not None, uint64_t max_ratio):
    """Return the sequences of a piece, and the number of literals left."""
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(content)
    cdef size_t size = PyBytes_GET_SIZE(content)
    cdef unique_ptr[Lz4Compressor] compressor
    cdef Buffer out
    cdef size_t left
    compressor.reset(new Lz4Compressor(max_ratio))
    with nogil:
        left = compressor.get().run(data, size, out)
    return PyBytes_FromStringAndSize(<const char*>out.data(), <Py_ssize_t>out.size()), left


cdef vector[Piece] _pieces(pieces):
    """Convert pieces (at, length, skip, tail, size) to the kernel's."""
    cdef vector[Piece] found
    cdef Piece piece
    for at, length, skip, tail, decoded in pieces:
        piece.at, piece.length, piece.skip, piece.tail, piece.size = at, length, skip, tail, decoded
        found.push_back(piece)
    return found


cdef size_t _total(const vector[Piece]& pieces):
    cdef size_t total = 0
    cdef size_t index
    for index in range(pieces.size()):
        total += pieces[index].size
    return total


cdef size_t _decode_pieces(
    const uint8_t* data, size_t size, const vector[Piece]& pieces, uint8_t* to
):
    """Return the number of pieces decoded before a damaged one."""
    cdef unique_ptr[PieceDecoder] decoder
    cdef size_t total = _total(pieces)
    cdef size_t index = 0
    decoder.reset(new PieceDecoder(data, size))
    with nogil:
        prefer_large_pages(to, total)
        while index < pieces.size() and decoder.get().run(pieces[index], to):
            to += pieces[index].size
            index += 1
    return index


def decode_pieces(const uint8_t[::1] data not None, pieces):
    """Return the decoded pieces and None, or None and the index of a damaged piece."""
    cdef const uint8_t* begin = &data[0]
    cdef size_t size = data.shape[0]
    cdef vector[Piece] found = _pieces(pieces)
    result = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>_total(found))
    cdef size_t done = _decode_pieces(begin, size, found, <uint8_t*>PyBytes_AS_STRING(result))
    return (result, -1) if done == found.size() else (None, done)


def decode_pieces_into(const uint8_t[::1] data not None, pieces, uint8_t[::1] into not None):
    """Decode pieces into memory of the exact size; return the index of a damaged piece, or -1."""
    cdef vector[Piece] found = _pieces(pieces)
    if _total(found) != <size_t>into.shape[0]:
        raise ValueError("the memory does not have the size of the pieces")
    cdef size_t done = _decode_pieces(&data[0], data.shape[0], found, &into[0])
    return -1 if done == found.size() else done


# --- Finding documents ----------------------------------------------------------------------


cdef c_array.array _INT64S = array("q")


def scan(const uint8_t[::1] data not None, size_t start, size_t count, size_t max_bytes, fields=()):
    """Return bounds of the whole entries from `start`, a problem (0 is none) with its position, and
    the positions of the values of some fields in each document (0 is unknown)."""
    cdef const uint8_t* begin = &data[0]
    cdef size_t size = data.shape[0]
    cdef vector[int64_t] bounds
    cdef vector[uint32_t] places
    cdef vector[string] wanted
    cdef size_t at = start
    cdef unique_ptr[EntryScanner] scanner
    cdef Scanned scanned
    for field in fields:
        wanted.push_back(<bytes>field)
    scanner.reset(new EntryScanner(wanted))
    with nogil:
        bounds.push_back(<int64_t>start)
        scanned = scanner.get().run(begin, size, start, count, max_bytes, bounds, places, at)
    return _bounds(bounds), <int>scanned, at, _places(places)


def scan_extent(
    const uint8_t[::1] data not None, size_t start, size_t count, size_t max_bytes
):
    """Return the number of whole entries from `start`, their end, and a problem with its position."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t* begin = &data[0] if size else NULL
    cdef size_t found = 0
    cdef size_t end = start
    cdef size_t at = start
    cdef Scanned scanned
    if start > size:
        raise ValueError("the entries do not start within the bytes")
    with nogil:
        scanned = c_scan_extent(begin, size, start, count, max_bytes, found, end, at)
    return found, end, <int>scanned, at


cdef c_array.array _bounds(vector[int64_t]& bounds):
    cdef c_array.array found = c_array.clone(_INT64S, <Py_ssize_t>bounds.size(), False)
    memcpy(found.data.as_voidptr, bounds.data(), bounds.size() * 8)
    return found


cdef bytes _places(vector[uint32_t]& places):
    return PyBytes_FromStringAndSize(<const char*>places.data(), <Py_ssize_t>(places.size() * 4))


def scan_fronts(const uint8_t[::1] data not None, const int64_t[::1] edges not None, fields):
    """Return bounds of entries with known edges, and the positions of some fields; None where the
    edges are wrong."""
    cdef const uint8_t* begin = &data[0]
    cdef size_t size = data.shape[0]
    cdef size_t count = edges.shape[0] - 1
    cdef vector[string] wanted
    cdef cbool right
    for field in fields:
        wanted.push_back(<bytes>field)
    cdef c_array.array bounds = c_array.clone(_INT64S, <Py_ssize_t>(2 * count + 1), False)
    cdef bytes places = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(4 * count * wanted.size()))
    cdef int64_t* found = <int64_t*>bounds.data.as_voidptr
    cdef uint32_t* noted = <uint32_t*>PyBytes_AS_STRING(places)
    with nogil:
        right = c_scan_fronts(begin, size, &edges[0], count, wanted, found, noted)
    return (bounds, places) if right else None


def add_sizes(packed, heads, counts, totals, size_t head_size, int64_t[::1] edges not None):
    """Add up packed sizes (given their bits and min size) to edges; return whether totals match."""
    cdef size_t first = 0
    cdef size_t room = edges.shape[0]
    cdef size_t count
    cdef int64_t end = 0
    cdef int64_t least
    cdef int bits
    cdef bytes sizes
    for one, head, count, total in zip(packed, heads, counts, totals):
        sizes = one
        bits, least = head
        if count >= room - first or head_size + (count * bits + 7) // 8 > <size_t>len(sizes):
            raise ValueError("the number of edges or sizes is wrong")
        c_add_sizes(
            <const uint8_t*>PyBytes_AS_STRING(sizes) + head_size, bits, least, &edges[first], count)
        first += count
        end += total
        if edges[first] != end:
            return False
    return True


def gather(
    const uint8_t[::1] data not None,
    const int64_t[::1] starts not None,
    const int64_t[::1] ends not None,
):
    """Concatenate parts of bytes."""
    cdef const uint8_t* begin = &data[0]
    cdef int64_t size = data.shape[0]
    cdef int64_t total = 0
    cdef Py_ssize_t index
    if starts.shape[0] != ends.shape[0]:
        raise ValueError("the number of ends differs from the number of starts")
    for index in range(starts.shape[0]):
        if not 0 <= starts[index] <= ends[index] <= size:
            raise ValueError("a part is not within the bytes")
        total += ends[index] - starts[index]
    cdef bytes gathered = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
    cdef char* to = PyBytes_AS_STRING(gathered)
    for index in range(starts.shape[0]):
        memcpy(to, begin + starts[index], <size_t>(ends[index] - starts[index]))
        to += ends[index] - starts[index]
    return gathered


def copied(const uint8_t[::1] data not None):
    """Return a copy of bytes."""
    cdef Py_ssize_t size = data.shape[0]
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size)
    cdef char* to = PyBytes_AS_STRING(made)
    if size:
        prefer_large_pages(to, size)
        with nogil:
            memcpy(to, &data[0], size)
    return made


def measure(const uint8_t[::1] data not None, size_t count):
    """Return the sizes of entries, four bytes each; None if they are damaged or have odd keys."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t* begin = &data[0] if size else NULL
    cdef vector[uint32_t] sizes
    cdef cbool measured
    with nogil:
        measured = c_measure_entries(begin, size, count, sizes)
    return _places(sizes) if measured else None


def skip(const uint8_t[::1] data not None, size_t position, items):
    """Return position, items and payload as skip_items does, and whether a byte is invalid."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t* begin = &data[0] if size else NULL
    cdef uint64_t count = items
    cdef Skipped skipped
    with nogil:
        skipped = c_skip_items(begin, size, position, count)
    return skipped.position, skipped.items, skipped.payload, skipped.invalid


def find(bytes data not None, const int64_t[::1] bounds not None, bytes identity not None):
    """Return the index of the last entry with this id, or -1."""
    cdef const uint8_t* begin = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef const uint8_t* id = <const uint8_t*>PyBytes_AS_STRING(identity)
    cdef size_t size = PyBytes_GET_SIZE(identity)
    cdef size_t count = bounds.shape[0] // 2
    cdef int64_t found
    with nogil:
        found = c_find_entry(begin, &bounds[0], count, id, size)
    return found


def count_present(bytes data not None, const int64_t[::1] bounds not None, names):
    """Count the documents that have a field with each name (bytes, all different)."""
    cdef const uint8_t* begin = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef size_t count = bounds.shape[0] // 2
    cdef Keys keys
    cdef vector[int64_t] counts
    for name in names:
        keys.add(<const uint8_t*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    with nogil:
        c_count_present(begin, &bounds[0], count, keys, counts)
    return list(counts)


def check_entries(const uint8_t[::1] data not None, const int64_t[::1] bounds not None):
    """Return the rows of damaged documents and of those that have another id, as 32 bits each, then
    the hashes of the ids, the max number of these, and whether a document has odd keys."""
    cdef unique_ptr[EntryChecker] checker
    cdef Checked found
    checker.reset(new EntryChecker(&data[0], &bounds[0], bounds.shape[0] // 2))
    with nogil:
        checker.get().run(found)
    return (_places(found.damaged), _places(found.differing), _copied(found.hashes),
            found.greatest, found.has_odd_keys)


cdef bytes _cut(PyObject* made, size_t size):
    """Return bytes that were made with more room, cut to a size."""
    _PyBytes_Resize(&made, <Py_ssize_t>size)
    result = <bytes><object>made
    Py_DECREF_(made)
    return result


cdef bytes _copied(Buffer& buffer):
    return PyBytes_FromStringAndSize(<const char*>buffer.data(), <Py_ssize_t>buffer.size())


def field_values(const uint8_t[::1] data not None, const int64_t[::1] bounds not None, parts):
    """Return rows, kinds, words and sizes of a field's values, or None for damaged bytes."""
    cdef const uint8_t* begin = &data[0]
    cdef size_t count = bounds.shape[0] // 2
    cdef vector[string] names
    cdef ValueColumns found
    cdef unique_ptr[ValueFinder] finder
    cdef cbool whole
    for part in parts:
        names.push_back(<string>part)
    finder.reset(new ValueFinder(names))
    with nogil:
        whole = finder.get().run(begin, &bounds[0], count, found)
    if not whole:
        return None
    return (_copied(found.rows), _copied(found.kinds), _copied(found.words),
            _copied(found.sizes))


# --- Inference ------------------------------------------------------------------------------


cdef object _summary(Summary* summary):
    cdef int bit
    cdef size_t index
    firsts = [
        (1 << bit, summary.first[bit]) for bit in range(kKinds) if summary.kinds >> bit & 1
    ]
    fields = []
    for index in range(summary.fields.size()):
        name = _bytes(summary.keys.name(index)).decode()
        fields.append((name, _summary(summary.fields[index].get())))
    item = _summary(summary.item.get()) if summary.item.get() != NULL else None
    values = _summary(summary.values.get()) if summary.values.get() != NULL else None
    return summary.kinds, firsts, item, fields, values


cdef object _texts(const Texts& texts):
    """Return the number of texts, the most bytes of one, and the least and the greatest."""
    if not texts.extent.count:
        return None
    low, high = texts.extent.low, texts.extent.high
    return (texts.extent.count, texts.longest,
            PyBytes_FromStringAndSize(<const char*>low.data, low.size),
            PyBytes_FromStringAndSize(<const char*>high.data, high.size))


cdef object _value_bounds(const ValueBounds* found):
    """Return the attributes of a ValueBounds of Python."""
    integers, above, floats = found.integers, found.above_int64, found.floats
    moments = found.moments
    return (
        found.values, found.documents, found.nulls, found.trues, found.falses, found.nans,
        found.others,
        (integers.low, integers.high) if integers.count else None,
        (above.low, above.high) if above.count else None,
        (floats.low, floats.high) if floats.count else None,
        ((moments.low.seconds, moments.low.nanoseconds),
         (moments.high.seconds, moments.high.nanoseconds)) if moments.count else None,
        _texts(found.strings), _texts(found.binaries),
    )


cdef object _bounds_of_fields(Summary* root, Summary* identity):
    cdef size_t index
    bounds = [("_id", _value_bounds(identity.bounds.get()))] if identity.bounds.get() else []
    for index in range(root.fields.size()):
        if root.fields[index].get().bounds.get():  # else the field was only expected
            name = _bytes(root.keys.name(index)).decode()
            bounds.append((name, _value_bounds(root.fields[index].get().bounds.get())))
    return bounds


def infer(
    bytes data not None,
    const int64_t[::1] bounds not None,
    size_t max_keys,
    size_t max_columns,
    list names not None,
    cbool has_bounds,
):
    """Return summaries of ids and documents, a problem (0 is none) with its document, and bounds.

    The fields in ``names`` have summaries in any case. Problem 2 is that other fields have none.
    With ``has_bounds``, each field that documents have has bounds.
    """
    cdef const uint8_t* begin = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef size_t count = bounds.shape[0] // 2
    cdef unique_ptr[Inference] inference
    cdef Inferred result
    cdef bytes name
    inference.reset(new Inference(max_keys, max_columns, has_bounds))
    for name in names:
        inference.get().expect(<const uint8_t*>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    with nogil:
        result = inference.get().add(begin, &bounds[0], count)
    if result == Inferred.Corrupt:
        return None, None, <int>result, inference.get().document(), []
    return (
        _summary(&inference.get().id()), _summary(&inference.get().root()), <int>result, 0,
        _bounds_of_fields(&inference.get().root(), &inference.get().id()),
    )


# --- Decoding -------------------------------------------------------------------------------


cdef void _fill(Column* column, object plan) except *:
    """Build a column tree from tuples: core, unit, name, type name, children, exact."""
    core, unit, name, type_name, children, exact = plan
    cdef unique_ptr[Column] child
    cdef bytes packed = name.encode()
    cdef int number = core
    column.core = <Core>number
    column.unit = unit
    column.exact = exact
    column.name = packed
    column.type_name = type_name.encode()
    for one in children:
        child.reset(new Column())
        _fill(child.get(), one)
        packed = one[2].encode()
        if number == 9:
            column.keys.add(<const uint8_t*>PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
        column.children.push_back(move(child))


cdef object _finished(Column* column):
    """Return length, nulls, buffers and children, as pyarrow's from_buffers takes them."""
    cdef int core = <int>column.core
    cdef size_t index
    buffers = [_own(column.valid.bytes()) if column.nulls else None]
    if core == 1:
        buffers.append(_own(column.bits.bytes()))
    elif core in (5, 6, 8, 10, 11):
        if column.offsets.size() == 0:
            column.push_offset(0)
            column.length = 0
        buffers.append(_own(column.offsets))
    if core in (2, 3, 4, 5, 6, 7, 11):
        buffers.append(_own(column.values))
    children = []
    for index in range(column.children.size()):
        children.append(_finished(column.children[index].get()))
    return column.length, column.nulls, buffers, children


def decode(
    const uint8_t[::1] data not None,
    const int64_t[::1] bounds not None,
    object plan,
    Py_ssize_t id_column,
    cbool strict,
    cbool null_mismatch,
    cbool is_guess,
    bytes places=None,
    order=(),
    cbool whole=True,
):
    """Return the finished columns, or None and a failure; `order` maps places to columns.

    Documents of which only the front was scanned are not `whole`.
    """
    cdef const uint8_t* begin = &data[0]
    cdef size_t count = bounds.shape[0] // 2
    cdef unique_ptr[Column] root
    cdef unique_ptr[Decoder] decoder
    cdef Column* identity = NULL
    cdef cbool done
    cdef const uint32_t* noted = NULL
    cdef size_t width = 0
    cdef vector[int] which
    if places is not None and count:
        noted = <const uint32_t*>PyBytes_AS_STRING(places)
        width = PyBytes_GET_SIZE(places) // 4 // count
        for place in order:
            which.push_back(<int>place)
    root.reset(new Column())
    _fill(root.get(), plan)
    if id_column >= 0:
        identity = root.get().children[<size_t>id_column].get()
    decoder.reset(new Decoder(root.get()[0], identity, strict, null_mismatch, is_guess))
    with nogil:
        done = decoder.get().run(begin, &bounds[0], count, whole, noted, width, which.data())
    if done:
        return _finished(root.get())[3], None
    cdef Failure* failure = &decoder.get().failure()
    cdef size_t index
    parts = []
    for index in range(failure.parts.size()):
        parts.append(_bytes(failure.parts[index]).decode("utf-8", "replace"))
    value = b""
    if failure.value != NULL:
        value = PyBytes_FromStringAndSize(
            <const char*>failure.value, <Py_ssize_t>(failure.end - failure.value))
    return None, (
        <int>failure.problem,
        failure.document,
        "".join(reversed(parts)),
        _bytes(failure.expected).decode(),
        value,
        _bytes(failure.field).decode("utf-8", "replace"),
    )


def decode_unscanned(
    const uint8_t[::1] data not None,
    size_t count,
    object plan,
    Py_ssize_t id_column,
    cbool strict,
    cbool null_mismatch,
    cbool is_guess,
):
    """Return the finished columns of whole entries, or None if these must be scanned before."""
    cdef size_t size = data.shape[0]
    cdef const uint8_t* begin = &data[0] if size else NULL
    cdef unique_ptr[Column] root
    cdef unique_ptr[Decoder] decoder
    cdef Column* identity = NULL
    cdef cbool done
    root.reset(new Column())
    _fill(root.get(), plan)
    if id_column >= 0:
        identity = root.get().children[<size_t>id_column].get()
    decoder.reset(new Decoder(root.get()[0], identity, strict, null_mismatch, is_guess))
    with nogil:
        done = decoder.get().run_entries(begin, size, count)
    return _finished(root.get())[3] if done else None


# --- Predicates -----------------------------------------------------------------------------


cdef void _fill_condition(Condition* condition, dict plan) except *:
    """Fill a condition from a dict with the names of its attributes."""
    cdef unique_ptr[Condition] child
    cdef bytes raw
    cdef Literal literal
    cdef const uint8_t* data
    cdef int op = plan["op"]
    condition.op = <Op>op
    condition.has_pattern = plan["has_pattern"]
    for one in plan["children"]:
        child.reset(new Condition())
        _fill_condition(child.get(), one)
        condition.children.push_back(move(child))
    condition.is_self = plan["is_self"]
    condition.is_id = plan["is_id"]
    condition.path = <bytes>plan["path"]
    for end in plan["ends"]:
        condition.ends.push_back(<size_t>end)
    for index in plan["located"]:
        condition.located.push_back(kId if index is None else <size_t>index)
    for raw in plan["literals"]:
        data = <const uint8_t*>PyBytes_AS_STRING(raw)
        condition.literals.push_back(Literal.of_value(data, data + PyBytes_GET_SIZE(raw)))
    for high, low, is_whole, low_real, high_real, text in plan["numbers"]:
        literal = Literal.of_number()
        literal.number.set_below(high, low)
        literal.number.is_whole = is_whole
        literal.number.is_nan = low_real != low_real
        literal.number.low, literal.number.high = low_real, high_real
        if text is not None:
            raw = text
            literal.is_decimal = True
            Digits.read(
                <const uint8_t*>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), literal.digits)
        condition.literals.push_back(literal)
    for raw in plan["scalars"]:
        data = <const uint8_t*>PyBytes_AS_STRING(raw)
        condition.scalars.add(data, data + PyBytes_GET_SIZE(raw))
    for raw in plan["containers"]:
        data = <const uint8_t*>PyBytes_AS_STRING(raw)
        condition.containers.add(data, data + PyBytes_GET_SIZE(raw))
    for raw in plan["every"]:
        data = <const uint8_t*>PyBytes_AS_STRING(raw)
        condition.every.add(data, data + PyBytes_GET_SIZE(raw))
    for raw in plan["decimals"]:
        condition.decimals.insert(<string>raw)
    condition.few = plan["few"]
    condition.contained = plan["contained"]
    condition.accepts_absent = plan["accepts_absent"]
    condition.order = plan["order"]
    condition.types = plan["types"]
    condition.count = plan["count"]
    condition.is_map = plan["is_map"]
    condition.pattern = plan["pattern"]
    condition.prepare()


cdef class Program:
    """A condition as the kernel evaluates it; several threads may use it at the same time.

    `match` gets the number of a pattern, offsets of 8 bytes and the texts, and returns a byte for
    each text.
    """

    cdef Condition _root
    cdef vector[string] _fields
    cdef size_t _patterns
    cdef object _match

    def __init__(self, dict plan not None, fields, size_t patterns, match):
        _fill_condition(&self._root, plan)
        for name in fields:
            self._fields.push_back(<bytes>name)
        self._patterns = patterns
        self._match = match

    def select(
        self,
        const uint8_t[::1] data not None,
        const int64_t[::1] bounds not None,
        bytes places=None,
        order=(),
    ):
        """Return the indices of matching documents, of 8 bytes each, and the index of a damaged one.

        Without a damaged document, that index is -1. `order` says which place is a field's."""
        cdef const uint8_t* begin = &data[0]
        cdef size_t size = data.shape[0]
        cdef size_t count = bounds.shape[0] // 2
        cdef const uint32_t* noted = NULL
        cdef size_t width = 0
        cdef vector[int] which
        cdef vector[int64_t] rows
        cdef unique_ptr[Selector] selector
        cdef cbool sound
        cdef size_t pattern
        if places is not None and count:
            noted = <const uint32_t*>PyBytes_AS_STRING(places)
            width = PyBytes_GET_SIZE(places) // 4 // count
            for place in order:
                which.push_back(<int>place)
        selector.reset(new Selector(self._root, self._fields, self._patterns))
        answers = []
        if self._patterns:
            with nogil:
                sound = selector.get().run(
                    begin, size, &bounds[0], count, noted, width, which.data(), True, rows)
            if not sound:
                return b"", rows.back()
            for pattern in range(self._patterns):
                answers.append(self._answers(pattern, begin, selector.get().asked(pattern)))
        with nogil:
            sound = selector.get().run(
                begin, size, &bounds[0], count, noted, width, which.data(), False, rows)
        if not sound:
            return b"", rows.back()
        return PyBytes_FromStringAndSize(
            <const char*>rows.data(), <Py_ssize_t>(rows.size() * 8)), -1

    cdef bytes _answers(self, size_t pattern, const uint8_t* begin, Asked& asked):
        cdef size_t count = asked.texts.size()
        cdef size_t total = 0
        cdef size_t index
        for index in range(count):
            total += asked.texts[index].second
        cdef bytes offsets = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(8 * (count + 1)))
        cdef bytes texts = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>total)
        cdef int64_t* ends = <int64_t*>PyBytes_AS_STRING(offsets)
        cdef char* to = PyBytes_AS_STRING(texts)
        ends[0] = 0
        for index in range(count):
            memcpy(to, begin + asked.texts[index].first, asked.texts[index].second)
            to += asked.texts[index].second
            ends[index + 1] = ends[index] + <int64_t>asked.texts[index].second
        cdef bytes answers = self._match(pattern, offsets, texts)
        if <size_t>PyBytes_GET_SIZE(answers) != count:
            raise ValueError("there are not as many answers as texts")
        asked.answers = <const uint8_t*>PyBytes_AS_STRING(answers)
        return answers


# --- Encoding -------------------------------------------------------------------------------


cdef void _fill_wire(WireColumn* column, object plan) except *:
    """Build a column tree from tuples: wire, unit, packed name, children."""
    wire, unit, key, children = plan
    cdef unique_ptr[WireColumn] child
    cdef bytes packed = key
    cdef int number = wire
    column.wire = <Wire>number
    column.unit = unit
    column.key.append(PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
    for one in children:
        child.reset(new WireColumn())
        _fill_wire(child.get(), one)
        column.children.push_back(move(child))


def encode(object ids, object rows, object plan, cbool omit_nulls):
    """Return the bytes of entries from a binary array of ids and a struct array of rows, and their
    sizes in four bytes each; None if a map has a key twice.

    Raises
    ------
    IndexError
        Offsets lead out of their array.
    """
    _, id_capsule = ids.__arrow_c_array__()
    _, row_capsule = rows.__arrow_c_array__()
    cdef ArrowArray* id_array = <ArrowArray*>PyCapsule_GetPointer(id_capsule, "arrow_array")
    cdef ArrowArray* row_array = <ArrowArray*>PyCapsule_GetPointer(row_capsule, "arrow_array")
    cdef unique_ptr[WireColumn] root
    cdef unique_ptr[Encoder] encoder
    cdef Buffer out
    cdef cbool done
    root.reset(new WireColumn())
    _fill_wire(root.get(), plan)
    if not root.get().bind(row_array) or id_array.length != row_array.length:
        raise ValueError("the arrays do not have the planned types")
    cdef bytes sizes = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(4 * id_array.length))
    cdef uint32_t* each = <uint32_t*>PyBytes_AS_STRING(sizes)
    encoder.reset(new Encoder(out, omit_nulls))
    with nogil:
        done = encoder.get().run(id_array, root.get()[0], each)
    if encoder.get().leads_outside():
        raise IndexError("offsets lead out of their array")
    if not done:
        return None
    return PyBytes_FromStringAndSize(<const char*>out.data(), <Py_ssize_t>out.size()), sizes


def has_equal(const uint8_t[::1] hashes not None):
    """Return whether two of the hashes, of 8 bytes each, are equal."""
    cdef size_t count = hashes.shape[0] // 8
    cdef cbool found = False
    if count:
        with nogil:
            found = c_has_equal(<const uint64_t*>&hashes[0], count)
    return found


def sort_hashes(const uint8_t[::1] hashes not None):
    """Return hashes of 8 bytes each in order, and the place of each in 8 bytes."""
    cdef size_t count = hashes.shape[0] // 8
    ordered = PyBytes_FromStringAndSize(NULL, 8 * count)
    rows = PyBytes_FromStringAndSize(NULL, 8 * count)
    cdef uint64_t* words = <uint64_t*>PyBytes_AS_STRING(ordered)
    cdef uint64_t* places = <uint64_t*>PyBytes_AS_STRING(rows)
    if count:
        memcpy(words, &hashes[0], 8 * count)
        with nogil:
            c_sort_hashes(words, places, count)
    return ordered, rows


def hash_id(bytes identity not None):
    """Return the hash that survey_ids computes for an id."""
    return c_hash_id(<const uint8_t*>PyBytes_AS_STRING(identity), PyBytes_GET_SIZE(identity))


cdef void _check_offsets(const ArrowArray* texts) except *:
    if not offsets_ascend(texts):
        raise IndexError("offsets lead out of their array")


def survey_ids(object ids):
    """Return a hash of 8 bytes for each id of a binary array, and the max number of the ids."""
    _, capsule = ids.__arrow_c_array__()
    cdef ArrowArray* array = <ArrowArray*>PyCapsule_GetPointer(capsule, "arrow_array")
    cdef Buffer hashes
    cdef uint64_t greatest
    _check_offsets(array)
    with nogil:
        greatest = c_survey_ids(array, hashes)
    return PyBytes_FromStringAndSize(<const char*>hashes.data(), <Py_ssize_t>hashes.size()), greatest


def ids_ascend(object ids):
    """Return whether ids ascend by size and then by bytes, and the max number of the ids."""
    _, capsule = ids.__arrow_c_array__()
    cdef ArrowArray* array = <ArrowArray*>PyCapsule_GetPointer(capsule, "arrow_array")
    cdef uint64_t greatest = 0
    cdef cbool ascend
    _check_offsets(array)
    with nogil:
        ascend = c_ids_ascend(array, greatest)
    return ascend, greatest


def text_extremes(object texts):
    """Return the rows of the min and max text of a string array; -1 where all are null."""
    _, capsule = texts.__arrow_c_array__()
    cdef ArrowArray* array = <ArrowArray*>PyCapsule_GetPointer(capsule, "arrow_array")
    cdef int64_t least, greatest
    _check_offsets(array)
    with nogil:
        c_text_extremes(array, least, greatest)
    return least, greatest


def to_dicts(tuple names not None, list columns not None, Py_ssize_t count):
    """Convert columns, which are lists of `count` objects, to rows as dicts."""
    cdef list rows = [None] * count
    cdef Py_ssize_t width = len(columns)
    cdef Py_ssize_t row, column
    cdef dict made
    for found in columns:
        if len(<list?>found) != count:
            raise ValueError("the columns differ in length")
    for row in range(count):
        made = {}
        for column in range(width):
            made[names[column]] = (<list>columns[column])[row]
        rows[row] = made
    return rows


include "bson.pxi"
include "dicts.pxi"
include "lookup.pxi"
include "patch.pxi"
include "record.pxi"
# --- JSON -----------------------------------------------------------------------------------


def read_json(bytes text not None, size_t at, cbool in_array, cbool is_first, cbool is_dialect):
    """Read documents of JSON text from `at` on.

    Return their MessagePack and bounds, the position after them, a reason to stop (0 is the end, 1
    a deferred document, 2 a missing comma), and whether the next document is the first.
    """
    cdef const uint8_t* begin = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef size_t size = PyBytes_GET_SIZE(text)
    cdef unique_ptr[JsonReader] reader
    cdef JsonStop stop
    if at > size:
        raise ValueError("the position is after the end")
    cdef size_t room = JsonReader.room_for(size - at)
    cdef PyObject* made = PyBytes_FromStringAndSize_(NULL, <Py_ssize_t>room)
    cdef uint8_t* to
    try:
        to = <uint8_t*>PyBytes_AS_STRING(<object>made)
        reader.reset(new JsonReader(begin, begin + size, is_dialect, to, room))
        with nogil:
            stop = reader.get().run(at, in_array, is_first)
        found = _bounds(reader.get().bounds())
    except:
        Py_DECREF_(made)
        raise
    return _cut(made, reader.get().documents().size()), found, at, <int>stop, is_first


cdef class JsonScanner:
    """See `godb_arrow.codec.reference.jsonread`."""

    cdef CJsonScanner _scanner

    def scan(self, bytes block not None, int64_t level):
        """Return the end of the last document with `level` open brackets around it, or -1."""
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(block)
        cdef size_t size = PyBytes_GET_SIZE(block)
        cdef int64_t end
        with nogil:
            end = self._scanner.run(data, size, level)
        return end


def count_line_feeds(bytes text not None):
    cdef const uint8_t* begin = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef size_t size = PyBytes_GET_SIZE(text)
    with nogil:
        size = c_count_line_feeds(begin, size)
    return size


def may_have_controls(bytes text not None):
    cdef const uint8_t* begin = <const uint8_t*>PyBytes_AS_STRING(text)
    cdef size_t size = PyBytes_GET_SIZE(text)
    cdef cbool found
    with nogil:
        found = c_may_have_controls(begin, size)
    return bool(found)


def json_lines(
    const uint8_t[::1] data not None, const int64_t[::1] bounds not None, cbool has_ids, cbool simple
):
    """Return a line of JSON text for each entry or document, and the index of a damaged one or -1.
    """
    cdef const uint8_t* begin = &data[0]
    cdef size_t step = 2 if has_ids else 1
    cdef size_t count = (bounds.shape[0] - 1) // step
    cdef size_t index = 0
    cdef const int64_t* edges
    cdef Buffer out
    cdef unique_ptr[JsonWriter] writer
    writer.reset(new JsonWriter(out, simple))
    with nogil:
        out.reserve(<size_t>(bounds[step * count] - bounds[0]) * 5 // 4)
        while index < count:
            edges = &bounds[step * index]
            if not writer.get().line(
                begin + edges[0] if has_ids else NULL, begin + edges[step - 1], begin + edges[step]
            ):
                break
            index += 1
    return _copied(out), <object>index if index < count else -1


cdef class Identification:
    """See `godb_arrow.codec.native`."""

    cdef bytes _data
    cdef const int64_t[::1] _bounds
    cdef unique_ptr[Identifier] _identifier
    cdef readonly bytes rows
    cdef readonly int64_t invalid

    def __init__(self, bytes data not None, const int64_t[::1] bounds not None, bytes field):
        cdef vector[uint32_t] rows
        self._data = data
        self._bounds = bounds
        self._identifier.reset(new Identifier(
            <const uint8_t*>PyBytes_AS_STRING(data), &bounds[0], bounds.shape[0] - 1, field))
        with nogil:
            self._identifier.get().locate(rows)
            self.invalid = self._identifier.get().invalid()
        self.rows = _places(rows)

    def entries(self, const int64_t[::1] numbers not None):
        """Return entries and their bounds, and the offsets and text of their ids."""
        cdef int64_t none = 0
        cdef const int64_t* given = &numbers[0] if numbers.shape[0] else &none
        cdef Identifier* identifier = self._identifier.get()
        cdef c_array.array edges
        if 4 * numbers.shape[0] != len(self.rows):
            raise ValueError("the number of generated ids is wrong")
        cdef size_t room = identifier.room()
        cdef PyObject* made = PyBytes_FromStringAndSize_(NULL, <Py_ssize_t>room)
        cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(<object>made)
        try:
            with nogil:
                identifier.run(given, to, room)
            edges = c_array.clone(_INT64S, <Py_ssize_t>(identifier.edges().size() // 8), False)
            memcpy(edges.data.as_voidptr, identifier.edges().data(), identifier.edges().size())
            offsets, ids = _copied(identifier.offsets()), _copied(identifier.ids())
        except:
            Py_DECREF_(made)
            raise
        return _cut(made, identifier.entries().size()), edges, offsets, ids
