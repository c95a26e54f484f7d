// Growing memory for Arrow buffers.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace godb {

// Ask for large pages in a region that is about to be filled, so that its first touch is cheap.
inline void prefer_large_pages(void* data, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t page = uintptr_t(2) << 20;
    const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
    const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + size) & ~(page - 1);
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
    (void)data;
    (void)size;
#endif
}

// Growing bytes on the heap, whose memory can be released to another owner.
class Buffer {
  public:
    Buffer() = default;
    // A buffer in memory of the caller, which cannot grow.
    Buffer(uint8_t* data, size_t capacity) : data_(data), capacity_(capacity), owns_(false) {}
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept { swap(other); return *this; }
    ~Buffer() { if (owns_) std::free(data_); }

    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    size_t capacity() const { return capacity_; }

    void reserve(size_t more) {
        if (size_ + more > capacity_) grow(size_ + more);
    }
    // Room for `count` bytes at the end, which count as used.
    uint8_t* extend(size_t count) {
        reserve(count);
        uint8_t* const at = data_ + size_;
        size_ += count;
        return at;
    }
    void append(const void* from, size_t count) {
        if (count) std::memcpy(extend(count), from, count);
    }
    // Like append, for mostly few bytes: `readable` bytes may be read and copied in vain.
    void append_text(const uint8_t* from, size_t count, size_t readable) {
        reserve(count + 16);
        uint8_t* const to = data_ + size_;
        if (__builtin_expect(count <= 16 && readable >= 16, 1)) std::memcpy(to, from, 16);
        else if (count) std::memcpy(to, from, count);
        size_ += count;
    }
    template <typename T>
    void push(T value) { std::memcpy(extend(sizeof(T)), &value, sizeof(T)); }
    void push_byte(uint8_t value) { *extend(1) = value; }
    void truncate(size_t size) { size_ = size; }

    // Release the memory, cut to its size and never null, to a caller that calls std::free.
    uint8_t* release() {
        void* fit = std::realloc(data_, size_ ? size_ : 1);
        if (fit) data_ = static_cast<uint8_t*>(fit);
        capacity_ = size_ = 0;
        return std::exchange(data_, nullptr);
    }

  private:
    void swap(Buffer& other) {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
        std::swap(owns_, other.owns_);
    }
    void grow(size_t needed) {
        if (!owns_) throw std::bad_alloc();
        size_t capacity = capacity_ + capacity_ / 2;
        if (capacity < needed) capacity = needed;
        if (capacity < 64) capacity = 64;
        void* fit = std::realloc(data_, capacity);
        if (!fit) throw std::bad_alloc();
        data_ = static_cast<uint8_t*>(fit);
        capacity_ = capacity;
    }

    uint8_t* data_ = nullptr;
    size_t size_ = 0;
    size_t capacity_ = 0;
    bool owns_ = true;
};

// Bitmap that grows bit by bit, lowest bit first, as in Arrow.
class Bitmap {
  public:
    size_t size() const { return size_; }
    Buffer& bytes() { return bytes_; }

    void push(bool bit) {
        if ((size_ & 7) == 0) bytes_.push_byte(0);
        if (bit) bytes_.data()[size_ >> 3] |= uint8_t(1u << (size_ & 7));
        ++size_;
    }
    void push_set(size_t count) {
        while (count && (size_ & 7)) { push(true); --count; }
        const size_t whole = count / 8;
        if (whole) std::memset(bytes_.extend(whole), 0xff, whole);
        size_ += whole * 8;
        for (count %= 8; count; --count) push(true);
    }
    // Add bits that are given as bytes, each 0 or 1.
    void push_each(const uint8_t* bits, size_t count) {
        for (; count && (size_ & 7); --count) push(*bits++ != 0);
        uint8_t* const to = bytes_.extend(count / 8);
        for (size_t i = 0; i < count / 8; ++i, bits += 8) {
            uint8_t byte = 0;
            for (int bit = 0; bit < 8; ++bit) byte |= uint8_t(bits[bit] << bit);
            to[i] = byte;
        }
        size_ += count / 8 * 8;
        for (count %= 8; count; --count) push(*bits++ != 0);
    }
    bool at(size_t index) const { return bytes_.data()[index >> 3] >> (index & 7) & 1; }
    void truncate(size_t size) {
        size_ = size;
        bytes_.truncate((size + 7) / 8);
        if (size & 7) bytes_.data()[size >> 3] &= uint8_t((1u << (size & 7)) - 1);
    }

  private:
    Buffer bytes_;
    size_t size_ = 0;
};

}  // namespace godb
