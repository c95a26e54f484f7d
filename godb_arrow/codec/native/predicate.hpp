// Predicates over documents: which documents a filter matches.
//
// codec/reference/predicate.py is the same, written to be read. Fields are located first: while
// documents repeat a layout, their places are known without reading the other values.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "hash.hpp"
#include "keys.hpp"
#include "scan.hpp"

namespace godb {

constexpr uint8_t kLess = 1, kEqual = 2, kGreater = 4;  // results of a comparison; 0 is no order

// A number to compare with: exactly, whatever its type. Numbers that neither 64-bit integers nor
// reals have are between two of each.
struct Number {
    bool is_nan = false;
    bool is_whole = false;   // the integer below is the number itself
    __int128 below = 0;      // max integer that is not above, within one of 64 bits
    double low = 0, high = 0;  // nearest reals; the same one if it is the number itself

    void set_below(int64_t high, uint64_t low) { below = (__int128(high) << 64) + low; }

    static Number of(uint64_t bits, bool is_signed) {
        Number number;
        number.is_whole = true;
        number.below = is_signed ? __int128(int64_t(bits)) : __int128(bits);
        number.low = number.high = double(number.below);
        const __int128 nearest = __int128(number.low);
        if (nearest > number.below) number.low = std::nextafter(number.low, -INFINITY);
        if (nearest < number.below) number.high = std::nextafter(number.high, INFINITY);
        return number;
    }

    static Number of(double real) {
        constexpr __int128 kLowest = -(__int128(1) << 63) - 1, kHighest = __int128(1) << 64;
        Number number;
        number.is_nan = std::isnan(real);
        number.low = number.high = real;
        if (number.is_nan) return number;
        const double whole = std::floor(real);
        number.is_whole = whole == real;
        if (whole < -9223372036854775808.0) number.below = kLowest, number.is_whole = false;
        else if (whole >= 18446744073709551616.0) number.below = kHighest;
        else number.below = __int128(whole);
        return number;
    }

    uint8_t compare(uint64_t bits, bool is_signed) const {  // an integer with this number
        if (is_nan) return 0;
        const __int128 value = is_signed ? __int128(int64_t(bits)) : __int128(bits);
        if (value < below) return kLess;
        if (value > below) return kGreater;
        return is_whole ? kEqual : kLess;
    }

    uint8_t compare(double real) const {
        if (std::isnan(real) || is_nan) return std::isnan(real) && is_nan ? kEqual : 0;
        if (low == high) return real < low ? kLess : real > low ? kGreater : kEqual;
        return real <= low ? kLess : kGreater;
    }
};

// A decimal in the form in which decimals are stored: its digits, without zeros that do not count.
struct Digits {
    bool negative = false;
    std::string whole, fraction;

    static bool read(const uint8_t* p, size_t size, Digits& digits) {
        const uint8_t* const end = p + size;
        digits.negative = p < end && *p == '-';
        if (digits.negative) ++p;
        const uint8_t* const whole = p;
        while (p < end && *p >= '0' && *p <= '9') ++p;
        if (p == whole) return false;
        const uint8_t* const point = p;
        if (p < end && *p == '.') {
            ++p;
            const uint8_t* const fraction = p;
            while (p < end && *p >= '0' && *p <= '9') ++p;
            if (p == fraction) return false;
        }
        if (p != end) return false;
        const uint8_t* first = whole;
        while (first < point && *first == '0') ++first;
        digits.whole.assign(first, point);
        digits.fraction.clear();
        if (point < end) {
            const uint8_t* last = end;
            while (last > point + 1 && last[-1] == '0') --last;
            digits.fraction.assign(point + 1, last);
        }
        if (digits.whole.empty() && digits.fraction.empty()) digits.negative = false;
        return true;
    }

