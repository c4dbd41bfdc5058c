//! Container images as builders and archives hand them over.
