// Words at any address, in the byte order of the machine.

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

}  // namespace godb