    uint8_t compare(const Digits& other) const {
        if (negative != other.negative) return negative ? kLess : kGreater;
        int order = whole.size() < other.whole.size() ? -1 : whole.size() > other.whole.size();
        if (order == 0) order = whole.compare(other.whole);
        if (order == 0) order = fraction.compare(other.fraction);
        if (order == 0) return kEqual;
        return (order < 0) != negative ? kLess : kGreater;
    }
};

inline uint8_t compare_bytes(const uint8_t* data, size_t size, const std::string& other) {
    const size_t common = std::min(size, other.size());
    int order = common ? std::memcmp(data, other.data(), common) : 0;
    if (order == 0) order = size < other.size() ? -1 : size > other.size();
    return order < 0 ? kLess : order > 0 ? kGreater : kEqual;
}

// Write values so that equal ones have the same bytes. Their documents were found whole.
class Canonical {
  public:
    explicit Canonical(std::string& out) : out_(out) {}

    void write(const uint8_t*& p, const uint8_t* end) {
        const Head head = read_head(p, end);
        p = head.body;
        switch (head.token) {
            case Token::Nil: out_ += 'z'; break;
            case Token::False: out_ += 'F'; break;
            case Token::True: out_ += 'T'; break;
            case Token::Positive:
            case Token::UInt: integer('+', head.bits); break;
            case Token::Negative:
            case Token::Int:
                integer(int64_t(head.bits) < 0 ? '-' : '+', head.bits);
                break;
            case Token::Float32:
            case Token::Float64: real(as_double(head)); break;
            case Token::String: bytes('s', head); p += head.size; break;
            case Token::Binary: bytes('b', head); p += head.size; break;
            case Token::Extension: extension(head); p += head.size; break;
            case Token::Array:
                out_ += 'a';
                word(head.size);
                for (uint64_t i = 0; i < head.size; ++i) write(p, end);
                break;
            case Token::Map: map(head.size, p, end); break;
            default: p = end; break;  // not in a document that was found whole
        }
    }

  private:
    void word(uint64_t bits) { out_.append(reinterpret_cast<const char*>(&bits), 8); }
    void integer(char sign, uint64_t bits) {
        out_ += sign;
        word(bits);
    }
    void real(double value) {
        if (std::isnan(value)) {
            out_ += 'n';
        } else if (value >= 0 && value < 18446744073709551616.0 && value == std::floor(value)) {
            integer('+', uint64_t(value));
        } else if (value < 0 && value >= -9223372036854775808.0 && value == std::floor(value)) {
            integer('-', uint64_t(int64_t(value)));
        } else {
            uint64_t bits;
            std::memcpy(&bits, &value, 8);
            integer('r', bits);
        }
    }
    void bytes(char kind, const Head& head) {
        out_ += kind;
        word(head.size);
        out_.append(reinterpret_cast<const char*>(head.body), head.size);
    }
    void extension(const Head& head) {
        Timestamp stamp;
        if (head.ext_type == -1 && read_timestamp(head, stamp)) {
            out_ += 't';
            word(uint64_t(stamp.seconds));
            word(stamp.nanoseconds);
            return;
        }
        out_ += 'x';
        out_ += char(head.ext_type);
        bytes('x', head);
    }
    void map(uint64_t count, const uint8_t*& p, const uint8_t* end) {
        std::vector<std::pair<std::string, std::string>> pairs;
        for (uint64_t i = 0; i < count && p < end; ++i) {
            pairs.emplace_back();
            Canonical(pairs.back().first).write(p, end);
            Canonical(pairs.back().second).write(p, end);
        }
        std::stable_sort(pairs.begin(), pairs.end(),
                         [](const auto& a, const auto& b) { return a.first < b.first; });
        size_t kept = 0;  // the last one of equal keys wins
        for (size_t i = 0; i < pairs.size(); ++i) {
            if (i + 1 < pairs.size() && pairs[i].first == pairs[i + 1].first) continue;
            if (kept != i) std::swap(pairs[kept], pairs[i]);
            ++kept;
        }
        pairs.resize(kept);
        out_ += 'm';
        word(pairs.size());
        for (const auto& pair : pairs) out_.append(pair.first).append(pair.second);
    }

    std::string& out_;
};

// A scalar to compare with.
struct Literal {
    Token token = Token::Nil;  // of numbers, any of a number
    Number number;
    std::string text;          // of a string, binary or extension
    Timestamp stamp{0, 0};
    bool is_decimal = false;
    Digits digits;

