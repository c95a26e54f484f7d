// Lookup of the field for a key of a map.
//
// Go writes the keys of a map in random order, other programs always in the same order. So a key is
// first compared with the key at the same place of the previous map, then looked up by hash.

#pragma once

#include <string>
#include <vector>

#include "bytes.hpp"
#include "hash.hpp"
#include "jsontext.hpp"
#include "memory.hpp"
#include "words.hpp"

namespace godb {

// First eight bytes of a name as a short string, with its head, and a mask of the bits that count.
struct Head8 {
    uint64_t word = 1, mask = 0;  // of a longer name, equal to nothing
    uint8_t size = 0;

    Head8() = default;
    Head8(const uint8_t* data, size_t length) {
        if (length >= 32) return;
        uint8_t bytes[8] = {uint8_t(0xa0 | length)};
        const size_t kept = length < 7 ? length : 7;
        std::memcpy(bytes + 1, data, kept);
        word = word_at(bytes);
        mask = kept == 7 ? ~uint64_t(0) : (uint64_t(1) << (8 * (kept + 1))) - 1;
        size = uint8_t(1 + length);
    }

    // Whether the name is at `p`; eight bytes can be read.
    bool is_at(const uint8_t* p, const uint8_t* name) const {
        return (word_at(p) & mask) == word &&
               (size <= 8 || std::memcmp(p + 8, name + 7, size - 8u) == 0);
    }
};

// Set of names, numbered in the order of insertion.
class Keys {
  public:
    static constexpr int kNone = -1;

    size_t size() const { return names_.size(); }
    const std::string& name(size_t index) const { return names_[index]; }

    int add(const uint8_t* data, size_t size) {
        if ((names_.size() + 1) * 2 > table_.size()) rehash();
        names_.emplace_back(reinterpret_cast<const char*>(data), size);
        fingerprints_.push_back(fingerprint(data, size));
        heads_.push_back(Head8(data, size));
        insert(int(names_.size()) - 1);
        return int(names_.size()) - 1;
    }

    // Number of a name; `place` is the number of keys before it in the map. `readable` bytes may be
    // read from `data`.
    int find(const uint8_t* data, size_t size, size_t place, size_t readable = 0) {
        uint64_t print;
        if (__builtin_expect(readable >= 8 && size < 255, 1)) {
            print = word_at(data);
            const size_t kept = size < 7 ? size : 7;
            print = (print & ((uint64_t(1) << (8 * kept)) - 1)) | uint64_t(size) << 56;
        } else {
            print = fingerprint(data, size);
        }
        if (place < places_.size()) {
            const int guess = places_[place].found;
            if (equal(guess, print, data, size)) return guess;
        }
        const int found = look_up(print, data, size);
        if (found != kNone) {
            if (place < places_.size()) places_[place].found = found;
            else if (place == places_.size() && place < kMaxOrder)
                places_.push_back({found, SizeGuess()});
        }
        return found;
    }

    // Number of the name that the previous map had at this place, if `p` has it as a short string.
    // Then `p` advances after it. Eight bytes more than the map has can be read.
    int expected(const uint8_t*& p, size_t place) const {
        if (place >= places_.size()) return kNone;
        const int guess = places_[place].found;
        const Head8& head = heads_[size_t(guess)];
        const auto* name = reinterpret_cast<const uint8_t*>(names_[size_t(guess)].data());
        if (!head.is_at(p, name)) return kNone;
        p += head.size;
        return guess;
    }

    // Predicted size of the value after the key at this place; null if there is no prediction.
    SizeGuess* value_at(size_t place) {
        return place < places_.size() ? &places_[place].value : nullptr;
    }

  private:
    static constexpr size_t kMaxOrder = 256;

    // Key at a place of the previous map.
    struct Place {
        int found;
        SizeGuess value;
    };


    // Size and first seven bytes, which determine a name below eight bytes.
    static uint64_t fingerprint(const uint8_t* data, size_t size) {
        uint64_t word = 0;
        switch (size) {
            case 0: break;
            case 1: word = data[0]; break;
            case 2: word = data[0] | uint64_t(data[1]) << 8; break;
            case 3: word = data[0] | uint64_t(data[1]) << 8 | uint64_t(data[2]) << 16; break;
            default:
                if (size < 8) {
                    word = word_at<uint32_t>(data) |
                           uint64_t(word_at<uint32_t>(data + size - 4)) << (8 * (size - 4));
                } else {
                    word = word_at(data);
                    word &= 0x00ffffffffffffffull;
                }
        }
        return word | uint64_t(size < 255 ? size : 255) << 56;
    }

    bool equal(int index, uint64_t print, const uint8_t* data, size_t size) const {
        if (fingerprints_[size_t(index)] != print) return false;
        const std::string& name = names_[size_t(index)];
        return size < 8 || (name.size() == size && std::memcmp(name.data() + 7, data + 7, size - 7) == 0);
    }

    // The fingerprint has the whole of a name below eight bytes.
    static size_t hash(uint64_t print, const uint8_t* data, size_t size) {
        return size_t(size < 8 ? hash_word(print) : hash_bytes(data, size));
    }

    int look_up(uint64_t print, const uint8_t* data, size_t size) const {
        if (table_.empty()) return kNone;
        const size_t mask = table_.size() - 1;
        for (size_t slot = hash(print, data, size) & mask;; slot = (slot + 1) & mask) {
            const int index = table_[slot];
            if (index == kNone) return kNone;
            if (equal(index, print, data, size)) return index;
        }
    }

    void insert(int index) {
        const std::string& name = names_[size_t(index)];
        const auto* data = reinterpret_cast<const uint8_t*>(name.data());
        const size_t mask = table_.size() - 1;
        size_t slot = hash(fingerprints_[size_t(index)], data, name.size()) & mask;
        while (table_[slot] != kNone) slot = (slot + 1) & mask;
        table_[slot] = index;
    }

    void rehash() {
        table_.assign(table_.empty() ? 32 : table_.size() * 2, kNone);
        for (size_t i = 0; i < names_.size(); ++i) insert(int(i));
    }

    std::vector<std::string> names_;
    std::vector<uint64_t> fingerprints_;
    std::vector<int> table_;  // open addressing; a power of two, at most half full
    std::vector<Head8> heads_;
    std::vector<Place> places_;  // by place in the map
};

// Name of a key as a field: the key itself, or its JSON text if it is no UTF-8 string. Advances `p`
// after the key; false at an invalid extension.
struct KeyName {
    const uint8_t* data;
    size_t size;
    bool odd;
};

inline bool read_key(const uint8_t*& p, const uint8_t* end, Buffer& scratch, KeyName& name) {
    const Head head = read_head(p, end);
    if (head.token == Token::String && is_utf8(head.body, head.size)) {
        name = {head.body, size_t(head.size), false};
        p = head.body + head.size;
        return true;
    }
    scratch.truncate(0);
    if (!JsonWriter(scratch).value(p, end)) return false;
    name = {scratch.data(), scratch.size(), true};
    return true;
}

}  // namespace godb
