// Decoding of values into columns, one by one.

#pragma once

#include "builders.hpp"
#include "scan.hpp"

namespace godb {

enum class Problem : uint8_t { None, Corrupt, Mismatch, UnknownField, TooLarge, TooSparse };

// Failure to decode, of which Python makes a message.
struct Failure {
    Problem problem = Problem::None;
    size_t document = 0;
    std::vector<std::string> parts;  // of the path, innermost first
    std::string expected;
    const uint8_t* value = nullptr;  // the value that does not fit
    const uint8_t* end = nullptr;
    std::string field;     // of UnknownField
};

// Decoder of single values and documents.
class ValueDecoder {
  public:
    // With `is_guess`, values for which inference may choose another type do not fit.
    ValueDecoder(Column& root, Column* id, bool strict, bool null_mismatch, bool is_guess)
        : root_(root), id_(id), strict_(strict), null_mismatch_(null_mismatch),
          is_guess_(is_guess) {}

    Failure& failure() { return failure_; }

  protected:
    static bool oversized(const Column& column) {
        if (column.too_large()) return true;
        for (auto& child : column.children)
            if (oversized(*child)) return true;
        return false;
    }

    // Values of structs in a batch, most of them null, above which the batch takes memory out of
    // proportion to its documents.
    static constexpr size_t kMaxCells = size_t(1) << 25;
    static constexpr size_t kMaxCellsPerByte = 16;

    static size_t measure(Column& column) {
        size_t width = 0;
        for (auto& child : column.children) width += 1 + measure(*child);
        column.width = column.core == Core::Struct ? width : 0;
        return column.width;
    }

    bool has_room_for(size_t cells) {
        cells_ += cells;
        return cells_ <= max_cells_;
    }

    bool too_sparse() {
        failure_.problem = Problem::TooSparse;
        return false;
    }

    bool document(const uint8_t* id, const uint8_t* p, const uint8_t* end) {
        const size_t row = root_.length;
        if (id_ && !convert(*id_, id, end)) {
            failure_.parts.push_back(id_->name);
            return false;
        }
        const Head head = read_head(p, end);
        p = head.body;
        if (!fields(root_, row, head.size, p, end, true)) return false;
        ++root_.length;
        return true;
    }

    bool corrupt() {
        failure_.problem = Problem::Corrupt;
        return false;
    }

    // Field that a map has again, or whose first value does not fit and which may come again.
    struct Again {
        size_t child;
        const uint8_t* value;  // the last one so far
        Failure failure;       // of the first value, while that is the last one
    };

    // What is decided at the end of a map: equal keys, and failures, which a later key may undo.
    struct Undecided {
        std::vector<Again> fields;
        std::vector<uint32_t> at;  // by child, one more than the index in `fields`
        const uint8_t* unknown = nullptr;
        std::string unknown_name;

        explicit Undecided(size_t children) : at(children) {}
        Again* field(size_t child) { return at[child] ? &fields[at[child] - 1] : nullptr; }
        void add(size_t child, const uint8_t* value, Failure failure) {
            fields.push_back({child, value, std::move(failure)});
            at[child] = uint32_t(fields.size());
        }
    };