    static bool is_number(Token token) {
        return token >= Token::Positive && token <= Token::Float64;
    }

    static Literal of_number() {
        Literal literal;
        literal.token = Token::Float64;
        return literal;
    }

    static Literal of(const uint8_t* p, const uint8_t* end) {
        Literal literal;
        const Head head = read_head(p, end);
        literal.token = head.token;
        switch (head.token) {
            case Token::Positive:
            case Token::UInt: literal.number = Number::of(head.bits, false); break;
            case Token::Negative:
            case Token::Int: literal.number = Number::of(head.bits, true); break;
            case Token::Float32:
            case Token::Float64: literal.number = Number::of(as_double(head)); break;
            case Token::Extension:
                if (head.ext_type == -1) read_timestamp(head, literal.stamp);
                [[fallthrough]];
            case Token::String:
            case Token::Binary:
                literal.text.assign(reinterpret_cast<const char*>(head.body), head.size);
                break;
            default: break;
        }
        return literal;
    }

    // How a value compares with it; 0 if there is no order among the two.
    uint8_t compare(const Head& value) const {
        switch (value.token) {
            case Token::Positive:
            case Token::UInt: return is_number(token) ? number.compare(value.bits, false) : 0;
            case Token::Negative:
            case Token::Int: return is_number(token) ? number.compare(value.bits, true) : 0;
            case Token::Float32:
            case Token::Float64: return is_number(token) ? number.compare(as_double(value)) : 0;
            case Token::String: {
                if (token == Token::String) return compare_bytes(value.body, value.size, text);
                Digits found;
                if (!is_decimal || !Digits::read(value.body, value.size, found)) return 0;
                if (number.is_nan) return 0;
                if (std::isinf(number.low) && number.low == number.high)
                    return number.low > 0 ? kLess : kGreater;
                return found.compare(digits);
            }
            case Token::Binary:
                return token == Token::Binary ? compare_bytes(value.body, value.size, text) : 0;
            case Token::Extension: {
                Timestamp found;
                if (token != Token::Extension || value.ext_type != -1 ||
                    !read_timestamp(value, found))
                    return 0;
                if (found.seconds != stamp.seconds)
                    return found.seconds < stamp.seconds ? kLess : kGreater;
                if (found.nanoseconds != stamp.nanoseconds)
                    return found.nanoseconds < stamp.nanoseconds ? kLess : kGreater;
                return kEqual;
            }
            default: return 0;
        }
    }
};

enum class Op : uint8_t {
    AllOf, AnyOf, Not, OneOf, Bound, Exists, HasType, Matches, Size, Element,
    Every,  // AllOf of OneOf with one literal each, on one path
};

// Values in a set, as bytes that are equal if they are.
class LiteralSet {
  public:
    void add(const uint8_t* p, const uint8_t* end) {
        std::string value;
        Canonical(value).write(p, end);
        known_.insert(std::move(value));
    }
    bool empty() const { return known_.empty(); }
    bool has(const uint8_t* p, const uint8_t* end, std::string& scratch) const {
        scratch.clear();
        Canonical(scratch).write(p, end);
        return known_.count(scratch) != 0;
    }

  private:
    std::unordered_set<std::string, SecretHash> known_;
};

// Values with the number of each, by the same bytes.
class LiteralNumbers {
  public:
    void add(const uint8_t* p, const uint8_t* end) {
        std::string value;
        Canonical(value).write(p, end);
        known_.emplace(std::move(value), known_.size());
    }
    size_t size() const { return known_.size(); }
    // The number of a value; size() if it is unknown.
    size_t find(const uint8_t* p, const uint8_t* end, std::string& scratch) const {
        scratch.clear();
        Canonical(scratch).write(p, end);
        const auto found = known_.find(scratch);
        return found == known_.end() ? known_.size() : found->second;
    }

  private:
    std::unordered_map<std::string, size_t, SecretHash> known_;
};

constexpr size_t kId = SIZE_MAX;  // in place of a located field

struct Condition {
    Op op = Op::AllOf;
    std::vector<std::unique_ptr<Condition>> children;
    bool has_pattern = false;  // it, or a child, matches a pattern

