// Python dicts to documents. The caller has the GIL.
//
// One pass over the objects writes MessagePack. A function of the reference codec converts values of
// other libraries. The reference codec also encodes values that cannot be stored, and says why.

#pragma once

#include <Python.h>
#include <datetime.h>

#include <charconv>
#include <new>

#include "bytes.hpp"
#include "calendar.hpp"
#include "dictdecode.hpp"
#include "memory.hpp"
#include "packer.hpp"

namespace godb {

// What became of a value.
enum class Packed {
    Done,
    Failed,  // with an error of Python
    Other,   // the reference codec says what is wrong
};

class DictEncoder {
  public:
    // `convert` returns a value that MessagePack has for one that it lacks.
    DictEncoder(Buffer& out, PyObject* convert) : out_(out), pack_(out), convert_(convert) {}

    Packed value(PyObject* object) { return value(object, 0, false); }

    // Encode a document with its id as its first field. The dict's own field `_id` is skipped. It
    // is a key of another type that equals the text, or changed meanwhile, if it was not skipped.
    Packed with_id(PyObject* dict, const char* id, size_t size, bool has_id) {
        pack_.map(size_t(PyDict_GET_SIZE(dict)) + !has_id);
        pack_.text("_id", 3);
        pack_.text(id, size);
        size_t skipped = 0;
        const Packed written = items(dict, 1, &skipped);
        return written == Packed::Done && skipped != size_t(has_id) ? Packed::Other : written;
    }

    // Encode a dict with one more field, whose name and value the caller encodes.
    Packed with_field(PyObject* dict, const char* name, size_t size) {
        pack_.map(size_t(PyDict_GET_SIZE(dict)) + 1);
        const Packed written = items(dict, 1, nullptr);
        pack_.text(name, size);
        return written;
    }

    // Encode a text; bytes that are no UTF-8 were surrogate escapes.
    Packed text(PyObject* object) {
        if (PyUnicode_IS_COMPACT_ASCII(object)) {
            const size_t size = size_t(PyUnicode_GET_LENGTH(object));
            if (size > kMaxSize) return Packed::Other;
            pack_.text(reinterpret_cast<const char*>(PyUnicode_1BYTE_DATA(object)), size);
            return Packed::Done;
        }
        return wide_text(object);
    }

  private:
    static constexpr size_t kMaxSize = 0xffffffff;

    Packed value(PyObject* object, int depth, bool is_converted) {
        PyTypeObject* const type = Py_TYPE(object);
        if (type == &PyUnicode_Type) return text(object);
        if (type == &PyLong_Type) return integer(object);
        if (type == &PyFloat_Type) return pack_.real(PyFloat_AS_DOUBLE(object)), Packed::Done;
        if (object == Py_None) return pack_.nil(), Packed::Done;
        if (type == &PyBool_Type) return pack_.boolean(object == Py_True), Packed::Done;
        if (type == &PyDict_Type) return dict(object, depth + 1);
        if (type == &PyList_Type || type == &PyTuple_Type) return sequence(object, depth + 1);
        return rare(object, depth, is_converted);
    }

    Packed integer(PyObject* object) {
        int overflow = 0;
        const long long number = PyLong_AsLongLongAndOverflow(object, &overflow);
        if (overflow == 0) {
            if (number == -1 && PyErr_Occurred()) return Packed::Failed;
            pack_.integer(number);
            return Packed::Done;
        }
        if (overflow < 0) return Packed::Other;
        const unsigned long long large = PyLong_AsUnsignedLongLong(object);
        if (large == static_cast<unsigned long long>(-1) && PyErr_Occurred()) {
            PyErr_Clear();
            return Packed::Other;
        }
        pack_.positive(large);
        return Packed::Done;
    }

