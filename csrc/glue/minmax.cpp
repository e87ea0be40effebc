// MinMax between tensors and the torch-free kernels: checks, memory formats, element types, threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <tuple>

#include "../cpu/minmax.h"
#include "access.h"
#include "new_tensor.h"

namespace gloro_fast {

namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements below which handing work to another thread costs more than it saves.
constexpr int64_t kGrain = 32768;

// Bytes of output from which it is streamed past the caches. Measured together with a pass that reads the output
// again. Two cores of an EPYC, 32 MB of third-level cache: at 12 MB streaming costs up to a fifth, at 16 nothing, from
// 24 on it saves a tenth; two of a Xeon, 2 MB of second-level cache a core: from 16 MB on it saves 15 % and more.
constexpr int64_t kStreamedBytes = int64_t{16} << 20;

struct Shape {
  int64_t samples;
  int64_t channels;
  int64_t pairs;
  int64_t length;  // pixels a sample
};

Shape shape_of(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() >= 2, "minmax: expected (batch, channels, ...), got ", tensor.dim(), " dimension(s)");
  Shape shape{tensor.size(0), tensor.size(1), tensor.size(1) / 2, 1};
  STD_TORCH_CHECK(shape.channels % 2 == 0, "minmax: channels must come in pairs, got ", shape.channels);
  for (int64_t d = 2; d < tensor.dim(); ++d) shape.length *= tensor.size(d);
  return shape;
}

bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (tensor.size(d) != 1 && tensor.stride(d) != expected) return false;
    expected *= tensor.size(d);
  }
  return true;
}

// Memory that both formats describe (one pixel a sample) counts as interleaved, which wastes no mask bits.
bool is_interleaved(const Tensor& tensor, const Shape& shape) {
  return tensor.is_contiguous() ? shape.length == 1 : is_channels_last(tensor);
}

int64_t grain(int64_t elements_a_piece) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_a_piece));
}

bool is_streamed(const Tensor& output) {
  return output.numel() * static_cast<int64_t>(output.element_size()) >= kStreamedBytes && !is_fresh(output);
}

// The mask of x, its bits still to be written.
Tensor empty_mask(const Tensor& x, const Shape& shape) {
  if (is_interleaved(x, shape))
    return new_tensor({cpu::ceil_div(shape.samples * shape.length * shape.pairs, 8)}, ScalarType::Byte);
  return new_tensor({shape.samples * shape.pairs, cpu::ceil_div(shape.length, 8)}, ScalarType::Byte);
}

std::optional<Tensor> checked_bias(const std::optional<Tensor>& bias, const Tensor& x, const Shape& shape) {
  if (!bias.has_value()) return std::nullopt;
  STD_TORCH_CHECK(
      bias->dim() == 1 && bias->size(0) == shape.channels && bias->is_cpu() && bias->scalar_type() == x.scalar_type(),
      "minmax: bias must hold one value a channel (", shape.channels, ") of the type of x, on the CPU");
  return dense(*bias);
}

// y may be x.
template <typename T>
void forward(const T* x, const T* bias, T* y, const Tensor& mask, const Shape& shape, bool stream) {
  const cpu::MinmaxKernels<T>& kernels = cpu::minmax_kernels<T>(cpu::simd_level());
  auto* bits = mutable_data<uint8_t>(mask);
  if (mask.dim() == 2) {
    torch::stable::parallel_for(0, mask.size(0), grain(2 * shape.length), [&](int64_t begin, int64_t end) {
      kernels.planar(x, bias, y, bits, shape.pairs, shape.length, begin, end, stream);
    });
  } else {
    const int64_t pixels = shape.samples * shape.length;
    const int64_t blocks = cpu::ceil_div(pixels * shape.pairs, cpu::kPairsPerBlock);
    torch::stable::parallel_for(0, blocks, grain(2 * cpu::kPairsPerBlock), [&](int64_t begin, int64_t end) {
      kernels.interleaved(x, bias, y, bits, shape.pairs, pixels, begin, end, stream);
    });
  }
}

template <typename T>
void backward(const Tensor& grad_y, const Tensor& mask, const Tensor& grad_x, const Tensor* grad_bias,
              const Shape& shape) {
  const cpu::MinmaxKernels<T>& kernels = cpu::minmax_kernels<T>(cpu::simd_level());
  const bool planar = mask.dim() == 2;
  const int64_t pixels = shape.samples * shape.length;
  const int64_t chunks = planar ? shape.samples : cpu::ceil_div(pixels, cpu::kPixelsPerChunk);
  using Sum = cpu::Accumulator<T>;
  const std::unique_ptr<Sum[]> sums(grad_bias != nullptr ? new Sum[chunks * shape.channels] : nullptr);
  const bool stream = is_streamed(grad_x);
  const T* in = data<T>(grad_y);
  const auto* bits = data<uint8_t>(mask);
  T* out = mutable_data<T>(grad_x);
  if (planar) {
    torch::stable::parallel_for(0, mask.size(0), grain(2 * shape.length), [&](int64_t begin, int64_t end) {
      kernels.backward_planar(in, bits, out, sums.get(), shape.length, begin, end, stream);
    });
  } else {
    const int64_t elements = cpu::kPixelsPerChunk * shape.channels;
    torch::stable::parallel_for(0, chunks, grain(elements), [&](int64_t begin, int64_t end) {
      kernels.backward_interleaved(in, bits, out, sums.get(), shape.pairs, pixels, begin, end, stream);
    });
  }
  if (grad_bias == nullptr) return;
  T* total = mutable_data<T>(*grad_bias);
  torch::stable::parallel_for(0, shape.channels, grain(chunks), [&](int64_t begin, int64_t end) {
    cpu::sum_over_chunks<T>(sums.get(), total, chunks, shape.channels, begin, end);
  });
}