    // Of a leaf: the path, where its prefixes end, and which located field each prefix is.
    bool is_self = false;  // an element of a list itself
    bool is_id = false;
    std::string path;
    std::vector<size_t> ends;
    std::vector<size_t> located;

    std::vector<Literal> literals;  // of OneOf, if they are few scalars; of Bound, one
    LiteralSet scalars, containers;
    LiteralNumbers every;
    std::unordered_set<std::string, SecretHash> decimals;
    bool few = false;        // literals are all there is
    bool contained = false;  // containers are compared with elements, too
    bool accepts_absent = false;
    uint8_t order = 0;
    uint32_t types = 0;
    uint64_t count = 0;
    bool is_map = false;
    size_t pattern = 0;

    // The most frequent conditions are on a few numbers or short texts. Most values are decided by
    // their first bytes.
    enum class Quick : uint8_t { No, Bound, Numbers, Texts } quick = Quick::No;
    int64_t below = 0;  // of the number of a bound
    bool is_whole = false;
    std::vector<int64_t> numbers;
    std::vector<std::string> packed;  // the texts, as short strings are stored

    void prepare() {
        if ((op != Op::OneOf && op != Op::Bound) || !few || literals.empty()) return;
        if (!containers.empty() || !decimals.empty()) return;
        for (const Literal& literal : literals) {
            const Number& number = literal.number;
            const bool is_number = Literal::is_number(literal.token) && !number.is_nan &&
                                   number.below >= INT64_MIN && number.below <= INT64_MAX;
            if (is_number && op == Op::Bound) {
                quick = Quick::Bound;
                below = int64_t(number.below);
                is_whole = number.is_whole;
            } else if (is_number && packed.empty()) {
                // No integer equals a fraction.
                if (number.is_whole) numbers.push_back(int64_t(number.below));
                quick = Quick::Numbers;
            } else if (op == Op::OneOf && literal.token == Token::String &&
                       literal.text.size() < 32 && quick != Quick::Numbers) {
                packed.push_back(char(0xa0 | literal.text.size()) + literal.text);
                quick = Quick::Texts;
            } else {
                quick = Quick::No;
                return;
            }
        }
    }
};

// Strings that a pattern is asked for, and the answers. They are asked for in one pass over all
// documents and used in a second one, which visits some of the same strings in the same order.
struct Asked {
    std::vector<std::pair<size_t, size_t>> texts;  // offset in the data, and size
    const uint8_t* answers = nullptr;              // a byte for each
    size_t next = 0;
};

// Finds the documents that match.
class Selector {
  public:
    Selector(const Condition& root, const std::vector<std::string>& fields, size_t patterns)
        : root_(root), wanted_(fields), asked_(patterns) {}

    Asked& asked(size_t pattern) { return asked_[pattern]; }

    // The indices of the matching documents; false at one that is damaged, whose index is the last.
    // `places`, if given, has the places of fields, `width` of them for each document, of which
    // `order` says which is a located field's. With `collect`, only strings are collected.
    bool run(const uint8_t* data, size_t size, const int64_t* bounds, size_t count,
             const uint32_t* places, size_t width, const int* order, bool collect,
             std::vector<int64_t>& rows) {
        data_ = data;
        limit_ = data + size;
        for (Asked& asked : asked_) asked.next = 0;
        const size_t fields = wanted_.size();
        std::vector<uint32_t> here(fields, kUnknownPlace);
        Repeats repeats(wanted_);
        Keys keys;
        for (const std::string& name : wanted_)
            keys.add(reinterpret_cast<const uint8_t*>(name.data()), name.size());
        values_.assign(fields, nullptr);
        if (places && !collect && find_leaves())
            return run_leaves(bounds, count, places, width, order, keys, rows);
        for (size_t i = 0; i < count; ++i) {
            id_ = data + bounds[2 * i];
            const uint8_t* const document = data + bounds[2 * i + 1];
            end_ = data + bounds[2 * i + 2];
            bool known = true;
            if (places) {
                for (size_t k = 0; k < fields; ++k)
                    here[k] = places[i * width + size_t(order[k])];
            } else if (fields) {
                known = repeats.pass(document, data + size, data, here.data()) == end_;
                if (!known) repeats.learn(document, end_);
            }
            for (size_t k = 0; known && k < fields; ++k) {
                known = here[k] != kUnknownPlace;
                values_[k] = here[k] == kNoPlace ? nullptr : data + here[k];
            }
            if (!known && !find_fields(document, keys)) {
                rows.push_back(int64_t(i));
                return false;
            }
            const bool matches = collect ? holds<true>(root_) : holds<false>(root_);
            if (matches && !collect) rows.push_back(int64_t(i));
        }
        return true;
    }

