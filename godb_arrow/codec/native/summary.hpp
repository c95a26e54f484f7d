// Summary of the values of each field: the table of types, joined over documents.
//
// The kinds and the rules are the same as in godb_arrow.schema. The Python side turns the result
// into its own FieldSummary.

#pragma once

#include <memory>

#include "bounds.hpp"
#include "keys.hpp"

namespace godb {

enum Kind : uint32_t {
    kNull = 1, kBool = 2, kNegative = 4, kUnsigned = 8, kAboveInt64 = 16, kFloat = 32,
    kString = 64, kBinary = 128, kTimestamp = 256, kArray = 512, kMap = 1024, kExtension = 2048,
    kNeedsNanoseconds = 4096, kOutsideNanoseconds = 8192, kOutsideMicroseconds = 16384,
    kOddKey = 32768,
};
constexpr int kKinds = 16;

struct Summary {
    uint32_t kinds = 0;
    uint32_t first[kKinds] = {};           // for each kind, the first document that had it
    std::unique_ptr<Summary> item;         // the elements of arrays
    Keys keys;                             // of maps
    std::vector<std::unique_ptr<Summary>> fields;
    std::unique_ptr<Summary> values;       // of maps, once their keys are too many
    std::unique_ptr<ValueBounds> bounds;   // of a whole field, where they are wanted

    void add(uint32_t kind, uint32_t document) {
        if (__builtin_expect((kinds & kind) == kind, 1)) return;
        for (int bit = 0; bit < kKinds; ++bit)
            if (kind >> bit & 1 && !(kinds >> bit & 1)) first[bit] = document;
        kinds |= kind;
    }

    // Join the summary of later documents.
    void merge(Summary& other, size_t max_keys) {
        for (int bit = 0; bit < kKinds; ++bit)
            if (other.kinds >> bit & 1 && !(kinds >> bit & 1)) first[bit] = other.first[bit];
        kinds |= other.kinds;
        if (other.item) {
            if (!item) item = std::make_unique<Summary>();
            item->merge(*other.item, max_keys);
        }
        if (other.values) {
            collapse(max_keys);
            values->merge(*other.values, max_keys);
        }
        for (size_t i = 0; i < other.fields.size(); ++i) {
            const std::string& name = other.keys.name(i);
            field(reinterpret_cast<const uint8_t*>(name.data()), name.size(), i, max_keys)
                .merge(*other.fields[i], max_keys);
        }
    }

    // Summary of a key that was seen before, with `p` advanced after the key; else null.
    Summary* known(const uint8_t*& p, const uint8_t* end, size_t place, const uint8_t* limit) {
        if (values) return nullptr;
        if (__builtin_expect(limit - p > 8, 1)) {
            const int guess = keys.expected(p, place);
            if (__builtin_expect(guess != Keys::kNone, 1)) return fields[size_t(guess)].get();
        }
        const int size = short_string(p);
        if (__builtin_expect(size >= 0, 1)) {
            const int found = keys.find(p + 1, size_t(size), place, size_t(limit - p - 1));
            if (found == Keys::kNone) return nullptr;
            p += 1 + size;
            return fields[size_t(found)].get();
        }
        const Head key = read_head(p, end);
        if (key.token != Token::String) return nullptr;
        const int found = keys.find(key.body, key.size, place);
        if (found == Keys::kNone) return nullptr;
        p = key.body + key.size;
        return fields[size_t(found)].get();
    }

    // Summary of one key's values, created when it is new.
    Summary& field(const uint8_t* data, size_t size, size_t place, size_t max_keys) {
        if (values) return *values;
        const int found = keys.find(data, size, place);
        if (found != Keys::kNone) return *fields[size_t(found)];
        keys.add(data, size);
        fields.push_back(std::make_unique<Summary>());
        if (fields.size() <= max_keys) return *fields.back();
        collapse(max_keys);
        return *values;
    }

    void collapse(size_t max_keys) {
        if (values) return;
        auto joined = std::make_unique<Summary>();
        for (auto& one : fields) joined->merge(*one, max_keys);
        values = std::move(joined);
        fields.clear();
        keys = Keys();
    }
};

enum class Inferred { Done, Corrupt, Partial };

class Inference {
  public:
    // With `has_bounds`, fields have the bounds of their values, too.
    Inference(size_t max_keys, size_t max_columns, bool has_bounds)
        : max_keys_(max_keys), max_columns_(max_columns), has_bounds_(has_bounds) {}

