// Encoding of rows of Arrow arrays as MessagePack documents.

#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "bytes.hpp"
#include "hash.hpp"
#include "memory.hpp"

// The Arrow C data interface: https://arrow.apache.org/docs/format/CDataInterface.html
extern "C" struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void** buffers;
    struct ArrowArray** children;
    struct ArrowArray* dictionary;
    void (*release)(struct ArrowArray*);
    void* private_data;
};

namespace godb {

// Encoding of a column; the first twelve are godb_arrow.codec.columns.Core.
enum class Wire : uint8_t {
    Null, Bool, Int64, UInt64, Float64, String, Binary, Timestamp, List, Struct, Map, Json, Packed,
};

// Functions that write one value where there is room for it, and return the end of the value. A
// head has at most nine bytes.
namespace pack {

constexpr size_t kMostHead = 16;

template <int width>
inline uint8_t* sized(uint8_t* to, uint8_t first, uint64_t value) {
    *to++ = first;
    const uint64_t swapped = __builtin_bswap64(value) >> (64 - 8 * width);
    std::memcpy(to, &swapped, width);
    return to + width;
}
inline uint8_t* byte(uint8_t* to, uint8_t value) {
    *to = value;
    return to + 1;
}
inline uint8_t* nil(uint8_t* to) { return byte(to, 0xc0); }
inline uint8_t* unsigned_integer(uint8_t* to, uint64_t value) {
    if (value < 0x80) return byte(to, uint8_t(value));
    if (value <= 0xff) return sized<1>(to, 0xcc, value);
    if (value <= 0xffff) return sized<2>(to, 0xcd, value);
    if (value <= 0xffffffff) return sized<4>(to, 0xce, value);
    return sized<8>(to, 0xcf, value);
}
inline uint8_t* integer(uint8_t* to, int64_t value) {
    if (value >= 0) return unsigned_integer(to, uint64_t(value));
    if (value >= -32) return byte(to, uint8_t(value));
    if (value >= INT8_MIN) return sized<1>(to, 0xd0, uint64_t(value));
    if (value >= INT16_MIN) return sized<2>(to, 0xd1, uint64_t(value));
    if (value >= INT32_MIN) return sized<4>(to, 0xd2, uint64_t(value));
    return sized<8>(to, 0xd3, uint64_t(value));
}
inline uint8_t* floating(uint8_t* to, double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, 8);
    return sized<8>(to, 0xcb, bits);
}
inline uint8_t* string_head(uint8_t* to, size_t size) {
    if (size < 32) return byte(to, uint8_t(0xa0 | size));
    if (size <= 0xff) return sized<1>(to, 0xd9, size);
    if (size <= 0xffff) return sized<2>(to, 0xda, size);
    return sized<4>(to, 0xdb, size);
}
inline uint8_t* binary_head(uint8_t* to, size_t size) {
    if (size <= 0xff) return sized<1>(to, 0xc4, size);
    if (size <= 0xffff) return sized<2>(to, 0xc5, size);
    return sized<4>(to, 0xc6, size);
}
inline uint8_t* head(uint8_t* to, size_t count, uint8_t small, uint8_t large) {
    if (count < 16) return byte(to, uint8_t(small | count));
    if (count <= 0xffff) return sized<2>(to, large, count);
    return sized<4>(to, uint8_t(large + 1), count);
}
inline uint8_t* array_head(uint8_t* to, size_t count) { return head(to, count, 0x90, 0xdc); }
inline uint8_t* map_head(uint8_t* to, size_t count) { return head(to, count, 0x80, 0xde); }
template <int64_t unit>
inline uint8_t* timestamp(uint8_t* to, int64_t tick) {
    int64_t seconds = tick / unit;
    int64_t rest = tick % unit;
    if (rest < 0) { rest += unit; --seconds; }
    const uint64_t nanoseconds = uint64_t(rest * (1000000000 / unit));
    if (seconds >= 0 && seconds >> 34 == 0) {
        const uint64_t both = nanoseconds << 34 | uint64_t(seconds);
        if (both >> 32 == 0) return sized<4>(byte(to, 0xd6), 0xff, both);
        return sized<8>(byte(to, 0xd7), 0xff, both);
    }
    to = sized<4>(byte(byte(to, 0xc7), 12), 0xff, nanoseconds);
    const uint64_t swapped = __builtin_bswap64(uint64_t(seconds));
    std::memcpy(to, &swapped, 8);
    return to + 8;
}
inline uint8_t* timestamp(uint8_t* to, int64_t tick, int64_t unit) {
    switch (unit) {  // division by a constant is several times faster
        case 1: return timestamp<1>(to, tick);
        case 1000: return timestamp<1000>(to, tick);
        case 1000000: return timestamp<1000000>(to, tick);
        default: return timestamp<1000000000>(to, tick);
    }
}
// Copy mostly few bytes: there is room for 16, and `readable` bytes may be read.
inline uint8_t* few(uint8_t* to, const uint8_t* from, size_t size, size_t readable) {
    if (__builtin_expect(size <= 16 && readable >= 16, 1)) std::memcpy(to, from, 16);
    else if (size) std::memcpy(to, from, size);
    return to + size;
}

}  // namespace pack

