#define GLORO_FAST_LEVEL avx2
#define GLORO_FAST_VECTOR_BYTES 32
#define GLORO_FAST_ROWS 4
#include "power_iteration_kernels_vector.h"
