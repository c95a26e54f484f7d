// Finding the documents of a collection in bytes.

#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "keys.hpp"

namespace godb {

enum class Scanned : uint8_t { Done, BadId, BadDocument, Invalid, TooDeep };

struct Skipped {
    size_t position;
    uint64_t items;
    uint64_t payload;  // bytes of a string or binary beyond the end
    bool invalid;
};

// Pass over values, however deep they nest, as far as the buffer goes.
inline Skipped skip_items(const uint8_t* data, size_t size, size_t position, uint64_t items) {
    while (items && position < size) {
        const uint8_t first = data[position];
        const detail::Entry entry = detail::kTable.at[first];
        if (entry.token == Token::Invalid) return {position, items, 0, true};
        if (size - position < size_t(1) + entry.width) break;
        const uint8_t* const p = data + position + 1;
        uint64_t payload = 0, children = 0;
        switch (entry.token) {
            case Token::String:
                payload = entry.width ? detail::load_width(p, entry.width) : first & 0x1f;
                break;
            case Token::Binary: payload = detail::load_width(p, entry.width); break;
            case Token::Extension:
                payload = 1 + (entry.width ? detail::load_width(p, entry.width)
                                           : uint64_t(1) << (first - 0xd4));
                break;
            case Token::Array:
            case Token::Map:
                children = entry.width ? detail::load_width(p, entry.width) : first & 0x0f;
                if (entry.token == Token::Map) children *= 2;
                break;
            default: break;
        }
        position += 1 + entry.width;
        items += children;
        --items;
        if (payload > size - position) {
            payload -= size - position;
            return {size, items, payload, false};
        }
        position += size_t(payload);
    }
    return {position, items, 0, false};
}

// Where the values of some fields are in a document that was passed over: offsets into the data.
constexpr uint32_t kUnknownPlace = 0;  // look for the field
constexpr uint32_t kNoPlace = UINT32_MAX;  // the document does not have it

// How documents of one make look: mostly values of the same size at the same places. The processor
// then predicts the comparison of a first byte and goes on, where otherwise the place of each value
// waits until the one before it was read. If the fields are the same, too, the places of those that
// are wanted are noted on the way.
class Shape {
  public:
    explicit Shape(const std::vector<std::string>& wanted) : wanted_(wanted) {}

    // Behind the document with this head; null where it is made differently, or ends too near to
    // `end`. Of the wanted fields, `places` gets the offsets from `data`, or that they are unknown.
    const uint8_t* pass(const Head& head, const uint8_t* end, const uint8_t* data,
                        uint32_t* places) {
        const size_t count = steps_.size();
        const uint8_t* p = head.body;
        if (count == 0 || head.size != fields_ || size_t(end - p) < count * kLongest)
            return nullptr;
        Step* const steps = steps_.data();
        const Field* const names = names_.data();
        bool same_fields = knows_places_;
        for (size_t i = 0; i < count;) {
            Step& step = steps[i];
            if (step.field >= 0) {
                const Field& field = names[size_t(step.field)];
                if (field.head.is_at(p, field.name)) {
                    p += field.head.size;
                    if (field.wanted >= 0) places[field.wanted] = uint32_t(p - data);
                    ++i;
                    continue;
                }
                same_fields = false;
            }
            if (const uint8_t size = step.value.size_of(*p)) {
                p += size;
                ++i;
                continue;
            }
            // Where places are noted, nobody looks at the other values again.
            if ((wanted_.empty() ? pass_over<false>(p, end, kMaxDepth - step.level)
                                 : pass_over<true>(p, end, kMaxDepth - step.level)) !=
                Passed::Whole)
                return nullptr;
            i = step.after;
            if (size_t(end - p) < (count - i) * kLongest) return nullptr;
        }
        if (!same_fields || size_t(p - data) >= kNoPlace)
            for (size_t i = 0; i < wanted_.size(); ++i) places[i] = kUnknownPlace;
        else
            for (const size_t absent : absent_) places[absent] = kNoPlace;
        return p;
    }