    Summary& root() { return root_; }
    Summary& id() { return id_; }
    uint32_t document() const { return document_; }

    // Keep a field, before other fields reach the limit.
    void expect(const uint8_t* data, size_t size) {
        root_.field(data, size, root_.fields.size(), SIZE_MAX);
    }

    // Summarize documents: `bounds` are 2 n + 1 offsets, of each id and each document. Fields
    // above `max_columns` are skipped, and the result is Partial.
    Inferred add(const uint8_t* data, const int64_t* bounds, size_t count) {
        return has_bounds_ ? add<true>(data, bounds, count) : add<false>(data, bounds, count);
    }

  private:
    static constexpr size_t kIdKeySize = 4;

    template <bool kBounds>
    Inferred add(const uint8_t* data, const int64_t* bounds, size_t count) {
        limit_ = data + bounds[2 * count];
        Inferred result = Inferred::Done;
        for (size_t i = 0; i < count; ++i) {
            document_ = uint32_t(i);
            const uint8_t* p = data + bounds[2 * i];
            const uint8_t* const end = data + bounds[2 * i + 2];
            if (!observe<kBounds>(id_, p, end)) return Inferred::Corrupt;
            p = data + bounds[2 * i + 1];
            const Head head = read_head(p, end);
            p = head.body;
            size_t place = 0;  // among the keys that are fields
            for (uint64_t left = head.size; left; --left) {
                if (is_id(p)) {
                    p += kIdKeySize;
                    if (!pass(p, end)) return Inferred::Corrupt;
                    continue;
                }
                Summary* const known = root_.known(p, end, place, limit_);
                if (known) {
                    ++place;
                    if (!observe<kBounds>(*known, p, end)) return Inferred::Corrupt;
                    continue;
                }
                KeyName name;
                if (!read_key(p, end, scratch_, name)) return Inferred::Corrupt;
                if (name.size == 3 && std::memcmp(name.data, "_id", 3) == 0) {
                    if (!pass(p, end)) return Inferred::Corrupt;
                    continue;
                }
                if (name.odd) root_.add(kOddKey, document_);
                if (root_.fields.size() >= max_columns_ &&
                    root_.keys.find(name.data, name.size, place) == Keys::kNone) {
                    result = Inferred::Partial;
                    if (!pass(p, end)) return Inferred::Corrupt;
                    continue;
                }
                Summary& field = root_.field(name.data, name.size, place++, SIZE_MAX);
                if (!observe<kBounds>(field, p, end)) return Inferred::Corrupt;
            }
        }
        return result;
    }

    // Whether a key is "_id" as a short string.
    bool is_id(const uint8_t* p) const {
        return limit_ - p >= ptrdiff_t(kIdKeySize) && std::memcmp(p, "\xa3_id", kIdKeySize) == 0;
    }

    // Skip a value; false if it is damaged.
    static bool pass(const uint8_t*& p, const uint8_t* end) {
        const int size = short_string(p);
        if (size >= 0) {
            p += 1 + size;
            return true;
        }
        return pass_over<true>(p, end, kMaxDepth) == Passed::Whole;
    }

