//! Writes the difficult image as an OCI layout: `difficult-image DIR [--zstd]`.

use std::path::Path;
use std::process::ExitCode;

#[path = "../tests/support/difficult_image.rs"]
mod difficult_image;

use difficult_image::{Packing, write};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, packing) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [directory] => (directory, Packing::Gzip),
        [directory, "--zstd"] => (directory, Packing::Zstd),
        _ => return fail("usage: difficult-image DIR [--zstd]"),
    };
    match write(Path::new(directory), packing) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "a program of its own")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
