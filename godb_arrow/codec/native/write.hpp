// Short writes to a file, and how long they take.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

namespace godb {

// Returns the number of bytes that were written, or -1.
inline std::ptrdiff_t write_timed(
    int descriptor, const char* data, size_t size, int64_t* nanoseconds) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
#ifdef _WIN32
    const std::ptrdiff_t written = _write(descriptor, data, unsigned(size));
#else
    const std::ptrdiff_t written = ::write(descriptor, data, size);
#endif
    *nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
    return written;
}

}  // namespace godb
