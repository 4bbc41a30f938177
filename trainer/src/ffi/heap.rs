//! Where memory comes from: that of Rust, and of libtorch, whose calls of `malloc` the program's own definition takes.
//!
//! A step allocates and frees the same tensors again and again. glibc takes large ones from the system and gives them back
//! each time, so that the kernel has to clear every page anew: of a small Llama on two threads that was a twelfth of the
//! time. Kept, memory goes from tensor to tensor. glibc cannot be told to without growing: what `posix_memalign` gave once
//! is too small for the same call again (2.36, bug 14581).
//!
//! jemalloc's settings are in `.cargo/config.toml`; those of the environment, `MALLOC_CONF`, come after them.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static HEAP: Jemalloc = Jemalloc;