    // Decode the fields of one map into their columns; columns without a value get a null. The last
    // of equal keys wins. Its value is decoded at the end, so that many of them cost little.
    bool fields(Column& column, size_t row, uint64_t count, const uint8_t*& p, const uint8_t* end,
                bool top) {
        std::unique_ptr<Undecided> open;
        const bool readable = size_t(limit_ - end) >= 8;
        for (uint64_t place = 0; place < count; ++place) {
            int found = readable ? column.keys.expected(p, place) : Keys::kNone;
            if (found == Keys::kNone) {
                const int short_size = short_string(p);
                if (__builtin_expect(short_size >= 0, 1)) {
                    found = column.keys.find(p + 1, size_t(short_size), place,
                                             size_t(limit_ - p - 1));
                    if (found != Keys::kNone) p += 1 + short_size;
                } else {
                    const Head key = read_head(p, end);
                    if (key.token == Token::String) {
                        found = column.keys.find(key.body, key.size, place);
                        if (found != Keys::kNone) p = key.body + key.size;
                    }
                }
            }
            if (found == Keys::kNone) {
                KeyName name;
                if (!read_key(p, end, scratch_, name)) return corrupt();
                if (name.odd) found = column.keys.find(name.data, name.size, place);
                // A recorded schema must not hide a field that it does not name.
                const bool is_unknown = strict_ && !(top && is_id(name));
                if (found == Keys::kNone && is_unknown) {
                    if (!open) open.reset(new Undecided(column.children.size()));
                    if (!open->unknown) {
                        open->unknown = p;
                        open->unknown_name.assign(reinterpret_cast<const char*>(name.data), name.size);
                    }
                }
                // The next document has the same field, so remember that it is not wanted.
                if (!(name.odd || is_unknown) &&
                    column.keys.size() < column.children.size() + kMaxUnwanted)
                    column.keys.add(name.data, name.size);
            }
            if (size_t(found) >= column.children.size() ||
                (top && column.children[size_t(found)].get() == id_)) {
                SizeGuess* const guess = column.keys.value_at(place);
                const uint8_t size = guess ? guess->size_of(*p) : 0;
                if (size) p += size;
                else if (!skip(p, end)) return corrupt();
                continue;
            }
            Column& child = *column.children[size_t(found)];
            const uint8_t* const value = p;
            if (__builtin_expect(child.length > row || open, 0)) {
                if (is_guess_ && child.length > row) {
                    failure_.parts.push_back(top ? child.name : "." + child.name);
                    return misfit(child, value, p, end, "one value");
                }
                if (!open) open.reset(new Undecided(column.children.size()));
                if (child.length > row && !open->field(size_t(found)))
                    open->add(size_t(found), value, Failure());
                if (Again* const again = open->field(size_t(found))) {
                    again->value = value;
                    again->failure = Failure();
                    if (!skip(p, end)) return corrupt();
                    continue;
                }
            }
            if (!convert(child, p, end)) {
                if (failure_.problem == Problem::Corrupt ||
                    failure_.problem == Problem::TooSparse || is_guess_) {
                    failure_.parts.push_back(top ? child.name : "." + child.name);
                    return false;
                }
                if (!open) open.reset(new Undecided(column.children.size()));
                open->add(size_t(found), value, std::move(failure_));
                failure_ = Failure();
                child.truncate(row);
                p = value;
                if (!skip(p, end)) return corrupt();
            }
        }
        if (open && !decide(column, row, *open, end, top)) return false;
        for (auto& child : column.children)
            if (child->length == row) {
                if (child->width && !has_room_for(child->width)) return too_sparse();
                child->push_null();
            }
        return true;
    }

    // Decode the last values of equal keys. If there are failures, the first one in the map counts.
    bool decide(Column& column, size_t row, Undecided& open, const uint8_t* end, bool top) {
        const uint8_t* first = open.unknown;
        Failure earliest;
        if (first) {
            earliest.problem = Problem::UnknownField;
            earliest.field = open.unknown_name;
        }
        for (Again& again : open.fields) {
            Column& child = *column.children[again.child];
            if (again.failure.problem == Problem::None) {
                child.truncate(row);
                failure_ = Failure();
                const uint8_t* p = again.value;
                if (convert(child, p, end)) continue;
                again.failure = std::move(failure_);
            }
            if (first && first < again.value) continue;
            first = again.value;
            earliest = std::move(again.failure);
            earliest.parts.push_back(top ? child.name : "." + child.name);
        }
        failure_ = std::move(earliest);
        return failure_.problem == Problem::None;
    }

    static constexpr size_t kMaxUnwanted = 256;

    static bool skip(const uint8_t*& p, const uint8_t* end) {
        if (const uint8_t* const behind = behind_scalar(p)) {
            p = behind;
            return true;
        }
        return pass_over<true>(p, end, kMaxDepth) == Passed::Whole;
    }

    static bool is_id(const KeyName& name) {
        return name.size == 3 && std::memcmp(name.data, "_id", 3) == 0;
    }

