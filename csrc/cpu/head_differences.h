// D_ij = ||w_i - w_j||_2 for the rows of a (rows, columns) matrix, by direct differences, and its gradient.
// T is float or double. Every number is summed in a fixed order, however the work is spread over threads.
#pragma once

#include <cstdint>

namespace gloro_fast::cpu {

// Rows [row_begin, row_end) of the upper triangle of D (rows, rows), the diagonal, and their mirror images.
template <typename T>
void head_differences(const T* weight, int64_t rows, int64_t columns, T* differences, int64_t row_begin,
                      int64_t row_end);

// Rows [row_begin, row_end) of grad_weight[i] = sum_j (grad[i][j] + grad[j][i]) (w_i - w_j) / D_ij; a pair with
// D_ij = 0 adds nothing. Pairs without a gradient cost next to nothing: a batch asks for few of them.
template <typename T>
void head_differences_backward(const T* grad, const T* weight, const T* differences, int64_t rows, int64_t columns,
                               T* grad_weight, int64_t row_begin, int64_t row_end);

}  // namespace gloro_fast::cpu