    Packed wide_text(PyObject* object) {
#if PY_VERSION_HEX < 0x030c0000
        if (PyUnicode_READY(object) < 0) return Packed::Failed;
#endif
        const int kind = PyUnicode_KIND(object);
        const void* const data = PyUnicode_DATA(object);
        const Py_ssize_t length = PyUnicode_GET_LENGTH(object);
        size_t size = 0;
        for (Py_ssize_t at = 0; at < length; ++at) {
            const Py_UCS4 c = PyUnicode_READ(kind, data, at);
            if (c < 0x80) size += 1;
            else if (c < 0x800) size += 2;
            else if (c >= 0xdc80 && c <= 0xdcff) size += 1;
            else if (c >= 0xd800 && c <= 0xdfff) return Packed::Other;
            else size += c < 0x10000 ? 3 : 4;
        }
        if (size > kMaxSize) return Packed::Other;
        pack_.text_head(size);
        uint8_t* to = out_.extend(size);
        for (Py_ssize_t at = 0; at < length; ++at) {
            const Py_UCS4 c = PyUnicode_READ(kind, data, at);
            if (c < 0x80) {
                *to++ = uint8_t(c);
            } else if (c < 0x800) {
                *to++ = uint8_t(0xc0 | c >> 6);
                *to++ = uint8_t(0x80 | (c & 0x3f));
            } else if (c >= 0xdc80 && c <= 0xdcff) {
                *to++ = uint8_t(c - 0xdc00);
            } else {
                if (c < 0x10000) {
                    *to++ = uint8_t(0xe0 | c >> 12);
                } else {
                    *to++ = uint8_t(0xf0 | c >> 18);
                    *to++ = uint8_t(0x80 | (c >> 12 & 0x3f));
                }
                *to++ = uint8_t(0x80 | (c >> 6 & 0x3f));
                *to++ = uint8_t(0x80 | (c & 0x3f));
            }
        }
        return Packed::Done;
    }

    Packed dict(PyObject* object, int depth) {
        if (depth > kMaxDepth) return Packed::Other;
        const size_t count = size_t(PyDict_GET_SIZE(object));
        if (count > kMaxSize) return Packed::Other;
        pack_.map(count);
        return items(object, depth, nullptr);
    }

    // Encode the items of a dict, whose number was written. Code that a value calls may change it.
    // With `skipped`, fields `_id` are not encoded, but counted.
    Packed items(PyObject* dict, int depth, size_t* skipped) {
        const Py_ssize_t count = PyDict_GET_SIZE(dict);
        Py_ssize_t at = 0, done = 0;
        PyObject *key, *found;
#ifdef Py_GIL_DISABLED
        Owned copy(PyDict_Copy(dict));
        if (!copy) return Packed::Failed;
        if (PyDict_GET_SIZE(copy.get()) != count) return changed("dictionary");
        dict = copy.get();
#endif
        while (PyDict_Next(dict, &at, &key, &found)) {
            ++done;
            Owned held_key(Py_NewRef(key)), held(Py_NewRef(found));
            if (PyUnicode_CheckExact(key)) {
                if (skipped && is_id(key)) {
                    ++*skipped;
                    continue;
                }
                const Packed written = text(key);
                if (written != Packed::Done) return written;
            } else {
                const Packed written = value(key, depth, false);
                if (written != Packed::Done) return written;
            }
            const Packed written = value(held.get(), depth, false);
            if (written != Packed::Done) return written;
            if (is_interrupted()) return Packed::Failed;
            if (PyDict_GET_SIZE(dict) != count || done > count) return changed("dictionary");
        }
        return done == count ? Packed::Done : changed("dictionary");
    }

    static bool is_id(PyObject* key) {
        return key == dict_types.id_field ||
               (PyUnicode_GET_LENGTH(key) == 3 &&
                PyUnicode_Compare(key, dict_types.id_field) == 0);
    }

    Packed sequence(PyObject* object, int depth) {
        if (depth > kMaxDepth) return Packed::Other;
        Owned copy;
#ifdef Py_GIL_DISABLED
        copy = Owned(PySequence_Tuple(object));
        if (!copy) return Packed::Failed;
        object = copy.get();
#endif
        const Py_ssize_t count = PySequence_Fast_GET_SIZE(object);
        if (size_t(count) > kMaxSize) return Packed::Other;
        pack_.array(size_t(count));
        for (Py_ssize_t at = 0; at < count; ++at) {
            Owned element(Py_NewRef(PySequence_Fast_GET_ITEM(object, at)));
            const Packed written = value(element.get(), depth, false);
            if (written != Packed::Done) return written;
            if (is_interrupted()) return Packed::Failed;
            if (PySequence_Fast_GET_SIZE(object) != count) return changed("list");
        }
        return Packed::Done;
    }

    // Whether a handler of a signal raised, such as for Ctrl-C. It is asked now and then.
    bool is_interrupted() {
        if (__builtin_expect(--left_ >= 0, 1)) return false;
        left_ = kValuesPerCheck;
        return PyErr_CheckSignals() < 0;
    }

    static Packed changed(const char* kind) {
        PyErr_Format(PyExc_RuntimeError, "%s changed size during iteration", kind);
        return Packed::Failed;
    }

