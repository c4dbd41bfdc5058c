//! Needs root and umoci: what is exported of an image is what umoci unpacks of it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod export;
#[path = "../support/difficult_image.rs"]
mod difficult_image;
