# BSON. Included in _native.pyx.

cdef extern from "bsonread.hpp" namespace "godb" nogil:
    cdef struct BsonPath:
        int32_t parent
        string key
        uint8_t types
        uint8_t texts

    cdef cppclass CBsonReader "godb::BsonReader":
        CBsonReader(const uint8_t* data, size_t size) except +
        Buffer& documents()
        vector[int64_t]& bounds()
        vector[BsonPath]& paths()
        void run(size_t& at) except +

        @staticmethod
        size_t cut(const uint8_t* data, size_t size)


cdef class BsonReader:
    """See `godb_arrow.codec.reference.bsonread`."""

    cdef unique_ptr[CBsonReader] _reader
    cdef bytes _data

    def __cinit__(self, bytes data not None):
        self._data = data
        self._reader.reset(
            new CBsonReader(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)))

    def read(self, size_t at):
        """Return MessagePack and bounds of the documents from `at` on, and the position after."""
        if at > <size_t>PyBytes_GET_SIZE(self._data):
            raise ValueError("the position is after the end")
        with cython.critical_section(self):
            with nogil:
                self._reader.get().run(at)
            return (
                _copied(self._reader.get().documents()), _bounds(self._reader.get().bounds()), at)

    def paths(self):
        """Return the paths of values: index of the parent, key, types, and types of texts."""
        cdef vector[BsonPath]* paths = &self._reader.get().paths()
        cdef size_t index
        return [
            (paths[0][index].parent, paths[0][index].key.decode(), paths[0][index].types,
             paths[0][index].texts)
            for index in range(paths.size())
        ]


def cut_bson(bytes data not None):
    """Return the end of the last whole document, or of all bytes if a size is impossible."""
    return CBsonReader.cut(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef extern from "bsonwrite.hpp" namespace "godb" nogil:
    cdef cppclass CBsonWriter "godb::BsonWriter":
        CBsonWriter(vector[BsonPath] paths) except +
        Buffer& documents()
        void run(
            const uint8_t* data, const int64_t* bounds, size_t count, size_t step, size_t& row
        ) except +


def write_bson(
    const uint8_t[::1] data not None, const int64_t[::1] bounds not None, cbool has_ids, list paths,
    size_t row,
):
    """Return the documents from `row` on as BSON, up to a deferred one, and its row."""
    cdef vector[BsonPath] types
    cdef BsonPath path
    cdef size_t step = 2 if has_ids else 1
    cdef size_t count = (bounds.shape[0] - 1) // step
    cdef const uint8_t* begin = &data[0] if data.shape[0] else NULL
    for index, (parent, key, own) in enumerate(paths):
        if not -1 <= parent < index or (parent < 0) != (index == 0):
            raise ValueError("a path has no parent")
        path.parent, path.key, path.types = parent, key.encode(), own
        types.push_back(path)
    if not paths:
        raise ValueError("the path of the document is missing")
    cdef unique_ptr[CBsonWriter] writer
    writer.reset(new CBsonWriter(types))
    with nogil:
        writer.get().run(begin, &bounds[0], count, step, row)
    return _copied(writer.get().documents()), row
