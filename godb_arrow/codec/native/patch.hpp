// Updates of documents in MessagePack. Only the values that a step names are decoded; the bytes of
// all others are copied.

#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "bytes.hpp"
#include "memory.hpp"
#include "packer.hpp"

namespace godb {

enum class PatchOperator : uint8_t { Set, Unset, Inc, Min, Max };

// A number of a document: an integer of 64 bits with or without a sign, or a float.
struct PatchNumber {
    bool is_real;
    __int128 whole;
    double real;

    double as_real() const {
        return is_real ? real : whole < 0 ? double(int64_t(whole)) : double(uint64_t(whole));
    }
};

// Change of one place in a document.
struct PatchStep {
    PatchOperator op;
    std::vector<std::string> parts;
    std::vector<std::string> rests;  // of each part, with all parts after it
    std::string value;
    PatchNumber number;  // the value of an operator on numbers
};

// What became of a document.
enum class Patched : uint8_t {
    Same,
    Changed,
    Other,  // it must be decoded
};

namespace detail {

// Skip a value; null if it has an invalid extension.
inline const uint8_t* after_value(const uint8_t* p, const uint8_t* end) {
    const uint8_t* const next = behind_scalar(p);
    if (next) return next;
    return pass_over<true>(p, end, kMaxDepth) == Passed::Whole ? p : nullptr;
}

inline bool is_text(const Head& head, const std::string& text) {
    return head.token == Token::String && head.size == text.size() &&
           std::memcmp(head.body, text.data(), text.size()) == 0;
}

// Whether a value that is no container is packed in its shortest form.
inline bool is_short_scalar(const uint8_t* p, const uint8_t* end) {
    const Head head = read_head(p, end);
    const size_t front = size_t(head.body - p);
    switch (head.token) {
        case Token::Nil: case Token::False: case Token::True:
        case Token::Positive: case Token::Negative:
            return true;
        case Token::UInt: {
            const uint64_t value = head.bits;
            return value >= 0x80 &&
                   front == (value <= 0xff ? 2u : value <= 0xffff ? 3u : value <= 0xffffffff ? 5u : 9u);
        }
        case Token::Int: {
            const int64_t value = int64_t(head.bits);
            return value < -32 && front == (value >= INT8_MIN    ? 2u
                                            : value >= INT16_MIN ? 3u
                                            : value >= INT32_MIN ? 5u
                                                                 : 9u);
        }
        case Token::Float64: return !std::isnan(as_double(head));
        case Token::String:
            return front == (head.size < 32 ? 1u : head.size <= 0xff ? 2u : head.size <= 0xffff ? 3u : 5u);
        case Token::Binary:
            return front == (head.size <= 0xff ? 2u : head.size <= 0xffff ? 3u : 5u);
        case Token::Extension: {
            Timestamp stamp;
            if (head.ext_type != -1 || !read_timestamp(head, stamp)) return false;
            if (head.size == 4) return *p == 0xd6;
            if (head.size == 8) return *p == 0xd7 && (stamp.nanoseconds || stamp.seconds >> 32);
            return *p == 0xc7 && uint64_t(stamp.seconds) >> 34 != 0;
        }
        default: return false;
    }
}

constexpr uint64_t kMaxComparedKeys = 64;  // of a map, each of which is compared with the others

inline bool is_short_front(const Head& head, const uint8_t* p) {
    return size_t(head.body - p) == (head.size < 16 ? 1u : head.size <= 0xffff ? 3u : 5u);
}

// End of a value of a scanned document that is packed in its shortest form, so that other values
// have other bytes; null for another one. Keys of maps are strings, all different and not too many.
// There is no NaN, and no extension but for timestamps.
inline const uint8_t* short_end(const uint8_t* p, const uint8_t* end) {
    const Head head = read_head(p, end);
    if (head.token == Token::Array) {
        if (!is_short_front(head, p)) return nullptr;
        p = head.body;
        for (uint64_t i = 0; i < head.size && p; ++i) p = short_end(p, end);
        return p;
    }
    if (head.token != Token::Map) {
        return is_short_scalar(p, end) ? after_value(p, end) : nullptr;
    }
    if (!is_short_front(head, p) || head.size > kMaxComparedKeys) return nullptr;
    struct Name { const uint8_t* text; uint64_t size; } names[kMaxComparedKeys];
    p = head.body;
    for (uint64_t i = 0; i < head.size; ++i) {
        const Head name = read_head(p, end);
        if (name.token != Token::String || !is_short_scalar(p, end)) return nullptr;
        for (uint64_t other = 0; other < i; ++other)
            if (names[other].size == name.size &&
                std::memcmp(names[other].text, name.body, name.size) == 0)
                return nullptr;
        names[i] = {name.body, name.size};
        p = short_end(name.body + name.size, end);
        if (!p) return nullptr;
    }
    return p;
}

inline bool is_short(const uint8_t* p, const uint8_t* end) { return short_end(p, end) != nullptr; }

}  // namespace detail

// Read a number that is packed in its shortest form, and is not NaN; false for anything else.
inline bool read_number(const uint8_t* p, const uint8_t* end, PatchNumber& number) {
    if (!detail::is_short_scalar(p, end)) return false;
    const Head head = read_head(p, end);
    switch (head.token) {
        case Token::Positive: case Token::UInt:
            number = {false, __int128(head.bits), 0};
            return true;
        case Token::Negative: case Token::Int:
            number = {false, __int128(int64_t(head.bits)), 0};
            return true;
        case Token::Float64:
            number = {true, 0, as_double(head)};
            return true;
        default: return false;
    }
}

// Whether a number is exactly less than another one; neither is NaN.
inline bool is_less(const PatchNumber& a, const PatchNumber& b) {
    if (a.is_real == b.is_real) return a.is_real ? a.real < b.real : a.whole < b.whole;
    if (!a.is_real) {
        constexpr double kBeyond = 36893488147419103232.0;  // 2^65, more than any integer
        if (b.real >= kBeyond) return true;
        if (b.real <= -kBeyond) return false;
        const __int128 whole = __int128(b.real);  // towards zero
        return a.whole < whole || (a.whole == whole && b.real > double(whole));
    }
    constexpr double kBeyond = 36893488147419103232.0;
    if (a.real >= kBeyond) return false;
    if (a.real <= -kBeyond) return true;
    const __int128 whole = __int128(a.real);
    return whole < b.whole || (whole == b.whole && a.real < double(whole));
}

class Patcher {
  public:
    explicit Patcher(std::vector<PatchStep> steps) : steps_(std::move(steps)) {}

