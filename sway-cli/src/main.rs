//! What a person types: `sway export`, `sway run app.py`.
fn main() {}
