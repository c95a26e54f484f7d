// Finding the values of some fields in maps whose keys come in any order.
//
// The bytes of a key and its size select a slot of a table that has no collisions. So a key is found
// without a branch that the processor would predict wrongly, whichever key comes next.

#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "bytes.hpp"
#include "hash.hpp"
#include "words.hpp"

namespace godb {

// Places of the values of some fields in a document, as offsets into the data.
constexpr uint32_t kUnknownPlace = 0;  // the document must be searched for the field
constexpr uint32_t kBelowNull = 1;     // the map that would have the field is null
constexpr uint32_t kNoPlace = UINT32_MAX;  // the document does not have it

// Words that hold a short string with its head: the first eight bytes, and the last eight ones of a
// name of eight bytes or more.
struct KeyWords {
    uint64_t front, back;

    // The key at `p`, of which `kReadable` bytes can be read.
    static KeyWords at(const uint8_t* p) {
        const Mask& mask = kMasks.at[*p & 0x1f];
        return {word_at(p) & mask.front, word_at(p + mask.skip) & mask.back};
    }
    static uint64_t front_at(const uint8_t* p) { return word_at(p) & kMasks.at[*p & 0x1f].front; }
    bool operator==(const KeyWords& other) const {
        return ((front ^ other.front) | (back ^ other.back)) == 0;
    }

    static constexpr size_t kReadable = 32;

  private:
    struct Mask { uint64_t front, back; size_t skip; };
    struct Masks {
        Mask at[32];
        constexpr Masks() : at{} {
            for (size_t size = 0; size < 32; ++size) {
                at[size].front = size < 7 ? (uint64_t(1) << (8 * (size + 1))) - 1 : ~uint64_t(0);
                at[size].back = size < 8 ? 0 : ~uint64_t(0);
                at[size].skip = size < 8 ? 0 : size - 7;
            }
        }
    };
    static const Masks kMasks;
};
inline constexpr KeyWords::Masks KeyWords::kMasks{};

// Finder of the values of some fields, which have different names, in maps.
class FieldFinder {
  public:
    static constexpr size_t kMaxFields = 62;

    explicit FieldFinder(const std::vector<std::string>& names) : count_(names.size()) {
        if (names.empty() || count_ > kMaxFields) return;
        size_t bits = 4;
        while ((size_t(1) << bits) < count_ * count_ && bits < kMaxBits) ++bits;
        shift_ = 64 - int(bits);
        entries_.resize(count_ + 1);
        for (size_t i = 0; i < count_; ++i) {
            const std::string& name = names[i];
            const auto* const data = reinterpret_cast<const uint8_t*>(name.data());
            if (!is_utf8(data, name.size())) return;
            if (name.size() >= 32) continue;  // not a short string
            Entry& entry = entries_[i];
            entry.key[0] = uint8_t(0xa0 | name.size());
            std::memcpy(entry.key + 1, data, name.size());
            entry.words = KeyWords::at(entry.key);
            entry.has_middle = name.size() > 15;
            entry.size = uint8_t(1 + name.size());
        }
        for (size_t tries = kMaxTries; tries && !usable_; --tries) usable_ = place();
        if (usable_ && bits <= kMaxShortBits) collect_short(names);
    }

    bool usable() const { return usable_; }
    size_t count() const { return count_; }

    // Find the fields of a map of `pairs` pairs, of which the first is at `p`. Returns the end of the
    // map, or null if that needs more care: at keys that are no short strings, equal keys, invalid
    // values, and too near to `end`. With `only`, other fields need more care, too. `places` gets
    // the offset of each value from `data`, or kNoPlace. If the result is null, they are arbitrary.
    const uint8_t* find(uint64_t pairs, const uint8_t* p, const uint8_t* end, const uint8_t* data,
                        uint32_t* places, bool only) const {
        return short_.empty() ? find<false>(pairs, p, end, data, places, only)
                              : find<true>(pairs, p, end, data, places, only);
    }

    // Like find, for a map that has all fields and no others, in their order. Returns null for any
    // other map.
    const uint8_t* find_in_order(uint64_t pairs, const uint8_t* p, const uint8_t* end,
                                 const uint8_t* data, uint32_t* places) const {
        if (pairs != count_) return nullptr;
        for (size_t i = 0; i < count_; ++i) {
            const Entry& entry = entries_[i];
            if (size_t(end - p) < kLongest || !entry.is_at(p)) return nullptr;
            p += entry.size;
            places[i] = uint32_t(p - data);
            if (const uint8_t size = kScalarSizes.at[*p]) p += size;
            else if (!(p = after(p, end))) return nullptr;
        }
        return size_t(p - data) < kNoPlace ? p : nullptr;
    }

    // Skip any value in a map; null if it is invalid or too deep. Extensions are checked.
    static const uint8_t* after(const uint8_t* p, const uint8_t* end) {
        if (const uint8_t* const next = after_short(p, end)) return next;
        return pass_over<true>(p, end, kMaxDepth - 1) == Passed::Whole ? p : nullptr;
    }

  private:
    static constexpr size_t kLongest = 80;  // bytes of a short key and of a scalar, and some more
    static constexpr int kMaxContainers = 8;  // that are skipped without counting their levels
    static constexpr size_t kMaxBits = 12;
    static constexpr size_t kMaxTries = 200;