    // Errors of these types are about the value, and the reference codec names its path.
    static Packed refused() {
        if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError) ||
            PyErr_ExceptionMatches(PyExc_OverflowError)) {
            PyErr_Clear();
            return Packed::Other;
        }
        return Packed::Failed;
    }

    // Encode a value of a type that is less frequent, or derived from a builtin one.
    Packed rare(PyObject* object, int depth, bool is_converted) {
        if (PyLong_Check(object)) return integer(object);
        if (PyFloat_Check(object)) return pack_.real(PyFloat_AS_DOUBLE(object)), Packed::Done;
        if (PyBytes_Check(object))
            return bytes(PyBytes_AS_STRING(object), size_t(PyBytes_GET_SIZE(object)));
        if (PyByteArray_Check(object))
            return bytes(PyByteArray_AS_STRING(object), size_t(PyByteArray_GET_SIZE(object)));
        if (PyUnicode_Check(object)) return text(object);
        if (PyDict_Check(object)) return derived_dict(object, depth + 1);
        if (PyObject_TypeCheck(object, reinterpret_cast<PyTypeObject*>(dict_types.extension)))
            return extension(object, depth + 1);
        if (Py_TYPE(object) == reinterpret_cast<PyTypeObject*>(dict_types.timestamp))
            return timestamp(object);
        if (PyTuple_Check(object) || PyList_Check(object)) {
            Owned list(PySequence_List(object));
            if (!list) return refused();
            const Py_ssize_t size = PyObject_Size(object);
            if (size < 0) return refused();
            return size == PyList_GET_SIZE(list.get()) ? sequence(list.get(), depth + 1)
                                                       : changed("list");
        }
        if (PyMemoryView_Check(object)) return view(object);
        if (PyDateTime_CheckExact(object)) {
            PyObject* const zone = PyDateTime_DATE_GET_TZINFO(object);
            if (zone == Py_None || zone == PyDateTime_TimeZone_UTC) return moment(object);
        } else if (PyDate_CheckExact(object)) {
            pack_.timestamp(86400 * days(object), 0);
            return Packed::Done;
        } else if (PyDelta_CheckExact(object)) {
            return duration(object);
        }
        if (is_converted) return Packed::Other;
        Owned converted(PyObject_CallOneArg(convert_, object));
        return converted ? value(converted.get(), depth, true) : refused();
    }

    Packed bytes(const char* from, size_t size) {
        if (size > kMaxSize) return Packed::Other;
        pack_.binary(from, size);
        return Packed::Done;
    }

    Packed view(PyObject* object) {
        Py_buffer buffer;
        if (PyObject_GetBuffer(object, &buffer, PyBUF_SIMPLE) < 0) {
            PyErr_Clear();
            return Packed::Other;
        }
        Packed written = Packed::Failed;
        try {
            written = bytes(static_cast<const char*>(buffer.buf), size_t(buffer.len));
        } catch (const std::bad_alloc&) {
            PyErr_NoMemory();
        }
        PyBuffer_Release(&buffer);
        return written;
    }

    // Encode a mapping that is derived from dict, by its method `items`.
    Packed derived_dict(PyObject* object, int depth) {
        if (depth > kMaxDepth) return Packed::Other;
        Owned view(PyObject_CallMethod(object, "items", nullptr));
        if (!view) return refused();
        Owned list(PySequence_List(view.get()));
        if (!list) return refused();
        const Py_ssize_t count = PyObject_Size(object);
        if (count < 0) return refused();
        if (PyList_GET_SIZE(list.get()) != count) return changed("dictionary");
        pack_.map(size_t(count));
        for (Py_ssize_t at = 0; at < count; ++at) {
            PyObject* const item = PyList_GET_ITEM(list.get(), at);
            if (!PyTuple_CheckExact(item) || PyTuple_GET_SIZE(item) != 2) return Packed::Other;
            for (Py_ssize_t side = 0; side < 2; ++side) {
                const Packed written = value(PyTuple_GET_ITEM(item, side), depth, false);
                if (written != Packed::Done) return written;
            }
        }
        return Packed::Done;
    }

    Packed extension(PyObject* object, int depth) {
        if (depth > kMaxDepth) return Packed::Other;  // It counts as a level, since it is a tuple.
        Owned code(PyObject_GetAttrString(object, "code"));
        if (!code) return refused();
        Owned data(PyObject_GetAttrString(object, "data"));
        if (!data) return refused();
        if (!PyLong_CheckExact(code.get()) || !PyBytes_CheckExact(data.get())) return Packed::Other;
        const long type = PyLong_AsLong(code.get());
        if (type < 0 || type > 127) {
            PyErr_Clear();
            return Packed::Other;
        }
        const size_t size = size_t(PyBytes_GET_SIZE(data.get()));
        if (size > kMaxSize) return Packed::Other;
        pack_.extension(int8_t(type), PyBytes_AS_STRING(data.get()), size);
        return Packed::Done;
    }

    Packed timestamp(PyObject* object) {
        Owned whole(PyObject_GetAttrString(object, "seconds"));
        if (!whole) return refused();
        Owned fraction(PyObject_GetAttrString(object, "nanoseconds"));
        if (!fraction) return refused();
        if (!PyLong_CheckExact(whole.get()) || !PyLong_CheckExact(fraction.get()))
            return Packed::Other;
        int overflow = 0;
        const long long seconds = PyLong_AsLongLongAndOverflow(whole.get(), &overflow);
        if (overflow) return Packed::Other;
        const long long nanoseconds = PyLong_AsLongLongAndOverflow(fraction.get(), &overflow);
        if (overflow || nanoseconds < 0 || nanoseconds >= 1000000000) return Packed::Other;
        pack_.timestamp(seconds, uint32_t(nanoseconds));
        return Packed::Done;
    }

    static int64_t days(PyObject* date) {
        return days_of(
            PyDateTime_GET_YEAR(date), PyDateTime_GET_MONTH(date), PyDateTime_GET_DAY(date));
    }

    Packed moment(PyObject* object) {
        const int64_t second = (PyDateTime_DATE_GET_HOUR(object) * 60 +
                                PyDateTime_DATE_GET_MINUTE(object)) * 60 +
                               PyDateTime_DATE_GET_SECOND(object);
        pack_.timestamp(
            86400 * days(object) + second, uint32_t(PyDateTime_DATE_GET_MICROSECOND(object)) * 1000);
        return Packed::Done;
    }

    Packed duration(PyObject* object) {
        const int64_t seconds = int64_t(PyDateTime_DELTA_GET_DAYS(object)) * 86400 +
                                PyDateTime_DELTA_GET_SECONDS(object);
        // Days of a timedelta have nine digits, so that microseconds may need more than 64 bits.
        int64_t microseconds, nanoseconds;
        if (__builtin_mul_overflow(seconds, int64_t(1000000), &microseconds) ||
            __builtin_add_overflow(
                microseconds, int64_t(PyDateTime_DELTA_GET_MICROSECONDS(object)), &microseconds) ||
            __builtin_mul_overflow(microseconds, int64_t(1000), &nanoseconds))
            return Packed::Other;
        pack_.integer(nanoseconds);
        return Packed::Done;
    }

    Buffer& out_;
    Packer pack_;
    PyObject* convert_;
    int left_ = kValuesPerCheck;  // values until signals are checked
};