// Whether the offsets of an array of texts ascend, so that each lies between those at the ends.
inline bool offsets_ascend(const ArrowArray* texts) {
    if (!texts->length) return true;
    const auto* offsets = static_cast<const int32_t*>(texts->buffers[1]) + texts->offset;
    bool ascend = offsets[0] >= 0;
    for (int64_t i = 0; i < texts->length; ++i) ascend &= offsets[i] <= offsets[i + 1];
    return ascend;
}

// Arrow array with its encoding.
struct WireColumn {
    Wire wire = Wire::Null;
    int64_t unit = 0;
    Buffer key;  // the field's name, packed
    const ArrowArray* array = nullptr;
    const uint8_t* text_end = nullptr;  // end of the texts of an array
    int32_t first = 0, last = 0;        // offsets at both ends of an array of texts or lists
    std::vector<std::unique_ptr<WireColumn>> children;

    // Take the array and its children; false if their types are not as planned.
    bool bind(const ArrowArray* bound) {
        array = bound;
        if (has_offsets() && bound->length) {
            first = buffer<int32_t>(1)[bound->offset];
            last = buffer<int32_t>(1)[bound->offset + bound->length];
            if (has_text()) text_end = buffer<uint8_t>(2) + last;
        }
        const ArrowArray* from = bound;
        if (wire == Wire::Map) {
            if (from->n_children != 1) return false;
            from = from->children[0];
            if (from->n_children != 2 || children.size() != 1) return false;
            return children[0]->bind(from->children[1]);
        }
        if (size_t(from->n_children) != children.size()) return false;
        for (size_t i = 0; i < children.size(); ++i)
            if (!children[i]->bind(from->children[i])) return false;
        return true;
    }

    bool has_text() const {
        return wire == Wire::String || wire == Wire::Binary || wire == Wire::Json ||
               wire == Wire::Packed;
    }

    bool has_offsets() const { return has_text() || wire == Wire::List || wire == Wire::Map; }

    // Whether a value lies between the ends of its array. Arrow's validation of a batch, unless it
    // is a full one, checks the ends only.
    bool is_inside(const int32_t* offsets) const {
        return offsets[0] >= first && offsets[1] >= offsets[0] && offsets[1] <= last;
    }

    bool is_null(int64_t row) const {
        if (wire == Wire::Null) return true;
        if (array->null_count == 0 || !array->buffers[0]) return false;
        const int64_t at = row + array->offset;
        return !(static_cast<const uint8_t*>(array->buffers[0])[at >> 3] >> (at & 7) & 1);
    }
    template <typename T>
    const T* buffer(int index) const { return static_cast<const T*>(array->buffers[index]); }
};

class Encoder {
  public:
    Encoder(Buffer& out, bool omit_nulls) : out_(out), omit_nulls_(omit_nulls) {}

    // Write entries: `ids` is a binary array, `root` a struct with the documents' other fields.
    // `sizes` gets the bytes of each entry. Returns false if a map has the same key twice, or if
    // offsets lead out of an array.
    bool run(const ArrowArray* ids, WireColumn& root, uint32_t* sizes) {
        if (!offsets_ascend(ids)) return outside() != nullptr;
        const auto* offsets = static_cast<const int32_t*>(ids->buffers[1]) + ids->offset;
        const auto* text = static_cast<const uint8_t*>(ids->buffers[2]);
        const uint8_t* const text_end = text + offsets[ids->length];
        static const uint8_t id_key[16] = {0xa3, '_', 'i', 'd'};
        uint8_t* to = room(nullptr, 1);
        for (int64_t row = 0; to && row < ids->length; ++row) {
            const uint8_t* id = text + offsets[row];
            const size_t id_size = size_t(offsets[row + 1] - offsets[row]);
            const size_t readable = size_t(text_end - id);
            const size_t before = size_t(to - out_.data());
            to = room(to, 2 * id_size + 6 * pack::kMostHead);
            to = pack::few(pack::string_head(to, id_size), id, id_size, readable);
            size_t count = root.children.size();
            if (omit_nulls_)
                for (auto& child : root.children) count -= child->is_null(row);
            to = pack::few(pack::map_head(to, count + 1), id_key, 4, 16);
            to = pack::few(pack::string_head(to, id_size), id, id_size, readable);
            to = fields(root, row, to, omit_nulls_);
            if (to) sizes[row] = uint32_t(size_t(to - out_.data()) - before);
            // Rows are mostly similar, so reserve memory for all of them at once.
            if (row == kSample && to)
                to = room(to, size_t(to - out_.data()) / kSample * size_t(ids->length - row));
        }
        if (to) out_.truncate(size_t(to - out_.data()));
        return to != nullptr;
    }

    bool leads_outside() const { return leads_outside_; }