// y has x's shape, type and memory format; mask is uint8 with one bit a pair: (samples * pairs, bytes a row)
// for planar memory, one-dimensional for interleaved (csrc/cpu/minmax.h), which is how backward tells them
// apart.
std::tuple<Tensor, Tensor> minmax_cpu(const Tensor& x_any, const std::optional<Tensor>& bias_any) {
  const Shape shape = shape_of(x_any);
  const Tensor x = x_any.is_contiguous() || is_channels_last(x_any) ? x_any : torch::stable::contiguous(x_any);
  const std::optional<Tensor> bias = checked_bias(bias_any, x, shape);
  const Tensor y = new_like(x);
  const Tensor mask = empty_mask(x, shape);
  with_float_type(x.scalar_type(), "minmax", [&](auto element) {
    using T = decltype(element);
    forward<T>(data<T>(x), bias.has_value() ? data<T>(*bias) : nullptr, mutable_data<T>(y), mask, shape,
               is_streamed(y));
  });
  return {y, mask};
}

// Writes y over x, which must be contiguous or channels_last, and gives the mask.
Tensor minmax_inplace_cpu(const Tensor& x, const std::optional<Tensor>& bias_any) {
  const Shape shape = shape_of(x);
  STD_TORCH_CHECK(x.is_contiguous() || is_channels_last(x),
                  "minmax_: x must be contiguous or channels_last to be written over");
  const std::optional<Tensor> bias = checked_bias(bias_any, x, shape);
  const Tensor mask = empty_mask(x, shape);
  with_float_type(x.scalar_type(), "minmax", [&](auto element) {
    using T = decltype(element);
    T* values = mutable_data<T>(x);
    forward<T>(values, bias.has_value() ? data<T>(*bias) : nullptr, values, mask, shape, false);
  });
  return mask;
}

// The second tensor is the gradient of the bias, or has no elements where with_bias is false.
std::tuple<Tensor, Tensor> minmax_backward_cpu(const Tensor& grad_y_any, const Tensor& mask_any, bool with_bias) {
  const Shape shape = shape_of(grad_y_any);
  const Tensor mask = dense(mask_any);
  const bool planar = mask.dim() == 2;
  const int64_t bytes = planar ? shape.samples * shape.pairs * cpu::ceil_div(shape.length, 8)
                               : cpu::ceil_div(shape.samples * shape.length * shape.pairs, 8);
  STD_TORCH_CHECK(mask.is_cpu() && mask.scalar_type() == ScalarType::Byte && mask.numel() == bytes &&
                      (!planar || mask.size(0) == shape.samples * shape.pairs),
                  "minmax_backward: the mask is not that of a tensor of this shape");
  const bool channels_last = !planar && grad_y_any.dim() == 4;
  const bool fits = channels_last ? is_channels_last(grad_y_any) : grad_y_any.is_contiguous();
  const auto format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  const Tensor grad_y = fits ? grad_y_any : torch::stable::contiguous(grad_y_any, format);
  const Tensor grad_x = new_like(grad_y);
  const Tensor grad_bias = new_tensor({with_bias ? shape.channels : 0}, grad_y.scalar_type());
  with_float_type(grad_y.scalar_type(), "minmax", [&](auto element) {
    backward<decltype(element)>(grad_y, mask, grad_x, with_bias ? &grad_bias : nullptr, shape);
  });
  return {grad_x, grad_bias};
}

}  // namespace

}  // namespace gloro_fast

STABLE_TORCH_LIBRARY_FRAGMENT(gloro_fast, m) {
  m.def("minmax(Tensor x, Tensor? bias=None) -> (Tensor y, Tensor mask)");
  m.def("minmax_(Tensor(a!) x, Tensor? bias=None) -> Tensor");
  m.def("minmax_backward(Tensor grad_y, Tensor mask, bool with_bias) -> (Tensor grad_x, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(gloro_fast, CPU, m) {
  m.impl("minmax", TORCH_BOX(&gloro_fast::minmax_cpu));
  m.impl("minmax_", TORCH_BOX(&gloro_fast::minmax_inplace_cpu));
  m.impl("minmax_backward", TORCH_BOX(&gloro_fast::minmax_backward_cpu));
}
