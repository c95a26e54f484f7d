// Words at any address, in the byte order of the machine, and short texts of words.

#pragma once

#include <cstdint>
#include <cstring>

namespace godb {

template <typename T = uint64_t>
inline T word_at(const void* at) {
    T word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

// Whether two short texts of the same size are equal.
inline bool equal_bytes(const uint8_t* a, const uint8_t* b, size_t size) {
    if (size >= 8) {
        for (size_t at = 0; at + 8 < size; at += 8)
            if (word_at(a + at) != word_at(b + at)) return false;
        return word_at(a + size - 8) == word_at(b + size - 8);
    }
    if (size >= 4) {
        return word_at<uint32_t>(a) == word_at<uint32_t>(b) &&
               word_at<uint32_t>(a + size - 4) == word_at<uint32_t>(b + size - 4);
    }
    for (size_t at = 0; at < size; ++at)
        if (a[at] != b[at]) return false;
    return true;
}

}  // namespace godb
