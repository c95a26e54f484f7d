// Documents to Python dicts. The caller has the GIL.
//
// A decoder remembers the keys of maps as Python strings, and whole maps as shapes: keys in their
// order, with a dict to copy. It predicts that a map has the shape of the map before it at the same
// place, and compares the bytes of each key. All tables are bounded, since strangers choose keys.
//
// The reference codec decodes damage, invalid extensions, and keys that Python cannot hash or hashes
// without a secret.

#pragma once

#include <Python.h>
#include <datetime.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "calendar.hpp"
#include "words.hpp"

namespace godb {

// A reference to a Python object.
class Owned {
  public:
    Owned() = default;
    explicit Owned(PyObject* object) : object_(object) {}
    Owned(Owned&& other) noexcept : object_(other.release()) {}
    Owned& operator=(Owned&& other) noexcept { std::swap(object_, other.object_); return *this; }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    ~Owned() { Py_XDECREF(object_); }

    PyObject* get() const { return object_; }
    PyObject* release() { return std::exchange(object_, nullptr); }
    explicit operator bool() const { return object_ != nullptr; }

  private:
    PyObject* object_ = nullptr;
};

namespace detail {

// Whether values are put into dicts without a search, where the layout of dicts is known.
inline bool use_slots = true;

inline bool is_ascii(const uint8_t* p, size_t size) {
    constexpr uint64_t high = 0x8080808080808080ull;
    if (size >= 8) {
        uint64_t bits = word_at(p + size - 8);
        for (size_t at = 0; at + 8 < size; at += 8) bits |= word_at(p + at);
        return (bits & high) == 0;
    }
    uint8_t bits = 0;
    for (size_t at = 0; at < size; ++at) bits |= p[at];
    return bits < 0x80;
}

inline uint64_t hash_bytes(const uint8_t* p, size_t size) {
    uint64_t hash = size * 0x9e3779b97f4a7c15ull, last = 0;
    if (size >= 8) {
        for (size_t at = 0; at + 8 < size; at += 8) {
            hash = (hash ^ word_at(p + at)) * 0xff51afd7ed558ccdull;
            hash ^= hash >> 32;
        }
        last = word_at(p + size - 8);
    } else if (size >= 4) {
        last = uint64_t(load32(p)) << 32 | load32(p + size - 4);
    } else if (size > 0) {
        last = uint64_t(p[0]) << 16 | uint64_t(p[size / 2]) << 8 | p[size - 1];
    }
    hash = (hash ^ last) * 0xff51afd7ed558ccdull;
    return hash ^ hash >> 32;
}

// A dict for some items. Without Python's private function, it grows while it is filled.
inline PyObject* new_dict(size_t items) {
#if PY_VERSION_HEX < 0x030d0000 && !defined(GODB_PUBLIC_PYTHON)
    return _PyDict_NewPresized(Py_ssize_t(items));
#else
    (void)items;
    return PyDict_New();
#endif
}

// The text of bytes; bytes that are no UTF-8 become surrogate escapes.
inline PyObject* new_text(const uint8_t* p, size_t size) {
    if (size > 1 && is_ascii(p, size)) {
        PyObject* const text = PyUnicode_New(Py_ssize_t(size), 127);
        if (text) std::memcpy(PyUnicode_1BYTE_DATA(text), p, size);
        return text;
    }
    return PyUnicode_DecodeUTF8(
        reinterpret_cast<const char*>(p), Py_ssize_t(size), "surrogateescape");
}

// Whether the garbage collector may have to know of an object.
inline bool is_collected(PyObject* object) {
    return (Py_TYPE(object)->tp_flags & Py_TPFLAGS_HAVE_GC) != 0;
}

#if PY_VERSION_HEX < 0x030f0000 && !defined(Py_GIL_DISABLED) && !defined(PYPY_VERSION)
// An item of a dict whose keys are all texts, as CPython 3.11 to 3.14 have it.
struct Item { PyObject *key, *value; };

inline PyObject** slot_of(PyObject* dict, size_t offset, size_t index) {
    char* const keys = reinterpret_cast<char*>(reinterpret_cast<PyDictObject*>(dict)->ma_keys);
    return &reinterpret_cast<Item*>(keys + offset)[index].value;
}

// Offset of the items of a dict, whose values are None; 0 where they are not found.
inline bool find_items(PyObject* dict, size_t& offset) {
    offset = 0;
    Owned size(PyObject_CallMethod(dict, "__sizeof__", nullptr));
    const Py_ssize_t bytes = size ? PyLong_AsSsize_t(size.get()) : -1;
    if (bytes < 0) return false;
    const size_t items = sizeof(Item) * size_t(PyDict_GET_SIZE(dict));
    const size_t room = size_t(bytes) > sizeof(PyDictObject) ? size_t(bytes) - sizeof(PyDictObject) : 0;
    const char* const keys =
        reinterpret_cast<const char*>(reinterpret_cast<PyDictObject*>(dict)->ma_keys);
    for (size_t at = sizeof(void*); at + items <= room; at += sizeof(void*)) {
        PyObject *key, *value;
        const Item* item = reinterpret_cast<const Item*>(keys + at);
        Py_ssize_t position = 0;
        bool same = true;
        while (same && PyDict_Next(dict, &position, &key, &value)) {
            same = item->key == key && item->value == Py_None;
            ++item;
        }
        if (same) {
            offset = at;
            break;
        }
    }
    return true;
}

// Find where copies of a dict have their values, so that these can be set without a search. It is
// 0 where that is unknown. False with an error of Python.
inline bool find_slots(PyObject* blank, size_t& offset) {
    offset = 0;
    Owned copy(PyDict_Copy(blank));
    size_t first = 0, second = 0;
    if (!copy || !find_items(blank, first) || !find_items(copy.get(), second)) return false;
    if (use_slots && first == second) offset = first;
    return true;
}
#else
inline PyObject** slot_of(PyObject*, size_t, size_t) { return nullptr; }
inline bool find_slots(PyObject*, size_t&) { return true; }
#endif

}  // namespace detail

// Python objects that documents are made of beside the builtin ones.
struct DictTypes {
    PyObject* timestamp = nullptr;  // msgpack.Timestamp
    PyObject* extension = nullptr;  // msgpack.ExtType
    PyObject* id_field = nullptr;   // "_id"
};
inline DictTypes dict_types;

// Remember the types; false with an error of Python.
inline bool set_dict_types(PyObject* timestamp, PyObject* extension) {
    PyDateTime_IMPORT;
    if (!PyDateTimeAPI) return false;
    dict_types.timestamp = Py_NewRef(timestamp);
    dict_types.extension = Py_NewRef(extension);
    dict_types.id_field = PyUnicode_InternFromString("_id");
    return dict_types.id_field != nullptr;
}

// Texts that a field had before. Fields with few different values share them, others have none.
class TextMemo {
  public:
    PyObject* text(const uint8_t* p, size_t size) {
        if (tries_ == kOff || size < 2) return detail::new_text(p, size);
        return remembered(p, size);
    }

