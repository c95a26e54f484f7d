// Writing of MessagePack, in its shortest form.

#pragma once

#include <cstdint>
#include <cstring>

#include "memory.hpp"

namespace godb {

// Heads and scalars in MessagePack, in their shortest form.
class Packer {
  public:
    explicit Packer(Buffer& out) : out_(out) {}

    void nil() { out_.push_byte(0xc0); }
    void boolean(bool value) { out_.push_byte(value ? 0xc3 : 0xc2); }
    void positive(uint64_t value) {
        if (value < 0x80) out_.push_byte(uint8_t(value));
        else if (value <= 0xff) tagged(0xcc, uint8_t(value));
        else if (value <= 0xffff) tagged(0xcd, __builtin_bswap16(uint16_t(value)));
        else if (value <= 0xffffffff) tagged(0xce, __builtin_bswap32(uint32_t(value)));
        else tagged(0xcf, __builtin_bswap64(value));
    }
    void integer(int64_t value) {
        if (value >= 0) positive(uint64_t(value));
        else if (value >= -32) out_.push_byte(uint8_t(value));
        else if (value >= INT8_MIN) tagged(0xd0, uint8_t(value));
        else if (value >= INT16_MIN) tagged(0xd1, __builtin_bswap16(uint16_t(value)));
        else if (value >= INT32_MIN) tagged(0xd2, __builtin_bswap32(uint32_t(value)));
        else tagged(0xd3, __builtin_bswap64(uint64_t(value)));
    }
    void real(double value) {
        uint64_t bits;
        std::memcpy(&bits, &value, 8);
        tagged(0xcb, __builtin_bswap64(bits));
    }
    void text_head(size_t size) {
        if (size < 32) out_.push_byte(uint8_t(0xa0 | size));
        else if (size <= 0xff) tagged(0xd9, uint8_t(size));
        else sized(0xda, size);
    }
    void text(const char* from, size_t size) {
        if (size < 32) {
            uint8_t* const to = out_.extend(size + 1);
            *to = uint8_t(0xa0 | size);
            std::memcpy(to + 1, from, size);
            return;
        }
        text_head(size);
        out_.append(from, size);
    }
    void binary(const char* from, size_t size) {
        if (size <= 0xff) tagged(0xc4, uint8_t(size));
        else sized(0xc5, size);
        out_.append(from, size);
    }
    void array(size_t count) {
        if (count < 16) out_.push_byte(uint8_t(0x90 | count));
        else sized(0xdc, count);
    }
    void map(size_t count) {
        if (count < 16) out_.push_byte(uint8_t(0x80 | count));
        else sized(0xde, count);
    }
    void extension(int8_t type, const char* from, size_t size) {
        switch (size) {
            case 1: case 2: case 4: case 8: case 16:
                out_.push_byte(uint8_t(0xd4 + __builtin_ctzll(size)));
                break;
            default:
                if (size <= 0xff) tagged(0xc7, uint8_t(size));
                else sized(0xc8, size);
        }
        out_.push_byte(uint8_t(type));
        out_.append(from, size);
    }
    void timestamp(int64_t seconds, uint32_t nanoseconds) {
        if (uint64_t(seconds) >> 34) {
            uint8_t* const to = out_.extend(15);
            const uint32_t fraction = __builtin_bswap32(nanoseconds);
            const uint64_t whole = __builtin_bswap64(uint64_t(seconds));
            to[0] = 0xc7, to[1] = 12, to[2] = 0xff;
            std::memcpy(to + 3, &fraction, 4);
            std::memcpy(to + 7, &whole, 8);
        } else if (nanoseconds || uint64_t(seconds) >> 32) {
            tagged(0xd7, uint8_t(0xff));
            out_.push(__builtin_bswap64(uint64_t(nanoseconds) << 34 | uint64_t(seconds)));
        } else {
            tagged(0xd6, uint8_t(0xff));
            out_.push(__builtin_bswap32(uint32_t(seconds)));
        }
    }

  private:
    template <typename T>
    void tagged(uint8_t tag, T value) {
        uint8_t* const to = out_.extend(1 + sizeof(T));
        *to = tag;
        std::memcpy(to + 1, &value, sizeof(T));
    }
    void sized(uint8_t tag, size_t size) {
        if (size <= 0xffff) tagged(tag, __builtin_bswap16(uint16_t(size)));
        else tagged(uint8_t(tag + 1), __builtin_bswap32(uint32_t(size)));
    }

    Buffer& out_;
};

}  // namespace godb
