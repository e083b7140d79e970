//! The `millgate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    millgate::cli::main()
}