  private:
    static constexpr size_t kTexts = 64;  // a power of two
    static constexpr uint16_t kTries = 128;
    static constexpr uint16_t kOff = 0xffff;

    PyObject* remembered(const uint8_t* p, size_t size) {
        if (!texts_) texts_.reset(new Owned[kTexts]);
        if (++tries_ == kTries) {
            if (hits_ < kTries / 2) {
                texts_.reset();
                tries_ = kOff;
                return detail::new_text(p, size);
            }
            tries_ = hits_ = 0;
        }
        Owned& held = texts_[detail::hash_bytes(p, size) % kTexts];
        if (PyObject* const known = held.get();
            known && size_t(PyUnicode_GET_LENGTH(known)) == size &&
            equal_bytes(PyUnicode_1BYTE_DATA(known), p, size)) {
            ++hits_;
            return Py_NewRef(known);
        }
        PyObject* const made = detail::new_text(p, size);
        if (made && PyUnicode_IS_COMPACT_ASCII(made)) held = Owned(Py_NewRef(made));
        return made;
    }

    std::unique_ptr<Owned[]> texts_;
    uint16_t tries_ = 0;
    uint16_t hits_ = 0;
};

constexpr int kValuesPerCheck = 1 << 14;  // values between two checks for signals

// Decoder of documents, for one thread at a time.
class DictDecoder {
  public:
    DictDecoder() : names_(new Name[kNames]) {}
    DictDecoder(const DictDecoder&) = delete;
    DictDecoder& operator=(const DictDecoder&) = delete;

