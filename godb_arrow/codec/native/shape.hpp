// Fast path for skipping documents that repeat an earlier layout.
//
// Documents of a collection mostly have the same keys in the same order, and values of the same
// sizes. With a known layout, a key and the first byte of its value are compared at once. The
// processor predicts that they match and continues after the value. Otherwise it could find a value
// only after it has read the one before.

#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "fields.hpp"
#include "words.hpp"

namespace godb {

// Expected key and value, or expected value without a key.
class Step {
  public:
    static constexpr size_t kLongest = 64;  // bytes of a short key and of a scalar

    Step(const uint8_t* name, size_t key, int level)
        : key_(uint8_t(key)), level_(uint8_t(level)), name_(name) {
        expect_nothing();
    }

    int wanted() const { return wanted_; }      // index of the wanted field, or -1
    uint32_t after() const { return after_; }  // step after the content of the value
    void set_wanted(size_t index) {
        wanted_ = int(index);
        plain_ = false;
    }
    void set_after(size_t index) { after_ = uint32_t(index); }

    size_t key() const { return key_; }
    std::string name() const { return {reinterpret_cast<const char*>(name_) + 1, key_ - 1u}; }
    int level() const { return level_; }  // number of enclosing containers
    bool is_container() const { return container_; }
    bool expects_value() const { return guessed_; }
    size_t size() const { return size_; }  // number of expected bytes

    // Whether it is at `p`, as far as eight bytes tell; `kLongest` bytes can be read.
    bool begins_at(const uint8_t* p) const { return (word_at(p) & front_mask_) == front_; }
    // Whether eight bytes decide, and skipping is all there is to do.
    bool is_plain() const { return plain_; }
    // Whether the content of the value at `p` is expected, too.
    bool is_at(const uint8_t* p) const {
        if (key_ < 8) return true;
        return (word_at(p + key_ - 7) & back_mask_) == back_ &&
               (key_ < 16 || std::memcmp(p + 8, name_ + 8, key_ - 15u) == 0);
    }
    bool has_key_at(const uint8_t* p) const { return std::memcmp(p, name_, key_) == 0; }

    void expect_container(uint8_t first) {
        container_ = true;
        expect(first, 1);
    }
    void expect_scalar(uint8_t first, uint8_t size) { expect(first, size); }

    // Record another scalar than expected in document number `now`. Two such in a row are a change.
    // Too many changes cost more than an expectation saves.
    void differs(uint8_t first, uint8_t size, uint32_t now) {
        if (++misses_ == kMisses) {
            if (now - counted_from_ < kMisses * kSeldom) return expect_nothing();
            counted_from_ = now;
            misses_ = 0;
        }
        if (guessed_ && last_miss_ + 1 == now) expect_scalar(first, size);
        last_miss_ = now;
    }

  private:
    static constexpr uint32_t kMisses = 32;
    static constexpr uint32_t kSeldom = 6;


    void expect_nothing() {
        guessed_ = false;
        size_ = key_;
        look_for(0, 0);
    }
    void expect(uint8_t first, uint8_t size) {
        guessed_ = true;
        size_ = uint8_t(key_ + size);
        look_for(first, alike(first));
    }

    // Bits of a first byte that determine the size; the others are the value itself.
    static uint8_t alike(uint8_t first) {
        if (first < 0x80) return 0x80;
        if (first >= 0xe0) return 0xe0;
        return first == 0xc2 || first == 0xc3 ? 0xfe : 0xff;
    }

    // Expected bytes at both ends of the key, and after it.
    void look_for(uint8_t first, uint8_t mask) {
        plain_ = key_ < 8 && guessed_ && wanted_ < 0;
        uint8_t bytes[8] = {}, used[8] = {};
        for (size_t i = 0; i < 8 && i < key_; ++i) bytes[i] = name_[i], used[i] = 0xff;
        if (key_ < 8) bytes[key_] = first & mask, used[key_] = mask;
        front_ = word_at(bytes);
        front_mask_ = word_at(used);
        if (key_ < 8) return;
        for (size_t i = 0; i < 7; ++i) bytes[i] = name_[key_ - 7u + i], used[i] = 0xff;
        bytes[7] = first & mask;
        used[7] = mask;
        back_ = word_at(bytes);
        back_mask_ = word_at(used);
    }

