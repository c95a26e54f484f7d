# Records of the journal. Included in _native.pyx.

cdef extern from "dictencode.hpp" namespace "godb":
    cbool c_pack_meta "godb::pack_meta"(
        object meta, tuple parts, object convert, Buffer& out) except? False


cdef extern from "record.hpp" namespace "godb" nogil:
    const size_t kRecordHead
    size_t c_record_size "godb::record_size"(size_t length)
    void c_frame_record "godb::frame_record"(
        uint8_t* record, size_t length, uint64_t number, uint64_t durable, uint64_t offset)


cdef extern from "write.hpp" namespace "godb" nogil:
    Py_ssize_t c_write_timed "godb::write_timed"(
        int descriptor, const char* data, size_t size, int64_t* nanoseconds)


cdef size_t LONG_RECORD = 1 << 16  # bytes, which are hashed without the GIL


cdef Py_ssize_t SHORT_WRITE = 1 << 16  # bytes, which the page cache takes in a few microseconds
cdef int SLOW_NANOSECONDS = 1000000
cdef int AFTER_SLOW = 1000  # writes that release the GIL after a slow one
cdef int writes_released = 0


def write_short(int descriptor, data):
    """Write bytes as `os.write` does, but keep the GIL for few bytes.

    Handing the GIL to another thread takes longer than copying them to the page cache. After a slow
    write, the next ones release it.
    """
    global writes_released
    if type(data) is not bytes or PyBytes_GET_SIZE(<bytes>data) > SHORT_WRITE:
        return os_write(descriptor, data)
    if writes_released > 0:
        writes_released -= 1
        return os_write(descriptor, data)
    cdef int64_t taken
    cdef Py_ssize_t written = c_write_timed(
        descriptor, PyBytes_AS_STRING(<bytes>data), PyBytes_GET_SIZE(<bytes>data), &taken)
    if taken > SLOW_NANOSECONDS:
        writes_released = AFTER_SLOW
    if written < 0:
        return os_write(descriptor, data)  # which handles signals, and raises errors
    return written


def pack_record(uint64_t number, uint64_t durable, uint64_t offset, meta, parts):
    """Return a record of the journal, as `godb_arrow.codec.reference.records` does."""
    cdef tuple pieces = tuple(parts)
    cdef Buffer packed
    cdef size_t extent = 0
    for part in pieces:
        if type(part) is not bytes:
            return other_record(number, durable, offset, meta, parts)
        extent += PyBytes_GET_SIZE(<bytes>part)
    if not c_pack_meta(meta, pieces, stored_value, packed):
        return other_record(number, durable, offset, meta, parts)
    extent += packed.size()
    cdef size_t size = c_record_size(extent)
    record = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* begin = <uint8_t*>PyBytes_AS_STRING(record)
    cdef uint8_t* at = begin + kRecordHead
    memcpy(at, packed.data(), packed.size())
    at += packed.size()
    for part in pieces:
        memcpy(at, PyBytes_AS_STRING(<bytes>part), PyBytes_GET_SIZE(<bytes>part))
        at += PyBytes_GET_SIZE(<bytes>part)
    if size > LONG_RECORD:
        with nogil:
            c_frame_record(begin, extent, number, durable, offset)
    else:
        c_frame_record(begin, extent, number, durable, offset)
    return record
