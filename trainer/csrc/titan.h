// What every file of the shim shares. The shim is a C interface over libtorch's C++; `src/ffi/sys.rs` declares it in
// Rust, function by function.
//
// * A function that can fail returns null, or a message that the caller frees with `titan_free`. No exception leaves it.
// * Tensors are `at::Tensor*`, as in the crate torch-sys. One passed in is borrowed; one handed out is the caller's.
// * Out pointers are written on success only.
#pragma once

#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <exception>

/// Runs statements; turns what they throw into the message that the function returns. c10's own errors come with a
/// backtrace of C++, which is left out.
#define TITAN_TRY(...)                                \
  try {                                               \
    __VA_ARGS__;                                      \
    return nullptr;                                   \
  } catch (const c10::Error& error) {                 \
    return strdup(error.what_without_backtrace());    \
  } catch (const std::exception& error) {             \
    return strdup(error.what());                      \
  } catch (...) {                                     \
    return strdup("an exception of an unknown type"); \
  }