    uint64_t front_ = 0, front_mask_ = 0;  // of the first eight bytes
    uint8_t size_ = 0;
    bool plain_ = false;
    uint8_t key_;  // bytes of the key; 0 for a value without a key
    uint8_t level_;
    bool guessed_ = false;
    bool container_ = false;
    uint16_t misses_ = 0;
    int32_t wanted_ = -1;
    uint32_t after_ = 0;
    uint64_t back_ = 0, back_mask_ = 0;  // of a longer key's last seven bytes and the next byte
    const uint8_t* name_;                // in the document of which the shape was learnt
    uint32_t last_miss_ = 0, counted_from_ = 0;
};

// Extent of skipping: whole documents with any keys; only documents with the learnt keys; or these
// only up to the wanted fields.
enum class Look : uint8_t { Whole, SameKeys, Front };

// Layout of similar documents. If the fields are the same, too, the places of the wanted fields are
// recorded while documents are skipped.
class Shape {
  public:
    // With places, the other values are not read again, so their extensions are checked here.
    Shape(const std::vector<std::string>& wanted, Look look)
        : wanted_(wanted), sizes_(wanted.empty() ? kValueSizes : kScalarSizes), look_(look) {}

    // Skip the document of `fields` fields, of which the first is at `p`, or its front. Returns
    // null if the layout differs, or ends too near to `end`. `places` gets the offsets of the
    // wanted fields from `data`, or that they are unknown.
    const uint8_t* pass(uint64_t fields, const uint8_t* p, const uint8_t* end, const uint8_t* data,
                        uint32_t* places) {
        Step* const steps = steps_.data();
        Step* const last = steps + stop_;
        if (steps == last || fields != fields_ || !has_room(p, end, last - steps))
            return nullptr;
        ++documents_;
        same_fields_ = knows_places_;
        for (Step* step = steps; step != last;) {
            const bool begins = step->begins_at(p);
            if (__builtin_expect(begins && step->is_plain(), 1)) {
                p += step->size();
                ++step;
                continue;
            }
            const uint8_t* value = p + step->key();
            if (begins && step->is_at(p)) {
                if (step->wanted() >= 0) places[step->wanted()] = uint32_t(value - data);
                p += step->size();
                if (step->expects_value()) {
                    ++step;
                    continue;
                }
                if (const uint8_t size = sizes_.at[*p]) {
                    p += size;
                    ++step;
                    continue;
                }
            } else {
                value = behind_key(p, end, *step, last - step);
                if (!value) return nullptr;
                if (step->wanted() >= 0) places[step->wanted()] = uint32_t(value - data);
            }
            p = behind_value(value, end, *step, last - step);
            if (!p) return nullptr;
            step = steps + step->after();
        }
        if (look_ != Look::Whole && !same_fields_) return nullptr;
        if (!same_fields_ || size_t(p - data) >= kNoPlace)
            for (size_t i = 0; i < wanted_.size(); ++i) places[i] = kUnknownPlace;
        else
            for (const size_t absent : absent_) places[absent] = kNoPlace;
        return p;
    }

    // Learn the layout of a scanned document.
    void learn(const Head& head, const uint8_t* end) {
        steps_.clear();
        stop_ = 0;
        if (tries_ == 0) return;
        --tries_;
        documents_ = 0;
        fields_ = head.size;
        const uint8_t* p = head.body;
        pairs(p, end, fields_, 1);
        if (steps_.size() > kMostSteps) steps_.clear();
        note_wanted();
        stop_ = steps_.size();
        if (look_ == Look::Front && knows_places_ && absent_.empty()) {
            stop_ = 0;
            for (const Step& step : steps_)
                if (step.wanted() >= 0) stop_ = step.after();
        }
    }