    // Decode one value that fills the bytes. Null without an error of Python leaves the value to
    // the reference codec.
    PyObject* whole(const uint8_t* p, const uint8_t* end) {
        return guarded([&] {
            Owned made(value(p, end, 0, root_));
            return made && p == end ? made.release() : nullptr;
        });
    }

    // Decode a document, and give it its id; null as in `whole`.
    PyObject* document(
        const uint8_t* p, const uint8_t* end, const uint8_t* id, const uint8_t* id_end) {
        return guarded([&]() -> PyObject* {
            const Head head = read_head(p, end), name = read_head(id, id_end);
            if (head.token != Token::Map || name.token != Token::String) return nullptr;
            const uint8_t* noted = nullptr;
            p = head.body;
            Owned made(map(p, end, head.size, 1, root_, &noted));
            if (!made || p != end) return nullptr;
            if (noted) {
                const Head found = read_head(noted, end);
                if (found.token == Token::String && found.size == name.size &&
                    std::memcmp(found.body, name.body, name.size) == 0)
                    return made.release();
            }
            Owned text(detail::new_text(name.body, name.size)), whole(PyDict_New());
            PyObject* const field = dict_types.id_field;
            if (!text || !whole || PyDict_SetItem(whole.get(), field, text.get()) < 0 ||
                PyDict_Update(whole.get(), made.get()) < 0 ||
                PyDict_SetItem(whole.get(), field, text.get()) < 0)
                return nullptr;
            return whole.release();
        });
    }

  private:
    static constexpr size_t kNames = 512;        // remembered keys, a power of two
    static constexpr size_t kNameBytes = 32;     // of a remembered key with its head
    static constexpr size_t kShapes = 32;        // remembered maps
    static constexpr size_t kShapeKeys = 512;    // of a remembered map
    static constexpr uint64_t kPresizedKeys = 1024;  // more may all be equal
    static constexpr size_t kSeen = 256;         // signatures of maps without a shape, a power of two
    static constexpr uint64_t kShapeBudget = 128;  // shapes made beyond a share of the hits
    static constexpr uint64_t kHitsPerShape = 64;
    static constexpr int kMaxScore = 64;
    static constexpr uint8_t kNoShape = 0xff;

    struct Name {
        uint8_t size = 0;
        uint8_t child = kNoShape;  // shape of the map that this key had last
        uint8_t bytes[kNameBytes];
        Owned text;
        TextMemo texts;
    };
    struct Key {
        uint8_t size;
        uint8_t child;  // as of a name
        uint32_t at;    // of the bytes of the key with its head
        Owned text;
        TextMemo texts;
    };
    struct Shape {
        uint64_t signature = 0;
        uint32_t busy = 0;     // maps of this shape that are being decoded
        size_t id = SIZE_MAX;  // number of the field `_id`
        size_t slots = 0;      // offset of the items in copies of the blank dict; 0 if unknown
        std::vector<uint8_t> bytes;
        std::vector<Key> keys;
        Owned blank;  // a dict of the keys, to copy
    };
    // A dict that is being filled with the values of a shape, in their order.
    class Filling {
      public:
        explicit Filling(Shape& shape) : shape_(&shape), made_(copy(shape)) { ++shape.busy; }
        Filling(const Filling&) = delete;
        Filling& operator=(const Filling&) = delete;
        ~Filling() { --shape_->busy; }

        explicit operator bool() const { return bool(made_); }
        Shape& shape() { return *shape_; }

        // Put the next value, whose reference is taken; false with an error of Python.
        bool put(size_t index, PyObject* value) {
            if (detail::is_collected(value)) collected_ = true;
            if (PyObject** const slot = slot_of(index)) {
                *slot = value;
                Py_DECREF(Py_None);
                return true;
            }
            Owned held(value);
            return PyDict_SetItem(made_.get(), shape_->keys[index].text.get(), value) == 0;
        }
        // The value that was put.
        PyObject* value(size_t index) const {
            if (PyObject** const slot = slot_of(index)) return *slot;
            return PyDict_GetItemWithError(made_.get(), shape_->keys[index].text.get());
        }
        // Continue with another shape that has the same first keys.
        bool move(Shape& other, size_t known) {
            Owned made(copy(other));
            if (!made) return false;
            for (size_t at = 0; at < known; ++at)
                if (PyDict_SetItem(made.get(), other.keys[at].text.get(), value(at)) < 0)
                    return false;
            ++other.busy;
            --shape_->busy;
            shape_ = &other;
            made_ = std::move(made);
            return true;
        }
        PyObject* finish() {
            if (collected_ && !PyObject_GC_IsTracked(made_.get())) PyObject_GC_Track(made_.get());
            return made_.release();
        }

