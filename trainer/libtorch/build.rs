//! Finds libtorch in the folder that `LIBTORCH` names, which `.cargo/config.toml` sets to `.libtorch`.

use std::path::{Path, PathBuf};

/// The version that the crate tch is made for.
const VERSION: &str = "2.11.0";
/// Without these nothing compiles or links.
const NEEDED: &[&str] =
    &["include/c10/core/TensorImpl.h", "lib/libtorch_cpu.so", "lib/libc10.so", "lib/libtorch.so"];

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    match find() {
        Ok(folder) => println!("cargo:folder={}", folder.display()),
        Err(why) => {
            eprintln!("error: {why}.\nRun `cargo xtask libtorch`: it fetches libtorch, once.");
            std::process::exit(1);
        }
    }
}

fn find() -> Result<PathBuf, String> {
    let named =
        std::env::var_os("LIBTORCH").ok_or("LIBTORCH is not set, and nothing says where libtorch is")?;
    let folder = Path::new(&named);
    for needed in NEEDED {
        let path = folder.join(needed);
        println!("cargo:rerun-if-changed={}", path.display());
        if !path.exists() {
            return Err(format!("libtorch is not there: {} is missing", path.display()));
        }
    }
    let version = folder.join("build-version");
    println!("cargo:rerun-if-changed={}", version.display());
    let found =
        std::fs::read_to_string(&version).map_err(|error| format!("{}: {error}", version.display()))?;
    if found.trim().split('+').next() != Some(VERSION) {
        return Err(format!("{} says {:?}; expected {VERSION}", version.display(), found.trim()));
    }
    Ok(folder.to_owned())
}