    // Whether one document matches, given the bounds of its entry; `sound` becomes false if it is
    // damaged. Patterns are not supported.
    bool matches_one(const uint8_t* data, size_t size, const int64_t* bounds, bool& sound) {
        data_ = data;
        limit_ = data + size;
        id_ = data + bounds[0];
        end_ = data + bounds[2];
        if (values_.size() != wanted_.size() || !keys_.size()) {
            values_.assign(wanted_.size(), nullptr);
            for (const std::string& name : wanted_)
                keys_.add(reinterpret_cast<const uint8_t*>(name.data()), name.size());
        }
        sound = find_fields(data + bounds[1], keys_);
        return sound && holds<false>(root_);
    }

  private:
    // Find the leaves of a condition that is one quick leaf on a field, or a conjunction of these.
    bool find_leaves() {
        leaves_.clear();
        if (root_.op != Op::AllOf) leaves_.push_back(&root_);
        else for (const auto& child : root_.children) leaves_.push_back(child.get());
        for (const Condition* const leaf : leaves_) {
            const bool is_leaf = leaf->op == Op::OneOf || leaf->op == Op::Bound;
            if (!is_leaf || leaf->quick == Condition::Quick::No || leaf->is_self || leaf->is_id ||
                leaf->located.size() != 1)
                return false;
        }
        return !leaves_.empty();
    }

    // As run does: one leaf after the other, each on the documents that are left.
    bool run_leaves(const int64_t* bounds, size_t count, const uint32_t* places, size_t width,
                    const int* order, Keys& keys, std::vector<int64_t>& rows) {
        const auto place_of = [&](const Condition& leaf, size_t row) {
            return places[row * width + size_t(order[leaf.located[0]])];
        };
        bool sound = true;
        // Documents with unknown places are tested whole, by the first leaf.
        const auto whole = [&](size_t row) {
            id_ = data_ + bounds[2 * row];
            end_ = data_ + bounds[2 * row + 2];
            sound = find_fields(data_ + bounds[2 * row + 1], keys);
            return sound && holds<false>(root_);
        };
        const auto slowly = [&](const Condition& leaf, const uint8_t* p, size_t row) {
            end_ = data_ + bounds[2 * row + 2];
            return accepts<false>(leaf, p);
        };
        const auto pass = [&](const Condition& leaf, const auto& is_quick, const auto& quickly) {
            const auto test = [&](size_t row, uint32_t place) {
                if (__builtin_expect(place == kNoPlace, 0)) return false;
                const uint8_t* const p = data_ + place;
                return is_quick(p) ? quickly(p) : slowly(leaf, p, row);
            };
            if (&leaf == leaves_[0]) {
                for (size_t row = 0; row < count; ++row) {
                    const uint32_t place = place_of(leaf, row);
                    const bool known = __builtin_expect(place != kUnknownPlace, 1);
                    if (known ? test(row, place) : whole(row)) rows.push_back(int64_t(row));
                    if (__builtin_expect(!sound, 0)) {
                        rows.push_back(int64_t(row));
                        return;
                    }
                }
                return;
            }
            const auto fails = [&](int64_t row) {
                const uint32_t place = place_of(leaf, size_t(row));
                return place != kUnknownPlace && !test(size_t(row), place);
            };
            rows.erase(std::remove_if(rows.begin(), rows.end(), fails), rows.end());
        };
        for (const Condition* const leaf : leaves_) {
            if (leaf->quick == Condition::Quick::Texts) {
                pass(*leaf, [](const uint8_t* p) { return short_string(p) >= 0; },
                     [this, leaf](const uint8_t* p) { return is_short_text(*leaf, p); });
            } else {
                const auto value = [](const uint8_t* p) {
                    const PlainNumbers::Form form = kPlainIntegers.at[*p];
                    return int64_t(uint64_t(int64_t(load64(p + form.skip)) >> form.shift) &
                                   form.mask);
                };
                const auto is_quick = [this](const uint8_t* p) {
                    return kPlainIntegers.at[*p].mask != 0 && size_t(limit_ - p) >= 9;
                };
                if (leaf->quick == Condition::Quick::Numbers && leaf->numbers.size() == 1)
                    pass(*leaf, is_quick, [number = leaf->numbers[0], &value](const uint8_t* p) {
                        return value(p) == number;
                    });
                else
                    pass(*leaf, is_quick, [leaf, &value](const uint8_t* p) {
                        return is_integer(*leaf, value(p));
                    });
            }
            if (!sound) return false;
        }
        return true;
    }

