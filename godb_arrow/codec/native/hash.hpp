// Hash of bytes that strangers choose.
//
// A secret of the process is part of each hash. Without it, chosen keys that collide would make a
// table slow: the time would grow with the square of its size.

#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string_view>

namespace godb {

// Secret words of this process.
struct HashSecret {
    uint64_t word[3];

    HashSecret() {
        std::random_device device;
        for (uint64_t& one : word) one = uint64_t(device()) << 32 | device() | 1;
    }
};

inline const HashSecret kHashSecret;

// The product of two words, folded to one.
inline uint64_t fold(uint64_t a, uint64_t b) {
    const auto product = static_cast<unsigned __int128>(a) * b;
    return uint64_t(product) ^ uint64_t(product >> 64);
}

inline uint64_t hash_word(uint64_t word) {
    return fold(word ^ kHashSecret.word[0], kHashSecret.word[1]);
}

inline uint64_t hash_bytes(const uint8_t* data, size_t size) {
    uint64_t hash = kHashSecret.word[0] ^ size;
    uint64_t pair[2];
    for (; size > 16; data += 16, size -= 16) {
        std::memcpy(pair, data, 16);
        hash = fold(pair[0] ^ kHashSecret.word[1], pair[1] ^ hash);
    }
    pair[0] = pair[1] = 0;
    if (size) std::memcpy(pair, data, size);
    hash = fold(pair[0] ^ kHashSecret.word[1], pair[1] ^ hash);
    return fold(hash ^ kHashSecret.word[2], kHashSecret.word[1]);
}

// Hash of the standard library's tables.
struct SecretHash {
    size_t operator()(std::string_view text) const {
        return size_t(hash_bytes(reinterpret_cast<const uint8_t*>(text.data()), text.size()));
    }
};

}  // namespace godb
