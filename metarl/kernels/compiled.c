/* The inside of metarl/kernels on a CPU: what the closed forms are made of, for one task at a time.

   A task has some thousand states of some dozen numbers. At that size a BLAS spends much of its time on packing for any
   shape, and the passes over the results that follow a product take as long as the product itself. Here the states are
   the rows of every matrix as they lie in memory, a strip of them goes through all layers at a time, and what follows a
   product is done while its numbers are in the caches. No function knows of Python, so that threads run side by side.

   Sums are taken in an order that follows from the sizes alone: the same bits at any number of threads. A function
   takes its sizes and the addresses of its tensors, in the order that its comment has, those that it writes last; it
   returns 0, or 1 where there is no memory. */

#include <stdlib.h>
#include <string.h>

/* States whose results are in the caches at a time, and over which one partial sum runs: a multiple of the rows of a
   tile. */
#define STRIP 96

#define JOINED(a, b, c) a##_##b##_##c
#define NAMED(a, b, c) JOINED(a, b, c)
#define NAME(function) NAMED(function, SET, REAL)
#define INLINE static inline __attribute__((always_inline)) TARGET

/* No product and sum in one rounding, so that equal terms cancel. Clang joins none from different statements. */
#if defined(__GNUC__) && !defined(__clang__)
#define UNFUSED __attribute__((optimize("fp-contract=off")))
#else
#define UNFUSED
#endif

#if defined(__x86_64__)

#define SET avx512
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")))
#define BYTES 64
#define VECTORS 4
#include "each_type.h"

#define SET avx2
#define TARGET __attribute__((target("avx2,fma")))
#define BYTES 32
#define VECTORS 2
#include "each_type.h"

/* The best set of instructions that this processor has; "" where torch is the better one. */
const char *instructions(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("fma"))
        return "";
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        return "avx512";
    return __builtin_cpu_supports("avx2") ? "avx2" : "";
}

#elif defined(__aarch64__)

#define SET neon
#define TARGET
#define BYTES 16
#define VECTORS 4
#include "each_type.h"

const char *instructions(void) { return "neon"; }

#else
#error "no vectors are known for this processor"
#endif

/* compiled.py refuses a library that was built from other sources than those beside it. */
#ifndef SOURCES
#define SOURCES 0
#endif
unsigned long long sources(void) { return SOURCES; }
