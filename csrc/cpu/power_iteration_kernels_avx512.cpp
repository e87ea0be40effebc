#define GLORO_FAST_LEVEL avx512
#define GLORO_FAST_VECTOR_BYTES 64
#define GLORO_FAST_ROWS 8
#include "power_iteration_kernels_vector.h"
