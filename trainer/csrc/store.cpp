// c10d's key-value stores, through which the ranks of a job find each other.
#include "titan.h"

#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

using StorePtr = c10::intrusive_ptr<c10d::Store>;
using std::chrono::milliseconds;

static std::vector<uint8_t> bytes(const uint8_t* data, size_t len) {
  return len == 0 ? std::vector<uint8_t>() : std::vector<uint8_t>(data, data + len);
}

// Hands bytes out as malloc'd memory.
static void hand_out(const std::vector<uint8_t>& value, uint8_t** data, size_t* len) {
  auto* copy = static_cast<uint8_t*>(malloc(value.size() + 1));
  TORCH_CHECK(copy != nullptr, "no memory for a value of ", value.size(), " bytes");
  if (!value.empty()) memcpy(copy, value.data(), value.size());
  *data = copy;
  *len = value.size();
}

extern "C" {

void titan_free(void* memory) { free(memory); }

// `world` 0: not said. With `wait_workers` the master returns when all of the world have come.
char* titan_store_tcp(
    const char* host, uint16_t port, size_t world, bool is_master, bool wait_workers, int64_t timeout_ms,
    StorePtr** out, uint16_t* bound_port) {
  TITAN_TRY(
      c10d::TCPStoreOptions options;
      options.port = port;
      options.isServer = is_master;
      if (world > 0) options.numWorkers = world;
      options.waitWorkers = wait_workers;
      options.timeout = milliseconds(timeout_ms);
      auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
      *bound_port = store->getPort();
      *out = new StorePtr(store))
}

char* titan_store_file(const char* path, int world, StorePtr** out) {
  TITAN_TRY(*out = new StorePtr(c10::make_intrusive<c10d::FileStore>(path, world)))
}

char* titan_store_prefix(const char* prefix, StorePtr* base, StorePtr** out) {
  TITAN_TRY(*out = new StorePtr(c10::make_intrusive<c10d::PrefixStore>(prefix, *base)))
}

void titan_store_drop(StorePtr* store) { delete store; }

// Another connection to the same store.
char* titan_store_clone(StorePtr* store, StorePtr** out) { TITAN_TRY(*out = new StorePtr((*store)->clone())) }

char* titan_store_set_timeout(StorePtr* store, int64_t timeout_ms) {
  TITAN_TRY((*store)->setTimeout(milliseconds(timeout_ms)))
}

char* titan_store_set(StorePtr* store, const char* key, const uint8_t* data, size_t len) {
  TITAN_TRY((*store)->set(key, bytes(data, len)))
}

// Waits for the key.
char* titan_store_get(StorePtr* store, const char* key, int64_t timeout_ms, uint8_t** data, size_t* len) {
  TITAN_TRY(
      (*store)->wait({key}, milliseconds(timeout_ms));
      hand_out((*store)->get(key), data, len))
}

char* titan_store_wait(StorePtr* store, const char* const* keys, size_t count, int64_t timeout_ms) {
  TITAN_TRY((*store)->wait(std::vector<std::string>(keys, keys + count), milliseconds(timeout_ms)))
}

char* titan_store_check(StorePtr* store, const char* const* keys, size_t count, bool* out) {
  TITAN_TRY(*out = (*store)->check(std::vector<std::string>(keys, keys + count)))
}

char* titan_store_add(StorePtr* store, const char* key, int64_t amount, int64_t* out) {
  TITAN_TRY(*out = (*store)->add(key, amount))
}

char* titan_store_delete(StorePtr* store, const char* key, bool* out) {
  TITAN_TRY(*out = (*store)->deleteKey(key))
}

// Sets the key to `desired` if it holds `expected`, or is not there and `expected` is empty; gives what it holds then.
char* titan_store_compare_set(
    StorePtr* store, const char* key, const uint8_t* expected, size_t expected_len, const uint8_t* desired,
    size_t desired_len, uint8_t** data, size_t* len) {
  TITAN_TRY(hand_out(
      (*store)->compareSet(key, bytes(expected, expected_len), bytes(desired, desired_len)), data, len))
}

}  // extern "C"