    // Find the fields of a document key by key; false if it is damaged.
    bool find_fields(const uint8_t* p, Keys& keys) {
        std::fill(values_.begin(), values_.end(), nullptr);
        const Head head = read_head(p, end_);
        p = head.body;
        for (uint64_t place = 0; place < head.size; ++place) {
            const Head key = read_head(p, end_);
            int found = Keys::kNone;
            if (key.token == Token::String) {
                found = keys.find(key.body, size_t(key.size), size_t(place));
                p = key.body + key.size;
            } else if (pass_over<true>(p, end_, kMaxDepth) != Passed::Whole) {
                return false;
            }
            if (found != Keys::kNone) values_[size_t(found)] = p;
            if (const uint8_t* const next = behind_scalar(p)) p = next;
            else if (pass_over<true>(p, end_, kMaxDepth) != Passed::Whole) return false;
        }
        return true;
    }

    template <bool collect>
    bool holds(const Condition& condition) {
        switch (condition.op) {
            case Op::AllOf:
                for (auto& child : condition.children)
                    if (!holds<collect>(*child) && !(collect && child->has_pattern)) return false;
                return true;
            case Op::AnyOf:
                for (auto& child : condition.children)
                    if (holds<collect>(*child) && !(collect && child->has_pattern)) return true;
                return false;
            case Op::Not: return !holds<collect>(*condition.children[0]);
            default: return leaf<collect>(condition);
        }
    }

    // Whether a field has a value that a leaf accepts. Values are read where they are.
    template <bool collect>
    bool leaf(const Condition& leaf) {
        bool found = false;
        if (leaf.op == Op::Every) {
            seen_.assign(leaf.every.size(), false);
            unseen_ = leaf.every.size();
        }
        if (leaf.is_self) return accepts<collect>(leaf, element_);
        if (fields_) return in_map<collect>(leaf, fields_, 0, found) || absent(leaf, found);
        if (leaf.is_id) return accepts<collect>(leaf, id_);
        // The whole path comes first, then its prefixes, the shortest first.
        const size_t whole = leaf.located.size() - 1;
        if (const uint8_t* const value = located(leaf, whole)) return accepts<collect>(leaf, value);
        for (size_t prefix = 0; prefix < whole; ++prefix)
            if (const uint8_t* const value = located(leaf, prefix))
                return behind<collect>(leaf, value, leaf.ends[prefix] + 1, found) ||
                       absent(leaf, found);
        return absent(leaf, false);
    }

    const uint8_t* located(const Condition& leaf, size_t prefix) const {
        return leaf.located[prefix] == kId ? id_ : values_[leaf.located[prefix]];
    }

    static bool absent(const Condition& leaf, bool found) { return !found && leaf.accepts_absent; }

    // Follow a path from a value: into a map, or into the maps of a list.
    template <bool collect>
    bool behind(const Condition& leaf, const uint8_t* p, size_t at, bool& found) {
        const Head head = read_head(p, end_);
        if (head.token == Token::Map) return in_map<collect>(leaf, p, at, found);
        if (head.token != Token::Array) return false;
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            const bool is_map = detail::kTable.at[*p].token == Token::Map;
            if (is_map && in_map<collect>(leaf, p, at, found)) return true;
            pass_over<false>(p, end_, kMaxDepth);
        }
        return false;
    }