      private:
        static PyObject* copy(const Shape& shape) { return PyDict_Copy(shape.blank.get()); }
        PyObject** slot_of(size_t index) const {
            return shape_->slots ? detail::slot_of(made_.get(), shape_->slots, index) : nullptr;
        }

        Shape* shape_;
        Owned made_;
        bool collected_ = false;
    };

    // Call a function. An error that the reference codec reports better is cleared; others stay.
    template <typename Function>
    PyObject* guarded(const Function& function) {
        PyObject* made = nullptr;
        try {
            made = function();
        } catch (const std::bad_alloc&) {
            PyErr_NoMemory();
        }
        if (std::exchange(interrupted_, false)) return nullptr;  // The handler's error stays.
        if (!made && PyErr_Occurred() &&
            (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError) ||
             PyErr_ExceptionMatches(PyExc_OverflowError)))
            PyErr_Clear();
        return made;
    }

    // Whether a handler of a signal raised, such as for Ctrl-C. It is asked now and then.
    bool is_interrupted(int values) {
        if (__builtin_expect((left_ -= values) >= 0, 1)) return false;
        left_ = kValuesPerCheck;
        interrupted_ = PyErr_CheckSignals() < 0;
        return interrupted_;
    }

    // Decode a value. `place` is the shape of the map that was last at its place.
    PyObject* value(const uint8_t*& p, const uint8_t* end, int depth, uint8_t& place) {
        const Head head = read_head(p, end);
        switch (head.token) {
            case Token::String:
                p = head.body + head.size;
                return detail::new_text(head.body, head.size);
            case Token::Positive:
            case Token::Negative:
            case Token::Int:
                p = head.body;
                return PyLong_FromLongLong(static_cast<long long>(head.bits));
            case Token::UInt:
                p = head.body;
                return PyLong_FromUnsignedLongLong(head.bits);
            case Token::Float32:
            case Token::Float64:
                p = head.body;
                return PyFloat_FromDouble(as_double(head));
            case Token::Nil: p = head.body; return Py_NewRef(Py_None);
            case Token::False: p = head.body; return Py_NewRef(Py_False);
            case Token::True: p = head.body; return Py_NewRef(Py_True);
            case Token::Map:
                p = head.body;
                if (depth >= kMaxDepth) return nullptr;
                return map(p, end, head.size, depth + 1, place, nullptr);
            case Token::Array:
                p = head.body;
                if (depth >= kMaxDepth) return nullptr;
                return list(p, end, head.size, depth + 1, place);
            case Token::Binary:
                p = head.body + head.size;
                return PyBytes_FromStringAndSize(
                    reinterpret_cast<const char*>(head.body), Py_ssize_t(head.size));
            case Token::Extension:
                p = head.body + head.size;
                return extension(head);
            default: return nullptr;
        }
    }

    // Decode an extension. Timestamps become moments of Python, if these have them.
    static PyObject* extension(const Head& head) {
        if (head.ext_type != -1) {
            return PyObject_CallFunction(
                dict_types.extension, "iy#", int(head.ext_type),
                reinterpret_cast<const char*>(head.body), Py_ssize_t(head.size));
        }
        Timestamp stamp;
        if (!read_timestamp(head, stamp)) return nullptr;
        constexpr int64_t day = 86400, first = -62135596800, last = 253402300799;
        if (stamp.nanoseconds % 1000 == 0 && stamp.seconds >= first &&
            stamp.seconds <= last) {
            int64_t days = stamp.seconds / day;
            if (stamp.seconds % day < 0) --days;
            const int second = int(stamp.seconds - days * day);
            const Date date = date_of(days);
            return PyDateTimeAPI->DateTime_FromDateAndTime(
                date.year, date.month, date.day, second / 3600, second / 60 % 60, second % 60,
                int(stamp.nanoseconds / 1000), PyDateTime_TimeZone_UTC,
                PyDateTimeAPI->DateTimeType);
        }
        return PyObject_CallFunction(
            dict_types.timestamp, "Lk", static_cast<long long>(stamp.seconds),
            static_cast<unsigned long>(stamp.nanoseconds));
    }

