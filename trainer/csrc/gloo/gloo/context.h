// In place of gloo's headers, which the wheel of torch leaves out: the names that ProcessGroupGloo.hpp needs to be
// parsed. Nothing here is ever made, and no layout relied upon: that header holds gloo's types through pointers only, and
// every definition is in libtorch_cpu.so.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

namespace transport {

class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer();
};

}  // namespace transport
}  // namespace gloo