    // Change the document of an entry; `changed` gets the new entry if the document changes.
    Patched entry(const uint8_t* id, const uint8_t* begin, const uint8_t* end, Buffer& changed) {
        static const std::string field = "_id";
        Map map;
        const size_t id_size = size_t(begin - id);
        if (!locate(begin, end, field, nullptr, map) || !map.part.key ||
            size_t(map.part.end - map.part.value) != id_size ||
            std::memcmp(map.part.value, id, id_size) != 0 || !detail::is_short(id, begin))
            return Patched::Other;
        bool is_changed = false;
        for (const PatchStep& step : steps_) {
            next_.truncate(0);
            const Patched done = apply(step, begin, end);
            if (done == Patched::Other) return done;
            if (done == Patched::Same) continue;
            is_changed = true;
            std::swap(next_, last_);
            begin = last_.data();
            end = begin + last_.size();
        }
        if (!is_changed) return Patched::Same;
        changed.append(id, id_size);
        changed.append(begin, size_t(end - begin));
        return Patched::Changed;
    }

  private:
    // A field of a map; the key is null if there is none.
    struct Field { const uint8_t *key, *value, *end; };
    struct Map {
        const uint8_t *begin, *body, *end;
        uint64_t pairs;
        Field part, rest;
    };

    // Locate one field of a map, or two. False for a value that is no map, for a repeated field, and
    // for an invalid extension.
    static bool locate(
        const uint8_t* p, const uint8_t* end, const std::string& part, const std::string* rest,
        Map& map) {
        const Head head = read_head(p, end);
        if (head.token != Token::Map) return false;
        map = {p, head.body, nullptr, head.size, {}, {}};
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            const uint8_t* const key = p;
            const Head name = read_head(p, end);
            const uint8_t* const value = detail::after_value(p, end);
            p = value ? detail::after_value(value, end) : nullptr;
            if (!p) return false;
            if (detail::is_text(name, part)) {
                if (map.part.key) return false;
                map.part = {key, value, p};
            } else if (rest && detail::is_text(name, *rest)) {
                if (map.rest.key) return false;
                map.rest = {key, value, p};
            }
        }
        map.end = p;
        return true;
    }