    // Observe a value; with `kBounds`, the value of a whole field.
    template <bool kBounds>
    bool observe(Summary& summary, const uint8_t*& p, const uint8_t* end) {
        ValueBounds* bounds = nullptr;
        if constexpr (kBounds) {
            if (!summary.bounds) summary.bounds = std::make_unique<ValueBounds>();
            bounds = summary.bounds.get();
            bounds->begin(document_);
        }
        const int size = short_string(p);
        if (size >= 0) {
            const bool ascii =
                size <= 16 && limit_ - p > 16 && is_short_ascii(p + 1, size_t(size));
            const bool is_string = ascii || is_utf8(p + 1, size_t(size));
            summary.add(is_string ? kString : kBinary, document_);
            if constexpr (kBounds)
                (is_string ? bounds->strings : bounds->binaries).see(p + 1, size_t(size), limit_);
            p += 1 + size;
            return true;
        }
        if (__builtin_expect(p < end, 1)) {  // The most frequent kinds come first.
            const uint8_t first = *p;
            if (first < 0x80) return ++p, see_unsigned<kBounds>(summary, bounds, first);
            if (first == 0xcb && end - p > 8) {
                double value;
                const uint64_t bits = load64(p + 1);
                std::memcpy(&value, &bits, sizeof value);
                return p += 9, see_float<kBounds>(summary, bounds, value);
            }
            if ((first & 0xfe) == 0xc2) return ++p, see_bool<kBounds>(summary, bounds, first & 1);
        }
        const Head head = read_head(p, end);
        p = head.body;
        switch (head.token) {
            case Token::Nil:
                summary.add(kNull, document_);
                if constexpr (kBounds) ++bounds->nulls;
                return true;
            case Token::False: return see_bool<kBounds>(summary, bounds, false);
            case Token::True: return see_bool<kBounds>(summary, bounds, true);
            case Token::Positive:
            case Token::UInt: return see_unsigned<kBounds>(summary, bounds, head.bits);
            case Token::Negative:
            case Token::Int:
                summary.add(head.bits >> 63 ? kNegative : kUnsigned, document_);
                if constexpr (kBounds) bounds->integers.see(int64_t(head.bits));
                return true;
            case Token::Float32:
            case Token::Float64: return see_float<kBounds>(summary, bounds, as_double(head));
            case Token::String: {
                p += head.size;
                const bool is_string = is_utf8(head.body, head.size);
                summary.add(is_string ? kString : kBinary, document_);
                if constexpr (kBounds)
                    (is_string ? bounds->strings : bounds->binaries)
                        .see(head.body, head.size, limit_);
                return true;
            }
            case Token::Binary:
                p += head.size;
                summary.add(kBinary, document_);
                if constexpr (kBounds) bounds->binaries.see(head.body, head.size, limit_);
                return true;
            case Token::Extension: p += head.size; return extension(summary, head, bounds);
            case Token::Array: {
                summary.add(kArray, document_);
                if constexpr (kBounds) ++bounds->others;
                if (head.size && !summary.item) summary.item = std::make_unique<Summary>();
                for (uint64_t i = 0; i < head.size; ++i)
                    if (!observe<false>(*summary.item, p, end)) return false;
                return true;
            }
            case Token::Map: {
                summary.add(kMap, document_);
                if constexpr (kBounds) ++bounds->others;
                for (uint64_t place = 0; place < head.size; ++place) {
                    Summary* const known = summary.known(p, end, place, limit_);
                    if (known) {
                        if (!observe<false>(*known, p, end)) return false;
                        continue;
                    }
                    KeyName name;
                    if (!read_key(p, end, scratch_, name)) return false;
                    if (name.odd) summary.add(kOddKey, document_);
                    Summary& field = summary.field(name.data, name.size, place, max_keys_);
                    if (!observe<false>(field, p, end)) return false;
                }
                return true;
            }
            default: return false;
        }
    }

    template <bool kBounds>
    bool see_unsigned(Summary& summary, ValueBounds* bounds, uint64_t value) {
        const bool is_above = value >> 63;
        summary.add(is_above ? kAboveInt64 : kUnsigned, document_);
        if constexpr (kBounds) {
            if (is_above) bounds->above_int64.see(value);
            else bounds->integers.see(int64_t(value));
        }
        return true;
    }

    template <bool kBounds>
    bool see_float(Summary& summary, ValueBounds* bounds, double value) {
        summary.add(kFloat, document_);
        if constexpr (kBounds) bounds->see(value);
        return true;
    }

    template <bool kBounds>
    bool see_bool(Summary& summary, ValueBounds* bounds, bool value) {
        summary.add(kBool, document_);
        if constexpr (kBounds) ++(value ? bounds->trues : bounds->falses);
        return true;
    }

    bool extension(Summary& summary, const Head& head, ValueBounds* bounds) {
        if (head.ext_type != -1) {
            summary.add(kExtension, document_);
            if (bounds) ++bounds->others;
            return head.ext_type >= 0;
        }
        Timestamp stamp;
        if (!read_timestamp(head, stamp)) return false;
        uint32_t kinds = kTimestamp;
        int64_t unused;
        if (stamp.nanoseconds % 1000) kinds |= kNeedsNanoseconds;
        if (!ticks(stamp, 1000000000, unused)) kinds |= kOutsideNanoseconds;
        if (!ticks(stamp, 1000000, unused)) kinds |= kOutsideMicroseconds;
        summary.add(kinds, document_);
        if (bounds) bounds->moments.see(stamp);
        return true;
    }

    Summary root_;
    Summary id_;
    size_t max_keys_;
    size_t max_columns_;
    bool has_bounds_;
    uint32_t document_ = 0;
    const uint8_t* limit_ = nullptr;  // end of all documents, up to which bytes may be read
    Buffer scratch_;
};

}  // namespace godb
