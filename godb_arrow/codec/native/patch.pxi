# Updates of documents in MessagePack. Included in _native.pyx.

cdef extern from "patch.hpp" namespace "godb" nogil:
    cdef cppclass PatchNumber:
        pass

    cdef enum class PatchOperator(uint8_t):
        Set
        Unset
        Inc
        Min
        Max

    cdef cppclass PatchStep:
        PatchOperator op
        vector[string] parts
        vector[string] rests
        string value
        PatchNumber number

    cdef cppclass Patcher:
        Patcher(vector[PatchStep] steps) except +

    cbool c_read_number "godb::read_number"(
        const uint8_t* p, const uint8_t* end, PatchNumber& number)
    cbool c_patch_documents "godb::patch_documents"(
        Patcher& patcher, const uint8_t* data, const int64_t* bounds, const int64_t* rows,
        size_t count, Buffer& entries, Buffer& changed) except +


def patch_documents(
    const uint8_t[::1] data not None,
    const int64_t[::1] bounds not None,
    const int64_t[::1] rows not None,
    steps,
):
    """Change documents, as `godb_arrow.codec.reference.patch` does; None if it must.

    Returns the new entries, and the positions of the changed documents among the rows."""
    cdef vector[PatchStep] wanted
    cdef PatchStep step
    cdef bytes value
    cdef const uint8_t* begin
    for operator, parts, value in steps:
        step.op = <PatchOperator><int>operator
        step.parts = parts
        step.rests = [b".".join(parts[at:]) for at in range(len(parts))]
        step.value = value
        begin = <const uint8_t*>PyBytes_AS_STRING(value)
        if operator >= 2 and not c_read_number(begin, begin + len(value), step.number):
            return None
        wanted.push_back(step)
    cdef size_t count = rows.shape[0], entries = bounds.shape[0] // 2, at
    for at in range(count):
        if not 0 <= rows[at] < <int64_t>entries:
            raise IndexError(f"there is no row {rows[at]}")
    cdef Buffer changed, positions
    cdef Patcher* patcher = new Patcher(wanted)
    cdef cbool done = True
    try:
        if count:
            with nogil:
                done = c_patch_documents(
                    patcher[0], &data[0], &bounds[0], &rows[0], count, changed, positions)
    finally:
        del patcher
    if not done:
        return None
    return (
        PyBytes_FromStringAndSize(<const char*>changed.data(), changed.size()),
        PyBytes_FromStringAndSize(<const char*>positions.data(), positions.size()),
    )
