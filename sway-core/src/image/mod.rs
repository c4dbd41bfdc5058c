//! Container images as builders and archives hand them over.
//!
//! `archive` finds the image in an OCI layout or a docker archive, `entries` reads the tar
//! stream of a layer, `layer` applies it to a tree, and `index` keeps what was read for the next
//! export.

pub mod archive;
pub mod entries;
pub mod layer;
pub mod index;

pub use archive::{ArchiveError, ImagePlan, LayerPlan, Platform};
pub use layer::{Draft, Layer, LayerError, decompress, read_layer};
