// Column builders, one for each core type of godb_arrow.codec.columns.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fields.hpp"
#include "keys.hpp"
#include "memory.hpp"

namespace godb {

enum class Core : uint8_t {
    Null, Bool, Int64, UInt64, Float64, String, Binary, Timestamp, List, Struct, Map, Json,
};

// Builder of one column or of a child of a nested one: its plan and the values so far.
struct Column {
    Core core = Core::Null;
    int64_t unit = 0;       // of timestamps: units in a second
    bool exact = false;     // a value that would be rounded, cut or changed does not fit
    std::string name;
    std::string type_name;  // of timestamps, in messages
    std::vector<std::unique_ptr<Column>> children;
    Keys keys;              // of a struct: the children's names

    std::unique_ptr<FieldFinder> finder;  // of a struct's children; created when it is needed

    size_t width = 0;  // of a struct, the columns that a null adds to, all levels counted
    size_t length = 0;
    size_t nulls = 0;
    Bitmap valid;           // empty while there are no nulls
    Bitmap bits;            // bool
    Buffer values;          // numbers, or text
    Buffer offsets;         // of text, lists and maps: length + 1 of them
    Column* map_keys() { return children[1].get(); }

    bool has_offsets() const {
        return core == Core::String || core == Core::Binary || core == Core::Json ||
               core == Core::List || core == Core::Map;
    }

    void reserve(size_t rows) {
        if (has_offsets()) {
            offsets.reserve((rows + 1) * sizeof(int32_t));
            if (offsets.size() == 0) offsets.push<int32_t>(0);
        } else if (core == Core::Int64 || core == Core::UInt64 || core == Core::Float64 ||
                   core == Core::Timestamp) {
            values.reserve(rows * 8);
        } else if (core == Core::Struct) {
            for (auto& child : children) child->reserve(rows);
        }
    }

    bool is_text() const {
        return core == Core::String || core == Core::Binary || core == Core::Json;
    }
    size_t count_text() const {
        size_t count = is_text();
        for (auto& child : children) count += child->count_text();
        return count;
    }
    // Untouched memory costs nothing, while growing step by step touches all of it again.
    void reserve_text(size_t bytes) {
        if (is_text()) values.reserve_about(bytes);
        for (auto& child : children) child->reserve_text(bytes);
    }

    void mark_valid() {
        if (nulls) valid.push(true);
        ++length;
    }
    void push_offset(size_t at) {
        if (offsets.size() == 0) offsets.push<int32_t>(0);
        offsets.push<int32_t>(int32_t(at));
    }

    template <typename T>
    void push_number(T value) {
        values.push(value);
        mark_valid();
    }
    // Memory after the offsets, to fill with some more.
    uint8_t* room_for_offsets(size_t count) {
        if (offsets.size() == 0) offsets.push<int32_t>(0);
        offsets.reserve(count * sizeof(int32_t));
        return offsets.data() + offsets.size();
    }
    // Call this after values were added: for each, whether it is not null.
    void mark(const uint8_t* present, size_t count) {
        size_t valid_count = 0;
        for (size_t i = 0; i < count; ++i) valid_count += present[i];
        if (nulls || valid_count < count) {
            if (nulls == 0) valid.push_set(length);
            valid.push_each(present, count);
        }
        nulls += count - valid_count;
        length += count;
    }
    void push_bool(bool value) {
        bits.push(value);
        mark_valid();
    }
    // Call this after the text was appended to `values`.
    void push_text_end() {
        push_offset(values.size());
        mark_valid();
    }

    void push_null() {
        if (nulls == 0) valid.push_set(length);
        valid.push(false);
        ++nulls;
        ++length;
        switch (core) {
            case Core::Bool: bits.push(false); break;
            case Core::Int64:
            case Core::UInt64:
            case Core::Float64:
            case Core::Timestamp: values.push<uint64_t>(0); break;
            case Core::String:
            case Core::Binary:
            case Core::Json: push_offset(values.size()); break;
            case Core::List:
            case Core::Map: push_offset(children[0]->length); break;
            case Core::Struct:
                for (auto& child : children) child->push_null();
                break;
            case Core::Null: break;
        }
    }

    // Drop values beyond the first `size`, and parts of an unfinished value. A later value with the
    // same key replaces them.
    void truncate(size_t size) {
        if (size > length) return;
        if (nulls && size < length) {
            for (size_t i = size; i < length; ++i) nulls -= !valid.at(i);
            if (nulls) valid.truncate(size);
            else valid.truncate(0);
        }
        length = size;
        switch (core) {
            case Core::Bool: bits.truncate(size); break;
            case Core::Int64:
            case Core::UInt64:
            case Core::Float64:
            case Core::Timestamp: values.truncate(size * 8); break;
            case Core::String:
            case Core::Binary:
            case Core::Json:
                values.truncate(cut_offsets(size));
                break;
            case Core::List:
            case Core::Map: {
                const size_t kept = cut_offsets(size);
                for (auto& child : children) child->truncate(kept);
                break;
            }
            case Core::Struct:
                for (auto& child : children) child->truncate(size);
                break;
            case Core::Null: break;
        }
    }

    bool too_large() const { return has_offsets() && values.size() > INT32_MAX; }

  private:
    // Keep the offsets of `size` values and return their end.
    size_t cut_offsets(size_t size) {
        if (offsets.size() == 0) return 0;
        offsets.truncate((size + 1) * sizeof(int32_t));
        int32_t value;
        std::memcpy(&value, offsets.data() + offsets.size() - sizeof value, sizeof value);
        return size_t(value);
    }
};

}  // namespace godb