    Patched apply(const PatchStep& step, const uint8_t* begin, const uint8_t* end) {
        const uint8_t* p = begin;
        for (size_t at = 0; at < step.parts.size(); ++at) {
            const bool is_last = at + 1 == step.parts.size();
            const Token token = read_head(p, end).token;
            if (token != Token::Map)
                return step.op == PatchOperator::Unset && token != Token::Array ? Patched::Same
                                                                                : Patched::Other;
            Map map;
            if (!locate(p, end, step.parts[at], is_last ? nullptr : &step.rests[at], map))
                return Patched::Other;
            const Field& place = is_last ? map.part : map.rest;
            if (place.key) return change(step, begin, end, map, place);
            if (!map.part.key) {
                if (step.op == PatchOperator::Unset) return Patched::Same;
                return insert(step, begin, end, map, at);
            }
            p = map.part.value;
        }
        return Patched::Other;
    }

    Patched change(
        const PatchStep& step, const uint8_t* begin, const uint8_t* end, const Map& map,
        const Field& place) {
        if (step.op == PatchOperator::Unset) {
            copy(begin, map.begin);
            Packer(next_).map(map.pairs - 1);
            copy(map.body, place.key);
            copy(place.end, end);
            return Patched::Changed;
        }
        if (step.op == PatchOperator::Set) {
            if (is_same(place, step.value)) return Patched::Same;
            if (!detail::is_short(place.value, place.end)) return Patched::Other;
            return exchange(begin, end, place, step.value.data(), step.value.size());
        }
        PatchNumber before;
        if (!read_number(place.value, place.end, before)) return Patched::Other;
        if (step.op != PatchOperator::Inc) {
            const bool wants = step.op == PatchOperator::Max ? is_less(before, step.number)
                                                             : is_less(step.number, before);
            if (!wants) return Patched::Same;
            return exchange(begin, end, place, step.value.data(), step.value.size());
        }
        number_.truncate(0);
        Packer packed(number_);
        if (before.is_real || step.number.is_real) {
            const double sum = before.as_real() + step.number.as_real();
            if (std::isnan(sum)) return Patched::Other;
            packed.real(sum);
        } else {
            const __int128 sum = before.whole + step.number.whole;
            if (sum < INT64_MIN || sum > __int128(UINT64_MAX)) return Patched::Other;
            if (sum < 0) packed.integer(int64_t(sum));
            else packed.positive(uint64_t(sum));
        }
        const char* const text = reinterpret_cast<const char*>(number_.data());
        if (size_t(place.end - place.value) == number_.size() &&
            std::memcmp(place.value, text, number_.size()) == 0)
            return Patched::Same;
        return exchange(begin, end, place, text, number_.size());
    }

    Patched insert(
        const PatchStep& step, const uint8_t* begin, const uint8_t* end, const Map& map, size_t at) {
        if (map.pairs == UINT32_MAX) return Patched::Other;
        copy(begin, map.begin);
        Packer to(next_);
        to.map(map.pairs + 1);
        copy(map.body, map.end);
        to.text(step.parts[at].data(), step.parts[at].size());
        for (++at; at < step.parts.size(); ++at) {
            to.map(1);
            to.text(step.parts[at].data(), step.parts[at].size());
        }
        next_.append(step.value.data(), step.value.size());
        copy(map.end, end);
        return Patched::Changed;
    }

    Patched exchange(
        const uint8_t* begin, const uint8_t* end, const Field& place, const char* value,
        size_t size) {
        copy(begin, place.value);
        next_.append(value, size);
        copy(place.end, end);
        return Patched::Changed;
    }

    static bool is_same(const Field& place, const std::string& value) {
        return size_t(place.end - place.value) == value.size() &&
               std::memcmp(place.value, value.data(), value.size()) == 0;
    }
    void copy(const uint8_t* from, const uint8_t* to) { next_.append(from, size_t(to - from)); }

    std::vector<PatchStep> steps_;
    Buffer last_, next_;  // the document after the last step, and after the next one
    Buffer number_;
};

// Change documents of scanned entries; false if a document must be decoded. `changed` gets the
// positions of the documents that change.
inline bool patch_documents(
    Patcher& patcher, const uint8_t* data, const int64_t* bounds, const int64_t* rows, size_t count,
    Buffer& entries, Buffer& changed) {
    for (size_t at = 0; at < count; ++at) {
        const int64_t* const own = bounds + 2 * rows[at];
        const Patched done = patcher.entry(data + own[0], data + own[1], data + own[2], entries);
        if (done == Patched::Other) return false;
        if (done == Patched::Changed) changed.push(int64_t(at));
    }
    return true;
}

}  // namespace godb