    PyObject* list(
        const uint8_t*& p, const uint8_t* end, uint64_t count, int depth, uint8_t& place) {
        if (count > uint64_t(end - p)) return nullptr;
        Owned made(PyList_New(Py_ssize_t(count)));
        if (!made) return nullptr;
        for (uint64_t at = 0; at < count; ++at) {
            if (is_interrupted(1)) return nullptr;
            PyObject* const element = value(p, end, depth, place);
            if (!element) return nullptr;
            PyList_SET_ITEM(made.get(), Py_ssize_t(at), element);
        }
        return made.release();
    }

    // Decode the value of a field; the most frequent kinds come first.
    PyObject* field(
        const uint8_t*& p, const uint8_t* end, int depth, uint8_t& child, TextMemo& texts) {
        if (__builtin_expect(p < end, 1)) {
            const uint8_t first = *p;
            if (first < 0x80) return ++p, PyLong_FromLong(first);
            if ((first & 0xe0) == 0xa0 && size_t(end - p) > size_t(first & 0x1f)) {
                const uint8_t* const text = p + 1;
                p = text + (first & 0x1f);
                return texts.text(text, first & 0x1f);
            }
            if (first == 0xcb && end - p > 8) {
                const uint64_t bits = load64(p + 1);
                double number;
                std::memcpy(&number, &bits, 8);
                return p += 9, PyFloat_FromDouble(number);
            }
            if (first == 0xc3) return ++p, Py_NewRef(Py_True);
            if (first == 0xc2) return ++p, Py_NewRef(Py_False);
            if (first == 0xc0) return ++p, Py_NewRef(Py_None);
        }
        return value(p, end, depth, child);
    }

    // Decode a map. `noted`, of a document, becomes the position of its field `_id`.
    PyObject* map(
        const uint8_t*& p, const uint8_t* end, uint64_t count, int depth, uint8_t& place,
        const uint8_t** noted) {
        if (count > uint64_t(end - p) / 2) return nullptr;
        if (count == 0) return PyDict_New();
        if (is_interrupted(1)) return nullptr;
        Shape* shape = place == kNoShape ? nullptr : &shapes_[place];
        if (!shape || shape->keys.size() != count || !has(p, end, *shape, 0)) {
            shape = candidate(nullptr, 0, count, p, end, place);
            if (!shape) return other_map(p, end, count, depth, place, noted, nullptr, 0);
        }
        Filling filling(*shape);
        if (!filling) return nullptr;
        for (size_t at = 0; at < count; ++at) {
            if (__builtin_expect(!has(p, end, *shape, at), 0)) {
                Shape* const other = candidate(shape, at, count, p, end, place);
                if (!other) return other_map(p, end, count, depth, place, noted, &filling, at);
                if (!filling.move(*other, at)) return nullptr;
                shape = other;
            }
            Key& key = shape->keys[at];
            p += key.size;
            if (noted && at == shape->id) *noted = p;
            PyObject* const found = field(p, end, depth, key.child, key.texts);
            if (!found || !filling.put(at, found)) return nullptr;
        }
        if (score_ < kMaxScore) ++score_;
        ++hits_;
        return filling.finish();
    }

    // Whether a shape has the next key at an index.
    static bool has(const uint8_t* p, const uint8_t* end, const Shape& shape, size_t index) {
        const Key& key = shape.keys[index];
        return size_t(end - p) >= key.size &&
               equal_bytes(p, shape.bytes.data() + key.at, key.size);
    }

    // Another shape with the same first keys as this one, and with the key that follows.
    Shape* candidate(
        const Shape* shape, size_t known, uint64_t count, const uint8_t* p, const uint8_t* end,
        uint8_t& place) {
        if (score_ <= 0) return nullptr;
        for (size_t index = 0; index < kShapes; ++index) {
            Shape& other = shapes_[index];
            if (other.keys.size() != count || &other == shape ||
                !has(p, end, other, known))
                continue;
            size_t same = 0;
            while (same < known && other.keys[same].text.get() == shape->keys[same].text.get())
                ++same;
            if (same == known) {
                place = uint8_t(index);
                return &other;
            }
        }
        --score_;
        return nullptr;
    }

