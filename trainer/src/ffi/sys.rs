//! The functions of the shim, as `csrc/*.cpp` defines them.
//!
//! Those that give a [`Message`] can fail. Tensors passed in are borrowed, tensors handed out are the caller's; out
//! pointers are written on success only.

use std::ffi::{c_char, c_int, c_void};
pub(super) use torch_sys::C_tensor;

/// Null, or an error's text, which [`super::outcome::check`] takes and frees.
pub(super) type Message = *mut c_char;

macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])* #[repr(C)] pub(super) struct $name { _opaque: [u8; 0] })*
    };
}

opaque! {
    /// `c10::intrusive_ptr<c10d::Store>`
    Store,
    /// `c10::intrusive_ptr<c10d::ProcessGroup>`
    Group,
    /// `c10::intrusive_ptr<c10d::Work>`
    Work,
    /// `c10::Stream`
    Stream,
    /// `c10::Event`
    Event,
}

/// A closure of a graph: `autograd.cpp` says what it is called with.
pub(super) type Call = unsafe extern "C" fn(
    env: *mut c_void,
    backward: bool,
    tensors: *const *mut C_tensor,
    count: usize,
    saved: *const *mut C_tensor,
    saved_count: usize,
    out: *mut c_void,
    save: *mut c_void,
) -> Message;
pub(super) type DropEnv = unsafe extern "C" fn(env: *mut c_void);
pub(super) type Emit = unsafe extern "C" fn(sink: *mut c_void, tensor: *mut C_tensor);
pub(super) type TakeResult =
    unsafe extern "C" fn(sink: *mut c_void, kind: i32, tensor: *mut C_tensor, integer: i64, real: f64);

/// An argument of an operator.
#[repr(C)]
pub(super) struct Arg {
    pub(super) kind: i32,
    pub(super) device_type: i32,
    pub(super) integer: i64,
    pub(super) real: f64,
    pub(super) pointer: *const c_void,
    pub(super) count: usize,
}

/// What the allocator of a device says, in bytes; the last two are counts.
#[repr(C)]
#[derive(Default)]
pub(super) struct Memory {
    pub(super) allocated: i64,
    pub(super) allocated_peak: i64,
    pub(super) reserved: i64,
    pub(super) reserved_peak: i64,
    pub(super) free: i64,
    pub(super) total: i64,
    pub(super) retries: i64,
    pub(super) out_of_memory: i64,
}