  private:
    static constexpr size_t kMostSteps = 512;
    static constexpr uint64_t kMostFields = 64;
    static constexpr ptrdiff_t kMostElements = 16;  // of a short array

    static bool has_room(const uint8_t* p, const uint8_t* end, ptrdiff_t steps) {
        return size_t(end - p) >= size_t(steps) * Step::kLongest;
    }

    // Skip the key at a step with an unexpected value; null where the document is not skipped.
    // There must be room for `left` steps from there on.
    __attribute__((noinline)) const uint8_t* behind_key(const uint8_t* p, const uint8_t* end,
                                                        Step& step, ptrdiff_t left) {
        if (!step.has_key_at(p)) {
            same_fields_ = same_fields_ && step.level() > 1;
            return behind_value(p, end, step, left);
        }
        p += step.key();
        const uint8_t size = sizes_.at[*p];
        if (size && !step.is_container()) step.differs(*p, size, documents_);
        return p;
    }

    // Skip any value at a step.
    const uint8_t* behind_value(const uint8_t* p, const uint8_t* end, const Step& step,
                                ptrdiff_t left) const {
        const uint8_t first = *p;
        if (const uint8_t size = sizes_.at[first]) return p + size;
        if (kValueSizes.at[first])
            return is_extension(read_head(p, end)) ? p + kValueSizes.at[first] : nullptr;
        if ((first & 0xf0) == 0x90 && step.level() < kMaxDepth &&
            has_room(p, end, left + kMostElements)) {
            int elements = first & 0x0f;
            const uint8_t* at = p + 1;
            for (; elements && sizes_.at[*at]; --elements) at += sizes_.at[*at];
            if (elements == 0) return at;
        }
        const Passed passed = wanted_.empty() ? pass_over<false>(p, end, kMaxDepth - step.level())
                                              : pass_over<true>(p, end, kMaxDepth - step.level());
        return passed == Passed::Whole && has_room(p, end, left) ? p : nullptr;
    }

    void pairs(const uint8_t*& p, const uint8_t* end, uint64_t count, int level) {
        for (; count && steps_.size() <= kMostSteps; --count) {
            const int size = short_string(p);
            if (size < 0) value(p, end, p, 0, level);
            const size_t key = size_t(1 + size);
            const uint8_t* const name = p;
            p += key;
            value(p, end, name, key, level);
        }
    }

    void value(const uint8_t*& p, const uint8_t* end, const uint8_t* name, size_t key, int level) {
        const size_t index = steps_.size();
        steps_.emplace_back(name, key, level);
        const uint8_t first = *p;
        const detail::Entry entry = detail::kTable.at[first];
        if (const uint8_t size = sizes_.at[first]) {
            steps_[index].expect_scalar(first, size);
            p += size;
        } else if (entry.width == 0 && entry.token == Token::Map) {
            steps_[index].expect_container(first);
            pairs(++p, end, first & 0x0f, level + 1);
        } else if (entry.width == 0 && entry.token == Token::Array) {
            steps_[index].expect_container(first);
            ++p;
            for (int i = 0; i < (first & 0x0f) && steps_.size() <= kMostSteps; ++i)
                value(p, end, p, 0, level + 1);
        } else {
            pass_over<false>(p, end, kMaxDepth);
        }
        steps_[index].set_after(steps_.size());
    }

    // Find the wanted fields, if no key is odd or repeated. Documents with such a key are decoded
    // as a whole.
    void note_wanted() {
        absent_.clear();
        knows_places_ = (look_ != Look::Whole || !wanted_.empty()) && !steps_.empty() &&
                        fields_ <= kMostFields;
        if (!knows_places_) return;
        std::vector<std::string> names;
        std::vector<bool> found(wanted_.size(), false);
        for (size_t i = 0; i < steps_.size(); i = steps_[i].after()) {
            names.push_back(steps_[i].key() ? steps_[i].name() : "");
            const auto* const name = reinterpret_cast<const uint8_t*>(names.back().data());
            if (steps_[i].key() == 0 || !is_utf8(name, names.back().size())) {
                knows_places_ = false;
                return;
            }
            for (size_t k = 0; k < wanted_.size(); ++k)
                if (wanted_[k] == names.back()) {
                    steps_[i].set_wanted(k);
                    found[k] = true;
                }
        }
        for (size_t i = 0; i < names.size(); ++i)
            for (size_t k = 0; k < i; ++k)
                if (names[i] == names[k]) knows_places_ = false;
        for (size_t i = 0; i < found.size(); ++i)
            if (!found[i]) absent_.push_back(i);
    }

