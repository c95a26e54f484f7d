// Growing memory for Arrow buffers.

#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
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

// Pool of freed blocks of memory that columns of the same size use again.
//
// The system clears each page that it gives to a process, which takes about as long as decoding a
// column into it. Columns of a batch mostly have the sizes of the batch before. A block is large,
// and comes from malloc. The pool drops the oldest blocks above a number of bytes.
class BlockPool {
  public:
    struct Block {
        uint8_t* data = nullptr;
        size_t capacity = 0;
    };

    static constexpr size_t kMinBytes = 64 << 10;   // of a block
    static constexpr size_t kMaxBytes = 64 << 20;   // of all blocks

    static BlockPool& shared() {
        static BlockPool* const pool = new BlockPool();  // columns may outlive static objects
        return *pool;
    }

    // A block of at least a number of bytes, and not much more; null if there is none.
    Block take(size_t needed) noexcept {
        if (needed < kMinBytes) return {};
        const Lock lock(mutex_, std::try_to_lock);
        if (!lock) return {};
        size_t best = blocks_.size();
        for (size_t i = blocks_.size(); i-- > 0;) {
            const size_t capacity = blocks_[i].capacity;
            if (capacity < needed || capacity - needed > needed / 4) continue;
            if (best == blocks_.size() || capacity < blocks_[best].capacity) best = i;
        }
        if (best == blocks_.size()) return {};
        const Block found = blocks_[best];
        blocks_.erase(blocks_.begin() + ptrdiff_t(best));
        bytes_ -= found.capacity;
        return found;
    }

    // The oldest block of up to twice a number of bytes, and of a 64th or more; null if there is none.
    Block take_about(size_t most) noexcept {
        const Lock lock(mutex_, std::try_to_lock);
        if (!lock) return {};
        for (size_t i = 0; i < blocks_.size(); ++i) {
            const Block found = blocks_[i];
            if (found.capacity / 2 > most || found.capacity < most / 64) continue;
            blocks_.erase(blocks_.begin() + ptrdiff_t(i));
            bytes_ -= found.capacity;
            return found;
        }
        return {};
    }

    // Free memory from malloc, or keep it.
    void give(uint8_t* data, size_t capacity) noexcept {
        if (capacity < kMinBytes || capacity > kMaxBytes || !keep({data, capacity})) std::free(data);
    }

    size_t bytes() noexcept {
        const Lock lock(mutex_, std::try_to_lock);
        return lock ? bytes_ : 0;
    }

    // Free blocks above a number of bytes, now and from then on if it is lasting.
    void shrink(size_t most, bool lasting) noexcept {
        if (lasting) most_ = most;
        const Lock lock(mutex_, std::try_to_lock);
        if (lock) drop_to(most);
    }

  private:
    // A process that was forked while another thread had the lock never gets it.
    using Lock = std::unique_lock<std::mutex>;

    bool keep(Block block) noexcept {
        const Lock lock(mutex_, std::try_to_lock);
        if (!lock) return false;
        try {
            blocks_.push_back(block);
        } catch (const std::bad_alloc&) {
            return false;
        }
        bytes_ += block.capacity;
        drop_to(most_);
        return true;
    }

    void drop_to(size_t most) noexcept {
        while (bytes_ > most) {
            bytes_ -= blocks_.front().capacity;
            std::free(blocks_.front().data);
            blocks_.pop_front();
        }
    }

    std::mutex mutex_;
    std::deque<Block> blocks_;  // oldest first
    std::atomic<size_t> most_{kMaxBytes};
    size_t bytes_ = 0;
};

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
    ~Buffer() { if (owns_) BlockPool::shared().give(data_, capacity_); }

    uint8_t* data() { return data_; }
    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    size_t capacity() const { return capacity_; }

    void reserve(size_t more) {
        if (size_ + more > capacity_) grow(size_ + more);
    }
    // Reserve memory for an unknown number of bytes, which is at most about `most`: a freed block,
    // which had mostly what comes now, or all of them.
    void reserve_about(size_t most) {
        if (data_ == nullptr) {
            const BlockPool::Block block = BlockPool::shared().take_about(most);
            data_ = block.data;
            capacity_ = block.capacity;
        }
        if (data_ == nullptr) reserve(most);
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

    // Release the memory, cut to about its size and never null, to a caller that gives the block to
    // the pool.
    BlockPool::Block release() {
        const size_t kept = size_ + size_ / 8;
        if (!data_ || capacity_ > kept) {
            const size_t capacity = size_ < BlockPool::kMinBytes ? size_ : kept;
            void* const fit = std::realloc(data_, capacity ? capacity : 1);
            if (fit) {
                data_ = static_cast<uint8_t*>(fit);
                capacity_ = capacity;
            }
        }
        size_ = 0;
        return {std::exchange(data_, nullptr), std::exchange(capacity_, 0)};
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
        if (const BlockPool::Block block = BlockPool::shared().take(capacity); block.data) {
            if (size_) std::memcpy(block.data, data_, size_);
            BlockPool::shared().give(data_, capacity_);
            data_ = block.data;
            capacity_ = block.capacity;
            return;
        }
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
