// Signs rows of logits: prediction, certified radius and bottom, in float64 with every rounding directed so that it
// cannot certify too much. Operation by operation what certified_radius and bottom_logit do
// (gloro_fast/ops/certify.py), with the same bits: there the reasons stand.
#pragma once

#include <cstdint>

namespace gloro_fast::cpu {

// Rows [row_begin, row_end) of logits (rows, classes), T float or double, classes >= 2; differences is
// (classes, classes). bottom < the largest logit exactly where radius > epsilon.
template <typename T>
void certify(const T* logits, const double* differences, double lipschitz, double epsilon, int64_t classes,
             int64_t* prediction, double* radius, T* bottom, int64_t row_begin, int64_t row_end);

}  // namespace gloro_fast::cpu