    // Be ready for documents like one that was found whole.
    void learn(const Head& head, const uint8_t* end) {
        steps_.clear();
        if (tries_ == 0) return;
        --tries_;
        fields_ = head.size;
        names_.clear();
        knows_places_ = !wanted_.empty() && fields_ <= kMostFields;
        std::vector<bool> found(wanted_.size(), false);
        const uint8_t* p = head.body;
        for (uint64_t place = 0; place < fields_ && steps_.size() <= kMostSteps; ++place) {
            const size_t key = steps_.size();
            const uint8_t* const name = p;
            values(p, end, 1, 1);
            if (knows_places_) note_field(key, name, end, found);
            values(p, end, 1, 1);
        }
        if (steps_.size() > kMostSteps) steps_.clear();
        absent_.clear();
        for (size_t i = 0; i < found.size(); ++i)
            if (!found[i]) absent_.push_back(i);
    }

  private:
    static constexpr size_t kLongest = 32;  // bytes of a value whose first byte tells its size
    static constexpr size_t kMostSteps = 512;
    static constexpr size_t kMostFields = 64;

    struct Step {
        SizeGuess value;  // or a container's head
        uint8_t level;    // containers around it
        int16_t field;    // a key of the document itself: which; else -1
        uint32_t after;   // the step behind what is inside
    };

    struct Field {
        Head8 head;
        const uint8_t* name;  // in the document that was learnt from
        int wanted;           // which of the wanted ones; -1 for the others
    };

    void note_field(size_t step, const uint8_t* p, const uint8_t* end, std::vector<bool>& found) {
        const Head key = read_head(p, end);
        // A key that is long or odd, or is there twice: such documents are looked at as a whole.
        if (short_string(p) < 0 || steps_.size() != step + 1) {
            knows_places_ = false;
            return;
        }
        for (const Field& other : names_)
            if (other.head.size == key.size + 1 &&
                std::memcmp(other.name, key.body, key.size) == 0) {
                knows_places_ = false;
                return;
            }
        Field field{Head8(key.body, key.size), key.body, -1};
        for (size_t i = 0; i < wanted_.size(); ++i)
            if (wanted_[i].size() == key.size &&
                std::memcmp(wanted_[i].data(), key.body, key.size) == 0) {
                field.wanted = int(i);
                found[i] = true;
            }
        steps_[step].field = int16_t(names_.size());
        names_.push_back(field);
    }

    void values(const uint8_t*& p, const uint8_t* end, uint64_t count, int level) {
        for (; count && steps_.size() <= kMostSteps; --count) {
            const size_t index = steps_.size();
            const detail::Entry entry = detail::kTable.at[*p];
            const bool container = entry.token == Token::Map || entry.token == Token::Array;
            steps_.push_back({SizeGuess(), uint8_t(level), -1, 0});
            if (container && entry.width == 0) {
                steps_[index].value = SizeGuess::head(*p);
                const uint64_t inside = uint64_t(*p & 0x0f) << (entry.token == Token::Map);
                ++p;
                values(p, end, inside, level + 1);
            } else if (const uint8_t size = steps_[index].value.size_of(*p)) {
                p += size;
            } else {
                pass_over<false>(p, end, kMaxDepth);
            }
            steps_[index].after = uint32_t(steps_.size());
        }
    }

    const std::vector<std::string>& wanted_;
    std::vector<Step> steps_;
    std::vector<Field> names_;
    std::vector<size_t> absent_;  // wanted fields that the documents do not have
    bool knows_places_ = false;
    uint64_t fields_ = 0;
    size_t tries_ = 64;  // where no two documents are alike, they are passed over one by one
};

// Passes over documents that are made like one before with as many fields.
class Repeats {
  public:
    explicit Repeats(const std::vector<std::string>& wanted) : shapes_(kShapes, Shape(wanted)) {}