    const std::vector<std::string>& wanted_;
    const ScalarSizes& sizes_;
    Look look_;
    std::vector<Step> steps_;
    size_t stop_ = 0;             // step after the last step to check
    std::vector<size_t> absent_;  // wanted fields that the documents do not have
    bool knows_places_ = false;
    bool same_fields_ = false;    // whether the skipped document has the same fields so far
    uint64_t fields_ = 0;
    uint32_t documents_ = 0;
    size_t tries_ = 64;  // without similar documents, documents are skipped one by one
};

// Skipper of documents that repeat the layout of an earlier one with as many fields. Where keys come
// in another order each time, the wanted fields are found by their keys.
class Repeats {
  public:
    explicit Repeats(const std::vector<std::string>& wanted, Look look = Look::Whole)
        : shapes_(kShapes, Shape(wanted, look)),
          finder_(look == Look::Whole ? wanted : std::vector<std::string>()) {}

    // Like Shape's function; the document is at `p`.
    const uint8_t* pass(const uint8_t* p, const uint8_t* end, const uint8_t* data,
                        uint32_t* places) {
        if (!finder_.usable()) return repeated(p, end, data, places);
        if (disorder_ < kDisorder || ++found_ % kFound == 0) {
            const uint8_t* const after = repeated(p, end, data, places);
            if (after && places[0] != kUnknownPlace) {
                disorder_ -= disorder_ > 0;
                return after;
            }
            disorder_ = std::min(disorder_ + 2, kMaxDisorder);
            const uint8_t* const found = find(p, end, data, places);
            if (found && !after) learn(p, found);
            if (!found) std::fill(places, places + finder_.count(), kUnknownPlace);
            return found ? found : after;
        }
        const uint8_t* const after = find(p, end, data, places);
        return after ? after : repeated(p, end, data, places);
    }

    // Learn the layout of a scanned document.
    void learn(const uint8_t* p, const uint8_t* end) {
        const Head head = read_head(p, end);
        shape(head.size).learn(head, end);
    }

  private:
    static constexpr size_t kShapes = 16;
    static constexpr int kDisorder = 16;     // with more, documents are not expected to be alike
    static constexpr int kMaxDisorder = 32;
    static constexpr uint32_t kFound = 64;   // documents of which one is compared again

    Shape& shape(uint64_t fields) { return shapes_[size_t(fields % kShapes)]; }

    const uint8_t* repeated(const uint8_t* p, const uint8_t* end, const uint8_t* data,
                            uint32_t* places) {
        if (*p != first_) {
            const Head head = read_head(p, end);
            if (head.token != Token::Map) return nullptr;
            if (head.body != p + 1)
                return shape(head.size).pass(head.size, head.body, end, data, places);
            first_ = *p;
            last_ = &shape(head.size);
        }
        return last_->pass(first_ & 0x0f, p + 1, end, data, places);
    }

    const uint8_t* find(const uint8_t* p, const uint8_t* end, const uint8_t* data,
                        uint32_t* places) const {
        const Head head = read_head(p, end);
        if (head.token != Token::Map) return nullptr;
        return finder_.find(head.size, head.body, end, data, places, false);
    }

    std::vector<Shape> shapes_;
    FieldFinder finder_;     // of the wanted fields; not usable if there are none
    int disorder_ = 0;       // rises with each document that has its keys in another order
    uint32_t found_ = 0;     // documents whose fields were found by their keys
    Shape* last_ = nullptr;  // shape of the previous document, if that began with
    uint8_t first_ = 0;      // this byte, the head of a map
};

}  // namespace godb