    static constexpr size_t kMaxShortBits = 8;

    template <bool kShort>
    const uint8_t* find(uint64_t pairs, const uint8_t* p, const uint8_t* end, const uint8_t* data,
                        uint32_t* places, bool only) const {
        std::fill(places, places + count_, kNoPlace);
        uint64_t seen = 0, again = 0;
        for (; pairs; --pairs) {
            if (size_t(end - p) < kLongest) return nullptr;
            const uint8_t* const key = p;
            if ((*key & 0xe0) != 0xa0) return nullptr;
            const size_t index = kShort ? short_index_of(key) : index_of(key);
            p += 1 + (*key & 0x1f);
            if (__builtin_expect(index != count_, 1)) {
                again |= seen & uint64_t(1) << index;
                seen |= uint64_t(1) << index;
                places[index] = uint32_t(p - data);
            } else if (only || !is_ascii(key + 1, *key & 0x1f)) {
                return nullptr;
            }
            if (const uint8_t size = kScalarSizes.at[*p]) p += size;
            else if (!(p = after(p, end))) return nullptr;
        }
        return again || size_t(p - data) >= kNoPlace ? nullptr : p;
    }

    // Slot for a key of fewer than eight bytes, of which eight bytes with the head are all.
    struct ShortSlot {
        uint64_t front = 1;  // equal to no key
        size_t index = 0;
    };

    // Copy the slots, if all names are that short.
    void collect_short(const std::vector<std::string>& names) {
        for (const std::string& name : names)
            if (name.size() > 7) return;
        short_.resize(slots_.size());
        for (size_t slot = 0; slot < slots_.size(); ++slot)
            if (slots_[slot] != count_) short_[slot] = {entries_[slots_[slot]].words.front, slots_[slot]};
    }

    size_t short_index_of(const uint8_t* p) const {
        const uint64_t front = KeyWords::front_at(p);
        const ShortSlot& slot = short_[size_t(front * factors_[0]) >> shift_];
        return __builtin_expect(slot.front == front, 1) ? slot.index : count_;
    }

    struct Entry {
        KeyWords words{1, 0};  // equal to no key
        uint8_t key[KeyWords::kReadable + 8] = {};
        bool has_middle = false;  // whether the words do not hold all of the key
        uint8_t size = 0;         // bytes of the key with its head

        bool is_at(const uint8_t* p) const {
            return KeyWords::at(p) == words && (!has_middle || std::memcmp(p, key, size) == 0);
        }
    };

    // Skip a short extension, or short containers of scalars; null for anything else.
    static const uint8_t* after_short(const uint8_t* p, const uint8_t* end) {
        if (const uint8_t size = kValueSizes.at[*p])
            return p[1] < 0x80 || is_moment(p) ? p + size : nullptr;
        int containers = kMaxContainers;
        for (size_t items = 1; items; --items) {
            if (size_t(end - p) < kLongest) return nullptr;
            if (const uint8_t size = kScalarSizes.at[*p]) {
                p += size;
                continue;
            }
            if ((*p & 0xe0) != 0x80 || --containers < 0) return nullptr;
            items += (*p & 0x10 ? 1u : 2u) * (*p & 0x0f);
            ++p;
        }
        return p;
    }

    // Whether an extension of a fixed size is a valid timestamp of four or eight bytes.
    static bool is_moment(const uint8_t* p) {
        return p[1] == 0xff && (*p == 0xd6 || (*p == 0xd7 && load64(p + 2) >> 34 < 1000000000));
    }

    static bool is_ascii(const uint8_t* p, size_t size) {
        uint8_t bits = 0;
        for (size_t i = 0; i < size; ++i) bits |= p[i];
        return bits < 0x80;
    }

    size_t slot_of(const KeyWords& words) const {
        return size_t((words.front * factors_[0] + words.back * factors_[1]) >> shift_);
    }

    // The index of the field whose key is at `p`, or the number of fields.
    size_t index_of(const uint8_t* p) const {
        const KeyWords words = KeyWords::at(p);
        const size_t index = slots_[slot_of(words)];
        const Entry& entry = entries_[index];
        const bool equal = entry.words == words;
        if (__builtin_expect(entry.has_middle, 0) && equal &&
            std::memcmp(p, entry.key, entry.size) != 0)
            return count_;
        return equal ? index : count_;
    }

    // Put the names into slots with other factors; false if two have the same slot.
    bool place() {
        for (uint64_t& factor : factors_) {
            seed_ = fold(seed_ + kHashSecret.word[0], kHashSecret.word[1]);
            factor = seed_ | 1;
        }
        slots_.assign(size_t(1) << (64 - shift_), uint8_t(count_));
        for (size_t i = 0; i < count_; ++i) {
            if (entries_[i].words.front == 1) continue;
            uint8_t& slot = slots_[slot_of(entries_[i].words)];
            if (slot != count_) return false;
            slot = uint8_t(i);
        }
        return true;
    }

    size_t count_;
    int shift_ = 0;
    bool usable_ = false;
    uint64_t factors_[2] = {1, 1};
    uint64_t seed_ = kHashSecret.word[2];
    std::vector<uint8_t> slots_;   // index of a field, or their number
    std::vector<Entry> entries_;   // and one that equals nothing
    std::vector<ShortSlot> short_; // empty if a name is too long
};

}  // namespace godb