unsafe extern "C" {
    // store.cpp
    pub(super) fn titan_free(memory: *mut c_void);
    pub(super) fn titan_store_tcp(
        host: *const c_char,
        port: u16,
        world: usize,
        is_master: bool,
        wait_workers: bool,
        timeout_ms: i64,
        out: *mut *mut Store,
        bound_port: *mut u16,
    ) -> Message;
    pub(super) fn titan_store_file(path: *const c_char, world: c_int, out: *mut *mut Store) -> Message;
    pub(super) fn titan_store_prefix(
        prefix: *const c_char,
        base: *mut Store,
        out: *mut *mut Store,
    ) -> Message;
    pub(super) fn titan_store_drop(store: *mut Store);
    pub(super) fn titan_store_clone(store: *mut Store, out: *mut *mut Store) -> Message;
    pub(super) fn titan_store_set_timeout(store: *mut Store, timeout_ms: i64) -> Message;
    pub(super) fn titan_store_set(
        store: *mut Store,
        key: *const c_char,
        data: *const u8,
        len: usize,
    ) -> Message;
    pub(super) fn titan_store_get(
        store: *mut Store,
        key: *const c_char,
        timeout_ms: i64,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> Message;
    pub(super) fn titan_store_wait(
        store: *mut Store,
        keys: *const *const c_char,
        count: usize,
        timeout_ms: i64,
    ) -> Message;
    pub(super) fn titan_store_check(
        store: *mut Store,
        keys: *const *const c_char,
        count: usize,
        out: *mut bool,
    ) -> Message;
    pub(super) fn titan_store_add(
        store: *mut Store,
        key: *const c_char,
        amount: i64,
        out: *mut i64,
    ) -> Message;
    pub(super) fn titan_store_delete(store: *mut Store, key: *const c_char, out: *mut bool) -> Message;
    pub(super) fn titan_store_compare_set(
        store: *mut Store,
        key: *const c_char,
        expected: *const u8,
        expected_len: usize,
        desired: *const u8,
        desired_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> Message;

    // group.cpp
    pub(super) fn titan_group_gloo(
        store: *mut Store,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        interface: *const c_char,
        name: *const c_char,
        out: *mut *mut Group,
    ) -> Message;
    pub(super) fn titan_group_drop(group: *mut Group);
    pub(super) fn titan_group_set_timeout(group: *mut Group, timeout_ms: i64) -> Message;
    pub(super) fn titan_group_abort(group: *mut Group) -> Message;
    pub(super) fn titan_group_shutdown(group: *mut Group) -> Message;
    pub(super) fn titan_all_reduce(
        group: *mut Group,
        tensor: *mut C_tensor,
        op: c_int,
        out: *mut *mut Work,
    ) -> Message;
    pub(super) fn titan_broadcast(
        group: *mut Group,
        tensor: *mut C_tensor,
        root: c_int,
        out: *mut *mut Work,
    ) -> Message;
    pub(super) fn titan_all_gather_into(
        group: *mut Group,
        output: *mut C_tensor,
        input: *mut C_tensor,
        out: *mut *mut Work,
    ) -> Message;
    pub(super) fn titan_reduce_scatter(
        group: *mut Group,
        output: *mut C_tensor,
        input: *mut C_tensor,
        op: c_int,
        out: *mut *mut Work,
    ) -> Message;
    pub(super) fn titan_all_to_all(
        group: *mut Group,
        output: *mut C_tensor,
        input: *mut C_tensor,
        output_splits: *const i64,
        input_splits: *const i64,
        count: usize,
        out: *mut *mut Work,
    ) -> Message;
    pub(super) fn titan_send(
        group: *mut Group,
        tensor: *mut C_tensor,
        to: c_int,
        tag: c_int,
        out: *mut *mut Work,
    ) -> Message;
    pub(super) fn titan_recv(
        group: *mut Group,
        tensor: *mut C_tensor,
        from: c_int,
        tag: c_int,
        out: *mut *mut Work,
    ) -> Message;
    pub(super) fn titan_barrier(group: *mut Group, out: *mut *mut Work) -> Message;
    pub(super) fn titan_work_wait(work: *mut Work) -> Message;
    pub(super) fn titan_work_is_completed(work: *mut Work, out: *mut bool) -> Message;
    pub(super) fn titan_work_drop(work: *mut Work);

    // autograd.cpp
    pub(super) fn titan_clone(tensor: *mut C_tensor) -> *mut C_tensor;
    pub(super) fn titan_push(sink: *mut c_void, tensor: *mut C_tensor);
    pub(super) fn titan_apply(
        env: *mut c_void,
        call: Call,
        drop: DropEnv,
        inputs: *const *mut C_tensor,
        count: usize,
        sink: *mut c_void,
        emit: Emit,
    ) -> Message;
    pub(super) fn titan_backward(
        outputs: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        count: usize,
        retain_graph: bool,
    ) -> Message;
    pub(super) fn titan_grad(
        outputs: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        count: usize,
        inputs: *const *mut C_tensor,
        input_count: usize,
        retain_graph: bool,
        allow_unused: bool,
        out: *mut *mut C_tensor,
    ) -> Message;
    pub(super) fn titan_take_grad(tensor: *mut C_tensor, out: *mut *mut C_tensor) -> Message;
    pub(super) fn titan_set_grad(tensor: *mut C_tensor, grad: *mut C_tensor) -> Message;
    pub(super) fn titan_grad_enabled() -> bool;
    pub(super) fn titan_version(tensor: *mut C_tensor, out: *mut i64) -> Message;
    pub(super) fn titan_set_version(tensor: *mut C_tensor, version: i64) -> Message;

    // dispatch.cpp
    pub(super) fn titan_call_operator(
        name: *const c_char,
        overload: *const c_char,
        args: *const Arg,
        count: usize,
        sink: *mut c_void,
        take: TakeResult,
    ) -> Message;
    pub(super) fn titan_schema(
        name: *const c_char,
        overload: *const c_char,
        out: *mut *mut c_char,
    ) -> Message;

    // device.cpp
    pub(super) fn titan_manual_seed(seed: u64) -> Message;
    pub(super) fn titan_rng_state(index: c_int, out: *mut *mut C_tensor) -> Message;
    pub(super) fn titan_set_rng_state(index: c_int, state: *mut C_tensor) -> Message;
    pub(super) fn titan_deterministic(on: bool, warn_only: bool) -> Message;
    pub(super) fn titan_set_threads(count: c_int) -> Message;
    pub(super) fn titan_threads() -> c_int;
    pub(super) fn titan_storage_byte_len(tensor: *mut C_tensor, out: *mut usize) -> Message;
    pub(super) fn titan_storage_resize(tensor: *mut C_tensor, byte_len: usize) -> Message;
    pub(super) fn titan_data(tensor: *mut C_tensor, byte_len: usize, out: *mut *mut c_void) -> Message;
    pub(super) fn titan_pinned(shape: *const i64, dims: usize, kind: i8, out: *mut *mut C_tensor) -> Message;
    pub(super) fn titan_has_cuda() -> bool;
    pub(super) fn titan_cuda_count(out: *mut c_int) -> Message;
    pub(super) fn titan_set_cuda_device(index: c_int) -> Message;
    pub(super) fn titan_cuda_memory(index: c_int, out: *mut Memory) -> Message;
    pub(super) fn titan_cuda_reset_peak(index: c_int) -> Message;
    pub(super) fn titan_cuda_empty_cache() -> Message;
    pub(super) fn titan_cuda_synchronize(index: c_int) -> Message;
    pub(super) fn titan_stream_current(index: c_int, out: *mut *mut Stream) -> Message;
    pub(super) fn titan_stream_new(index: c_int, high_priority: bool, out: *mut *mut Stream) -> Message;
    pub(super) fn titan_stream_exchange(stream: *mut Stream, out: *mut *mut Stream) -> Message;
    pub(super) fn titan_stream_synchronize(stream: *mut Stream) -> Message;
    pub(super) fn titan_record_stream(tensor: *mut C_tensor, stream: *mut Stream) -> Message;
    pub(super) fn titan_stream_drop(stream: *mut Stream);
    pub(super) fn titan_event_new(timed: bool, out: *mut *mut Event) -> Message;
    pub(super) fn titan_event_record(event: *mut Event, stream: *mut Stream) -> Message;
    pub(super) fn titan_event_block(event: *mut Event, stream: *mut Stream) -> Message;
    pub(super) fn titan_event_is_done(event: *mut Event, out: *mut bool) -> Message;
    pub(super) fn titan_event_synchronize(event: *mut Event) -> Message;
    pub(super) fn titan_event_elapsed_ms(start: *mut Event, end: *mut Event, out: *mut f64) -> Message;
    pub(super) fn titan_event_drop(event: *mut Event);

    // library.cpp
    pub(super) fn titan_library_open(path: *const c_char, out: *mut *mut c_void) -> Message;
    pub(super) fn titan_library_symbol(
        library: *mut c_void,
        name: *const c_char,
        out: *mut *mut c_void,
    ) -> Message;
    pub(super) fn titan_library_path(name: *const c_char, out: *mut *mut c_char) -> Message;
}
