/* All functions of one set of instructions, for float and for double. */

#define VECTOR NAME(vector)
#define LANES ((long)(BYTES / sizeof(REAL)))
#define FACTORS NAME(factors)
#define SUMS NAME(sums)
#define BACKWARD NAME(backward_pass)

#define REAL float
#include "products.h"
#include "passes.h"
#include "gaussians.h"
#undef REAL

#define REAL double
#include "products.h"
#include "passes.h"
#include "gaussians.h"
#undef REAL

#undef VECTOR
#undef LANES
#undef FACTORS
#undef SUMS
#undef BACKWARD
#undef SET
#undef TARGET
#undef BYTES
#undef VECTORS