    bool misfit(Column& column, const uint8_t* value, const uint8_t*& p, const uint8_t* end,
                const char* expected) {
        if (null_mismatch_) {
            const uint8_t* at = value;
            if (pass_over<true>(at, end, kMaxDepth) != Passed::Whole) return corrupt();
            if (column.width && !has_room_for(column.width)) return too_sparse();
            p = at;
            column.push_null();
            return true;
        }
        failure_.problem = Problem::Mismatch;
        failure_.expected = expected;
        failure_.value = value;
        failure_.end = end;
        return false;
    }

    // Decode one value into its column, and advance `p` after it.
    bool convert(Column& column, const uint8_t*& p, const uint8_t* end) {
        const uint8_t* const value = p;
        if (*p == 0xc0) {
            if (column.width && !has_room_for(column.width)) return too_sparse();
            ++p;
            column.push_null();
            return true;
        }
        switch (column.core) {
            case Core::Json: {
                JsonWriter writer(column.values);
                if (!writer.value(p, end)) return corrupt();
                column.push_text_end();
                return true;
            }
            case Core::String: {
                const int size = short_string(p);
                const size_t readable = size_t(limit_ - p - 1);
                if (__builtin_expect(size >= 0 && size <= 16 && readable >= 16, 1)
                        ? is_short_ascii(p + 1, size_t(size)) || is_utf8(p + 1, size_t(size))
                        : size >= 0 && is_utf8(p + 1, size_t(size))) {
                    column.values.append_text(p + 1, size_t(size), readable);
                    column.push_text_end();
                    p += 1 + size;
                    return true;
                }
                const Head head = read_head(p, end);
                if (head.token != Token::String || !is_utf8(head.body, head.size))
                    return misfit(column, value, p, end, "string");
                column.values.append_text(head.body, head.size, size_t(end - head.body));
                column.push_text_end();
                p = head.body + head.size;
                return true;
            }
            case Core::Binary: {
                const Head head = read_head(p, end);
                if (head.token != Token::String && head.token != Token::Binary)
                    return misfit(column, value, p, end, "binary");
                column.values.append_text(head.body, head.size, size_t(end - head.body));
                column.push_text_end();
                p = head.body + head.size;
                return true;
            }
            case Core::Int64: return integer(column, p, end);
            case Core::UInt64: return unsigned_integer(column, p, end);
            case Core::Float64: return floating(column, p, end);
            case Core::Bool:
                if (*p != 0xc2 && *p != 0xc3) return misfit(column, value, p, end, "bool");
                column.push_bool(*p++ == 0xc3);
                return true;
            case Core::Timestamp: return timestamp(column, p, end);
            case Core::List: return list(column, p, end);
            case Core::Struct: {
                const Head head = read_head(p, end);
                if (head.token != Token::Map) return misfit(column, value, p, end, "struct");
                p = head.body;
                if (!has_room_for(column.children.size())) return too_sparse();
                if (!fields(column, column.length, head.size, p, end, false)) return false;
                column.mark_valid();
                return true;
            }
            case Core::Map: return map(column, p, end);
            case Core::Null: return misfit(column, value, p, end, "null");
        }
        return false;
    }

    bool integer(Column& column, const uint8_t*& p, const uint8_t* end) {
        if (*p < 0x80) {
            column.push_number(int64_t(*p++));
            return true;
        }
        const Head head = read_head(p, end);
        int64_t number;
        switch (head.token) {
            case Token::Positive:
            case Token::Negative:
            case Token::Int: number = int64_t(head.bits); break;
            case Token::UInt:
                if (head.bits >> 63) return misfit(column, p, p, end, "int64");
                number = int64_t(head.bits);
                break;
            case Token::Float32:
            case Token::Float64: {
                // go-db's HTTP interface stores every number as a float.
                const double real = as_double(head);
                if (column.exact || !(real >= -9223372036854775808.0 && real < 9223372036854775808.0) ||
                    double(int64_t(real)) != real)
                    return misfit(column, p, p, end, "int64");
                number = int64_t(real);
                break;
            }
            default: return misfit(column, p, p, end, "int64");
        }
        column.push_number(number);
        p = head.body;
        return true;
    }

    // The size of a signed number.
    static uint64_t magnitude(uint64_t bits) { return bits >> 63 ? 0 - bits : bits; }

    // Whether a double has a number exactly.
    static bool is_double(uint64_t number) {
        if (number >> 53 == 0) return true;
        return 64 - __builtin_clzll(number) - __builtin_ctzll(number) <= 53;
    }