  private:
    uint8_t* outside() {
        leads_outside_ = true;
        return nullptr;
    }

    // Where to write, with room for `needed` bytes; the bytes before `to` are kept.
    uint8_t* room(uint8_t* to, size_t needed) {
        if (__builtin_expect(size_t(limit_ - to) >= needed && to, 1)) return to;
        if (to) out_.truncate(size_t(to - out_.data()));
        const size_t used = out_.size();
        out_.extend(needed + std::max(used / 2, kLeastRoom));
        limit_ = out_.data() + out_.size();
        return out_.data() + used;
    }

    uint8_t* fields(const WireColumn& column, int64_t row, uint8_t* to, bool omit_nulls) {
        for (auto& child : column.children) {
            const bool null = child->is_null(row);
            if (null && omit_nulls) continue;
            const size_t size = child->key.size();
            to = room(to, size + 3 * pack::kMostHead);
            to = pack::few(to, child->key.data(), size, child->key.capacity());
            to = null ? pack::nil(to) : value(*child, row, to);
            if (!to) return nullptr;
        }
        return to;
    }

    // Write a value where there is room for two heads; null if a map has a key twice.
    uint8_t* value(const WireColumn& column, int64_t row, uint8_t* to) {
        const int64_t at = row + column.array->offset;
        switch (column.wire) {
            case Wire::Null: return pack::nil(to);
            case Wire::Bool:
                return pack::byte(to, 0xc2 | (column.buffer<uint8_t>(1)[at >> 3] >> (at & 7) & 1));
            case Wire::Int64: return pack::integer(to, column.buffer<int64_t>(1)[at]);
            case Wire::UInt64: return pack::unsigned_integer(to, column.buffer<uint64_t>(1)[at]);
            case Wire::Float64: return pack::floating(to, column.buffer<double>(1)[at]);
            case Wire::Timestamp:
                return pack::timestamp(to, column.buffer<int64_t>(1)[at], column.unit);
            case Wire::String:
            case Wire::Binary:
            case Wire::Json:
            case Wire::Packed: {
                const auto* offsets = column.buffer<int32_t>(1) + at;
                if (__builtin_expect(!column.is_inside(offsets), 0)) return outside();
                const uint8_t* data = column.buffer<uint8_t>(2) + offsets[0];
                const size_t size = size_t(offsets[1] - offsets[0]);
                to = room(to, size + 2 * pack::kMostHead);
                if (column.wire == Wire::String) to = pack::string_head(to, size);
                else if (column.wire == Wire::Binary) to = pack::binary_head(to, size);
                return pack::few(to, data, size, size_t(column.text_end - data));
            }
            case Wire::List: {
                const auto* offsets = column.buffer<int32_t>(1) + at;
                if (__builtin_expect(!column.is_inside(offsets), 0)) return outside();
                to = pack::array_head(to, size_t(offsets[1] - offsets[0]));
                for (int64_t i = offsets[0]; to && i < offsets[1]; ++i)
                    to = element(*column.children[0], i, to);
                return to;
            }
            case Wire::Struct:
                return fields(column, at, pack::map_head(to, column.children.size()), false);
            case Wire::Map: return map(column, at, to);
        }
        return nullptr;
    }

    uint8_t* element(const WireColumn& column, int64_t row, uint8_t* to) {
        to = room(to, 2 * pack::kMostHead);
        return column.is_null(row) ? pack::nil(to) : value(column, row, to);
    }

    uint8_t* map(const WireColumn& column, int64_t at, uint8_t* to) {
        const auto* offsets = column.buffer<int32_t>(1) + at;
        if (!column.is_inside(offsets)) return outside();
        const ArrowArray* keys = column.array->children[0]->children[0];
        const int64_t shift = column.array->children[0]->offset;
        const auto* key_offsets = static_cast<const int32_t*>(keys->buffers[1]) + keys->offset;
        const auto* text = static_cast<const uint8_t*>(keys->buffers[2]);
        to = pack::map_head(to, size_t(offsets[1] - offsets[0]));
        std::unordered_set<std::string_view, SecretHash> seen;
        for (int64_t i = offsets[0] + shift; to && i < offsets[1] + shift; ++i) {
            if (key_offsets[i] < 0 || key_offsets[i + 1] < key_offsets[i] ||
                key_offsets[i + 1] > key_offsets[keys->length])
                return outside();
            const uint8_t* key = text + key_offsets[i];
            const size_t size = size_t(key_offsets[i + 1] - key_offsets[i]);
            if (!seen.emplace(reinterpret_cast<const char*>(key), size).second) return nullptr;
            to = room(to, size + 2 * pack::kMostHead);
            to = pack::few(pack::string_head(to, size), key, size, 0);
            to = element(*column.children[0], i, to);
        }
        return to;
    }

    static constexpr size_t kLeastRoom = 4096;
    static constexpr int64_t kSample = 64;

    Buffer& out_;
    uint8_t* limit_ = nullptr;
    bool omit_nulls_;
    bool leads_outside_ = false;
};

}  // namespace godb
