//! Compares two directory trees as `lstat` shows them: `compare-trees LEFT RIGHT`. Exits with 1
//! where they differ.

use std::path::Path;
use std::process::ExitCode;

#[path = "../tests/support/compare_trees.rs"]
mod compare_trees;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program of its own")]
fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [left, right] = &arguments[..] else {
        eprintln!("usage: compare-trees LEFT RIGHT");
        return ExitCode::from(2);
    };
    match compare_trees::compare(Path::new(left), Path::new(right)) {
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Ok(comparison) => {
            comparison.differences.iter().for_each(|line| println!("{line}"));
            println!(
                "{} entries, {} bytes of content compared, {} differences",
                comparison.entries,
                comparison.bytes,
                comparison.differences.len()
            );
            ExitCode::from(u8::from(!comparison.differences.is_empty()))
        }
    }
}