    // Decode the rest of a map of no known shape, of which `known` fields were decoded.
    PyObject* other_map(
        const uint8_t*& p, const uint8_t* end, uint64_t count, int depth, uint8_t& place,
        const uint8_t** noted, Filling* filling, size_t known) {
        Owned made(detail::new_dict(size_t(std::min(count, kPresizedKeys))));
        if (!made) return nullptr;
        bool learnable = count <= kShapeKeys;
        uint64_t signature = count;
        for (size_t at = 0; at < known; ++at) {
            const Key& key = filling->shape().keys[at];
            const uint8_t* const bytes = filling->shape().bytes.data() + key.at;
            signature = mixed(signature, detail::hash_bytes(bytes, key.size));
            if (PyDict_SetItem(made.get(), key.text.get(), filling->value(at)) < 0) return nullptr;
        }
        for (uint64_t at = known; at < count; ++at) {
            if (is_interrupted(1)) return nullptr;
            const Head head = read_head(p, end);
            const uint8_t* const start = p;
            p = head.body;
            uint8_t other = kNoShape;
            uint8_t* child = &other;
            TextMemo* texts = &other_texts_;
            Owned key;
            if (head.token == Token::String) {
                p += head.size;
                if (const int size = short_string(start); size >= 0) {
                    Name& found = name(start, size, signature);
                    key = Owned(Py_XNewRef(found.text.get()));
                    child = &found.child;
                    texts = &found.texts;
                } else {
                    learnable = false;
                    key = Owned(detail::new_text(head.body, head.size));
                }
                if (noted && head.size == 3 && std::memcmp(head.body, "_id", 3) == 0) *noted = p;
            } else {
                learnable = false;
                // Their hashes have no secret, so the reference codec counts those that collide.
                if (head.token == Token::Map || head.token == Token::Array ||
                    head.token == Token::Extension)
                    return nullptr;
                p = start;
                key = Owned(value(p, end, depth, other));
            }
            if (!key) return nullptr;
            Owned found(field(p, end, depth, *child, *texts));
            if (!found || PyDict_SetItem(made.get(), key.get(), found.get()) < 0) return nullptr;
        }
        if (learnable && size_t(PyDict_GET_SIZE(made.get())) == count)
            return learn(signature, made.get(), place) ? made.release() : nullptr;
        return made.release();
    }

    static uint64_t mixed(uint64_t signature, uint64_t hash) {
        signature = (signature ^ hash) * 0x9e3779b97f4a7c15ull;
        return signature ^ signature >> 29;
    }

    // The remembered key of these bytes; its hash is added to the signature of a map. The text is
    // null with an error of Python.
    Name& name(const uint8_t* key, int size, uint64_t& signature) {
        const size_t bytes = size_t(size) + 1;
        const uint64_t hash = detail::hash_bytes(key, bytes);
        signature = mixed(signature, hash);
        Name& found = names_[hash & (kNames - 1)];
        if (found.size != bytes || !equal_bytes(found.bytes, key, bytes)) {
            found.size = 0;
            found.child = kNoShape;
            found.text = Owned(detail::new_text(key + 1, size_t(size)));
            if (!found.text) return found;
            found.size = uint8_t(bytes);
            std::memcpy(found.bytes, key, bytes);
        }
        return found;
    }

    // Remember the shape of a map with short keys; false with an error of Python.
    bool learn(uint64_t signature, PyObject* made, uint8_t& place) {
        for (size_t index = 0; index < kShapes; ++index) {
            if (shapes_[index].signature == signature && !shapes_[index].keys.empty()) {
                place = uint8_t(index);
                return true;
            }
        }
        if (made_ >= kShapes) {
            uint64_t& seen = seen_[signature & (kSeen - 1)];
            const bool again = std::exchange(seen, signature) == signature;
            if (!again || made_ >= kShapeBudget + hits_ / kHitsPerShape) return true;
        }
        const size_t index = made_ % kShapes;
        if (shapes_[index].busy) return true;
        Shape shape;
        shape.signature = signature;
        shape.blank = Owned(PyDict_New());
        if (!shape.blank) return false;
        PyObject *key, *value;
        for (Py_ssize_t at = 0; PyDict_Next(made, &at, &key, &value);) {
            Owned raw(PyUnicode_AsEncodedString(key, "utf-8", "surrogateescape"));
            if (!raw || PyDict_SetItem(shape.blank.get(), key, Py_None) < 0) return false;
            const char* const text = PyBytes_AS_STRING(raw.get());
            const size_t size = size_t(PyBytes_GET_SIZE(raw.get()));
            if (size == 3 && std::memcmp(text, "_id", 3) == 0) shape.id = shape.keys.size();
            shape.keys.push_back({uint8_t(size + 1), kNoShape, uint32_t(shape.bytes.size()),
                                  Owned(Py_NewRef(key)), TextMemo()});
            shape.bytes.push_back(uint8_t(0xa0 | size));
            shape.bytes.insert(shape.bytes.end(), text, text + size);
        }
        if (!detail::find_slots(shape.blank.get(), shape.slots)) return false;
        shapes_[index] = std::move(shape);
        ++made_;
        place = uint8_t(index);
        return true;
    }