    template <bool collect>
    bool in_map(const Condition& leaf, const uint8_t* p, size_t at, bool& found) {
        const uint8_t* const rest = reinterpret_cast<const uint8_t*>(leaf.path.data()) + at;
        const size_t left = leaf.path.size() - at;
        const uint8_t* value = nullptr;
        size_t best = 0;
        const Head head = read_head(p, end_);
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            const Head key = read_head(p, end_);
            bool is_head = false;
            if (key.token == Token::String) {
                is_head = key.size <= left && (key.size == left || rest[key.size] == '.') &&
                          std::memcmp(key.body, rest, key.size) == 0;
                p = key.body + key.size;
            } else {
                pass_over<false>(p, end_, kMaxDepth);
            }
            if (is_head && (!value || key.size == left || (best != left && key.size <= best))) {
                value = p;  // the last one of equal keys wins
                best = size_t(key.size);
            }
            if (const uint8_t* const next = behind_scalar(p)) p = next;
            else pass_over<false>(p, end_, kMaxDepth);
        }
        if (!value) return false;
        if (best < left) return behind<collect>(leaf, value, at + best + 1, found);
        found = true;
        return accepts<collect>(leaf, value);
    }

    // Whether a leaf accepts a value or, of a list, one of its elements.
    template <bool collect>
    bool accepts(const Condition& leaf, const uint8_t* p) {
        if (leaf.quick == Condition::Quick::Texts) {
            if (short_string(p) >= 0) return is_short_text(leaf, p);
        } else if (leaf.quick != Condition::Quick::No) {
            const PlainNumbers::Form form = kPlainIntegers.at[*p];
            if (form.mask && size_t(limit_ - p) >= 9)
                return is_integer(leaf, int64_t(uint64_t(int64_t(load64(p + form.skip)) >>
                                                         form.shift) & form.mask));
        }
        const Head head = read_head(p, end_);
        switch (leaf.op) {
            case Op::Exists: return true;
            case Op::Size: return head.token == Token::Array && head.size == leaf.count;
            case Op::Element: return element<collect>(leaf, head);
            default: break;
        }
        if (accepts_one<collect>(leaf, p, head, true)) return true;
        if (head.token != Token::Array) return false;
        p = head.body;
        for (uint64_t i = 0; i < head.size; ++i) {
            if (accepts_one<collect>(leaf, p, read_head(p, end_), leaf.contained)) return true;
            pass_over<false>(p, end_, kMaxDepth);
        }
        return false;
    }

    static bool is_integer(const Condition& leaf, int64_t value) {
        if (leaf.quick == Condition::Quick::Numbers) {
            for (const int64_t number : leaf.numbers)
                if (value == number) return true;
            return false;
        }
        const uint8_t below = value == leaf.below && leaf.is_whole ? kEqual : kLess;
        return ((value > leaf.below ? kGreater : below) & leaf.order) != 0;
    }

    bool is_short_text(const Condition& leaf, const uint8_t* p) const {
        for (const std::string& text : leaf.packed)
            if (*p == uint8_t(text[0]) && size_t(limit_ - p) >= text.size() &&
                std::memcmp(p, text.data(), text.size()) == 0)
                return true;
        return false;
    }

    template <bool collect>
    bool accepts_one(const Condition& leaf, const uint8_t* p, const Head& head, bool containers) {
        switch (leaf.op) {
            case Op::OneOf: return is_one_of(leaf, p, head, containers);
            case Op::Every: return is_last_of(leaf, p);
            case Op::Bound: return (leaf.literals[0].compare(head) & leaf.order) != 0;
            case Op::HasType: return (type_of(head) & leaf.types) != 0;
            case Op::Matches: return matches<collect>(asked_[leaf.pattern], head);
            default: return false;
        }
    }

    bool is_one_of(const Condition& leaf, const uint8_t* p, const Head& head, bool containers) {
        if (head.token == Token::Array || head.token == Token::Map)
            return containers && !leaf.containers.empty() && leaf.containers.has(p, end_, scratch_);
        if (!leaf.decimals.empty() && head.token == Token::String && is_decimal(leaf, head))
            return true;
        if (!leaf.few) return leaf.scalars.has(p, end_, scratch_);
        for (const Literal& literal : leaf.literals)
            if (equals(literal, head)) return true;
        return false;
    }

    // Whether all literals were seen with this value. Values of one document are noted in turn.
    bool is_last_of(const Condition& leaf, const uint8_t* p) {
        const size_t number = leaf.every.find(p, end_, scratch_);
        if (number == seen_.size() || seen_[number]) return false;
        seen_[number] = true;
        return --unseen_ == 0;
    }

    static bool is_decimal(const Condition& leaf, const Head& head) {
        Digits digits;
        if (!Digits::read(head.body, head.size, digits)) return false;
        return leaf.decimals.count((digits.negative ? "-" : "") + digits.whole + "." +
                                   digits.fraction) != 0;
    }

    static bool equals(const Literal& literal, const Head& head) {
        switch (head.token) {
            case Token::Nil:
            case Token::False:
            case Token::True: return literal.token == head.token;
            case Token::String:
            case Token::Binary:
                return literal.token == head.token && literal.text.size() == head.size &&
                       std::memcmp(literal.text.data(), head.body, head.size) == 0;
            case Token::Extension:
                // Others than moments are in the set.
                return literal.token == Token::Extension && literal.compare(head) == kEqual;
            default: return (literal.compare(head) & kEqual) != 0;
        }
    }

    static uint32_t type_of(const Head& head) {
        switch (head.token) {
            case Token::Nil: return 1;
            case Token::False:
            case Token::True: return 2;
            case Token::Positive:
            case Token::Negative:
            case Token::UInt:
            case Token::Int: return 4;
            case Token::Float32:
            case Token::Float64: return 8;
            case Token::String: return 16;
            case Token::Binary: return 32;
            case Token::Extension: return head.ext_type == -1 ? 64 : 512;
            case Token::Array: return 128;
            case Token::Map: return 256;
            default: return 0;
        }
    }

    template <bool collect>
    bool matches(Asked& asked, const Head& head) {
        if (head.token != Token::String || !is_utf8(head.body, head.size)) return false;
        const size_t offset = size_t(head.body - data_);
        if (collect) {
            asked.texts.emplace_back(offset, size_t(head.size));
            return false;
        }
        while (asked.next < asked.texts.size() && asked.texts[asked.next].first != offset)
            ++asked.next;
        return asked.next < asked.texts.size() && asked.answers[asked.next++] != 0;
    }

    template <bool collect>
    bool element(const Condition& leaf, const Head& head) {
        if (head.token != Token::Array) return false;
        const uint8_t* const element = element_;
        const uint8_t* const fields = fields_;
        const uint8_t* p = head.body;
        bool found = false;
        for (uint64_t i = 0; i < head.size && !found; ++i) {
            if (!leaf.is_map || detail::kTable.at[*p].token == Token::Map) {
                element_ = p;
                fields_ = p;
                found = holds<collect>(*leaf.children[0]) && !(collect && leaf.has_pattern);
            }
            pass_over<false>(p, end_, kMaxDepth);
        }
        element_ = element;
        fields_ = fields;
        return found;
    }

    const Condition& root_;
    const std::vector<std::string>& wanted_;
    std::vector<Asked> asked_;
    std::vector<const Condition*> leaves_;
    Keys keys_;  // of the wanted fields, for documents that are tested one by one
    std::string scratch_;
    std::vector<bool> seen_;  // literals of the condition that is tested
    size_t unseen_ = 0;
    const uint8_t* data_ = nullptr;
    const uint8_t* limit_ = nullptr;    // of all documents: bytes before it may be read
    const uint8_t* end_ = nullptr;      // of the document
    const uint8_t* id_ = nullptr;
    std::vector<const uint8_t*> values_;  // of the located fields; null if absent
    const uint8_t* element_ = nullptr;  // of a list, that a condition is on; else null
    const uint8_t* fields_ = nullptr;   // the map whose fields conditions are on; null: the document
};

}  // namespace godb
