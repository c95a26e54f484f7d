// Rows of Arrow arrays as MessagePack documents.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "bytes.hpp"
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

// How a column is written; the first twelve are godb_arrow.codec.columns.Core.
enum class Wire : uint8_t {
    Null, Bool, Int64, UInt64, Float64, String, Binary, Timestamp, List, Struct, Map, Json, Packed,
};

class Packer {
  public:
    explicit Packer(Buffer& out) : out_(out) {}

    void nil() { out_.push_byte(0xc0); }
    void boolean(bool value) { out_.push_byte(value ? 0xc3 : 0xc2); }
    void unsigned_integer(uint64_t value) {
        if (value < 0x80) out_.push_byte(uint8_t(value));
        else if (value <= 0xff) sized<1>(0xcc, value);
        else if (value <= 0xffff) sized<2>(0xcd, value);
        else if (value <= 0xffffffff) sized<4>(0xce, value);
        else sized<8>(0xcf, value);
    }
    void integer(int64_t value) {
        if (value >= 0) unsigned_integer(uint64_t(value));
        else if (value >= -32) out_.push_byte(uint8_t(value));
        else if (value >= INT8_MIN) sized<1>(0xd0, uint64_t(value));
        else if (value >= INT16_MIN) sized<2>(0xd1, uint64_t(value));
        else if (value >= INT32_MIN) sized<4>(0xd2, uint64_t(value));
        else sized<8>(0xd3, uint64_t(value));
    }
    void floating(double value) {
        uint64_t bits;
        std::memcpy(&bits, &value, 8);
        sized<8>(0xcb, bits);
    }
    void string(const uint8_t* data, size_t size) {
        if (size < 32) out_.push_byte(uint8_t(0xa0 | size));
        else if (size <= 0xff) sized<1>(0xd9, size);
        else if (size <= 0xffff) sized<2>(0xda, size);
        else sized<4>(0xdb, size);
        out_.append(data, size);
    }
    void binary(const uint8_t* data, size_t size) {
        if (size <= 0xff) sized<1>(0xc4, size);
        else if (size <= 0xffff) sized<2>(0xc5, size);
        else sized<4>(0xc6, size);
        out_.append(data, size);
    }
    void array_head(size_t count) { head(count, 0x90, 0xdc); }
    void map_head(size_t count) { head(count, 0x80, 0xde); }
    void timestamp(int64_t tick, int64_t unit) {
        int64_t seconds = tick / unit;
        int64_t rest = tick % unit;
        if (rest < 0) { rest += unit; --seconds; }
        const uint64_t nanoseconds = uint64_t(rest) * uint64_t(1000000000 / unit);
        if (seconds >= 0 && seconds >> 34 == 0) {
            const uint64_t both = nanoseconds << 34 | uint64_t(seconds);
            if (both >> 32 == 0) {
                out_.push_byte(0xd6);
                sized<4>(0xff, both);
            } else {
                out_.push_byte(0xd7);
                sized<8>(0xff, both);
            }
        } else {
            out_.push_byte(0xc7);
            out_.push_byte(12);
            sized<4>(0xff, nanoseconds);
            uint64_t swapped = __builtin_bswap64(uint64_t(seconds));
            out_.append(&swapped, 8);
        }
    }
    void raw(const uint8_t* data, size_t size) { out_.append(data, size); }

  private:
    template <int width>
    void sized(uint8_t first, uint64_t value) {
        uint8_t* to = out_.extend(1 + width);
        *to++ = first;
        const uint64_t swapped = __builtin_bswap64(value) >> (64 - 8 * width);
        std::memcpy(to, &swapped, width);
    }
    void head(size_t count, uint8_t small, uint8_t large) {
        if (count < 16) out_.push_byte(uint8_t(small | count));
        else if (count <= 0xffff) sized<2>(large, count);
        else sized<4>(uint8_t(large + 1), count);
    }

    Buffer& out_;
};

// An Arrow array, with how it is written.
struct WireColumn {
    Wire wire = Wire::Null;
    int64_t unit = 0;
    Buffer key;  // the field's name, packed
    const ArrowArray* array = nullptr;
    std::vector<std::unique_ptr<WireColumn>> children;

