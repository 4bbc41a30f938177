// Random state, determinism, threads, storage, pinned memory, and of an accelerator its memory, streams and events. All
// of it through the interfaces that libtorch_cpu has for any accelerator, so that no header of CUDA is needed.
#include "titan.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

using c10::DeviceType;

namespace {

c10::Device cuda(int index) { return c10::Device(DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)); }

// The generator of the CPU for an index of -1, else that of a CUDA device.
const at::Generator& generator(int index) {
  auto& context = at::globalContext();
  return context.defaultGenerator(index < 0 ? c10::Device(DeviceType::CPU) : cuda(index));
}

c10::impl::VirtualGuardImpl guard() { return c10::impl::VirtualGuardImpl(DeviceType::CUDA); }

}  // namespace

extern "C" {

struct TitanMemory {
  int64_t allocated, allocated_peak, reserved, reserved_peak, free, total, retries, out_of_memory;
};

// --- random state, determinism, threads

char* titan_manual_seed(uint64_t seed) { TITAN_TRY(at::manual_seed(seed)) }

char* titan_rng_state(int index, at::Tensor** out) {
  TITAN_TRY(
      auto source = generator(index);
      std::lock_guard<std::mutex> lock(source.mutex());
      *out = new at::Tensor(source.get_state()))
}

char* titan_set_rng_state(int index, at::Tensor* state) {
  TITAN_TRY(
      auto source = generator(index);
      std::lock_guard<std::mutex> lock(source.mutex());
      source.set_state(*state))
}

char* titan_deterministic(bool on, bool warn_only) {
  TITAN_TRY(
      auto& context = at::globalContext();
      context.setDeterministicAlgorithms(on, warn_only);
      context.setDeterministicCuDNN(on);
      context.setBenchmarkCuDNN(false);
      // Filling new memory with NaN finds reads of what was never written, at the price of writing everything twice.
      context.setDeterministicFillUninitializedMemory(false))
}

char* titan_set_threads(int count) { TITAN_TRY(at::set_num_threads(count)) }

int titan_threads() { return at::get_num_threads(); }

// --- storage

char* titan_storage_byte_len(at::Tensor* tensor, size_t* out) { TITAN_TRY(*out = tensor->storage().nbytes()) }

// Gives a storage `byte_len` bytes of new memory, whose content is not set, or none at all. Tensors that share it see
// the change.
char* titan_storage_resize(at::Tensor* tensor, size_t byte_len) {
  TITAN_TRY(
      auto* storage = tensor->storage().unsafeGetStorageImpl();
      TORCH_CHECK(storage->resizable(), "the storage is memory of another owner, and cannot be resized");
      c10::DeviceGuard on_device(storage->device());
      if (storage->nbytes() != byte_len) {
        auto memory = byte_len == 0 ? at::DataPtr(nullptr, storage->device())
                                    : storage->allocator()->allocate(byte_len);
        storage->set_data_ptr_noswap(std::move(memory));
        storage->set_nbytes(byte_len);
      })
}

// Where the elements of a contiguous tensor are, `byte_len` bytes of them.
char* titan_data(at::Tensor* tensor, size_t byte_len, void** out) {
  TITAN_TRY(
      auto stored = tensor->storage().nbytes();
      auto from = static_cast<size_t>(tensor->storage_offset()) * tensor->element_size();
      TORCH_CHECK(
          tensor->is_contiguous() && from <= stored && byte_len <= stored - from, byte_len, " bytes are wanted from byte ",
          from, " on of a storage of ", stored, " bytes, which was given up or is too small");
      *out = tensor->mutable_data_ptr())
}

char* titan_pinned(const int64_t* shape, size_t dims, int8_t kind, at::Tensor** out) {
  TITAN_TRY(
      TORCH_CHECK(at::detail::getCUDAHooks().deviceCount() > 0, "pinned memory needs a CUDA device, and there is none");
      auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind)).pinned_memory(true);
      *out = new at::Tensor(at::empty(c10::IntArrayRef(shape, dims), options)))
}

// --- accelerator

// Whether CUDA's half of libtorch is registered, with devices or without. The first call settles it for the process.
bool titan_has_cuda() { return at::detail::getCUDAHooks().hasCUDART(); }