    std::unique_ptr<Name[]> names_;
    Shape shapes_[kShapes];
    uint64_t seen_[kSeen] = {};
    TextMemo other_texts_;       // of keys that are not remembered
    uint64_t made_ = 0;          // shapes
    uint64_t hits_ = 0;          // maps of a known shape
    int score_ = kMaxScore;      // whether it pays to search for other shapes
    uint8_t root_ = kNoShape;
    int left_ = kValuesPerCheck;  // values until signals are checked
    bool interrupted_ = false;
};

// A decoder of the one that is spare, or a new one. The keys that it remembers outlast a call.
class BorrowedDecoder {
  public:
    BorrowedDecoder() : decoder_(spare_.exchange(nullptr)) {
        if (!decoder_) decoder_ = new DictDecoder();
    }
    BorrowedDecoder(const BorrowedDecoder&) = delete;
    BorrowedDecoder& operator=(const BorrowedDecoder&) = delete;
    ~BorrowedDecoder() { delete spare_.exchange(decoder_); }
    DictDecoder* operator->() { return decoder_; }

    static void forget() { delete spare_.exchange(nullptr); }

  private:
    inline static std::atomic<DictDecoder*> spare_{nullptr};
    DictDecoder* decoder_;
};

// Choose whether decoders set values without a search. For tests, while no other thread decodes.
inline void choose_slots(bool wanted) {
    detail::use_slots = wanted;
    BorrowedDecoder::forget();
}

// Decode one value that fills the bytes; null as in DictDecoder.
inline PyObject* load_value(const uint8_t* data, size_t size) {
    try {
        BorrowedDecoder decoder;
        return decoder->whole(data, data + size);
    } catch (const std::bad_alloc&) {
        return PyErr_NoMemory();
    }
}

// Entries, and the rows to decode.
struct DictSource {
    const uint8_t* data;
    size_t size;
    const int64_t* bounds;  // of `entries`
    size_t entries;
    const int64_t* rows;    // null for all
    size_t count;           // of the rows
};

constexpr size_t kDictsAtOnce = 32;
constexpr size_t kDictBytesAtOnce = size_t(64) << 10;

// Decode some documents to a list, beginning with the row at `first`. The list ends before a
// document for the reference codec. If that comes first, the list is empty.
inline PyObject* load_documents(const DictSource& source, size_t first) try {
    BorrowedDecoder decoder;
    Owned made(PyList_New(0));
    size_t bytes = 0;
    for (size_t at = first; made && at < source.count; ++at) {
        if (at - first == kDictsAtOnce || bytes >= kDictBytesAtOnce) break;
        const int64_t row = source.rows ? source.rows[at] : int64_t(at);
        if (row < 0 || size_t(row) >= source.entries) break;
        const int64_t* const edges = source.bounds + 2 * row;
        if (edges[0] < 0 || edges[0] > edges[1] || edges[1] > edges[2] ||
            uint64_t(edges[2]) > source.size)
            break;
        const uint8_t *const id = source.data + edges[0], *const document = source.data + edges[1];
        Owned found(decoder->document(document, source.data + edges[2], id, document));
        if (!found) {
            if (PyErr_Occurred()) return nullptr;
            break;
        }
        if (PyList_Append(made.get(), found.get()) < 0) return nullptr;
        bytes += size_t(edges[2] - edges[0]);
    }
    return made.release();
} catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
}

}  // namespace godb
