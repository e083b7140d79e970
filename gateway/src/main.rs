//! The `millgate` command.

use std::process::ExitCode;

/// Requests are many small allocations that are freed on the same thread; see docs/DEPENDENCIES.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millgate::cli::main()
}
