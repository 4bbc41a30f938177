//! What this machine's libtorch has: `cargo run -p titan-train --example devices`, with `TITAN_TORCH_CUDA` as for training.

use trainer::ffi::device::{self, CudaChoice, CudaLoaded, Nccl};

fn main() -> trainer::Result<()> {
    // Before anything else asks for CUDA.
    match device::load(&CudaChoice::from_env())? {
        CudaLoaded::No { why } => println!("CPU only: {why}"),
        CudaLoaded::Yes { library, devices } => {
            println!("CUDA by {}", library.display());
            for index in 0..devices {
                let memory = device::memory(index)?;
                println!(
                    "{index}: {}, {} of {} bytes free",
                    device::device_name(index)?,
                    memory.free,
                    memory.total
                );
            }
            match Nccl::load() {
                Ok(_) => println!("NCCL is there"),
                Err(error) => println!("no NCCL: {error}"),
            }
        }
    }
    Ok(())
}
