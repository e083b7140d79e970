//! The `millgate` command.

use std::process::ExitCode;

/// A request makes many small allocations that are freed on the same thread. docs/DEPENDENCIES.md has the
/// reasons for this allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millgate::cli::main()
}
