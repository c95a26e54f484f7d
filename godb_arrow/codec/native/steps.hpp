// Long loops in steps, between which signals are noticed.
//
// A loop of the kernel has no GIL, so that a handler of Ctrl-C would run after its end.

#pragma once

#include <Python.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <new>
#include <stdexcept>

namespace godb {

// A handler of a signal raised; its error of Python stays.
struct Interrupted {};

// Let handlers of signals run from time to time. The caller has no GIL.
class Steps {
  public:
    static constexpr std::chrono::milliseconds kBetween{50};

    void check() {
        if (std::chrono::steady_clock::now() - last_ < kBetween) return;
        const PyGILState_STATE state = PyGILState_Ensure();
        const bool raised = PyErr_CheckSignals() < 0;
        PyGILState_Release(state);
        last_ = std::chrono::steady_clock::now();
        if (raised) throw Interrupted();
    }
    // Check after each so many calls.
    void count() {
        if (++counted_ % kCalls == 0) check();
    }

  private:
    static constexpr size_t kCalls = 1 << 16;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
    size_t counted_ = 0;
};

// The error of Python for the exception in flight; the caller has the GIL.
inline void raise_interrupted() {
    try {
        throw;
    } catch (const Interrupted&) {
        if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
}

constexpr std::ptrdiff_t kSortedAtOnce = 1 << 16;  // elements, which take a few milliseconds

// Where to cut elements, so that the first ones are less than the others.
template <typename It, typename Less>
It divide(It first, It last, const Less& less) {
    constexpr std::ptrdiff_t samples = 63, least = 16;
    const std::ptrdiff_t count = last - first;
    typename std::iterator_traits<It>::value_type sample[samples];
    for (std::ptrdiff_t i = 0; i < samples; ++i) sample[i] = first[count / samples * i];
    std::nth_element(sample, sample + samples / 2, sample + samples, less);
    const auto pivot = sample[samples / 2];
    const It cut = std::partition(first, last, [&](const auto& one) { return less(one, pivot); });
    if (std::min(cut - first, last - cut) >= count / least) return cut;
    // The order of the elements misleads the sample.
    const It middle = first + count / 2;
    std::nth_element(first, middle, last, less);
    return middle;
}

// Sort elements, none of which are equal, as std::sort does.
template <typename It, typename Less>
void sort_in_steps(It first, It last, const Less& less, Steps& steps) {
    while (last - first > kSortedAtOnce) {
        steps.check();
        const It cut = divide(first, last, less);
        sort_in_steps(first, cut, less, steps);
        first = cut;
    }
    std::sort(first, last, less);
}

}  // namespace godb