    bool unsigned_integer(Column& column, const uint8_t*& p, const uint8_t* end) {
        const Head head = read_head(p, end);
        uint64_t number;
        switch (head.token) {
            case Token::Positive:
            case Token::UInt: number = head.bits; break;
            case Token::Negative:
            case Token::Int:
                if (head.bits >> 63) return misfit(column, p, p, end, "uint64");
                number = head.bits;
                break;
            case Token::Float32:
            case Token::Float64: {
                const double real = as_double(head);
                if (column.exact || !(real >= 0.0 && real < 18446744073709551616.0) ||
                    double(uint64_t(real)) != real)
                    return misfit(column, p, p, end, "uint64");
                number = uint64_t(real);
                break;
            }
            default: return misfit(column, p, p, end, "uint64");
        }
        column.push_number(number);
        p = head.body;
        return true;
    }

    bool floating(Column& column, const uint8_t*& p, const uint8_t* end) {
        if (*p == 0xcb) {
            column.push_number(load64(p + 1));  // as bits
            p += 9;
            return true;
        }
        const Head head = read_head(p, end);
        double number;
        switch (head.token) {
            case Token::Float32:
            case Token::Float64: number = as_double(head); break;
            case Token::Positive:
            case Token::UInt:
                if (column.exact && (is_guess_ || !is_double(head.bits)))
                    return misfit(column, p, p, end, "float64");
                number = double(head.bits);
                break;
            case Token::Negative:
            case Token::Int:
                if (column.exact && (is_guess_ || !is_double(magnitude(head.bits))))
                    return misfit(column, p, p, end, "float64");
                number = double(int64_t(head.bits));
                break;
            default: return misfit(column, p, p, end, "float64");
        }
        column.push_number(number);
        p = head.body;
        return true;
    }

    bool timestamp(Column& column, const uint8_t*& p, const uint8_t* end) {
        const Head head = read_head(p, end);
        if (head.token != Token::Extension || head.ext_type != -1)
            return misfit(column, p, p, end, column.type_name.c_str());
        Timestamp stamp;
        if (!read_timestamp(head, stamp)) return corrupt();
        int64_t value;
        if (!ticks(stamp, column.unit, value) ||
            (column.exact && stamp.nanoseconds % uint32_t(1000000000 / column.unit)))
            return misfit(column, p, p, end, column.type_name.c_str());
        column.push_number(value);
        p = head.body + head.size;
        return true;
    }

    bool list(Column& column, const uint8_t*& p, const uint8_t* end) {
        const Head head = read_head(p, end);
        if (head.token != Token::Array) return misfit(column, p, p, end, "list");
        p = head.body;
        Column& item = *column.children[0];
        for (uint64_t i = 0; i < head.size; ++i)
            if (!convert(item, p, end)) {
                failure_.parts.push_back("[" + std::to_string(i) + "]");
                return false;
            }
        column.push_offset(item.length);
        column.mark_valid();
        return true;
    }

    bool map(Column& column, const uint8_t*& p, const uint8_t* end) {
        const Head head = read_head(p, end);
        if (head.token != Token::Map) return misfit(column, p, p, end, "map");
        p = head.body;
        Column& item = *column.children[0];
        Column& names = *column.map_keys();
        for (uint64_t i = 0; i < head.size; ++i) {
            KeyName name;
            if (!read_key(p, end, scratch_, name)) return corrupt();
            names.values.append(name.data, name.size);
            names.push_text_end();
            if (!convert(item, p, end)) {
                failure_.parts.push_back(
                    "." + std::string(reinterpret_cast<const char*>(names.values.data()) +
                                          (names.values.size() - name.size),
                                      name.size));
                return false;
            }
        }
        column.push_offset(item.length);
        column.mark_valid();
        return true;
    }

    Column& root_;
    Column* id_;
    bool strict_;
    bool null_mismatch_;
    bool is_guess_;
    size_t cells_ = 0;
    size_t max_cells_ = SIZE_MAX;
    const uint8_t* limit_ = nullptr;  // end of all documents, up to which bytes may be read
    Failure failure_;
    Buffer scratch_;
};

}  // namespace godb