    // As for a shape; the document is at `p`.
    const uint8_t* pass(const uint8_t* p, const uint8_t* end, const uint8_t* data,
                        uint32_t* places) {
        const Head head = read_head(p, end);
        if (head.token != Token::Map) return nullptr;
        return shape(head).pass(head, end, data, places);
    }

    // Be ready for documents like one that was found whole.
    void learn(const uint8_t* p, const uint8_t* end) {
        const Head head = read_head(p, end);
        shape(head).learn(head, end);
    }

  private:
    static constexpr size_t kShapes = 16;

    Shape& shape(const Head& head) { return shapes_[size_t(head.size % kShapes)]; }

    std::vector<Shape> shapes_;
};

constexpr size_t kUsualSize = 64;  // bytes of most documents, at least: room is made for so many

// Find whole entries: an id and a document each. `bounds` gets the start of every id and
// document behind the first id, and the end; `at` is where a problem is. `places` gets the places of
// the wanted fields of each document.
inline Scanned scan_entries(const uint8_t* data, size_t size, size_t start, size_t count,
                            size_t max_bytes, const std::vector<std::string>& wanted,
                            std::vector<int64_t>& bounds, std::vector<uint32_t>& places,
                            size_t& at) {
    const uint8_t* const end = data + size;
    const uint8_t* p = data + start;
    Repeats repeats(wanted);
    const size_t expected = std::min(count, (size - start) / kUsualSize);
    bounds.reserve(bounds.size() + 2 * expected);
    places.reserve(wanted.size() * expected);
    std::vector<uint32_t> here(wanted.size(), kUnknownPlace);
    const std::vector<uint32_t> unknown(wanted.size(), kUnknownPlace);
    for (size_t found = 0; found < count && size_t(p - data) - start < max_bytes && p < end;
         ++found) {
        at = size_t(p - data);
        const Token kind = detail::kTable.at[*p].token;
        if (kind != Token::String) return Scanned::BadId;
        const Head id = read_head(p, end);
        if (id.token == Token::Incomplete) break;
        const uint8_t* const document = id.body + id.size;
        if (document >= end) break;
        if (detail::kTable.at[*document].token != Token::Map) {
            at = size_t(document - data);
            return Scanned::BadDocument;
        }
        if (const uint8_t* const behind = repeats.pass(document, end, data, here.data())) {
            places.insert(places.end(), here.begin(), here.end());
            bounds.push_back(document - data);
            bounds.push_back(behind - data);
            p = behind;
            continue;
        }
        const uint8_t* next = document;
        const Passed passed = pass_over<false>(next, end, kMaxDepth);
        if (passed == Passed::Incomplete) break;
        if (passed == Passed::Invalid) return Scanned::Invalid;
        if (passed == Passed::TooDeep) {
            const Skipped rest = skip_items(data, size, size_t(document - data), 1);
            if (rest.invalid) return Scanned::Invalid;
            if (rest.items || rest.payload) break;
            at = size_t(document - data);
            return Scanned::TooDeep;
        }
        repeats.learn(document, next);
        places.insert(places.end(), unknown.begin(), unknown.end());
        bounds.push_back(document - data);
        bounds.push_back(next - data);
        p = next;
    }
    return Scanned::Done;
}

// The last entry with this id, or -1.
inline int64_t find_entry(const uint8_t* data, const int64_t* bounds, size_t count,
                          const uint8_t* id, size_t size) {
    for (size_t i = count; i-- > 0;) {
        const uint8_t* const end = data + bounds[2 * i + 1];
        if (size_t(end - (data + bounds[2 * i])) < size) continue;
        if (std::memcmp(end - size, id, size) != 0) continue;
        const Head head = read_head(data + bounds[2 * i], end);
        if (head.size == size) return int64_t(i);
    }
    return -1;
}

}  // namespace godb