// Encode a value. Null without an error of Python leaves it to the reference codec.
inline PyObject* pack_value(PyObject* object, PyObject* convert) {
    try {
        Buffer out;
        out.reserve(512);
        if (DictEncoder(out, convert).value(object) != Packed::Done) return nullptr;
        return PyBytes_FromStringAndSize(
            reinterpret_cast<const char*>(out.data()), Py_ssize_t(out.size()));
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    }
}

// Where documents get their ids from.
enum class IdsOf {
    Sequence,   // no document has one
    Documents,  // all documents have a text or an integer
    Other,      // the reference codec knows
};

inline IdsOf id_source(PyObject* documents) {
    size_t with = 0;
    // A key that compares itself with texts may run code, which changes the list.
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(documents); ++at) {
        const Owned document(Py_NewRef(PyList_GET_ITEM(documents, at)));
        if (!PyDict_CheckExact(document.get())) return IdsOf::Other;
        PyObject* const id = PyDict_GetItemWithError(document.get(), dict_types.id_field);
        if (!id) {
            if (PyErr_Occurred()) {
                PyErr_Clear();  // the reference codec raises it
                return IdsOf::Other;
            }
            if (with) return IdsOf::Other;
            continue;
        }
        if (!PyUnicode_CheckExact(id) && !PyLong_CheckExact(id)) return IdsOf::Other;
        if (with++ != size_t(at)) return IdsOf::Other;
    }
    return with ? IdsOf::Documents : IdsOf::Sequence;
}

// Documents that are being encoded, with their ids.
class EntryEncoder {
  public:
    explicit EntryEncoder(PyObject* convert) : encoder_(entries, convert), ids_(entries) {
        bounds.push(int64_t(0));
        offsets.push(int32_t(0));
    }