    // Take the array and its children; false when they are not shaped as planned.
    bool bind(const ArrowArray* bound) {
        array = bound;
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
    Encoder(Buffer& out, bool omit_nulls) : out_(out), packer_(out), omit_nulls_(omit_nulls) {}

    // Write entries: `ids` is a binary array, `root` a struct with the documents' other fields.
    // False when a map has the same key twice; `repeated` is then the column.
    bool run(const ArrowArray* ids, WireColumn& root) {
        const auto* offsets = static_cast<const int32_t*>(ids->buffers[1]) + ids->offset;
        const auto* text = static_cast<const uint8_t*>(ids->buffers[2]);
        static const uint8_t id_key[] = {0xa3, '_', 'i', 'd'};
        for (int64_t row = 0; row < ids->length; ++row) {
            const uint8_t* id = text + offsets[row];
            const size_t id_size = size_t(offsets[row + 1] - offsets[row]);
            packer_.string(id, id_size);
            size_t count = root.children.size();
            if (omit_nulls_)
                for (auto& child : root.children) count -= child->is_null(row);
            packer_.map_head(count + 1);
            packer_.raw(id_key, sizeof id_key);
            packer_.string(id, id_size);
            for (auto& child : root.children) {
                const bool null = child->is_null(row);
                if (null && omit_nulls_) continue;
                packer_.raw(child->key.data(), child->key.size());
                if (null) packer_.nil();
                else if (!value(*child, row)) { repeated_ = child.get(); return false; }
            }
        }
        return true;
    }

    const WireColumn* repeated() const { return repeated_; }

  private:
    bool value(const WireColumn& column, int64_t row) {
        const int64_t at = row + column.array->offset;
        switch (column.wire) {
            case Wire::Null: packer_.nil(); return true;
            case Wire::Bool:
                packer_.boolean(column.buffer<uint8_t>(1)[at >> 3] >> (at & 7) & 1);
                return true;
            case Wire::Int64: packer_.integer(column.buffer<int64_t>(1)[at]); return true;
            case Wire::UInt64:
                packer_.unsigned_integer(column.buffer<uint64_t>(1)[at]);
                return true;
            case Wire::Float64: packer_.floating(column.buffer<double>(1)[at]); return true;
            case Wire::Timestamp:
                packer_.timestamp(column.buffer<int64_t>(1)[at], column.unit);
                return true;
            case Wire::String:
            case Wire::Binary:
            case Wire::Json:
            case Wire::Packed: {
                const auto* offsets = column.buffer<int32_t>(1) + at;
                const uint8_t* data = column.buffer<uint8_t>(2) + offsets[0];
                const size_t size = size_t(offsets[1] - offsets[0]);
                if (column.wire == Wire::String) packer_.string(data, size);
                else if (column.wire == Wire::Binary) packer_.binary(data, size);
                else packer_.raw(data, size);
                return true;
            }
            case Wire::List: {
                const auto* offsets = column.buffer<int32_t>(1) + at;
                packer_.array_head(size_t(offsets[1] - offsets[0]));
                for (int64_t i = offsets[0]; i < offsets[1]; ++i)
                    if (!element(*column.children[0], i)) return false;
                return true;
            }
            case Wire::Struct:
                packer_.map_head(column.children.size());
                for (auto& child : column.children) {
                    packer_.raw(child->key.data(), child->key.size());
                    if (!element(*child, at)) return false;
                }
                return true;
            case Wire::Map: return map(column, at);
        }
        return false;
    }

    bool element(const WireColumn& column, int64_t row) {
        if (column.is_null(row)) {
            packer_.nil();
            return true;
        }
        return value(column, row);
    }

    bool map(const WireColumn& column, int64_t at) {
        const auto* offsets = column.buffer<int32_t>(1) + at;
        const ArrowArray* keys = column.array->children[0]->children[0];
        const int64_t shift = column.array->children[0]->offset;
        const auto* key_offsets = static_cast<const int32_t*>(keys->buffers[1]) + keys->offset;
        const auto* text = static_cast<const uint8_t*>(keys->buffers[2]);
        packer_.map_head(size_t(offsets[1] - offsets[0]));
        std::unordered_set<std::string_view> seen;
        for (int64_t i = offsets[0] + shift; i < offsets[1] + shift; ++i) {
            const uint8_t* key = text + key_offsets[i];
            const size_t size = size_t(key_offsets[i + 1] - key_offsets[i]);
            packer_.string(key, size);
            if (!seen.emplace(reinterpret_cast<const char*>(key), size).second) return false;
            if (!element(*column.children[0], i)) return false;
        }
        return true;
    }

    Buffer& out_;
    Packer packer_;
    bool omit_nulls_;
    const WireColumn* repeated_ = nullptr;
};

}  // namespace godb
