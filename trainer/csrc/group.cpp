// Process groups. Collectives go through `c10d::ProcessGroup`, which picks the backend by the device of the tensor:
// gloo for the CPU, and for CUDA the NCCL backend that `nccl/nccl.cpp` adds at run time.
#include "titan.h"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

using c10d::ProcessGroup;
using c10d::ProcessGroupGloo;
using c10d::ReduceOp;
using StorePtr = c10::intrusive_ptr<c10d::Store>;
using GroupPtr = c10::intrusive_ptr<ProcessGroup>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;
using std::chrono::milliseconds;

static ReduceOp reduce_op(int op) { return static_cast<ReduceOp::RedOpType>(op); }

extern "C" {

// `interface` empty: the one that the host's name resolves to, or the one in GLOO_SOCKET_IFNAME.
char* titan_group_gloo(
    StorePtr* store, int rank, int size, int64_t timeout_ms, const char* interface, const char* name,
    GroupPtr** out) {
  TITAN_TRY(
      auto options = ProcessGroupGloo::Options::create(milliseconds(timeout_ms));
      options->group_name = name;
      options->devices.push_back(
          *interface != 0 ? ProcessGroupGloo::createDeviceForInterface(interface)
                          : ProcessGroupGloo::createDefaultDevice());
      auto backend = c10::make_intrusive<ProcessGroupGloo>(*store, rank, size, options);
      auto group = c10::make_intrusive<ProcessGroup>(*store, rank, size);
      group->setBackend(c10::DeviceType::CPU, ProcessGroup::BackendType::GLOO, backend);
      group->setDefaultBackend(ProcessGroup::BackendType::GLOO);
      backend->setGroupUid(name);
      group->setGroupName(name);
      *out = new GroupPtr(group))
}

void titan_group_drop(GroupPtr* group) { delete group; }

char* titan_group_set_timeout(GroupPtr* group, int64_t timeout_ms) {
  TITAN_TRY((*group)->setTimeout(milliseconds(timeout_ms)))
}

char* titan_group_abort(GroupPtr* group) { TITAN_TRY((*group)->abort()) }

char* titan_group_shutdown(GroupPtr* group) { TITAN_TRY((*group)->shutdown()) }

char* titan_all_reduce(GroupPtr* group, at::Tensor* tensor, int op, WorkPtr** out) {
  TITAN_TRY(
      std::vector<at::Tensor> tensors{*tensor};
      c10d::AllreduceOptions options;
      options.reduceOp = reduce_op(op);
      *out = new WorkPtr((*group)->allreduce(tensors, options)))
}

char* titan_broadcast(GroupPtr* group, at::Tensor* tensor, int root, WorkPtr** out) {
  TITAN_TRY(
      std::vector<at::Tensor> tensors{*tensor};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      *out = new WorkPtr((*group)->broadcast(tensors, options)))
}

char* titan_all_gather_into(GroupPtr* group, at::Tensor* output, at::Tensor* input, WorkPtr** out) {
  TITAN_TRY(*out = new WorkPtr((*group)->_allgather_base(*output, *input)))
}

char* titan_reduce_scatter(GroupPtr* group, at::Tensor* output, at::Tensor* input, int op, WorkPtr** out) {
  TITAN_TRY(
      c10d::ReduceScatterOptions options;
      options.reduceOp = reduce_op(op);
      *out = new WorkPtr((*group)->_reduce_scatter_base(*output, *input, options)))
}

char* titan_all_to_all(
    GroupPtr* group, at::Tensor* output, at::Tensor* input, const int64_t* output_splits,
    const int64_t* input_splits, size_t count, WorkPtr** out) {
  TITAN_TRY(
      std::vector<int64_t> outputs(output_splits, output_splits + count);
      std::vector<int64_t> inputs(input_splits, input_splits + count);
      *out = new WorkPtr((*group)->alltoall_base(*output, *input, outputs, inputs)))
}

char* titan_send(GroupPtr* group, at::Tensor* tensor, int to, int tag, WorkPtr** out) {
  TITAN_TRY(
      std::vector<at::Tensor> tensors{*tensor};
      *out = new WorkPtr((*group)->send(tensors, to, tag)))
}

char* titan_recv(GroupPtr* group, at::Tensor* tensor, int from, int tag, WorkPtr** out) {
  TITAN_TRY(
      std::vector<at::Tensor> tensors{*tensor};
      *out = new WorkPtr((*group)->recv(tensors, from, tag)))
}

char* titan_barrier(GroupPtr* group, WorkPtr** out) { TITAN_TRY(*out = new WorkPtr((*group)->barrier())) }

// On the CPU until it is done; on CUDA until the current stream will wait for it.
char* titan_work_wait(WorkPtr* work) {
  TITAN_TRY(TORCH_CHECK((*work)->wait(), "gave up without saying why"))
}

char* titan_work_is_completed(WorkPtr* work, bool* out) { TITAN_TRY(*out = (*work)->isCompleted()) }

void titan_work_drop(WorkPtr* work) { delete work; }

}  // extern "C"
