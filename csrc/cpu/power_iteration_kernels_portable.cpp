#define GLORO_FAST_LEVEL portable
#define GLORO_FAST_VECTOR_BYTES 16
#define GLORO_FAST_ROWS 4
#include "power_iteration_kernels_vector.h"