    // Encode one document. Its id is a number if that is not zero, else its field `_id`.
    Packed add(PyObject* document, uint64_t number) {
        char digits[24];
        size_t size = 0;
        Packed written = Packed::Done;
        const size_t start = entries.size();
        Owned id;
        if (number) {
            size = size_t(std::to_chars(digits, digits + sizeof digits, number).ptr - digits);
        } else {
            if (!PyDict_CheckExact(document)) return Packed::Other;
            id = Owned(Py_XNewRef(PyDict_GetItemWithError(document, dict_types.id_field)));
            if (!id) return PyErr_Occurred() ? Packed::Failed : Packed::Other;
            if (PyLong_CheckExact(id.get())) {
                int overflow = 0;
                const long long value = PyLong_AsLongLongAndOverflow(id.get(), &overflow);
                if (overflow) return Packed::Other;
                size = size_t(std::to_chars(digits, digits + sizeof digits, value).ptr - digits);
                id = Owned();
            } else if (!PyUnicode_CheckExact(id.get())) {
                return Packed::Other;
            }
        }
        if (id) {
            written = encoder_.text(id.get());
            const Head head = read_head(entries.data() + start, entries.data() + entries.size());
            if (written == Packed::Done) id_bytes.append(head.body, head.size);
        } else {
            id = Owned(PyUnicode_FromStringAndSize(digits, Py_ssize_t(size)));
            if (!id) return Packed::Failed;
            ids_.text(digits, size);
            id_bytes.append(digits, size);
        }
        if (written != Packed::Done) return written;
        if (PyList_Append(texts.get(), id.get()) < 0) return Packed::Failed;
        bounds.push(int64_t(entries.size()));
        written = size ? encoder_.with_id(document, digits, size, !number) : encoder_.value(document);
        if (written != Packed::Done) return written;
        bounds.push(int64_t(entries.size()));
        offsets.push(int32_t(id_bytes.size()));
        return Packed::Done;
    }

    Buffer entries;
    Buffer bounds;    // offsets of ids and documents in 64 bits, and the end
    Buffer offsets;   // of the ids in `id_bytes`, in 32 bits
    Buffer id_bytes;
    Owned texts{PyList_New(0)};  // ids

  private:
    DictEncoder encoder_;
    Packer ids_;
};

// Encode documents with consecutive numbers as ids, or with their own ids if `number` is zero. False
// without an error of Python leaves them to the reference codec.
inline bool pack_documents(PyObject* documents, uint64_t number, EntryEncoder& to) {
    try {
        if (!to.texts) return false;
        const Py_ssize_t count = PyList_GET_SIZE(documents);
        for (Py_ssize_t at = 0; at < count; ++at) {
            if (PyList_GET_SIZE(documents) != count) return false;
            Owned document(Py_NewRef(PyList_GET_ITEM(documents, at)));
            if (!PyDict_CheckExact(document.get())) return false;
            if (to.add(document.get(), number ? number + uint64_t(at) : 0) != Packed::Done)
                return false;
            if (to.id_bytes.size() > INT32_MAX) return false;
        }
        return true;
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
        return false;
    }
}

// Encode the description of a journal record, with the sizes of its parts. False without an error of
// Python leaves it to the reference codec.
inline bool pack_meta(PyObject* meta, PyObject* parts, PyObject* convert, Buffer& out) {
    try {
        if (!PyDict_CheckExact(meta)) return false;
        out.reserve(256);
        out.push(uint32_t(0));
        if (DictEncoder(out, convert).with_field(meta, "parts", 5) != Packed::Done) return false;
        Packer sizes(out);
        const Py_ssize_t count = PyTuple_GET_SIZE(parts);
        sizes.array(size_t(count));
        for (Py_ssize_t at = 0; at < count; ++at)
            sizes.positive(uint64_t(PyBytes_GET_SIZE(PyTuple_GET_ITEM(parts, at))));
        const uint32_t size = uint32_t(out.size() - sizeof(uint32_t));
        std::memcpy(out.data(), &size, sizeof size);
        return true;
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
        return false;
    }
}

// Encode one document with a number as its id, or with its own id if `number` is zero. False without
// an error of Python leaves it to the reference codec.
inline bool pack_single(PyObject* document, uint64_t number, EntryEncoder& to) {
    try {
        if (!to.texts || !PyDict_CheckExact(document)) return false;
        to.entries.reserve(512);
        return to.add(document, number) == Packed::Done;
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
        return false;
    }
}

}  // namespace godb