char* titan_cuda_count(int* out) { TITAN_TRY(*out = at::detail::getCUDAHooks().deviceCount()) }

char* titan_set_cuda_device(int index) {
  TITAN_TRY(at::globalContext().lazyInitDevice(DeviceType::CUDA); guard().setDevice(cuda(index)))
}

char* titan_cuda_memory(int index, TitanMemory* out) {
  TITAN_TRY(
      at::globalContext().lazyInitDevice(DeviceType::CUDA);
      auto* allocator = at::getDeviceAllocator(DeviceType::CUDA);
      auto stats = allocator->getDeviceStats(static_cast<c10::DeviceIndex>(index));
      auto [free, total] = allocator->getMemoryInfo(static_cast<c10::DeviceIndex>(index));
      const auto& allocated = stats.allocated_bytes[0];  // 0: large and small blocks together
      const auto& reserved = stats.reserved_bytes[0];
      *out = TitanMemory{
          allocated.current, allocated.peak, reserved.current, reserved.peak, static_cast<int64_t>(free),
          static_cast<int64_t>(total), stats.num_alloc_retries, stats.num_ooms})
}

char* titan_cuda_reset_peak(int index) {
  TITAN_TRY(
      at::globalContext().lazyInitDevice(DeviceType::CUDA);
      at::getDeviceAllocator(DeviceType::CUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(index)))
}

char* titan_cuda_empty_cache() {
  TITAN_TRY(
      at::globalContext().lazyInitDevice(DeviceType::CUDA);
      at::getDeviceAllocator(DeviceType::CUDA)->emptyCache())
}

char* titan_cuda_synchronize(int index) {
  TITAN_TRY(
      at::globalContext().lazyInitDevice(DeviceType::CUDA);
      guard().synchronizeDevice(static_cast<c10::DeviceIndex>(index)))
}

// --- streams and events

char* titan_stream_current(int index, c10::Stream** out) {
  TITAN_TRY(
      at::globalContext().lazyInitDevice(DeviceType::CUDA);
      *out = new c10::Stream(guard().getStream(cuda(index))))
}

char* titan_stream_new(int index, bool high_priority, c10::Stream** out) {
  TITAN_TRY(
      at::globalContext().lazyInitDevice(DeviceType::CUDA);
      *out = new c10::Stream(guard().getStreamFromGlobalPool(cuda(index), high_priority)))
}

// Makes it this thread's current one; hands out the one before.
char* titan_stream_exchange(c10::Stream* stream, c10::Stream** out) {
  TITAN_TRY(*out = new c10::Stream(guard().exchangeStream(*stream)))
}

char* titan_stream_synchronize(c10::Stream* stream) { TITAN_TRY(guard().synchronizeStream(*stream)) }

// The tensor's memory, once freed, is not given out again before what is queued on the stream by then is done.
char* titan_record_stream(at::Tensor* tensor, c10::Stream* stream) { TITAN_TRY(tensor->record_stream(*stream)) }

void titan_stream_drop(c10::Stream* stream) { delete stream; }

char* titan_event_new(bool timed, c10::Event** out) {
  TITAN_TRY(
      at::globalContext().lazyInitDevice(DeviceType::CUDA);
      *out = new c10::Event(
          DeviceType::CUDA, timed ? c10::EventFlag::BACKEND_DEFAULT : c10::EventFlag::PYTORCH_DEFAULT))
}

char* titan_event_record(c10::Event* event, c10::Stream* stream) { TITAN_TRY(event->record(*stream)) }

char* titan_event_block(c10::Event* event, c10::Stream* stream) { TITAN_TRY(event->block(*stream)) }

char* titan_event_is_done(c10::Event* event, bool* out) { TITAN_TRY(*out = event->query()) }

char* titan_event_synchronize(c10::Event* event) { TITAN_TRY(event->synchronize()) }

char* titan_event_elapsed_ms(c10::Event* start, c10::Event* end, double* out) {
  TITAN_TRY(*out = start->elapsedTime(*end))
}

void titan_event_drop(c10::Event* event) { delete event; }

}  // extern "C"
