//! Compiles the C++ shim, and tells binaries and tests where libtorch is at run time.

use std::path::Path;

const SOURCES: &[&str] = &["autograd", "device", "dispatch", "group", "library", "store"];

fn main() {
    let folder = std::env::var("DEP_TITAN_LIBTORCH_FOLDER").expect("the crate libtorch tells");
    let folder = Path::new(&folder);
    println!("cargo:rerun-if-changed=csrc");
    // Where `cargo xtask nccl` puts its library.
    println!("cargo:rustc-env=TITAN_LIBTORCH_LIB={}", folder.join("lib").display());
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").define("USE_DISTRIBUTED", None).define("USE_C10D_GLOO", None);
    // Headers of others, whose warnings are not ours.
    for include in ["include", "include/torch/csrc/api/include"] {
        shim.flag("-isystem").flag(folder.join(include));
    }
    shim.include("csrc/gloo").warnings_into_errors(true).flag_if_supported("-Wno-unused-parameter");
    for source in SOURCES {
        shim.file(format!("csrc/{source}.cpp"));
    }
    shim.compile("titan_shim");

    // Beside a shipped binary first, then where this one was linked. The file itself, not a link to it: beside it are
    // the libraries that it needs.
    let library = folder.join("lib/libtorch_cpu.so");
    let library = library.canonicalize().expect("the crate libtorch has seen it");
    let lib = library.parent().expect("a file is in a folder");
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib:{}", lib.display());
}
