// The NCCL half of process groups: a library of its own, `libtitan_nccl.so`, since the constructors that it calls are in
// `libtorch_cuda.so`, which a process may not have. `cargo xtask nccl` builds it; `ffi::device::Nccl` loads it.
#include "../titan.h"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

using c10d::ProcessGroup;
using c10d::ProcessGroupNCCL;

extern "C" char* titan_group_add_nccl(
    c10::intrusive_ptr<ProcessGroup>* group, c10::intrusive_ptr<c10d::Store>* store, int rank, int size, int device,
    int64_t timeout_ms, const char* name) {
  TITAN_TRY(
      auto options = ProcessGroupNCCL::Options::create();
      options->timeout = std::chrono::milliseconds(timeout_ms);
      options->group_name = name;
      auto backend = c10::make_intrusive<ProcessGroupNCCL>(*store, rank, size, options);
      // The group is bound to the device, so that barriers know it and connections can be made early.
      (*group)->setBoundDeviceId(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device)));
      (*group)->setBackend(c10::DeviceType::CUDA, ProcessGroup::BackendType::NCCL, backend);
      backend->setGroupUid(name))
}
