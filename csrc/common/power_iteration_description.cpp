#include "power_iteration_description.h"

#include <sstream>
#include <stdexcept>

namespace gloro_fast::cpu {

namespace {

template <typename... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream message;
  message << "power_iteration: ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// Reads the integers in order, and refuses to read past their end.
class Reader {
 public:
  explicit Reader(const std::vector<int64_t>& numbers) : numbers_(numbers) {}
  bool at_end() const { return at_ == numbers_.size(); }
  int64_t next(int64_t least) {
    check(!at_end(), "the description of the layers is cut short");
    const int64_t number = numbers_[at_++];
    check(number >= least, "expected at least ", least, ", got ", number);
    return number;
  }

 private:
  const std::vector<int64_t>& numbers_;
  size_t at_ = 0;
};

Axis read_axis(Reader& numbers) {
  Axis axis;
  axis.input = numbers.next(1);
  axis.kernel = numbers.next(1);
  axis.stride = numbers.next(1);
  axis.padding = numbers.next(0);
  const int64_t padding_after = numbers.next(0);
  axis.dilation = numbers.next(1);
  const int64_t room = axis.input + axis.padding + padding_after - axis.dilation * (axis.kernel - 1) - 1;
  check(room >= 0, "a kernel of ", axis.kernel, " is larger than its padded input of ",
        axis.input + axis.padding + padding_after);
  axis.output = room / axis.stride + 1;
  return axis;
}

Description read_layer(Reader& numbers) {
  Description read;
  LinearLayer& layer = read.layer;
  const int64_t spatial = numbers.next(0);
  check(spatial <= 2, "convolutions have 1 or 2 spatial dimensions here, got ", spatial);
  const int64_t type = numbers.next(0);
  check(type < 4, "there is no weight type ", type);
  layer.weight.element = static_cast<Element>(type);
  read.channels_last = numbers.next(0) != 0;
  layer.outputs = numbers.next(1);
  layer.inputs = numbers.next(1);
  layer.groups = numbers.next(1);
  check(layer.outputs % layer.groups == 0 && layer.inputs % layer.groups == 0, layer.groups, " groups do not divide ",
        layer.inputs, " inputs and ", layer.outputs, " outputs");
  layer.dense = spatial == 0;
  read.weight_size = {layer.outputs, layer.group_inputs()};
  if (spatial == 2) layer.height = read_axis(numbers);
  if (spatial >= 1) layer.width = read_axis(numbers);
  if (spatial == 2) read.weight_size.push_back(layer.height.kernel);
  if (spatial >= 1) read.weight_size.push_back(layer.width.kernel);
  layer.weight.strides[3] = 1;
  layer.weight.strides[2] = layer.width.kernel;
  layer.weight.strides[1] = layer.taps();
  layer.weight.strides[0] = layer.group_inputs() * layer.taps();
  return read;
}

}  // namespace

std::vector<int64_t> Description::output_size() const {
  std::vector<int64_t> size{layer.outputs};
  if (weight_size.size() == 4) size.push_back(layer.height.output);
  if (weight_size.size() >= 3) size.push_back(layer.width.output);
  return size;
}

std::vector<Description> read_layers(const std::vector<int64_t>& numbers) {
  Reader reader(numbers);
  std::vector<Description> layers;
  while (!reader.at_end()) layers.push_back(read_layer(reader));
  return layers;
}

}  // namespace gloro_fast::cpu
