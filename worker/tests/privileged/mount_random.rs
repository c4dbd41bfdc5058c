//! The mount against a plain directory under random operations.
